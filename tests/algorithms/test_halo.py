"""HALO: rounds of every kind of penalties against NumPy, and its identities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, RATE, apply_fn, clients, half_square, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks
from fedsparsify_jax.algorithms._shared import lasso

W = np.array([0.5, -1.0, 0.02, -0.3])
TARGETS = np.array([[1.0, 0.0, 0.0, -0.5], [-0.5, -2.0, 0.1, 0.0]])
XI, PSI, SPEED, FINAL, EPOCHS = 0.05, 0.1, 0.2, 0.5, 2
KINDS = ["local", "averaged", "closed-form", "frozen"]


def played(kind, rounds, start=W, **options):
    """The algorithm, and its states after rounds on the toy's two clients."""
    plain = {"xi": XI, "psi": PSI, "penalty_rate": SPEED, "final_sparsity": FINAL}
    plain |= {"rounds": rounds, "begin": 0, "exponent": 1.0, "num_clients": 2}
    plain |= {"loss_fn": half_square, "learning_rate": RATE, "local_epochs": EPOCHS}
    algorithm = algorithms.halo(
        apply_fn, penalties=kind, batch_size=1, **plain | options
    )
    state = algorithm.init(
        jax.random.key(0), {"params": {"w": jnp.asarray(start, jnp.float32)}}
    )
    states, infos = run_rounds(
        jax.jit(algorithm.step), state, clients(*TARGETS), round_keys(rounds)
    )
    return algorithm, states, infos


def oracle(kind, rounds, rate=SPEED):
    """Weights, masks, lambda of both clients and the loss of every round."""
    w, mask, strengths = W.copy(), np.ones(4, bool), np.ones((2, 4))
    results = []
    for t in range(1, rounds + 1):
        new, losses = [], []
        closed = np.maximum(np.cbrt(2 * XI / PSI * np.abs(w)), 0.05)
        for k, y in enumerate(TARGETS):
            local, total = w.copy(), 0.0
            strengths[k] = np.where(mask, strengths[k], 0)
            for _ in range(EPOCHS):
                strength = {"closed-form": closed, "frozen": np.ones(4)}.get(
                    kind, strengths[k]
                )
                safe = np.where(strength > 0, strength, 1)
                pull = XI * np.sign(local) / safe**2
                value = 0.5 * np.sum((local - y) ** 2)
                value += XI * np.sum(np.abs(local) / safe**2)
                value += 0 if kind == "frozen" else PSI * np.sum(strength)
                total += value / EPOCHS
                slope = 1 - 2 * XI / PSI * np.abs(local) / safe**3
                step = np.maximum(safe - rate * slope, 0.05)
                if kind in ("local", "averaged"):
                    strengths[k] = np.where(mask, step, 0)
                local = np.where(mask, local - RATE * (local - y + pull), 0)
            new.append(local)
            losses.append(total)
        w = np.mean(new, axis=0)
        kept = 4 - int(np.floor(FINAL * t / rounds * 4 + 1e-6))
        order = np.argsort(-np.where(mask, np.abs(w), -1), kind="stable")
        mask = mask & np.isin(np.arange(4), order[:kept])
        w = np.where(mask, w, 0)
        if kind == "averaged":
            strengths[:] = np.where(mask, np.mean(strengths, axis=0), 0)
        results.append((w, mask, strengths.copy(), np.mean(losses)))
    return results


def strengths_of(kind, state):
    """The toy's lambda: of clients [2, 4], or of the server [4]."""
    if kind == "local":
        return state.clients.extra["params.w"]
    return state.variables["penalties"]["params.w"]


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_are_numpys(kind):
    algorithm, states, infos = played(kind, 4)
    for state, info, (w, mask, strengths, loss) in zip(
        states[1:], infos, oracle(kind, 4), strict=True
    ):
        model = algorithm.model(state)
        assert set(model) == {"params"}
        np.testing.assert_allclose(model["params"]["w"], w, rtol=2e-5, atol=1e-7)
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
        if kind == "averaged":
            np.testing.assert_allclose(
                strengths_of(kind, state), strengths[0], rtol=2e-5
            )
        elif kind == "local":
            np.testing.assert_allclose(strengths_of(kind, state), strengths, rtol=2e-5)


@pytest.mark.parametrize("kind", ["local", "averaged"])
def test_lambda_that_stays_at_one_is_the_lasso(kind):
    _, states, _ = played(kind, 3, penalty_rate=0.0)
    _, lasso_states, _ = played("frozen", 3)
    for one, other in zip(states, lasso_states, strict=True):
        chex.assert_trees_all_equal(one.variables["params"], other.variables["params"])


def test_the_lasso_is_that_of_an_objective_written_by_hand():
    """One step: w - r (w - y + xi sign(w))."""
    _, states, _ = played("frozen", 1, local_epochs=1, final_sparsity=0.0)
    w = np.mean([W - RATE * (W - y + XI * np.sign(W)) for y in TARGETS], axis=0)
    np.testing.assert_allclose(states[-1].variables["params"]["w"], w, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_of_the_penalty_is_fedsparsify(kind):
    _, states, _ = played(kind, 3, xi=0.0)
    plain = algorithms.fedsparsify_global(
        apply_fn,
        **{"final_sparsity": FINAL, "rounds": 3, "begin": 0, "exponent": 1.0},
        **{"loss_fn": half_square, "learning_rate": RATE, "local_epochs": EPOCHS},
        batch_size=1,
    )
    start = {"params": {"w": jnp.asarray(W, jnp.float32)}}
    same, _ = run_rounds(
        jax.jit(plain.step),
        plain.init(jax.random.key(0), start),
        clients(*TARGETS),
        round_keys(3),
    )
    for one, other in zip(states, same, strict=True):
        chex.assert_trees_all_equal(one.variables["params"], other.variables["params"])


def test_the_step_on_lambda_is_down_the_slope_of_the_penalty():
    """JAX's own derivative of the penalty, divided by psi."""
    rng = np.random.default_rng(0)
    w = {"w": jnp.asarray(rng.normal(size=50), jnp.float32)}
    old = {"w": jnp.asarray(rng.uniform(0.5, 2, size=50), jnp.float32)}
    slope = jax.grad(lambda old: lasso.penalty(w, old, XI, PSI))(old)["w"] / PSI
    new = lasso.stepped(w, old, XI / PSI, 0.01)["w"]
    np.testing.assert_allclose(new, old["w"] - 0.01 * slope, rtol=1e-5)


def test_trained_lambda_comes_to_rest_at_the_closed_form():
    w = {"w": jnp.array([1e-3, 0.02, 0.3, 2.0])}
    strengths = {"w": jnp.ones(4)}
    for _ in range(2000):
        strengths = lasso.stepped(w, strengths, 1.0, 0.01)
    rest = lasso.closed_form(w, 1.0)
    np.testing.assert_allclose(strengths["w"], rest["w"], rtol=1e-3)
    # Of which the penalty is a root of |w|, as the reference derives it.
    profile = lasso.penalty(w, rest, XI, XI)
    root = 3 * 2 ** (-2 / 3) * XI * np.sum(np.cbrt(np.asarray(w["w"], np.float64)))
    np.testing.assert_allclose(profile, root, rtol=1e-5)


def test_lambda_is_paid_for_where_it_is_sent():
    """32 bits for every lambda whose weight is not pruned, both ways."""
    _, states, infos = played("averaged", 2)
    _, _, plain = played("local", 2)
    for sent, own in zip(infos, plain, strict=True):
        assert sent.bytes_up.tolist() == [2 * b for b in own.bytes_up.tolist()]
        assert sent.bytes_down.tolist() == [2 * b for b in own.bytes_down.tolist()]
    assert int((strengths_of("averaged", states[-1]) != 0).sum()) == 2


def test_one_purge_in_the_round_that_is_asked_for():
    _, states, _ = played("frozen", 3, at=3)
    kept = [int(state.masks["params"]["w"].sum()) for state in states[1:]]
    assert kept == [4, 4, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_only_kernels_that_may_be_pruned_are_under_the_penalty(kind, clients):
    """Whatever the rule's function says of lambda's own path."""
    for prunable in (masks.kernels_only, lambda name: "Dense_0/kernel" in name):
        algorithm = algorithms.halo(
            MLP.apply,
            penalties=kind,
            prunable=prunable,
            num_clients=4,
            final_sparsity=0.5,
            rounds=1,
            begin=0,
        )
        state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
        leaves = {
            "local": state.clients.extra,
            "averaged": state.variables.get("penalties"),
        }.get(kind)
        expected = {"params.Dense_0.kernel", "params.Dense_1.kernel"}
        if prunable is not masks.kernels_only:
            expected.remove("params.Dense_1.kernel")
        if kind in ("local", "averaged"):
            assert set(leaves) == expected
        new, info = jax.jit(algorithm.step)(jax.random.key(3), state, clients)
        assert float(info.sparsity) == 0.5
        assert all(jnp.all(m) for m in jax.tree.leaves(new.masks.get("penalties", {})))


@pytest.mark.parametrize(
    "options, line",
    [
        ({"penalties": "mine"}, "unknown penalties 'mine': local, averaged, closed-"),
        ({"xi": -1.0}, "xi is -1.0: it must be at least 0"),
        ({"psi": 0.0}, "psi is 0.0: it must be above 0"),
        ({"penalty_rate": float("nan")}, "penalty_rate is nan: it must be at least 0"),
    ],
)
def test_what_is_out_of_range_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        algorithms.halo(apply_fn, **options)
