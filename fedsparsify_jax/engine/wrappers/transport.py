"""Messages on their way: numbers of fewer bits, and a record of all that is sent.

A deployment encodes what it sends, for instance by `deploy.wire`, and the receiver sees
rounded numbers. The simulated round rounds them in the same places.
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax.engine.records import ClientHalf, ClientResult, ClientTask
from fedsparsify_jax.engine.round import RoundFn
from fedsparsify_jax.method import Context
from fedsparsify_jax.types import (
    Cohort,
    Key,
    RoundInfo,
    State,
    Variables,
    WireValues,
)


def rounded(variables: Variables, values: WireValues) -> Variables:
    """Returns variables as a receiver sees them whose float32 travels in fewer bits.

    Rounded to the nearest number of that dtype, and to its largest one beyond that;
    infinities and NaN pass. Arrays of other dtypes stay as they are.

    >>> rounded({"w": jnp.array([0.1, 1e6])}, "float16")
    {'w': Array([9.9975586e-02, 6.5504000e+04], dtype=float32)}
    """
    if values == "float32":
        return variables
    dtype = jnp.dtype(values)
    largest = float(jnp.finfo(dtype).max)

    def of(leaf: jax.Array) -> jax.Array:
        if leaf.dtype != jnp.float32:
            return leaf
        # Without the barrier XLA may leave out a conversion there and back.
        sent = jax.lax.optimization_barrier(leaf.astype(dtype))
        limited = jnp.clip(sent.astype(jnp.float32), -largest, largest)
        return jnp.where(jnp.isfinite(leaf), limited, leaf)

    return jax.tree.map(of, variables)


def uploads_as(values: WireValues, clients: ClientHalf) -> ClientHalf:
    """Rounds what clients upload, after everything else that happens to it."""
    if values == "float32":
        return clients

    def run(context: Context, task: ClientTask) -> ClientResult:
        result = clients(context, task)
        variables = rounded(result.upload.variables, values)
        return result._replace(upload=result.upload._replace(variables=variables))

    return run


def downloads_as(values: WireValues, run: RoundFn) -> RoundFn:
    """Rounds the model that a round starts from, on the server too.

    So a change that is measured against that model is the same on both sides.
    """
    if values == "float32":
        return run

    def rounded_first(
        key: Key, state: State, cohort: Cohort
    ) -> tuple[State, RoundInfo]:
        sent = rounded(state.variables, values)
        return run(key, state._replace(variables=sent), cohort)

    return rounded_first
