"""User-level differential privacy around a method: DP-FedAvg under its masks.

`private` replaces a method's merge by the sum of clipped updates over a fixed
denominator, and adds noise before the server's steps, which are thereby functions of a
noisy model (post-processing): FedSparsify-Global's purge costs no privacy. See
`privacy.noise` for the mechanism, `privacy.accounting` for its epsilon.

What the guarantee does not cover is the simulation's own report, `RoundInfo`: losses,
counts and bytes of clients are for the experimenter. A round in which no upload counts
has its noise as any other, for that none did is a fact about data.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import (
    Aggregate,
    Context,
    Method,
    ServerTransform,
    Uploads,
    no_clients,
    no_projection,
)
from fedsparsify_jax.privacy import noise
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy
from fedsparsify_jax.types import Key, Masks, PyTree, Variables


class Privacy(NamedTuple):
    """The options of the mechanism; all may be traced."""

    clip_norm: ArrayLike  # C
    noise_multiplier: ArrayLike  # z, in units of C on the sum of updates
    denominator: ArrayLike  # D: K of fixed cohorts, q N of Poisson samples


def private(method: Method, options: Privacy | ExamplePrivacy | None) -> Method:
    """Makes a method's rounds differentially private at the level of clients.

    Other wrappers of uploads, such as attacks and clipping, go around the result.

    Args:
      method: one whose clients send models under the server's masks, such as FedAvg or
        FedSparsify-Global. All clients count alike in place of its own weights.
      options: see `Privacy`; None leaves the method as it is, and so do those of
        examples, which clients hide themselves (`wrappers.private_examples`).

    Returns:
      The method with another merge. Its rounds raise `InputError` for models that have
      more than parameters, such as running statistics.

    Raises:
      InputError: for an option out of range, or a method with another release than a
        mean of updates: votes, gradients, medians, personal models, first masks from
        clients' data.
    """
    if not isinstance(options, Privacy):
        return method
    check_numbers(options)
    _check_method(method)

    def sums(uploads: Uploads, context: Context) -> PyTree:
        _check_upload(uploads, context)
        return noise.clipped_sum(
            uploads.variables,
            uploads.shares > 0,
            context.variables,
            context.masks,
            options.clip_norm,
        )

    def merge(
        total: PyTree, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        variables = noise.moved(context.variables, total, options.denominator)
        return variables, context.masks

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        deviation = noise.deviation_of_mean(
            options.noise_multiplier, options.clip_norm, options.denominator
        )
        noisy = noise.add_noise(noise.noise_key(key), variables, masks, deviation)
        return method.server.update(key, noisy, masks, _anonymous(uploads), context)

    return method._replace(
        aggregate=Aggregate(sums=sums, merge=merge),
        server=ServerTransform(method.server.init, update),
        needs_uploads=False,
    )


def _anonymous(uploads: Uploads) -> Uploads:
    """Hides from steps of the server who came, and with how many examples."""
    ones = jnp.ones_like(uploads.sizes)
    return uploads._replace(
        ids=jnp.arange(len(ones), dtype=uploads.ids.dtype),
        sizes=ones,
        shares=ones / len(ones),
    )


def check_numbers(options: Privacy | ExamplePrivacy) -> None:
    """Refuses a number out of range, where it is not traced.

    Raises:
      InputError: naming the number and what is allowed.
    """
    for name, value in options._asdict().items():
        least = "at least 0" if name == "noise_multiplier" else "above 0"
        if not isinstance(value, int | float):
            continue
        low = value >= 0 if name == "noise_multiplier" else value > 0
        if not (low and value < float("inf")):
            raise InputError(f"{name} is {value}: it must be {least} and finite")


# Hooks through which something else than an update would be released, or would make the
# update depend on more than the client and the public model.
_REASONS = {
    "client_prune": "its clients choose masks from their data, which the server counts",
    "receive": "its clients start from models of their own",
    "received_bytes": "its clients are sent models of their own",
    "upload": "its clients send more than their model",
}


def _check_method(method: Method) -> None:
    reason = next(
        (
            why
            for hook, why in _REASONS.items()
            if getattr(method, hook) is not Method._field_defaults[hook]
        ),
        None,
    )
    if method.project not in (mask_algebra.apply, no_projection):
        reason = "its clients train more than the weights of a model"
    if method.aggregate.stacks:
        reason = "its merge looks at single uploads, not at their sum"
    if method.setup is not None and method.setup.clients is not no_clients:
        reason = "its first masks come from clients' data"
    if reason is not None:
        raise InputError(
            f"privacy does not go with this method: {reason}; use one whose clients "
            "send models under the server's masks, such as fedavg or "
            "fedsparsify-global"
        )


def _check_upload(uploads: Uploads, context: Context) -> None:
    """Checks, when the round is traced, that a model is all that is sent."""
    if jax.tree.leaves(uploads.extra):
        raise InputError(
            "privacy does not go with this method: it uploads more than models"
        )
    needs_parameters_alone(context.variables)


def needs_parameters_alone(variables: Variables) -> None:
    """Refuses variables that noise on the parameters would not hide.

    Raises:
      InputError: naming a collection beside ``params``.
    """
    others = [name for name in variables if name != "params"]
    if others:
        raise InputError(
            f"private training is of parameters only, the model has {others[0]!r} as "
            "well: use a network without running statistics, such as one with group "
            "norm"
        )
