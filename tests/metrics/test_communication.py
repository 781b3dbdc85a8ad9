"""Message formulas by hand; whole runs against the reference and the engine."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients

from fedsparsify_jax import metrics, models
from fedsparsify_jax.algorithms import fedsparsify_global
from fedsparsify_jax.metrics.communication import FORMULAS
from fedsparsify_jax.pruning.allocation import kept_count

# The reference's table (section 6.1): T, K, all numbers, prunable ones, MB, ratios.
SPARSITIES = (0.8, 0.85, 0.9, 0.95, 0.99)
RUNS = {
    "fashion_mnist": (200, 10, 118_282, 118_282, 1_892.5),
    "cifar10": (200, 10, 1_610_314, 1_609_930, 25_765.0),
    "cifar100": (100, 10, 14_782_884, 14_774_436, 118_263.1),
    "brain_age": (40, 8, 2_950_401, 2_948_801, 7_553.0),
}
RATIOS = {
    "fashion_mnist": (2.48, 2.73, 3.05, 3.44, 3.83),
    "cifar10": (2.48, 2.73, 3.04, 3.43, 3.83),
    "cifar100": (2.46, 2.71, 3.01, 3.39, 3.77),
    "brain_age": (2.41, 2.64, 2.92, 3.27, 3.62),
}


def model(zeros: int, size: int = 21):
    w = np.ones(size, np.float32)
    w[:zeros] = 0
    return {
        "params": {"w": jnp.asarray(w), "b": jnp.array([-0.0, 2.0])},
        "batch_stats": {"mean": jnp.array([3.0, 0.0, 1.0])},
    }


@pytest.mark.parametrize("zeros", [0, 1, 20, 21])
def test_messages_by_hand_on_the_host_and_jitted(zeros):
    nonzeros = 21 - zeros + 1 + 2
    expected = {
        "nonzero": 4 * nonzeros,
        "bitmap": 4 * nonzeros + 3,  # 23 prunable numbers: 3 bytes of bits
        "indexed": 8 * nonzeros,
    }
    messages = {name: formula(nonzeros, 23) for name, formula in FORMULAS.items()}
    assert messages == expected
    for name, count in expected.items():
        message = jax.jit(getattr(metrics, f"{name}_bytes"))(model(zeros))
        assert message.dtype == jnp.uint32 and int(message) == count


def test_the_bitmap_covers_what_may_be_pruned():
    kernels = metrics.bitmap_bytes(model(0, 16), lambda name: name == "params/w")
    assert int(kernels) == 4 * 19 + 2
    assert int(metrics.bitmap_bytes(model(0, 15))) == 4 * 18 + 3
    assert int(metrics.bitmap_bytes(model(0, 14))) == 4 * 17 + 2


@pytest.mark.parametrize("run", RUNS)
def test_the_table_of_the_reference(run):
    rounds, clients, parameters, prunable, megabytes = RUNS[run]
    rows = [
        metrics.saving(s, rounds, clients, parameters, prunable=prunable)
        for s in SPARSITIES
    ]
    assert {round(row.dense / 1e6, 1) for row in rows} == {megabytes}
    assert tuple(round(row.ratio, 2) for row in rows) == RATIOS[run]


def test_statistics_sent_dense_are_what_the_reference_printed():
    everything = [
        round(metrics.saving(s, 200, 10, 1_610_314).ratio, 2) for s in SPARSITIES
    ]
    assert everything != list(RATIOS["cifar10"])


def test_the_exponents_of_the_reference():
    ratios = [metrics.saving(0.95, 200, 10, 118_282, n).ratio for n in (1, 3, 6, 12)]
    assert [round(ratio, 2) for ratio in ratios] == [1.90, 3.44, 5.27, 7.84]


def test_masks_and_indices_as_the_reference_says():
    """A bit a weight costs 1/32 = 3.1 % of dense; indices halve the gain."""
    plain, bitmap, indexed = (
        metrics.saving(0.9, 200, 10, 118_282, formula=name) for name in FORMULAS
    )
    assert (bitmap.total - plain.total) / plain.dense == pytest.approx(0.031, abs=5e-4)
    assert indexed.total == 2 * plain.total
    assert plain.dense == bitmap.dense == indexed.dense


def test_a_run_of_three_rounds_by_hand():
    # s = 0, 0.6 * (1 - 0.5^3) = 0.525, 0.6 of 10 numbers, beside 2 that stay.
    kept = [12, 12, 12 - 5, 12 - 6]
    run = metrics.saving(0.6, 3, 2, 12, prunable=10)
    moved = sum(up + down for up, down in itertools.pairwise(kept))
    assert run == (2 * 4 * moved, 2 * 3 * 2 * 12 * 4)


def test_late_and_rare_purges_save_less():
    plain = metrics.saving(0.9, 40, 5, 1000).total
    late = metrics.saving(0.9, 40, 5, 1000, begin=20)
    rare = metrics.saving(0.9, 40, 5, 1000, every=8)
    assert plain < rare.total < late.total < late.dense
    # Dense through round 20: 41 of the 80 messages that a client sees, or more.
    assert late.total > 41 * 5 * 4000


@pytest.mark.parametrize("begin", [1, 2])
@pytest.mark.parametrize("every", [1, 2])
def test_the_engine_moves_what_the_schedule_says(begin, every):
    rounds, clients = 5, make_clients()
    network = models.from_functions(
        lambda key: {"w": jax.random.normal(key, (5, 3))}, lambda p, x: x @ p["w"]
    )
    algorithm = fedsparsify_global(
        network.apply,
        final_sparsity=0.7,
        rounds=rounds,
        begin=begin,
        every=every,
        batch_size=4,
        local_epochs=1,
    )
    state = algorithm.init(jax.random.key(0), network.init(jax.random.key(1)))

    def step(state, key):
        state, info = algorithm.step(key, state, clients)
        return state, jnp.sum(info.bytes_up) + jnp.sum(info.bytes_down)

    keys = jax.random.split(jax.random.key(2), rounds)
    _, moved = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, keys)
    run = metrics.saving(0.7, rounds, 4, 15, begin=begin, every=every)
    assert int(moved.sum()) == run.total < run.dense


def test_counts_agree_with_the_library():
    run = metrics.saving(0.95, 1, 1, 118_282)
    assert run.total == 4 * (118_282 + int(kept_count(118_282, 0.95)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formula": "zip"}, "unknown formula 'zip': one of nonzero, bitmap, indexed"),
        ({"rounds": 0}, "rounds is 0: it must be at least 1"),
        ({"clients": 0}, "clients is 0"),
        ({"parameters": 0, "prunable": 0}, "parameters is 0"),
        ({"prunable": 11}, "prunable is 11: it must be between 0 and the 10"),
        ({"final_sparsity": 1.0}, "final sparsity is 1.0"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    good = {"final_sparsity": 0.5, "rounds": 2, "clients": 1, "parameters": 10}
    with pytest.raises(ValueError, match=message):
        metrics.saving(**good | changes)
