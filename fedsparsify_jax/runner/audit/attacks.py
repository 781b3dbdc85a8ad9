"""The attacks by name: from a network and examples to a score for each of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.data import Dataset
from fedsparsify_jax.models import Model
from fedsparsify_jax.privacy import attacks, lira, scores
from fedsparsify_jax.runner.audit.options import LIRA
from fedsparsify_jax.runner.audit.shadows import Shadows
from fedsparsify_jax.runner.programs.spared import LAST, spared_layers
from fedsparsify_jax.training.losses import TASKS
from fedsparsify_jax.types import Examples, Masks, Variables

WIDEST = 1024
"""Numbers of a gradient that the classifier of the attack ``layer`` gets at most."""
ENOUGH = 64
"""Shadow models from which on every example has a deviation of its own, as in the
authors' code of LiRA."""


class Network(NamedTuple):
    """A model that is attacked, and the data set of its task."""

    model: Model
    variables: Variables
    masks: Masks
    dataset: Dataset


class Result(NamedTuple):
    """The scores of one attack.

    Attributes:
      scores: ``[h]``, larger for supposed members.
      members: bool ``[h]``.
      about: how it was done, a sentence.
    """

    scores: np.ndarray
    members: np.ndarray
    about: str


def phi_is(dataset: Dataset) -> str:
    """Returns the name of the score that LiRA compares on a data set."""
    if dataset.task == "classification" and dataset.num_classes > 1:
        return "log(p / (1 - p)) of the right class"
    return "minus the logarithm of the loss"


def phi(
    model: Model, dataset: Dataset, examples: Examples
) -> Callable[[Variables], np.ndarray]:
    """Builds the function of a model's variables that LiRA compares, see `phi_is`.

    Args:
      model: of the variables.
      dataset: for its task.
      examples: ``[n, ...]``.

    Returns:
      Variables to float32 ``[n]``, larger for members; compiled once.
    """
    by_confidence = phi_is(dataset).startswith("log")
    loss_fn, smallest = TASKS[dataset.task].loss_fn, float(np.finfo(np.float32).tiny)

    @jax.jit
    def run(variables: Variables, examples: Examples) -> jax.Array:
        if by_confidence:
            return scores.confidences(model.apply, variables, examples)
        losses = scores.losses(model.apply, loss_fn, variables, examples)
        return -jnp.log(jnp.maximum(losses, smallest))

    return lambda variables: np.asarray(run(variables, examples))


def attack(
    name: str,
    network: Network,
    examples: Examples,
    members: np.ndarray,
    shadows: Shadows | None,
    seed: int,
) -> Result:
    """Runs one attack.

    Args:
      name: one of `options.ATTACKS`.
      network: that is attacked.
      examples: ``[n, ...]``.
      members: bool ``[n]``.
      shadows: for those that compare with them.
      seed: of the attacker's draws.

    Raises:
      InputError: if examples cannot be scored so.
    """
    if name in LIRA:
        assert shadows is not None
        return _by_lira(name, network, examples, members, shadows)
    if name == "layer":
        return _by_layer(network, examples, members, seed)
    if name == "gradient":
        norms = _measured(network, examples)[1]
        return Result(-norms, members, "minus the norm of the loss's gradient")
    losses = _measured(network, examples)[0]
    return Result(np.asarray(attacks.by_loss(losses)), members, "minus the loss")


def _by_lira(
    name: str,
    network: Network,
    examples: Examples,
    members: np.ndarray,
    shadows: Shadows,
) -> Result:
    """Compares a model's scores with those of shadow models."""
    target = phi(network.model, network.dataset, examples)(network.variables)
    variance: lira.Variance = "example" if len(shadows.scores) >= ENOUGH else "global"
    data = (shadows.scores, shadows.members, target)
    if name == "lira-online":
        compared = lira.online(*data, variance=variance)
    else:  # as in the paper: only larger scores speak for a member
        compared = lira.offline(*data, variance=variance, one_sided=True)
    about = (
        f"{phi_is(network.dataset)} against {len(shadows.scores)} shadow models, "
        f"deviation: {variance}"
    )
    return Result(compared, members, about)


def _by_layer(
    network: Network, examples: Examples, members: np.ndarray, seed: int
) -> Result:
    """Fits a classifier of last-layer gradients, losses and norms to leaked halves."""
    (layer,) = spared_layers(LAST, network.model, network.dataset)
    losses, norms = _measured(network, examples)
    loss_fn = TASKS[network.dataset.task].loss_fn

    @jax.jit
    def gradients(variables: Variables, examples: Examples) -> jax.Array:
        return scores.layer_gradients(
            network.model.apply,
            loss_fn,
            variables,
            examples,
            layer=layer,
            masks=network.masks,
        )

    sizes = np.abs(np.asarray(gradients(network.variables, examples)))
    features = np.column_stack([losses, norms, _narrowed(sizes, seed)])
    evaluated = attacks.by_features(features, members, seed=seed)
    about = (
        f"a classifier of loss, gradient norm and gradients of {layer}, fitted to one "
        "half of the examples and measured on the other"
    )
    return Result(evaluated.scores, evaluated.members, about)


def _narrowed(features: np.ndarray, seed: int) -> np.ndarray:
    """Projects features at random onto `WIDEST` numbers, if there are more."""
    width = features.shape[1]
    if width <= WIDEST:
        return features
    rng = np.random.default_rng([seed, width])
    axes = rng.standard_normal((width, WIDEST), np.float32) / np.sqrt(WIDEST)
    narrow: np.ndarray = features @ axes.astype(np.float32)
    return narrow


def _measured(network: Network, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses and the gradient norms of examples, ``[n]`` each."""
    loss_fn = TASKS[network.dataset.task].loss_fn

    @jax.jit
    def run(variables: Variables, examples: Examples) -> tuple[jax.Array, jax.Array]:
        apply_fn, masks = network.model.apply, network.masks
        return (
            scores.losses(apply_fn, loss_fn, variables, examples),
            scores.gradient_norms(apply_fn, loss_fn, variables, examples, masks=masks),
        )

    losses, norms = run(network.variables, examples)
    return np.asarray(losses), np.asarray(norms)
