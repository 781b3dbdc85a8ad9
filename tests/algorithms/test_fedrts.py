"""FedRTS's rounds against NumPy, given the draws of their keys."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import round_keys, run_rounds, squared_error

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.algorithms.fedrts import Beliefs, draw
from fedsparsify_jax.engine.records import RoundKeys
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.types import ClientData

RNG = np.random.default_rng(6)
SHAPES = {"a": (4, 5), "b": (5, 3)}
KEPT = {"a": 10, "b": 8}
START = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
X, Y = RNG.normal(size=(3, 4, 4)), RNG.normal(size=(3, 4, 3))
SIZES = np.array([4, 3, 1])
MODEL = models.from_functions(
    lambda key: {name: jnp.float32(w) for name, w in START.items()},
    lambda params, x: x @ params["a"] @ params["b"],
)
CLIENTS = ClientData(jnp.float32(X), jnp.float32(Y), jnp.asarray(SIZES))
RATE, EPOCHS, ALPHA, INTERVAL, UNTIL = 0.02, 2, 0.9, 2, 6
GAMMA, EVIDENCE = 0.7, 3.0


def gradients(w, x, y):
    """Of the mean squared distance."""
    error = 2 * (x @ w["a"] @ w["b"] - y) / len(x)
    return {"a": x.T @ error @ w["b"].T, "b": (x @ w["a"]).T @ error}


def largest(scores, allowed, k):
    """The k largest among what is allowed, the first of equal ones: bool array."""
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-abs(scores.ravel()[i]), i))
    chosen = np.zeros(scores.size, bool)
    chosen[order[:k]] = True
    return chosen.reshape(scores.shape)


def numpy_round(w, masks, a, b, t, key):
    """A round: the new weights, masks and beliefs, and the positions a client sends."""
    share = ALPHA / 2 * (1 + np.cos(np.pi * t / UNTIL)) if t < UNTIL else 0
    adjusts = t % INTERVAL == 0 and t <= UNTIL
    quota = {name: int(share * masks[name].sum()) for name in w}
    mean, clients, named = dict.fromkeys(w, 0.0), dict.fromkeys(w, 0.0), {}
    for name in w:
        named[name] = np.zeros(SHAPES[name])
    for x, y, n in zip(X, Y, SIZES, strict=True):
        x, y, local, p = x[:n], y[:n], dict(w), n / SIZES.sum()
        for _ in range(EPOCHS):
            g = gradients(local, x, y)
            local = {name: (local[name] - RATE * g[name]) * masks[name] for name in w}
        g = gradients(local, x, y)
        for name, m in masks.items():
            mean[name] = mean[name] + p * local[name]
            core = largest(local[name], m, int(m.sum()) - quota[name])
            clients[name] = clients[name] + p * core
            named[name] += p * largest(g[name], ~m, quota[name])
    new, sent = dict(masks), 0
    for name in sorted(w):
        m, k = masks[name], quota[name]
        core = largest(mean[name], m, int(m.sum()) - k)
        o = np.where(
            m,
            GAMMA * clients[name] + (1 - GAMMA) * core,
            GAMMA * named[name] + (1 - GAMMA) / 2,
        )
        learnt = np.where(m, t <= UNTIL, adjusts) * EVIDENCE
        a[name], b[name] = a[name] + learnt * o, b[name] + learnt * (1 - o)
        if adjusts:
            sent += min(k, int((~m).sum()))
    if adjusts:
        flat = [np.concatenate([c[name].ravel() for name in sorted(w)]) for c in (a, b)]
        drawn = jax.random.beta(
            RoundKeys.of(key).server, *map(jnp.float32, flat), dtype=jnp.float32
        )
        ends = np.cumsum([w[name].size for name in sorted(w)])[:-1]
        for name, part in zip(sorted(w), np.split(np.array(drawn), ends), strict=True):
            beta = part.reshape(SHAPES[name])
            new[name] = largest(beta, np.ones(beta.shape, bool), KEPT[name])
    return {name: mean[name] * new[name] for name in w}, new, a, b, sent


def build(**options: Any):
    plain = {
        "final_sparsity": 0.5,
        "interval": INTERVAL,
        "alpha": ALPHA,
        "adjust_until": UNTIL,
        "individual_share": GAMMA,
        "evidence": EVIDENCE,
        "allocation": "layer",
        "learning_rate": RATE,
        "local_epochs": EPOCHS,
        "batch_size": 4,
        "loss_fn": squared_error,
    }
    return algorithms.fedrts(MODEL.apply, **plain | options)


def play(number: int, **options: Any):
    algorithm = build(**options)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    return run_rounds(jax.jit(algorithm.step), state, CLIENTS, round_keys(number))


def test_rounds_are_numpys_and_layers_keep_their_numbers() -> None:
    states, infos = play(8)
    for t, key in enumerate(round_keys(8)[1:], start=2):
        old, state, info = states[t - 1], states[t], infos[t - 1]
        w, before = (old.variables["params"], old.masks["params"])
        a, b = (dict(tree["params"]) for tree in old.server)
        weights, masks, a, b, sent = numpy_round(w, before, a, b, t, key)
        for name, count in KEPT.items():
            after = state.masks["params"][name]
            np.testing.assert_array_equal(after, masks[name])
            assert after.sum() == count
            new = state.variables["params"][name]
            np.testing.assert_allclose(new, weights[name], rtol=1e-4, atol=1e-6)
            assert not np.any(new[after & ~before[name]])  # grown at zero
            for got, expected in ((state.server.a, a), (state.server.b, b)):
                np.testing.assert_allclose(got["params"][name], expected[name], 1e-5)
            if t not in (2, 4, 6):
                np.testing.assert_array_equal(after, before[name])
        moved = [np.any(state.masks["params"][n] != old.masks["params"][n]) for n in w]
        assert all(moved) or t not in (2, 4)
        assert info.bytes_up.tolist() == [4 * sum(KEPT.values()) + 4 * sent] * 3
        assert (sent > 0) == (t in (2, 4))


def test_an_outcome_has_the_weight_of_evidence_whoever_fails() -> None:
    """What a and b gain together is lambda for every outcome, in each round."""
    fails = Faults(
        dropout=jnp.array([0.0, 0.5, 0.0]), broken=jnp.array([0.0, 0.0, 0.5])
    )
    with jax.debug_nans(False):
        states, infos = play(6, faults=fails)
    assert {int(info.merged) for info in infos} == {1, 2}  # of three clients
    for t, (old, state) in enumerate(itertools.pairwise(states[1:]), 2):
        for name in SHAPES:
            mask = old.masks["params"][name]
            gained = np.where(mask | (t % INTERVAL == 0), EVIDENCE, 0)
            a, b = (
                new["params"][name] - before["params"][name]
                for new, before in zip(state.server, old.server, strict=True)
            )
            np.testing.assert_allclose(a + b, gained, atol=1e-5)
            assert np.min(a) >= -1e-5 and np.min(b) >= -1e-5


def test_the_end_is_at_six_tenths_of_the_rounds() -> None:
    states, _ = play(6, adjust_until=None, rounds=5, interval=1)
    a = [state.server.a["params"]["a"] for state in states]
    assert [bool(np.any(x != y)) for x, y in itertools.pairwise(a)] == (
        [True] * 3 + [False] * 3
    )


def probability_of_more(a, b):
    """P(x > y) of independent x from Beta(a[0], b[0]) and y from Beta(a[1], b[1])."""
    x = (np.arange(20_000) + 0.5) / 20_000
    density = [x ** (p - 1) * (1 - x) ** (q - 1) for p, q in zip(a, b, strict=True)]
    density = [one / one.sum() for one in density]
    below = np.cumsum(density[1]) - density[1] / 2
    return float(np.sum(density[0] * below))


@pytest.mark.parametrize(
    ("a", "b"), [((5, 2), (1, 3)), ((1, 1), (1, 4)), ((30, 28), (11, 9))]
)
def test_draws_have_the_order_of_beta_draws(a, b) -> None:
    def first_is_more(key):
        beliefs = Beliefs({"w": jnp.array(a, float)}, {"w": jnp.array(b, float)})
        odds = draw(key, beliefs)["w"]
        return odds[0] > odds[1]

    share = jax.vmap(first_is_more)(jax.random.split(jax.random.key(0), 20_000)).mean()
    expected = probability_of_more(a, b)
    assert float(share) == pytest.approx(expected, abs=4 * 0.5 / 20_000**0.5)


def test_draws_near_one_are_told_apart() -> None:
    """float32 has few numbers between 0.9999 and 1, where proven weights are drawn."""
    a, b = jnp.full(5_000, 3e4), jnp.ones(5_000)
    key = jax.random.key(3)
    drawn = np.asarray(jax.random.beta(jax.random.clone(key), a, b, dtype=jnp.float32))
    odds = np.asarray(draw(key, Beliefs({"w": a}, {"w": b}))["w"])
    assert len(np.unique(drawn)) < 3_000 < 4_990 < len(np.unique(odds))
    order = np.argsort(odds)
    assert np.all(np.diff(drawn[order]) >= 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval is 0: it must be at least 1 round"),
        ({"individual_share": 1.5}, "individual_share is 1.5: it must be from 0 to 1"),
        ({"evidence": -1.0}, "evidence is -1.0: it must be at least 0 and finite"),
        ({"evidence": float("nan")}, "evidence is nan: it must be at least 0"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithms.fedrts(MODEL.apply, **options)
