"""The leaf of a model behind every matrix product or convolution of its jaxpr.

A jaxpr is walked once, equation by equation. Every value has its origin: the shares of
it that are entries of each leaf (reshapes, slices, concatenations and products with
constants keep those), whether a trained leaf had a part in it, and whether the inputs
had. Products then belong to the leaf that one of their operands is made of.
"""

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fedsparsify_jax.models.adapters.calls import called

Shares = dict[str, Fraction]
"""Path of a leaf to the share of a value's entries that are entries of that leaf."""


class Value(NamedTuple):
    """The origin of one value of a jaxpr."""

    shares: Shares
    trained: bool  # has a derivative by some trained leaf
    data: bool  # depends on the model's inputs


class Work(NamedTuple):
    """FLOPs, fractions while shares are being multiplied."""

    forward: Fraction = Fraction(0)
    weight_gradient: Fraction = Fraction(0)
    input_gradient: Fraction = Fraction(0)


Ledger = dict[str, Work]
"""Path of a leaf to its work; `NO_LEAF` for products of no single weight."""

NO_LEAF = ""
CONSTANT = Value({}, trained=False, data=False)

# The result's entries are the first operand's, whatever the others say.
_FIRST = {
    "abs",
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "div",
    "dynamic_slice",
    "gather",
    "integer_pow",
    "neg",
    "pow",
    "reduce_precision",
    "reshape",
    "rev",
    "sharding_constraint",
    "sign",
    "slice",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stop_gradient",
    "transpose",
}
# The result is zero where the one operand that is made of leaves is zero.
_ANY = {"mul", "select_n"}
# Jitted functions of (x, kernel) that are convolutions with fewer products: the count
# is what the formula says, for theirs says nothing about skipping pruned weights.
_CONVOLUTIONS = {"winograd_3x3"}


def walk(jaxpr: Jaxpr, inputs: Sequence[Value]) -> tuple[list[Value], Ledger]:
    """Returns the values of a jaxpr's outputs, and the work done on the way.

    Raises:
      ValueError: for products in a loop of unknown length, or in something unknown.
    """
    origins: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    origins |= dict.fromkeys(jaxpr.constvars, CONSTANT)
    ledger: Ledger = {}

    def read(atom: Any) -> Value:
        return CONSTANT if isinstance(atom, Literal) else origins[atom]

    for equation in jaxpr.eqns:
        values, work = _equation(equation, [read(atom) for atom in equation.invars])
        origins |= dict(zip(equation.outvars, values, strict=True))
        ledger = _add(ledger, work)
    return [read(atom) for atom in jaxpr.outvars], ledger


def _equation(equation: JaxprEqn, inputs: list[Value]) -> tuple[list[Value], Ledger]:
    name = equation.primitive.name
    if name == "scan":
        return _scan(equation, inputs)
    if name == "cond":
        return _cond(equation, inputs)
    if name == "optimization_barrier":
        return inputs, {}
    fast = equation.params.get("name") in _CONVOLUTIONS
    inner = None if fast else called(equation)
    if inner is not None:
        return walk(inner, inputs)
    trained = any(value.trained for value in inputs) and name != "stop_gradient"
    data = any(value.data for value in inputs)
    work: Ledger = {}
    if fast or name in ("dot_general", "conv_general_dilated"):
        work = _product(_flops(equation), inputs)
    elif _has_products(equation):
        raise ValueError(f"cannot count the products inside {name!r}")
    # What depends on the inputs is an activation, not a weight.
    shares = {} if data else _shares(equation, inputs)
    value = Value(shares=shares, trained=trained, data=data)
    return [value] * len(equation.outvars), work


def _shares(equation: JaxprEqn, inputs: list[Value]) -> Shares:
    name = equation.primitive.name
    sizes = [math.prod(_shape(atom)) for atom in equation.invars]
    if name in _FIRST:
        # A slice of several leaves at once is taken to have them in proportion.
        return inputs[0].shares
    if name in _ANY:
        weights = [value.shares for value in inputs if value.shares]
        same = all(one == weights[0] for one in weights[1:])
        return weights[0] if weights and same else {}
    total = sum(math.prod(_shape(atom)) for atom in equation.outvars)
    if name == "pad":
        part = min(Fraction(sizes[0], max(total, 1)), Fraction(1))
        return {leaf: share * part for leaf, share in inputs[0].shares.items()}
    if name == "concatenate":
        joined: Shares = {}
        for value, size in zip(inputs, sizes, strict=True):
            for leaf, share in value.shares.items():
                part = share * Fraction(size, max(total, 1))
                joined[leaf] = joined.get(leaf, Fraction(0)) + part
        return joined
    return {}


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _flops(equation: JaxprEqn) -> int:
    """Counts two for every multiply-add; taps that meet padding count too."""
    left, right = map(_shape, equation.invars)
    size = math.prod(_shape(equation.outvars[0]))
    if equation.params.get("name") in _CONVOLUTIONS:
        return 2 * size * math.prod(right[:-1])
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * size * math.prod(left[axis] for axis in contracted)
    features = right[equation.params["dimension_numbers"].rhs_spec[0]]
    # Between the entries of a dilated input stand zeros that need no product.
    spread = math.prod(equation.params["lhs_dilation"] or ())
    return 2 * size * (math.prod(right) // max(features, 1)) // spread


def _product(flops: int, inputs: list[Value]) -> Ledger:
    """Divides the work of a product among the leaves that one operand is made of."""
    weights = [value for value in inputs if value.shares]
    if len(weights) != 1:
        gradients = sum(value.trained for value in inputs)
        gradient = Fraction(flops * gradients)
        return {NO_LEAF: Work(forward=Fraction(flops), input_gradient=gradient)}
    (weight,) = weights
    other = inputs[0] if inputs[1] is weight else inputs[1]
    work = Work(
        forward=Fraction(flops),
        weight_gradient=Fraction(flops * weight.trained),
        input_gradient=Fraction(flops * other.trained),
    )
    ledger = {leaf: _times(work, share) for leaf, share in weight.shares.items()}
    remainder = 1 - sum(weight.shares.values(), Fraction(0))
    return ledger | ({NO_LEAF: _times(work, remainder)} if remainder else {})


def _scan(equation: JaxprEqn, inputs: list[Value]) -> tuple[list[Value], Ledger]:
    """Walks the body until the origin of the carry no longer changes."""
    first, carried = equation.params["num_consts"], equation.params["num_carry"]
    constants, carry = inputs[:first], inputs[first : first + carried]
    scanned = inputs[first + carried :]
    while True:
        body = equation.params["jaxpr"].jaxpr
        values, work = walk(body, [*constants, *carry, *scanned])
        joined = [_join(a, b) for a, b in zip(carry, values[:carried], strict=True)]
        if joined == carry:
            break
        carry = joined
    times = Fraction(equation.params["length"])
    ledger = {leaf: _times(one, times) for leaf, one in work.items()}
    return [*carry, *values[carried:]], ledger


def _cond(equation: JaxprEqn, inputs: list[Value]) -> tuple[list[Value], Ledger]:
    """Walks all branches and counts the most expensive one."""
    chosen, *operands = inputs
    branches = [walk(one.jaxpr, operands) for one in equation.params["branches"]]
    values, _ = branches[0]
    for others, _ in branches[1:]:
        values = [_join(a, b) for a, b in zip(values, others, strict=True)]
    if chosen.data:
        values = [value._replace(shares={}, data=True) for value in values]
    return values, max((work for _, work in branches), key=_cost)


def _has_products(equation: JaxprEqn) -> bool:
    """Tells whether a function among an equation's parameters multiplies matrices."""
    parameters = list(equation.params.values())
    while parameters:
        one = parameters.pop()
        one = one.jaxpr if isinstance(one, ClosedJaxpr) else one
        if isinstance(one, tuple | list):
            parameters.extend(one)
        elif isinstance(one, Jaxpr):
            for inner in one.eqns:
                if inner.primitive.name in ("dot_general", "conv_general_dilated"):
                    return True
                parameters.extend(inner.params.values())
    return False


def _join(a: Value, b: Value) -> Value:
    shares = a.shares if a.shares == b.shares else {}
    trained, data = a.trained or b.trained, a.data or b.data
    return Value(shares=shares, trained=trained, data=data)


def _times(work: Work, factor: Fraction) -> Work:
    return jax.tree.map(lambda part: part * factor, work)


def _add(a: Ledger, b: Ledger) -> Ledger:
    sums = {
        leaf: jax.tree.map(operator.add, a.get(leaf, Work()), b[leaf]) for leaf in b
    }
    return a | sums


def _cost(ledger: Ledger) -> Fraction:
    return sum(jax.tree.leaves(ledger), Fraction(0))
