"""STE and SR-STE: steps and rounds against NumPy, and what goes where."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, RATE, apply_fn, clients, half_square, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import Method, no_projection, stacked

V = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, -2.0, 3.0, -4.0]])
TARGETS = np.array([[1.0, 2.0, -1.0, 0.5], [-1.0, 0.5, 1.0, 2.0]])
ENGINE = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 1}


def played(v, rounds, **options):
    """The algorithm, and its states after rounds on the toy's two clients."""
    algorithm = algorithms.ste(
        apply_fn,
        **{"loss_fn": half_square, "rounds": rounds, "begin": 0, "exponent": 1.0},
        **ENGINE | options,
    )
    state = algorithm.init(
        jax.random.key(0), {"params": {"w": jnp.asarray(v, jnp.float32)}}
    )
    states, infos = run_rounds(
        jax.jit(algorithm.step), state, clients(*TARGETS), round_keys(rounds)
    )
    return algorithm, states, infos


def oracle(v, rounds, final, decay):
    """Dense weights and masks after every round, from the definition."""

    def largest(v, t):
        kept = len(v) - int(np.floor(final * t / rounds * len(v) + 1e-6))
        mask = np.zeros(len(v), bool)
        mask[np.argsort(-np.abs(v), kind="stable")[:kept]] = True
        return mask

    results = []
    for t in range(1, rounds + 1):
        trained = []
        for y in TARGETS:
            local = v.copy()
            for _ in range(ENGINE["local_epochs"]):
                mask = largest(local, t)
                slope = np.where(mask, local, 0) - y  # at the masked weights
                local -= RATE * (slope + decay * np.where(mask, 0, local))
            trained.append(local)
        v = np.mean(trained, axis=0)
        results.append((v, largest(v, t)))
    return results


@pytest.mark.parametrize("decay", [0.0, 2e-4, 0.5])
@pytest.mark.parametrize("v", V)
def test_rounds_are_numpys(v, decay):
    algorithm, states, _ = played(v, 6, final_sparsity=0.75, pruned_decay=decay)
    for state, (dense, mask) in zip(states[1:], oracle(v, 6, 0.75, decay), strict=True):
        np.testing.assert_allclose(
            state.variables["params"]["w"], dense, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        model = algorithm.model(state)["params"]["w"]
        np.testing.assert_allclose(model, dense * mask, rtol=1e-5, atol=1e-6)
        assert (model[~mask] == 0).all()


def test_a_pruned_weight_moves_and_comes_back():
    """Its gradient is that at zero: it grows past the others, and they are pruned."""
    half = {"initial_sparsity": 0.5, "final_sparsity": 0.5}
    _, states, _ = played(np.array([0.1, 3.0, 3.0, 0.2]), 12, **half)
    kept = np.array([state.masks["params"]["w"] for state in states])
    assert (~kept[:-1] & kept[1:]).any()


def test_decay_makes_pruned_weights_smaller_and_leaves_the_kept_alone():
    """One step of one round at half the sparsity: two of four weights are pruned."""
    once = {"initial_sparsity": 0.5, "final_sparsity": 0.5, "local_epochs": 1}
    one, other = (
        played(V[1], 1, pruned_decay=d, **once)[1][-1].variables["params"]["w"]
        for d in (0.0, 0.5)
    )
    assert (one - other)[2:].tolist() == [0, 0]
    np.testing.assert_allclose((one - other)[:2], RATE * 0.5 * V[1][:2], rtol=1e-5)


def test_the_gradient_is_that_of_jax_at_masked_weights(clients):
    """On a network: v takes over the gradient at m * v, m of the largest of v."""
    variables = MLP.init(jax.random.key(2))
    algorithm = algorithms.ste(
        MLP.apply,
        **{"final_sparsity": 0.5, "initial_sparsity": 0.5, "rounds": 1, "begin": 0},
        **ENGINE | {"local_epochs": 1},
    )
    one = clients._replace(
        x=clients.x[:1, :1], y=clients.y[:1, :1], sizes=jnp.ones(1, jnp.int32)
    )

    def loss(variables):
        logits, _ = MLP.apply(variables, one.x[0])
        return -jnp.mean(jax.nn.log_softmax(logits)[0, one.y[0, 0]])

    state = algorithm.init(jax.random.key(1), variables)
    new, _ = jax.jit(algorithm.step)(jax.random.key(3), state, one)
    flat = np.concatenate([np.abs(w).ravel() for w in jax.tree.leaves(variables)])
    least = np.sort(flat)[::-1][len(flat) - len(flat) // 2 - 1]
    keep = jax.tree.map(lambda w: jnp.abs(w) >= least, variables)
    gradient = jax.grad(loss)(masks.apply(keep, variables))
    expected = jax.tree.map(lambda v, g: v - RATE * g, variables, gradient)
    chex.assert_trees_all_close(new.variables, expected, atol=1e-6)


@pytest.mark.parametrize("merge", ["mean", "nonzero", "median"])
def test_every_merge_sees_dense_weights(merge):
    """Uploads keep everything, so that no merge drops what is pruned."""
    _, states, infos = played(V[1], 3, final_sparsity=0.5, merge=merge)
    assert (states[-1].variables["params"]["w"] != 0).all()
    assert [int(info.bytes_up[0]) for info in infos] == [16, 16, 16]
    assert [int(info.bytes_down[0]) for info in infos] == [16, 16, 16]


def test_without_a_mask_it_is_fedavg():
    method = Method(
        stacked(
            lambda uploads, context: (
                jax.tree.map(lambda w: jnp.mean(w, 0), uploads.variables),
                context.masks,
            )
        ),
        project=no_projection,
    )
    plain = engine(apply_fn, method, loss_fn=half_square, **ENGINE)
    start = {"params": {"w": jnp.asarray(V[1], jnp.float32)}}
    states, _ = run_rounds(
        jax.jit(plain.step),
        plain.init(jax.random.key(0), start),
        clients(*TARGETS),
        round_keys(3),
    )
    same = played(V[1], 3, final_sparsity=0.0)[1]
    for one, other in zip(states, same, strict=True):
        chex.assert_trees_all_close(one.variables, other.variables, rtol=1e-6)


@pytest.mark.parametrize("decay", [-1.0, float("nan"), float("inf")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"pruned_decay is .*: it must be at least 0"):
        algorithms.ste(apply_fn, pruned_decay=decay)
