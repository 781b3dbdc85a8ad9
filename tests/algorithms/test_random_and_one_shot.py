"""When the random and the one-shot baseline prune, and what."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import round_keys, run_rounds

from fedsparsify_jax import algorithms, models, schedules
from fedsparsify_jax.types import ClientData

START = np.linspace(0.1, 4.0, 40).astype(np.float32)
MODEL = models.from_functions(
    lambda key: {"w": jnp.asarray(START)}, lambda params, x: x * jnp.sum(params["w"])
)
CLIENTS = ClientData(jnp.ones((2, 3)), jnp.zeros((2, 3)), jnp.array([3, 1]))
OPTIONS: dict[str, Any] = {
    "loss_fn": lambda outputs, y: 0.0 * (outputs - y),  # weights do not move
    "batch_size": 4,
    "local_epochs": 1,
}


def run(algorithm: Any, rounds: int, seed: int = 0) -> tuple[list, list]:
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    step = jax.jit(algorithm.step)
    states, infos = run_rounds(step, state, CLIENTS, round_keys(rounds, seed))
    masks = [state.masks["params"]["w"] for state in states[1:]]
    return masks, [float(info.sparsity) for info in infos]


def test_random_pruning_walks_one_permutation() -> None:
    build = algorithms.random_pruning
    masks, sparsities = run(
        build(MODEL.apply, final_sparsity=0.8, rounds=5, **OPTIONS), 5
    )
    schedule = schedules.polynomial(0.8, end=5)
    expected = [int(schedule(t) * 40 + 1e-4) / 40 for t in range(1, 6)]
    np.testing.assert_allclose(sparsities, expected, atol=1e-6)
    for earlier, later in itertools.pairwise(masks):
        assert not np.any(later & ~earlier)
    # The same keys and another target: the same permutation, so nested masks.
    fewer, _ = run(build(MODEL.apply, final_sparsity=0.4, rounds=5, **OPTIONS), 5)
    assert not np.any(masks[-1] & ~fewer[-1])
    other, _ = run(build(MODEL.apply, final_sparsity=0.8, rounds=5, **OPTIONS), 5, 1)
    assert np.any(other[-1] != masks[-1])
    # Magnitudes, which grow with the index, do not decide.
    assert np.any(masks[-1][:32])


def test_random_masks_are_uniform() -> None:
    algorithm = algorithms.random_pruning(
        MODEL.apply, schedule=schedules.constant(0.5), **OPTIONS
    )
    start = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))

    def mask(key: jax.Array) -> jax.Array:
        return algorithm.step(key, start, CLIENTS)[0].masks["params"]["w"]

    kept = jax.jit(jax.vmap(mask))(jax.random.split(jax.random.key(1), 400))
    assert np.all(np.sum(kept, axis=1) == 20)
    # 400 draws of probability 1/2: five standard deviations are 0.125.
    np.testing.assert_allclose(np.mean(kept, axis=0), 0.5, atol=0.125)


@pytest.mark.parametrize(
    ("options", "pruned_from"),
    [
        ({"fine_tune_rounds": 4}, 3),  # start 2 of 6, purge in 3, tuning in 4, 5, 6
        ({"fine_tune_rounds": 0}, 6),
        ({"at": 5}, 5),
        ({"at": 1}, 1),
    ],
)
def test_one_shot_prunes_once(options: Any, pruned_from: int) -> None:
    algorithm = algorithms.one_shot(
        MODEL.apply, final_sparsity=0.75, rounds=6, **options, **OPTIONS
    )
    masks, sparsities = run(algorithm, 6)
    assert sparsities == [0.0] * (pruned_from - 1) + [0.75] * (7 - pruned_from)
    assert masks[-1].tolist() == [False] * 30 + [True] * 10


def test_the_paper_prunes_in_round_191_of_200() -> None:
    algorithm = algorithms.one_shot(MODEL.apply, final_sparsity=0.75, **OPTIONS)
    start = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    step = jax.jit(algorithm.step)
    for done, sparsity in ((189, 0.0), (190, 0.75)):  # rounds 190 and 191
        state = start._replace(round=jnp.int32(done))
        assert float(step(jax.random.key(0), state, CLIENTS)[1].sparsity) == sparsity


def test_a_run_shorter_than_the_fine_tuning_prunes_in_round_one() -> None:
    algorithm = algorithms.one_shot(
        MODEL.apply, final_sparsity=0.75, rounds=5, **OPTIONS
    )
    start = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    _, info = jax.jit(algorithm.step)(jax.random.key(0), start, CLIENTS)
    assert float(info.sparsity) == 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": 0}, "in round 0 is not in rounds 1 to 200"),
        ({"at": 201}, "in round 201 is not"),
        ({"rounds": 5, "at": 6}, "in round 6 is not"),
        ({"fine_tune_rounds": -1}, "fine_tune_rounds is -1"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithms.one_shot(MODEL.apply, **options)
