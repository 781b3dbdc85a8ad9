"""Shadow runs side by side are the runs that each of them would be alone."""

import dataclasses

import jax
import numpy as np
import pytest

from fedsparsify_jax.client_map import chunked, vmapped
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.privacy import scores
from fedsparsify_jax.runner import TrainConfig, train
from fedsparsify_jax.runner.audit import attacks, outsider, shadow_federations
from fedsparsify_jax.runner.audit.finished import finished
from fedsparsify_jax.runner.audit.members import asked, half, shadow_seed
from fedsparsify_jax.runner.audit.shadow_federations import ShadowFederations
from fedsparsify_jax.runner.programs import federation
from fedsparsify_jax.runner.programs.federation import Keys, assemble, round_key
from fedsparsify_jax.types import Examples, nothing_more

OPTIONS = {
    "train_subset": 60,
    "num_clients": 3,
    "rounds": 3,
    "local_epochs": 1,
    "batch_size": 8,
    "participation": 0.7,
}


RUNS = {
    "fedsparsify-global": {},
    "snip": {"partition": "dirichlet", "alpha": 5.0},
}


def trained(algorithm, path):
    options = OPTIONS | RUNS[algorithm]
    train(TrainConfig(out=path, algorithm=algorithm, **options))
    return finished(path)


def alone(run, pool, shadow, seed, examples, finish=nothing_more):
    """The scores of a shadow run that is assembled and trained by itself."""
    rows = half(pool.size, shadow, seed)
    x, y = pool.take(np.arange(pool.size))
    dataset: Dataset = run.federation.dataset._replace(train=Examples(x[rows], y[rows]))
    config = dataclasses.replace(run.config, seed=shadow_seed(shadow, seed))
    parts = assemble(config, jax.local_devices()[:1], dataset)
    keys, algorithm = Keys.from_seed(config.seed), parts.algorithm
    state = algorithm.init(keys.state, parts.model.init(keys.model))
    step = jax.jit(algorithm.step)
    for completed in range(config.rounds):
        state, _ = step(round_key(keys.rounds, completed), state, parts.clients)
    state = finish(keys.of_finish(), state, parts.clients)
    return scores.confidences(parts.model.apply, algorithm.model(state), examples)


@pytest.mark.parametrize(
    ("algorithm", "inner"),
    [
        ("fedsparsify-global", vmapped()),
        ("snip", chunked(1)),
    ],
)
def test_scores_are_those_of_runs_that_are_trained_separately(
    algorithm, inner, tmp_path
):
    run = trained(algorithm, tmp_path / "run")
    pool = outsider.pool_of(run, seed=0)
    examples = pool.take(asked(pool, 40, seed=0))
    score = attacks.phi(run.federation.model, run.federation.dataset, examples)
    devices = jax.local_devices()[:1]
    federations = ShadowFederations(run, pool, 0, 2, 2, score, devices, inner)
    together = federations([0, 1])
    assert together.shape == (2, 40)
    for shadow in (0, 1):
        np.testing.assert_allclose(
            together[shadow], alone(run, pool, shadow, 0, examples), atol=1e-5
        )
    assert np.abs(together[0] - together[1]).max() > 0.1
    # Places of the program that are left over change nothing.
    np.testing.assert_allclose(federations([1])[0], together[1], atol=1e-5)


def test_post_training_comes_after_the_rounds(tmp_path, monkeypatch):
    def finish(key, state, clients):
        """Scales the model by what its key and its clients' examples say."""
        scale = 1 + jax.random.uniform(key) + clients.y[0, 0] + clients.sizes.sum()
        scaled = jax.tree.map(lambda leaf: scale * leaf, state.variables)
        return state._replace(variables=scaled)

    def with_finish(*settings, **more):
        return federation.algorithm_of(*settings, **more)._replace(finish=finish)

    run = trained("fedsparsify-global", tmp_path / "run")
    monkeypatch.setattr(shadow_federations, "algorithm_of", with_finish)
    pool = outsider.pool_of(run, seed=0)
    examples = pool.take(asked(pool, 40, seed=0))
    score = attacks.phi(run.federation.model, run.federation.dataset, examples)
    federations = ShadowFederations(run, pool, 0, 2, 1, score)
    np.testing.assert_allclose(
        federations([1])[0], alone(run, pool, 1, 0, examples, finish), rtol=1e-4
    )
