"""From a method's hooks to a `types.FederatedAlgorithm`: the pieces in their order."""

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.compressors import Compression, compression_of
from fedsparsify_jax.engine.gathering import gathering
from fedsparsify_jax.engine.halves import halves_of
from fedsparsify_jax.engine.options import EngineOptions, resolve
from fedsparsify_jax.engine.round import client_half, round_of
from fedsparsify_jax.engine.tuning import Tuning, tuning_of
from fedsparsify_jax.engine.wrappers.attacks import forging, poisoned
from fedsparsify_jax.engine.wrappers.clipping import clipped_to
from fedsparsify_jax.engine.wrappers.compression import (
    uploads_compressed,
    with_residual,
)
from fedsparsify_jax.engine.wrappers.ema import with_ema
from fedsparsify_jax.engine.wrappers.gradient_point import at_point
from fedsparsify_jax.engine.wrappers.inputs import with_checks
from fedsparsify_jax.engine.wrappers.lookahead import with_lookahead
from fedsparsify_jax.engine.wrappers.powerprop import (
    merging_roots,
    on_roots,
    powers_of,
    tuning_roots,
)
from fedsparsify_jax.engine.wrappers.private import private
from fedsparsify_jax.engine.wrappers.private_examples import hiding_examples
from fedsparsify_jax.engine.wrappers.setup import with_setup
from fedsparsify_jax.engine.wrappers.transport import downloads_as, uploads_as
from fedsparsify_jax.engine.wrappers.variables import checked
from fedsparsify_jax.method import Method
from fedsparsify_jax.training.compact import wrapper as compact
from fedsparsify_jax.training.forward import check_signature
from fedsparsify_jax.types import (
    ApplyFn,
    ClientsState,
    FederatedAlgorithm,
    InitFn,
    Key,
    State,
    Variables,
)


def engine(
    apply_fn: ApplyFn, method: Method, **options: Unpack[EngineOptions]
) -> FederatedAlgorithm:
    """Turns a method into an algorithm.

    Args:
      apply_fn: the model's forward pass.
      method: the hooks.
      **options: see `options.Options`.

    Returns:
      The algorithm. Its ``init`` raises ``ValueError`` if the variables have no
      ``params`` collection, or leaves there that cannot be trained, or ``num_clients``
      is missing where it is needed.

    Raises:
      InputError: for a forward pass or an optimizer that is none.
      ValueError: for an option out of range, or messages of a method that sends every
        client another one.
      compact.wrapper.UnsuitableError: if the method needs full shapes in local
        training, with ``compact_form``.

    Example:
      >>> from fedsparsify_jax.aggregation.streaming import aggregate
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(8, 8), num_classes=10)
      >>> algorithm = engine(model.apply, Method(aggregate("mean")), batch_size=16)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> int(state.round)
      0
    """
    check_signature(apply_fn)
    o = resolve(options)
    if o.keep_messages and method.received_bytes is not None:
        raise ValueError(
            "clients are sent models of their own: the messages of a round have one "
            "for all, so their bytes cannot be measured"
        )
    method = hiding_examples(o, method)
    powers = powers_of(o, method)
    tuning = tuning_of(apply_fn, at_point(o, on_roots(powers, method)), o)
    tuning = tuning_roots(powers, tuning)
    if o.powerprop_average == "theta":
        method = merging_roots(powers, method)
    # Before the uploads' wrappers: it looks at what the method itself sends.
    method = private(method, o.privacy)
    client_map = o.client_map or vmapped()
    if o.compact_form is not None:
        client_map = compact.indexed(client_map, o.compact_form)

    # What a client sends, from the inside out: its own upload, forged, clipped, its
    # change compressed.
    compression = compression_of(
        o.upload_compression, o.topk_fraction, o.error_feedback
    )
    method = clipped_to(o.clip_norm, forging(o.attack, method))
    clients = poisoned(o.attack, client_half(method, tuning))
    if compression is None:
        clients = uploads_as(o.wire_values, clients)
    else:
        clients = uploads_compressed(compression, method, clients, o.wire_values)

    run = round_of(method, clients, client_map, o.faults, o.keep_messages)
    run = downloads_as(o.wire_values, run)
    keep = keep_of(method, tuning, compression)
    algorithm = gathering(init_of(method, keep, o.num_clients), run, o)
    if o.cohort_sampling == "fixed":  # else the server alone cannot draw them
        apart = halves_of(method, clients, keep, o.wire_values)
        algorithm = algorithm._replace(halves=apart)
    algorithm = with_setup(method, algorithm)
    always = not method.needs_uploads
    algorithm = with_lookahead(o.server_lookahead, algorithm, always=always)
    return with_checks(with_ema(o.server_ema, algorithm, always=always))


def keep_of(
    method: Method, tuning: Tuning, compression: Compression | None
) -> Callable[[Variables], ClientsState]:
    """Builds the function of variables that gives what one client keeps at first."""

    def keep(variables: Variables) -> ClientsState:
        extra = method.upload.init(variables, mask_algebra.ones_like(variables))
        return ClientsState(
            optimizer=(
                tuning.new_optimizer(variables) if tuning.keeps_optimizer else ()
            ),
            extra=with_residual(compression, variables, extra),
        )

    return keep


def init_of(
    method: Method,
    keep: Callable[[Variables], ClientsState],
    num_clients: int | None,
) -> InitFn:
    """Builds ``init`` of an algorithm: the state before round 1."""

    def init(key: Key, variables: Variables) -> State:
        del key  # every method draws what it needs in its rounds
        variables = checked(variables)
        masks = mask_algebra.ones_like(variables)
        kept = keep(variables)
        if jax.tree.leaves(kept):
            if num_clients is None:
                raise ValueError("num_clients is needed to keep state for every client")
            kept = trees.repeat(kept, num_clients)
        return State(
            variables=variables,
            masks=masks,
            round=jnp.int32(0),
            clients=kept,
            server=method.server.init(variables, masks),
        )

    return init
