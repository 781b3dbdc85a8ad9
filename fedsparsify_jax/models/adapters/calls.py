"""Bodies of the functions that a traced program calls."""

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def called(equation: JaxprEqn) -> Jaxpr | None:
    """Returns the body of a mere call: jit, checkpoint, custom derivatives."""
    if equation.primitive.name in ("while", "shard_map"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(equation.invars):
            return inner
    return None
