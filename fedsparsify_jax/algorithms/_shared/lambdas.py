"""Places for HALO's lambda: with every client, or sent beside the weights.

In the variables that a client trains, lambda is a collection of its own: path of a
kernel to an array of its shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax.algorithms._shared import lasso
from fedsparsify_jax.engine.wrappers.variables import checked
from fedsparsify_jax.masks import apply
from fedsparsify_jax.method import (
    Client,
    Context,
    Local,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
    stateless,
)
from fedsparsify_jax.types import (
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    State,
    Variables,
)

COLLECTION = "penalties"


def ones(variables: Variables, prunable: Prunable | None) -> lasso.Lambdas:
    """Returns the first lambda of every kernel that may be pruned."""
    weights = lasso.penalised(variables, prunable)
    return {name: jnp.ones_like(w) for name, w in weights.items()}


def kept_by_clients(method: Method) -> Method:
    """Returns the method whose clients keep lambda, which no message has."""

    def first(variables: Variables, masks: Masks) -> PyTree:
        return ones(variables, method.prunable)

    def receive(context: Context, client: Client) -> tuple[Variables, Masks]:
        kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), client.state)
        variables = context.variables | {COLLECTION: client.state}
        return variables, context.masks | {COLLECTION: kept}

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        variables, masks = dict(local.variables), dict(local.masks)
        del masks[COLLECTION]
        return Upload(variables, masks), variables.pop(COLLECTION)

    return method._replace(receive=receive, upload=Uploader(first, send))


def others(prunable: Prunable | None) -> Prunable | None:
    """Returns the rule of prunable leaves that lambda is no leaf for."""
    if prunable is None:
        return None
    return lambda name: name.split("/")[0] != COLLECTION and prunable(name)


def under(masks: Masks, variables: Variables, prunable: Prunable | None) -> Variables:
    """Sets lambda to 0, which costs nothing to send, where its weight is pruned."""
    if COLLECTION not in variables:
        return variables
    lambdas = lasso.under(masks, variables[COLLECTION], prunable)
    return variables | {COLLECTION: lambdas}


def projection(
    prunable: Prunable | None,
) -> Callable[[Masks, Variables], Variables]:
    """Builds the projection of weights and of lambda."""
    return lambda masks, variables: under(masks, apply(masks, variables), prunable)


def forgetting(prunable: Prunable | None) -> ServerTransform:
    """Builds the link that drops lambda of what was purged."""

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        return under(masks, variables, prunable), masks, context.server

    return stateless(update)


def sending(
    algorithm: FederatedAlgorithm, prunable: Prunable | None
) -> FederatedAlgorithm:
    """Makes lambda a collection of the global model, but not of what is taken away."""

    def init(key: Key, variables: Variables) -> State:
        variables = checked(variables)
        return algorithm.init(key, variables | {COLLECTION: ones(variables, prunable)})

    def model(state: State) -> Variables:
        taken = algorithm.model(state).items()
        return {name: tree for name, tree in taken if name != COLLECTION}

    return algorithm._replace(init=init, model=model)
