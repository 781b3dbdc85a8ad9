"""The form that pays: sizes of a compact form for given masks, by measured costs.

The costs are nanoseconds of one core for one client step of 32 examples, forward,
backward and update, read off whole steps on a Xeon with AVX-512 under jax 0.10.2
(`benchmarks/list_products.py` times the products alone). Only their ratios matter for
the choice between forms: in a first layer of 784 x 128, lists pay below about 14 % of
the weights.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from fedsparsify_jax.training.compact.ellpack import rows_needed
from fedsparsify_jax.training.compact.form import CompactForm, Lists, Plan
from fedsparsify_jax.training.compact.structure import Stage, alive_units, entry
from fedsparsify_jax.types import ApplyFn, Masks

FIRST = 1.0
"""Of a weight of a first layer, whose input needs no gradient."""
DENSE = 2.1
"""Of a weight of another dense layer."""
LISTS = 14_000.0
"""Of a layer in index lists whatever its size, for the transposition of its input."""
SLOT = 6.0
"""Of a slot of an index list."""
SPREAD = 11.0
"""Of a slot for the gradient of what the layer reads, if that is needed."""
READ = 15.0
"""Of picking one input out of all, for a first layer without those nobody reads."""
STEP = 6_000.0
"""Of what a step costs whatever the form: its batch and the loss."""
SLOTS = 4
"""Of an index list: as many as a pass of `products.looped` adds."""


def bucket(count: int, limit: int) -> int:
    """Rounds a count up by an eighth at most, so close counts share a program.

    >>> [bucket(count, 784) for count in (1, 13, 93, 247, 540, 780)]
    [1, 13, 96, 256, 576, 784]
    """
    step = 2 ** max(max(count, 1).bit_length() - 4, 0)
    return min(-(-max(count, 1) // step) * step, limit)


def plan_for(stages: Sequence[Stage], masks: Masks, *, lists: bool = True) -> Plan:
    """Returns the sizes of the cheapest compact form that these masks fit.

    Masks that keep less of the same fit it too.

    Args:
      stages: of a sequential network, see `structure.stages_of`.
      masks: concrete ones.
      lists: whether index lists may be chosen, or only living units be picked.

    Example:
      >>> import jax.numpy as jnp
      >>> mask = jnp.zeros((100, 64), bool).at[:2].set(True)
      >>> masks = {"params": {"a": {"kernel": mask}, "b": {"kernel": mask[:64, :3]}}}
      >>> stages = (Stage(("a",), "Dense", 100, 64), Stage(("b",), "Dense", 64, 3))
      >>> plan_for(stages, masks)
      Plan(units=(2, 2, None), lists=(None, None))
    """
    stages = tuple(stages)
    alive = [np.asarray(units) for units in _alive(stages, masks)]
    units: list[int | None] = []
    for living in alive:
        room = bucket(int(living.sum()), living.size)
        units.append(room if room < living.size else None)
    if stages[0].kind != "Dense":
        units[0] = None
    chosen = [
        _lists(stage, number == 0, alive[number : number + 2], masks) if lists else None
        for number, stage in enumerate(stages)
    ]
    if chosen[0] is not None:  # which picks its inputs anyway
        units[0] = None
    return Plan(tuple(units), tuple(chosen))


def _lists(
    stage: Stage, first: bool, alive: Sequence[np.ndarray], masks: Masks
) -> Lists | None:
    """Returns the cheapest index lists of a stage; None if it is cheaper dense."""
    if stage.kind != "Dense" or stage.places > 1:
        return None
    mask = np.asarray(entry(masks["params"], stage.path)["kernel"])
    places = mask.shape[0] // alive[0].size
    inputs, outputs = (bucket(int(a.sum()), a.size) for a in alive)
    mask = mask & np.tile(alive[0], places)[:, None] & alive[1][None]
    mask = mask[:, np.flatnonzero(alive[1])]
    spare = outputs - mask.shape[1]
    rows = bucket(int(rows_needed(mask, SLOTS)) + spare, mask.size)
    dense = dense_cost(places * inputs, outputs, first=first, picks=first)
    if lists_cost(rows, SLOTS, first=first) >= dense:
        return None
    return Lists(rows, SLOTS)


def dense_cost(inputs: int, outputs: int, *, first: bool, picks: bool) -> float:
    """Nanoseconds a client step of a dense layer; ``picks``: of some inputs only."""
    weights = inputs * outputs * (FIRST if first else DENSE)
    return weights + (inputs * READ if picks else 0)


def lists_cost(rows: int, slots: int, *, first: bool) -> float:
    """Nanoseconds a client step of a layer in index lists."""
    return LISTS + rows * slots * (SLOT if first else SLOT + SPREAD)


def step_cost(stages: Sequence[Stage], masks: Masks, plan: Plan | None = None) -> float:
    """Nanoseconds a client step of the whole network.

    Args:
      stages: of the network.
      masks: of its variables; only shapes matter.
      plan: of a compact form; None for the full one.

    Example:
      >>> stages = (Stage(("a",), "Dense", 100, 64),)
      >>> masks = {"params": {"a": {"kernel": np.zeros((100, 64))}}}
      >>> step_cost(stages, masks), step_cost(stages, masks, Plan((10, None), (None,)))
      (12400.0, 6790.0)
    """
    widths = [stages[0].inputs, *(stage.outputs for stage in stages)]
    room = plan.units if plan else (None,) * len(widths)
    lists = plan.lists if plan else (None,) * len(stages)
    units = [w if r is None else r for w, r in zip(widths, room, strict=True)]
    total = STEP
    for number, stage in enumerate(stages):
        size, first = lists[number], number == 0
        outputs = units[number + 1]
        if size is not None:
            total += lists_cost(*size, first=first)
            continue
        shape = entry(masks["params"], stage.path)["kernel"].shape
        repeats = math.prod(shape[:-1]) // widths[number] * stage.places
        picks = first and room[0] is not None
        total += repeats * dense_cost(units[number], outputs, first=first, picks=picks)
    return total


@partial(jax.jit, static_argnums=0)
def _alive(stages: tuple[Stage, ...], masks: Masks) -> tuple[jax.Array, ...]:
    """Returns `alive_units`: one program, and not one for every operation."""
    return alive_units(stages, masks)


@partial(jax.jit, static_argnums=0)
def _fits(form: CompactForm, masks: Masks) -> jax.Array:
    """Returns whether the form has room for these masks: one program a form."""
    return form.index(masks).fits


def next_form(
    apply_fn: ApplyFn,
    stages: Sequence[Stage],
    masks: Masks,
    current: CompactForm | None = None,
    *,
    gain: float = 0.85,
) -> CompactForm | None:
    """Returns a compact form worth another program, for the masks between rounds.

    Args:
      apply_fn: the model's forward pass.
      stages: of a sequential network.
      masks: concrete ones.
      current: the form in use; None for the full one. What does not fit these masks
        counts as the full form, which is what clients then train.
      gain: share of the present cost of a step that another form may have at most.

    Returns:
      The cheapest form, or None to stay with the current one.

    Example:
      >>> import jax
      >>> from fedsparsify_jax import masks, models
      >>> from fedsparsify_jax.models.adapters.layers import layers_of
      >>> from fedsparsify_jax.training.compact import stages_of
      >>> model = models.build("mlp", input_shape=(900,), num_classes=5, hidden=(64,))
      >>> variables = model.init(jax.random.key(0))
      >>> x = jax.ShapeDtypeStruct((1, 900), "float32")
      >>> stages = stages_of(layers_of(model.apply, variables, x))
      >>> kept = masks.ones_like(variables)
      >>> read = kept["params"]["Dense_1"]
      >>> read["kernel"] = read["kernel"].at[10:].set(False)
      >>> form = next_form(model.apply, stages, kept)
      >>> form.plan.units, next_form(model.apply, stages, kept, form)
      ((None, 10, None), None)
    """
    stages = tuple(stages)
    if current is not None and not bool(_fits(current, masks)):
        current = None
    paid = step_cost(stages, masks, current.plan if current else None)
    found = plan_for(stages, masks)
    if step_cost(stages, masks, found) > gain * paid:
        return None
    return CompactForm(apply_fn, stages, found)
