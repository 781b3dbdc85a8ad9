"""Merges that are added up part by part against the same merges of all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import context_of, merged, uploads_of

from fedsparsify_jax import algorithms, client_map
from fedsparsify_jax.aggregation import streaming

CLIENTS = 5


def uploads(weights):
    rng = np.random.default_rng(0)
    masks = {"params": {"w": jnp.asarray(rng.random((CLIENTS, 4, 3)) < 0.5)}}
    values = jnp.asarray(rng.normal(size=(CLIENTS, 4, 3)), jnp.float32)
    variables = {"params": {"w": jnp.where(masks["params"]["w"], values, 0.0)}}
    return uploads_of(variables, masks, weights)


def context():
    zeros = {"params": {"w": jnp.zeros((4, 3))}}
    return context_of(zeros, {"params": {"w": jnp.ones((4, 3), bool)}})


def part(whole, of):
    return jax.tree.map(lambda leaf: leaf[of], whole)


def oracle(merge, rule, uploads):
    """Means and votes of whole cohorts in NumPy, position by position."""
    values, kept, sizes = (
        np.asarray(uploads.variables["params"]["w"], np.float64),
        np.asarray(uploads.masks["params"]["w"]),
        np.asarray(uploads.sizes, np.float64)[:, None, None],
    )
    total = (sizes * np.where(kept, values, 0)).sum(axis=0)
    share = (sizes * kept).sum(axis=0) if merge == "nonzero" else sizes.sum(axis=0)
    mean = np.where(share > 0, total / np.where(share > 0, share, 1), 0.0)
    votes, voters = (kept & (sizes > 0)).sum(axis=0), (sizes > 0).sum()
    needed = {None: 0, "none": 1, "authors": voters // 2, "strict": voters // 2 + 1}
    elected = votes >= needed[rule] if rule is None else votes >= max(needed[rule], 1)
    return np.where(elected, mean, 0.0), elected


@pytest.mark.parametrize("weights", [(3, 1, 4, 1, 5), (2, 0, 1, 0, 7)])
@pytest.mark.parametrize("rule", [None, "none", "authors", "strict"])
@pytest.mark.parametrize("merge", ["mean", "nonzero"])
def test_parts_add_up_to_the_merge_of_all(merge, rule, weights):
    aggregate = streaming.aggregate(merge, rule)
    assert not aggregate.stacks
    whole = uploads(weights)
    pieces = [part(whole, slice(0, 2)), part(whole, slice(2, None))]
    sums = [aggregate.sums(piece, context()) for piece in pieces]
    added = jax.tree.map(jnp.add, *sums)
    variables, masks = aggregate.merge(added, whole, context())
    expected, elected = oracle(merge, rule, whole)
    np.testing.assert_allclose(variables["params"]["w"], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(masks["params"]["w"], elected)


@pytest.mark.parametrize("rule", [None, "strict", "none"])
def test_merges_that_need_all_uploads_stack_them(rule):
    aggregate = streaming.aggregate("median", rule)
    assert aggregate.stacks
    whole = uploads((1, 1, 1, 1, 1))
    variables, masks = merged(aggregate, whole, context())
    _, elected = oracle("mean", rule, whole)
    median = np.median(np.asarray(whole.variables["params"]["w"]), axis=0)
    np.testing.assert_array_equal(masks["params"]["w"], elected)
    expected = np.where(elected, median, 0.0)
    np.testing.assert_allclose(variables["params"]["w"], expected, rtol=1e-6)


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
        algorithm = algorithms.fedavg(apply, client_map=strategy, batch_size=4)
        state = algorithm.init(
            jax.random.key(0), {"params": {"w": jnp.zeros((5, 3), jnp.float32)}}
        )
        lowered = jax.jit(algorithm.step).lower(jax.random.key(1), state, clients)
        return lowered.as_text().count("tensor<4x5x3xf32>")

    assert largest(client_map.vmapped()) > 0
    assert largest(client_map.chunked(1)) == 0
