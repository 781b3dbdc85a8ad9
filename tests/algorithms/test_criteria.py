"""Criteria of removal: whole rounds against NumPy, and what is sent for them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, RATE, apply_fn, half_square, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks, schedules
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.wrappers.faults import Faults, within
from fedsparsify_jax.method import Method, stateless
from fedsparsify_jax.pruning import prune
from fedsparsify_jax.pruning.selection import magnitude
from fedsparsify_jax.types import ClientData

W = np.array([-2.4, 3.6, -1.8, -4.0, -1.5, -2.9])
TARGETS = np.array(
    [[-1.6, 2.6, -1.3, -2.5, -2.4, -3.0], [-0.5, 3.3, -2.1, -4.3, -2.3, -3.7]]
)
SIZES = np.array([2, 1])  # examples of the two clients, all of one target
EPOCHS, FINAL, ROUNDS = 2, 0.7, 4
GRADIENTS = ("taylor", "fisher")
CRITERIA = ("magnitude", "movement", *GRADIENTS)


def two_clients():
    y = np.repeat(TARGETS[:, None], 2, axis=1).astype(np.float32)
    return ClientData(jnp.zeros((2, 2, 1)), jnp.asarray(y), jnp.asarray(SIZES))


def played(build, **options):
    settings = {
        "rounds": ROUNDS,
        "final_sparsity": FINAL,
        "learning_rate": RATE,
        "local_epochs": EPOCHS,
        "batch_size": 1,
        "loss_fn": half_square,
        **options,
    }
    algorithm = build(apply_fn, **settings)
    start = {"params": {"w": jnp.asarray(W, jnp.float32)}}
    state = algorithm.init(jax.random.key(0), start)
    keys = round_keys(settings["rounds"])
    states, infos = run_rounds(jax.jit(algorithm.step), state, two_clients(), keys)
    return states, infos


def cubic(t, rounds=ROUNDS):
    return FINAL * (1 - (1 - (t - 1) / (rounds - 1)) ** 3)


def largest(scores, mask, sparsity):
    kept = len(W) - int(np.floor(sparsity * len(W) + 1e-6))
    order = sorted(np.flatnonzero(mask), key=lambda i: (-scores[i], i))
    new = np.zeros(len(W), bool)
    new[order[:kept]] = True
    return new


def tuned(w, mask, target, size):
    """A client's epochs: the weights, and the terms of every criterion."""
    terms = {name: [] for name in ("movement", *GRADIENTS)}
    for _ in range(EPOCHS * size):
        g = w - target
        terms["movement"].append(-g * w)
        terms["taylor"].append(np.abs(g * w))
        terms["fisher"].append(g**2)
        w = (w - RATE * g) * mask
    return w, {name: np.mean(rows, axis=0) for name, rows in terms.items()}


def oracle(criterion, schedule=cubic, rounds=ROUNDS):
    """Weights and masks of FedSparsify-Global after every round."""
    w, mask, moved = W.copy(), np.ones(len(W), bool), np.zeros(len(W))
    shares = SIZES / SIZES.sum()
    for t in range(1, rounds + 1):
        trained = [tuned(w, mask, y, n) for y, n in zip(TARGETS, SIZES, strict=True)]
        merged = shares @ np.array([v for v, _ in trained])
        moved = moved + w * (merged - w)
        scores = {"magnitude": np.abs(merged), "movement": moved}
        for name in GRADIENTS:
            scores[name] = shares @ np.array([terms[name] for _, terms in trained])
        scores["fisher"] = scores["fisher"] * merged**2
        mask = largest(scores[criterion], mask, schedule(t))
        w = merged * mask
        yield w, mask


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rounds_of_global_are_numpys(criterion):
    states, _ = played(algorithms.fedsparsify_global, criterion=criterion)
    for state, (w, mask) in zip(states[1:], oracle(criterion), strict=True):
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(state.variables["params"]["w"], w, rtol=1e-5)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rounds_of_one_shot_are_numpys(criterion):
    states, _ = played(algorithms.one_shot, criterion=criterion, at=3)
    once = oracle(criterion, lambda t: FINAL * (t >= 3))
    for state, (w, mask) in zip(states[1:], once, strict=True):
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(state.variables["params"]["w"], w, rtol=1e-5)


def test_the_criteria_choose_different_weights():
    last = {tuple(list(oracle(criterion))[-1][1]) for criterion in CRITERIA}
    assert len(last) == len(CRITERIA)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rounds_of_local_are_numpys(criterion):
    """Each client goes by its own steps; the vote of two keeps what one keeps."""
    states, infos = played(algorithms.fedsparsify_local, criterion=criterion)
    w, mask = W.copy(), np.ones(len(W), bool)
    for t, state in enumerate(states[1:], start=1):
        models, votes = [], []
        for y, n in zip(TARGETS, SIZES, strict=True):
            v, terms = tuned(w, mask, y, n)
            terms["fisher"] = terms["fisher"] * v**2
            scores = terms | {"magnitude": np.abs(v)}
            votes.append(largest(scores[criterion], mask, cubic(t)))
            models.append(v * votes[-1])
        mask = votes[0] | votes[1]
        w = mask * (SIZES / SIZES.sum() @ np.array(models))
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(
            state.variables["params"]["w"], w, rtol=1e-5, atol=1e-6
        )
    kept = len(W) - int(FINAL * len(W))
    assert infos[-1].bytes_up.tolist() == [4 * kept, 4 * kept]  # nothing besides


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_are_in_the_bytes_of_the_rounds_that_purge(criterion):
    """With every=3 and T=6, rounds 3 and 6 purge."""
    options = {"rounds": 6, "every": 3, "begin": 0, "exponent": 1.0}
    _, infos = played(algorithms.fedsparsify_global, criterion=criterion, **options)
    kept = [6, 6, 6, 4, 4, 4]  # under which the uploads of a round are sent
    sends = criterion in GRADIENTS
    for t, info in enumerate(infos, start=1):
        besides = kept[t - 1] if sends and t in (3, 6) else 0
        assert info.bytes_up.tolist() == [4 * (kept[t - 1] + besides)] * 2
    assert [round(float(i.sparsity) * 6) for i in infos] == [0, 0, 2, 2, 2, 4]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_purge_that_fell_out_is_made_up_for(criterion):
    """All uploads of the only purge's round are lost: the next one purges."""
    lost = Faults(dropout=within(1.0, 2, 2))
    states, infos = played(
        algorithms.one_shot, criterion=criterion, at=2, faults=lost, num_clients=2
    )
    assert [round(float(info.sparsity) * 6) for info in infos] == [0, 0, 4, 4]
    sends = criterion in GRADIENTS
    assert infos[2].bytes_up.tolist() == [4 * 6 * (1 + sends)] * 2
    assert infos[3].bytes_up.tolist() == [4 * 2] * 2
    before, after = states[1], states[2]
    chex.assert_trees_all_equal(before.variables, after.variables)
    chex.assert_trees_all_equal(before.server, after.server)


def test_a_merge_of_all_uploads_is_left_as_it_is(clients, optimized):
    """Sparsity zero under the median, with scores or without, bit for bit."""
    shared = {"num_clients": 4, "local_epochs": 2, "batch_size": 3, "merge": "median"}
    last = []
    for options in ({"criterion": "taylor"}, {}):
        algorithm = algorithms.fedsparsify_global(
            MLP.apply, final_sparsity=0.0, rounds=3, **shared, **options
        )
        state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
        states, _ = run_rounds(jax.jit(algorithm.step), state, clients, round_keys(3))
        last.append(states[-1].variables)
    chex.assert_trees_all_equal(*last)


def test_the_default_is_the_program_without_criteria_and_patterns(clients):
    """FedSparsify-Global written out, its purge a call of `prune`."""

    def purge(key, variables, kept, uploads, context):
        kept = prune(magnitude(variables), context.sparsity, within=kept)
        return masks.apply(kept, variables), kept, context.server

    method = Method(
        schedule=schedules.polynomial(0.9, end=200),
        aggregate=aggregate("mean"),
        server=stateless(purge),
    )
    plain = engine(MLP.apply, method)
    texts = []
    for algorithm in (plain, algorithms.fedsparsify_global(MLP.apply)):
        state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
        step = jax.jit(algorithm.step)
        texts.append(step.lower(jax.random.key(2), state, clients).as_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "name", ["fedsparsify_global", "fedsparsify_local", "one_shot"]
)
def test_what_is_no_criterion_is_refused(name):
    with pytest.raises(ValueError, match="unknown criterion 'size': one of magnitude"):
        getattr(algorithms, name)(apply_fn, criterion="size")
