"""SparsyFed: both readings against what they are made of."""

import itertools

import chex
import jax
import pytest
from toy import MLP, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks, schedules

ENGINE = {"learning_rate": 0.3, "local_epochs": 2, "batch_size": 3}


def played(build, clients, **options):
    algorithm = build(MLP.apply, **ENGINE, **options)
    start = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    return run_rounds(jax.jit(algorithm.step), start, clients, round_keys(3))


@pytest.mark.parametrize("beta", [1.0, 1.3])
def test_pruned_weights_are_fedsparsify_local_without_a_vote(beta, clients):
    one = played(algorithms.sparsyfed, clients, final_sparsity=0.6, powerprop=beta)
    other = played(
        algorithms.fedsparsify_local,
        clients,
        schedule=schedules.constant(0.6),
        vote_rule="none",
        powerprop=beta,
    )
    chex.assert_trees_all_equal(*one[0:1], *other[0:1])
    chex.assert_trees_all_equal(one[1], other[1])


def test_powers_of_1_25_are_the_default_and_pruned_weights_never_come_back(clients):
    states, infos = played(algorithms.sparsyfed, clients, final_sparsity=0.6)
    same, _ = played(algorithms.sparsyfed, clients, final_sparsity=0.6, powerprop=1.25)
    chex.assert_trees_all_equal(states, same)
    for old, new in itertools.pairwise(states[1:]):
        both = masks.intersect(old.masks, new.masks)
        chex.assert_trees_all_equal(both, new.masks)
    # Clients send 39 - floor(0.6 * 39) weights; the union of four has more.
    assert all((info.bytes_up == 4 * 16).all() for info in infos)
    assert 0.0 < float(infos[-1].sparsity) <= 0.6


def test_pruned_updates_are_fedavg_with_the_largest_changes_sent(clients):
    one = played(
        algorithms.sparsyfed, clients, prune_upload="update", final_sparsity=0.75
    )
    other = played(
        algorithms.fedavg,
        clients,
        powerprop=1.25,
        upload_compression="topk",
        topk_fraction=0.25,
        error_feedback=False,
    )
    chex.assert_trees_all_equal(one, other)
    assert float(one[1][-1].sparsity) == 0.0


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"prune_upload": "both"},
            "unknown prune_upload 'both': 'weights' or 'update'",
        ),
        (
            {"prune_upload": "update", "upload_compression": "int8"},
            'prune_upload="update" is an upload_compression already',
        ),
        ({"powerprop": 0.5}, "powerprop is 0.5: it must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        algorithms.sparsyfed(MLP.apply, **ENGINE | options)
