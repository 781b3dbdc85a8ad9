"""Powerpropagation around the clients' training, for any method.

The model of the server, all messages and all hooks of a method have the weights w; only
the steps of a client's optimizer are made on their roots theta (`training.powerprop`):

    tune    theta <- root(w);  E epochs on theta;  w_k <- power(theta)
    merge   w <- power(merge of root(w_k))    ("theta")
            w <- merge of w_k                 ("weights")

So penalties (FedProx), clipping, attacks, purges, the server's optimizer and its moving
average measure weights. Momentum and whatever else an optimizer keeps, decay of weights
included, belong to theta: decaying theta is an l_(2 / alpha) penalty on w.

Deviations: authors who train on one machine, and SparsyFed (arXiv 2504.05153), keep
theta from round to round; here it is the root of the weights that were sent, which
differs by rounding (about 1e-7 of a weight).
"""

import jax

from fedsparsify_jax.engine.options import Options
from fedsparsify_jax.engine.records import ClientTask
from fedsparsify_jax.engine.tuning import Tuning
from fedsparsify_jax.method import (
    Aggregate,
    Batch,
    BatchLoss,
    Context,
    Method,
    Uploads,
)
from fedsparsify_jax.training.local import Trained
from fedsparsify_jax.training.powerprop import Powers
from fedsparsify_jax.types import Key, Masks, PyTree, Variables


def powers_of(o: Options, method: Method) -> Powers | None:
    """Returns the powers that the options ask for; None for plain training.

    Raises:
      ValueError: for a method that grows weights at zero.
    """
    if o.powerprop is None:
        return None
    if isinstance(o.powerprop, int | float) and o.powerprop == 1:
        return None
    if method.grows:
        raise ValueError(
            "powerprop does not go with weights that are grown at zero: they would "
            "have no gradient there and stay zero"
        )
    return Powers(o.powerprop, method.prunable)


def on_roots(powers: Powers | None, method: Method) -> Method:
    """Returns the method whose objective is given roots: the one that clients train."""
    if powers is None:
        return method

    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        return method.objective(loss, powers.weights(variables), batch, key, context)

    return method._replace(objective=objective)


def tuning_roots(powers: Powers | None, tuning: Tuning) -> Tuning:
    """Returns the training that takes and returns weights, given one of roots."""
    if powers is None:
        return tuning

    def weights(trained: Trained) -> Trained:
        return trained._replace(variables=powers.weights(trained.variables))

    def first(
        key: Key, start: Variables, masks: Masks, task: ClientTask, context: Context
    ) -> Trained:
        return weights(tuning.first(key, powers.roots(start), masks, task, context))

    def again(
        key: Key | None,
        trained: Trained,
        masks: Masks,
        task: ClientTask,
        context: Context,
    ) -> Trained:
        if not tuning.fine_tunes:  # so that roots and powers add no rounding
            return tuning.again(key, trained, masks, task, context)
        theta = trained._replace(variables=powers.roots(trained.variables))
        return weights(tuning.again(key, theta, masks, task, context))

    return tuning._replace(
        first=first,
        again=again,
        new_optimizer=lambda start: tuning.new_optimizer(powers.roots(start)),
    )


def merging_roots(powers: Powers | None, method: Method) -> Method:
    """Returns the method that merges the roots of weights in place of the weights."""
    if powers is None:
        return method
    inner = method.aggregate

    def roots(uploads: Uploads, context: Context) -> tuple[Uploads, Context]:
        return (
            uploads._replace(variables=powers.roots(uploads.variables)),
            context._replace(variables=powers.roots(context.variables)),
        )

    def sums(uploads: Uploads, context: Context) -> PyTree:
        return inner.sums(*roots(uploads, context))

    def merge(
        sums: PyTree, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        theta, masks = inner.merge(sums, *roots(uploads, context))
        return powers.weights(theta), masks

    return method._replace(aggregate=Aggregate(sums, merge, inner.stacks))
