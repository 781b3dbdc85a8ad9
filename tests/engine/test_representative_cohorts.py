"""Cohorts that hold the classes of the whole federation, against NumPy's choice."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import build as build_row
from toy import DATA, MLP, build, round_keys

from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine.records import RoundKeys
from fedsparsify_jax.engine.sampling import class_counts, sample_representative
from fedsparsify_jax.engine.wrappers.private import Privacy
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import ClientData, Cohort

clone = jax.random.clone
CLASSES, CLIENTS, COHORT = 6, 24, 6
MEAN = Method(aggregate("mean"))


def pairs(rng):
    """Counts of clients with two classes each, like one-class-heavy hospitals."""
    counts = np.zeros((CLIENTS, CLASSES))
    for row in counts:
        row[rng.choice(CLASSES, 2, replace=False)] = rng.integers(1, 9, 2)
    return counts


def chosen_by_numpy(order, counts, size, pool):
    """The choice from its description: shares, distances and the first minimum."""
    target = counts.sum(axis=0) / counts.sum()
    offered = [int(i) for i in order[: pool * size]]
    cohort = [offered.pop(0)]
    while len(cohort) < size:
        apart = []
        for candidate in offered:
            held = counts[[*cohort, candidate]].sum(axis=0)
            apart.append(round(float(((held / held.sum() - target) ** 2).sum()), 5))
        cohort.append(offered.pop(int(np.argmin(apart))))
    return sorted(cohort)


@pytest.mark.parametrize("pool", [1, 3, 9])
def test_the_choice_is_numpys(pool):
    rng = np.random.default_rng(0)
    for key in round_keys(20):
        counts = pairs(rng)
        order = np.asarray(jax.random.permutation(jax.random.clone(key), CLIENTS))
        given = jnp.asarray(counts, jnp.float32)
        ids = sample_representative(key, given, COHORT, pool)
        assert ids.dtype == jnp.int32
        assert ids.tolist() == chosen_by_numpy(order, counts, COHORT, pool)


def test_cohorts_have_the_federations_classes_and_all_clients_have_their_turns():
    counts = jnp.asarray(pairs(np.random.default_rng(1)), jnp.float32)
    target = counts.sum(axis=0) / counts.sum()
    draw = jax.jit(jax.vmap(lambda key: sample_representative(key, counts, COHORT)))
    ids = np.asarray(draw(jax.random.split(jax.random.key(9), 600)))
    assert all(len(set(cohort)) == COHORT for cohort in ids.tolist())
    uniform = np.random.default_rng(2)
    drawn = np.stack([uniform.permutation(CLIENTS)[:COHORT] for _ in range(600)])

    def distance(cohorts):
        held = np.asarray(counts)[cohorts].sum(axis=1)
        shares = held / held.sum(axis=1, keepdims=True)
        return np.linalg.norm(shares - np.asarray(target), axis=1).mean()

    assert distance(ids) < distance(drawn) / 3
    turns = np.bincount(ids.ravel(), minlength=CLIENTS) / 600
    # 0.25 each of uniform draws; here those with rare classes come more often.
    assert turns.min() > 0.03 and turns.max() < 0.6


def test_padding_is_of_no_class():
    y = jnp.array([[1, 1, 0, 0], [2, 0, 1, 1]])
    counts = class_counts(y, jnp.array([2, 4]), 3)
    np.testing.assert_array_equal(counts, [[0, 2, 0], [1, 2, 1]])


def federation():
    """Nine clients of one class each, three of every class."""
    rng = np.random.default_rng(3)
    y = np.repeat(np.arange(9) % 3, 2).reshape(9, 2)
    x = rng.normal(size=(9, 2, 5)).astype(np.float32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.full(9, 2))


def algorithm(**more):
    options = {"participation": 0.34, "num_classes": 3, "num_clients": 9, **more}
    return build_row("fedavg", model=MLP, cohort_sampling="representative", **options)


def test_a_round_is_that_of_the_cohort_it_draws():
    clients, made = federation(), algorithm()
    state = made.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    step, counts = jax.jit(made.step), class_counts(clients.y, clients.sizes, 3)
    for key in round_keys(5):
        ids = sample_representative(RoundKeys.of(clone(key)).cohort, counts, 3)
        new, info = step(clone(key), state, clients)
        cohort = jax.tree.map(lambda leaf, ids=ids: leaf[ids], clients)
        assert info.cohort.tolist() == ids.tolist()
        assert sorted(clients.y[ids, 0].tolist()) == [0, 1, 2]
        from_cohort = made.cohorts.run(key, state, Cohort(ids, cohort))[0]
        chex.assert_trees_all_close(new.variables, from_cohort.variables, atol=1e-6)
        state = new
    assert step._cache_size() == 1


def test_all_clients_at_once_are_all_clients():
    clients, made = federation(), algorithm(participation=1.0)
    state = made.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    _, info = jax.jit(made.step)(jax.random.key(3), state, clients)
    assert info.cohort.tolist() == list(range(9))


def test_without_labels_there_is_no_such_cohort():
    made = algorithm()
    assert made.halves is None
    with pytest.raises(ValueError, match="without the data of all clients"):
        made.cohorts.sample(jax.random.key(0), 9)
    numbers = build(
        MEAN, participation=0.5, cohort_sampling="representative", num_classes=2
    )
    state = numbers.init(jax.random.key(0), {"params": {"w": jnp.zeros(2)}})
    with pytest.raises(ValueError, match="integer classes"):
        numbers.step(jax.random.key(0), state, DATA)


def test_what_does_not_go_with_it():
    with pytest.raises(ValueError, match="num_classes is not given"):
        build(MEAN, cohort_sampling="representative")
    privacy = Privacy(clip_norm=1.0, noise_multiplier=1.0, denominator=4.0)
    with pytest.raises(ValueError, match="does not go with privacy"):
        algorithm(privacy=privacy)
