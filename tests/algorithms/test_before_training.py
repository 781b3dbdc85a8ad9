"""SNIP, GraSP and SynFlow as methods: which masks, from whom, kept to the end."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import run_rounds, squared_error

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.algorithms._shared import client_scores
from fedsparsify_jax.types import ClientData

RNG = np.random.default_rng(12)
COUNT = np.array([4, 0, 2])
X = RNG.normal(size=(3, 4, 6)).astype(np.float32)
Y = RNG.normal(size=(3, 4)).astype(np.float32)
for one, size in enumerate(COUNT):
    X[one, size:] = 1e30  # touching the padding would show
START = RNG.normal(size=(6,)).astype(np.float32)
MODEL = models.from_functions(
    lambda key: {"w": jnp.asarray(START), "b": jnp.zeros(2)},
    lambda params, x: x @ params["w"] + jnp.sum(params["b"]),
)
CLIENTS = ClientData(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(COUNT))


OPTIONS: dict[str, Any] = {
    "loss_fn": squared_error,
    "batch_size": 4,
    "local_epochs": 1,
    "learning_rate": 0.01,
    "final_sparsity": 0.5,
}


def gradient(client: int) -> np.ndarray:
    x, y = X[client, : COUNT[client]], Y[client, : COUNT[client]]
    return 2 * x.T @ (x @ START - y) / len(y)


def hessian(client: int) -> np.ndarray:
    x = X[client, : COUNT[client]]
    return 2 * x.T @ x / len(x)


def bias_curvature(client: int) -> np.ndarray:
    """The rows of the Hessian between w and the two biases."""
    x = X[client, : COUNT[client]]
    return 2 * np.repeat(x.mean(0)[:, None], 2, axis=1)


def bias_gradient(client: int) -> np.ndarray:
    x, y = X[client, : COUNT[client]], Y[client, : COUNT[client]]
    return np.repeat(2 * np.mean(x @ START - y), 2)


def snip_scores(client: int) -> np.ndarray:
    return np.abs(gradient(client) * START)


def grasp_scores(client: int) -> np.ndarray:
    flow = hessian(client) @ gradient(client)
    return START * (flow + bias_curvature(client) @ bias_gradient(client))


def expected_mask(scores: np.ndarray) -> np.ndarray:
    """The 4 best of 8: ``w`` first or after the two biases, which score zero."""
    order = np.argsort(-np.concatenate([np.zeros(2), scores]), kind="stable")
    mask = np.zeros(8, bool)
    mask[order[:4]] = True
    return mask


def flat_mask(masks: Any) -> np.ndarray:
    return np.concatenate([masks["params"]["b"], masks["params"]["w"]])


def masks_of(builder: Any, rounds: int = 2, **options: Any) -> list[Any]:
    algorithm = builder(MODEL.apply, **(OPTIONS | options))
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    keys = map(jax.random.key, range(rounds))
    states, _ = run_rounds(step, state, CLIENTS, keys)
    return [flat_mask(state.masks) for state in states[1:]]


@pytest.mark.parametrize(
    ("builder", "scores"),
    [(algorithms.snip, snip_scores), (algorithms.grasp, grasp_scores)],
)
def test_the_mean_over_clients_that_have_examples(builder: Any, scores: Any) -> None:
    expected = expected_mask((scores(0) + scores(2)) / 2)
    first, second = masks_of(builder, source="cohort", prunable=None)
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)


@pytest.mark.parametrize(
    ("builder", "scores"),
    [(algorithms.snip, snip_scores), (algorithms.grasp, grasp_scores)],
)
def test_one_client_that_has_examples(builder: Any, scores: Any) -> None:
    candidates = [expected_mask(scores(client)) for client in (0, 2)]
    assert not np.array_equal(*candidates)
    found = masks_of(builder, rounds=1, prunable=None)[0]
    assert any(np.array_equal(found, mask) for mask in candidates)


@pytest.mark.parametrize(
    ("builder", "scores", "options"),
    [
        (
            algorithms.grasp,
            (grasp_scores(0) + grasp_scores(2)) / 2,
            {"source": "cohort"},
        ),
        (algorithms.synflow, np.abs(START), {"iterations": 3}),
    ],
)
def test_as_published_kernels_are_ranked_and_biases_stay(
    builder: Any, scores: np.ndarray, options: Any
) -> None:
    (mask,) = masks_of(builder, 1, **options)
    expected = np.zeros(6, bool)
    expected[np.argsort(-scores, kind="stable")[:3]] = True  # half of six
    assert mask.tolist() == [True, True, *expected.tolist()]


def test_a_balanced_batch_has_as_many_of_every_class_as_the_client_has() -> None:
    y = jnp.array([0, 0, 0, 1, 1, 2, 0, 1])
    data = ClientData(jnp.arange(8.0)[:, None], y, jnp.int32(6))  # the last are padding
    batch = client_scores.balanced_batch(jax.random.key(0), data, 2, 4)
    real = np.asarray(batch.valid)
    assert np.bincount(np.asarray(batch.y)[real], minlength=4).tolist() == [2, 2, 1, 0]
    assert np.asarray(batch.x)[:, 0].max() < 6
    with pytest.raises(ValueError, match="needs classes"):
        floats = data._replace(y=jnp.ones(8))
        client_scores.balanced_batch(jax.random.key(0), floats, 2, 4)


def test_the_random_client_is_never_an_empty_one() -> None:
    keys = jax.random.split(jax.random.key(0), 200)
    chosen = jax.vmap(lambda key: client_scores.random_client(key, CLIENTS.sizes))(keys)
    assert set(np.asarray(chosen).tolist()) == {0, 2}


def test_the_first_batch_holds_real_examples_only() -> None:
    data = jax.tree.map(lambda leaf: leaf[2], CLIENTS)
    batch = client_scores.first_batch(jax.random.key(0), data, 3)
    assert batch.valid.tolist() == [True, True, False]
    assert sorted(batch.y[:2].tolist()) == sorted(Y[2, :2].tolist())
    assert float(jnp.abs(batch.x).max()) < 10


def test_zero_initialized_parameters_can_be_frozen() -> None:
    """The authors' defect: what starts at zero is masked, whatever its score."""
    free, frozen = (
        masks_of(algorithms.snip, 1, final_sparsity=0.0, freeze_zero_initialized=flag)
        for flag in (False, True)
    )
    assert free[0].all()
    assert frozen[0].tolist() == [False] * 2 + [True] * 6


def test_synflow_takes_an_example_of_ones() -> None:
    """R = sum |w_i| x_i: the scores are |w| for ones, |w| x for another input."""
    (found,) = masks_of(algorithms.synflow, 1, iterations=3, prunable=None)
    np.testing.assert_array_equal(found, expected_mask(np.abs(START)))
    other = np.array([9.0, 1.0, 5.0, 1.0, 7.0, 0.1], np.float32)
    (found,) = masks_of(
        algorithms.synflow, 1, iterations=3, example=other, prunable=None
    )
    np.testing.assert_array_equal(found, expected_mask(np.abs(START) * other))


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (algorithms.snip, {"source": "server"}, "unknown source 'server'"),
        (algorithms.grasp, {"final_sparsity": 1.0}, "sparsity is 1.0"),
        (algorithms.synflow, {"iterations": 0}, "iterations is 0"),
    ],
)
def test_bad_arguments(builder: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        builder(MODEL.apply, **options)
