"""Merges that are added up part by part against the same merges of all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import algorithms, client_map
from fedsparsify_jax.aggregation import merges, streaming
from fedsparsify_jax.method import Context, Streamed, Uploads

CLIENTS = 5


def uploads(weights):
    rng = np.random.default_rng(0)
    masks = {"params": {"w": jnp.asarray(rng.random((CLIENTS, 4, 3)) < 0.5)}}
    values = jnp.asarray(rng.normal(size=(CLIENTS, 4, 3)), jnp.float32)
    variables = {"params": {"w": jnp.where(masks["params"]["w"], values, 0.0)}}
    shares = jnp.asarray(weights, jnp.float32) / sum(weights)
    return Uploads(variables, masks, (), shares, jnp.arange(CLIENTS))


def context():
    zeros = {"params": {"w": jnp.zeros((4, 3))}}
    ones = {"params": {"w": jnp.ones((4, 3), bool)}}
    return Context(jnp.int32(1), jnp.float32(0), zeros, ones, (), ())


def part(whole, of):
    return jax.tree.map(lambda leaf: leaf[of], whole)


@pytest.mark.parametrize("weights", [(3, 1, 4, 1, 5), (2, 0, 1, 0, 7)])
@pytest.mark.parametrize("rule", [None, "none", "authors", "strict"])
@pytest.mark.parametrize("merge", ["mean", "nonzero"])
def test_parts_add_up_to_the_merge_of_all(merge, rule, weights):
    streamed = streaming.aggregate(merge, rule)
    assert isinstance(streamed, Streamed)
    whole = uploads(weights)
    pieces = [part(whole, slice(0, 2)), part(whole, slice(2, None))]
    sums = [streamed.sums(piece, context()) for piece in pieces]
    added = jax.tree.map(jnp.add, *sums)
    found, masks = streamed.merge(added, context())

    arguments = (*whole[:2], whole.weights, context().variables)
    if rule is None:
        expected, elected = merges.value_merge(merge)(*arguments), context().masks
    else:
        expected, elected = merges.merger(merge, rule)(*arguments)
    np.testing.assert_allclose(
        found["params"]["w"], expected["params"]["w"], rtol=1e-6, atol=1e-7
    )
    np.testing.assert_array_equal(masks["params"]["w"], elected["params"]["w"])


@pytest.mark.parametrize("rule", [None, "strict"])
def test_merges_that_need_everybody_are_not_streamed(rule):
    aggregate = streaming.aggregate("median", rule)
    assert not isinstance(aggregate, Streamed)
    whole = uploads((1, 1, 1, 1, 1))
    found, _ = aggregate(whole, context())
    median = np.median(np.asarray(whole.variables["params"]["w"]), axis=0)
    kept = found["params"]["w"] != 0
    np.testing.assert_allclose(found["params"]["w"][kept], median[kept], rtol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown merge"):
        streaming.aggregate("average", None)
    for merge in ("mean", "median"):
        with pytest.raises(ValueError, match="unknown vote rule"):
            streaming.aggregate(merge, "half")


def test_no_model_is_stacked_for_the_whole_cohort(clients):
    """The compiled round holds the models of a chunk, not those of the cohort."""

    def apply(variables, x, **_):
        return x @ variables["params"]["w"], {}

    def largest(strategy):
        algorithm = algorithms.fedavg(apply, cohort=strategy, batch_size=4)
        state = algorithm.init(
            jax.random.key(0), {"params": {"w": jnp.zeros((5, 3), jnp.float32)}}
        )
        lowered = jax.jit(algorithm.step).lower(jax.random.key(1), state, clients)
        return lowered.as_text().count("tensor<4x5x3xf32>")

    assert largest(client_map.vmapped()) > 0
    assert largest(client_map.chunked(1)) == 0
