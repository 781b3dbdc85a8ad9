"""A curious server looks at the upload that a client would really send."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import scores
from fedsparsify_jax.runner import TrainConfig, train
from fedsparsify_jax.runner.audit import curious_server
from fedsparsify_jax.runner.audit.finished import Finished, finished, last_state
from fedsparsify_jax.runner.audit.members import asked, half, shadow_seed
from fedsparsify_jax.runner.audit.shadow_uploads import ShadowUploads
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import Keys, assemble
from fedsparsify_jax.runner.storage.model_files import load_model
from fedsparsify_jax.types import Examples

ALONE = TrainConfig(
    algorithm="fedavg", train_subset=40, num_clients=1, local_epochs=2, rounds=2
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a single client, whose upload is the next global model."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(dataclasses.replace(ALONE, out=path))
    return finished(path)


def test_the_upload_of_a_single_client_is_the_model_of_the_next_round(run, tmp_path):
    longer = dataclasses.replace(ALONE, rounds=3, out=tmp_path / "longer")
    train(longer)
    expected, _ = load_model(tmp_path / "longer" / "model")
    network = curious_server.network_of(run, curious_server.observed(run, 0))
    chex.assert_trees_all_close(network.variables, expected, atol=1e-6)


def test_averages_and_masks_do_not_hide_an_upload(tmp_path):
    """The moving average of the server is its own; pruned weights stay zero."""
    path = tmp_path / "run"
    options = {"algorithm": "fedsparsify-global", "server_ema": 0.99, "out": path}
    train(dataclasses.replace(ALONE, **options))
    run = finished(path)
    seen = curious_server.observed(run, 0)
    network = curious_server.network_of(run, seen)
    chex.assert_trees_all_close(network.variables, seen.upload.variables)
    kernel = network.variables["params"]["Dense_1"]["kernel"]
    assert 0.85 < np.mean(np.asarray(kernel) == 0) < 0.99
    assert np.abs(kernel - run.model.variables["params"]["Dense_1"]["kernel"]).max() > 0


def test_shadow_uploads_are_what_clients_with_those_examples_send(run):
    pool = curious_server.pool_of(run, 0, "test", seed=0)
    seen = curious_server.observed(run, 0)
    examples = pool.take(asked(pool, 20, seed=0))
    train_some = ShadowUploads(run, seen, pool, 0, 3, examples)
    together = train_some([0, 1])
    algorithm = run.federation.algorithm
    everything = pool.take(np.arange(pool.size))
    for shadow in (0, 1):
        rows = half(pool.size, shadow, 0)
        assert len(rows) == 40  # as many as the client has
        own = Examples(everything.x[rows], everything.y[rows])
        clients = data.stack(own, [np.arange(len(rows))])
        key = Keys.from_seed(shadow_seed(shadow, 0)).rounds
        state, _ = jax.jit(algorithm.step)(key, last_state(run), clients)
        expected = scores.confidences(
            run.federation.model.apply, algorithm.model(state), examples
        )
        np.testing.assert_allclose(together[shadow], expected, atol=1e-5)


def without_files(tmp_path, **options) -> Finished:
    config = resolve(TrainConfig(num_clients=4, **options))
    return Finished(
        path=tmp_path,
        config=config,
        federation=assemble(config),
        keys=Keys.from_seed(0),
        model=None,
        name="",
        fingerprints={},
    )


REFUSED = {
    "lotteryfl": "have models of their own",
    "progfed": "cannot work apart from the server",
    "snip": "cannot work apart from the server",
    "heterofl": "gets a part of the network",
}


@pytest.mark.parametrize("algorithm", REFUSED)
def test_uploads_that_are_no_model_for_all_are_refused(algorithm, tmp_path):
    run = without_files(tmp_path, algorithm=algorithm)
    with pytest.raises(InputError, match=REFUSED[algorithm]) as error:
        curious_server.observed(run, 0)
    assert f"{algorithm} " in str(error.value) and "--threat server" in str(error.value)


def test_cohorts_of_another_kind_are_refused_by_name(tmp_path):
    options = {"algorithm": "fedavg", "cohort_sampling": "representative"}
    run = without_files(tmp_path, participation=0.5, **options)
    with pytest.raises(InputError, match="run of --cohort-sampling representative"):
        curious_server.observed(run, 0)


def test_others_are_of_the_test_set_or_of_other_clients(tmp_path):
    run = without_files(tmp_path, algorithm="fedavg", train_subset=400)
    train_x, part = run.federation.dataset.train.x, run.federation.parts[2]
    of_clients = curious_server.pool_of(run, 2, "clients", seed=0)
    assert of_clients.rows.tolist() == sorted(part.tolist())
    images = {x.tobytes() for x in train_x} - {train_x[i].tobytes() for i in part}
    assert {x.tobytes() for x in of_clients.outside.x} <= images
    of_test = curious_server.pool_of(run, 2, "test", seed=0)
    assert len(of_test.outside.y) == len(of_clients.outside.y) == len(part)
    with pytest.raises(InputError, match="has 4 clients, counted from 0"):
        curious_server.pool_of(run, 4, "test", seed=0)


def test_a_single_client_has_no_other_clients(run):
    with pytest.raises(InputError, match="has no other client"):
        curious_server.pool_of(run, 0, "clients", seed=0)
