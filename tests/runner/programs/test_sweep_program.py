"""One program for a group: the numbers of the single runs, whatever is traced."""

import inspect
import types
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from fedsparsify_jax import client_map
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import having
from fedsparsify_jax.runner.options.registry import takes
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.schema import TRACED
from fedsparsify_jax.runner.options.sweep_grid import Trial, program_groups, traced
from fedsparsify_jax.runner.programs.federation import Keys, assemble, round_key
from fedsparsify_jax.runner.programs.placement import sharded_by_trial
from fedsparsify_jax.runner.programs.program import (
    Report,
    evaluate_each,
    evaluate_sets,
    evaluation_sets,
    network_of,
    with_tests,
)
from fedsparsify_jax.runner.programs.sweep_program import GroupProgram

ROUNDS = 3
# Two values of every traced option.
VALUES = {
    "learning_rate": (0.1, 0.05),
    "momentum": (0.5, 0.9),
    "final_sparsity": (0.5, 0.8),
    "exponent": (3.0, 2.0),
    "begin": (1, 0),
    "initial_sparsity": (0.1, 0.3),
    "purge_share": (0.05, 0.2),
    "mu": (0.1, 1.0),
    "server_learning_rate": (0.01, 0.1),
    "prune_at": (1, 2),
    "replace_share": (0.5, 0.2),
    "server_ema": (0.5, 0.9),
    "server_lookahead": (0.2, 0.5),
    "clip_norm": (0.5, 0.1),
    "gradient_clip": (0.5, 0.1),
    "temperature": (1.0, 50.0),
    "xi": (1e-3, 1e-2),
    "psi": (1e-3, 1e-2),
    "penalty_rate": (0.1, 0.01),
    "pruned_decay": (0.0, 0.1),
    "slow_start": (1, 3),
    "accuracy_threshold": (0.0, 0.5),
    "prune_rate": (0.2, 0.4),
    "adjust_until": (2, 3),
    "individual_share": (0.5, 0.9),
    "evidence": (10.0, 1.0),
}
TWO_LEVELS = {"levels": "0.5,0.8"}  # a program of half the length
IMAGES = {"dataset": "digits", "data_dir": None, "batch_size": 64}
# Two values of those that do not go with every algorithm, and the option they need.
OF_SOME = {
    "powerprop": ((1.5, 2.0), {}),
    "weight_decay": ((0.0, 0.1), {"optimizer": "lars"}),
    "trust_coefficient": ((0.01, 0.1), {"optimizer": "lars"}),
    "gradient_radius": ((0.0, 0.1), {"gradient_point": "sam"}),
    "growth_momentum": (
        (0.5, 0.9),
        {"algorithm": "rigl", "growth": "momentum", "interval": 1},
    ),
    "topk_fraction": ((0.3, 0.6), {"upload_compression": "topk"}),
    "dp_clip": ((0.5, 0.1), {"dp_noise": 2.0, "delta": 1e-3}),
    "dp_noise": ((2.0, 4.0), {"dp_clip": 0.5, "delta": 1e-3}),
    "similarity_temperature": (
        (0.2, 0.5),
        {"algorithm": "slimmable", "loss": "contrastive", **TWO_LEVELS, **IMAGES},
    ),
}
OF_ALL = ("learning_rate", "momentum", "server_ema", "server_lookahead", "clip_norm")
OF_ALL += ("gradient_clip",)
# These need an attack or a defence beside them; test_hostile_runs.py sweeps attackers.
HOSTILE = ("assumed_attackers", "attack_scale", "attackers")
# Together they take every option of VALUES and have every hook that differs.
TRIED = (
    "fedprox",
    "fedopt",
    "fedsparsify-local",
    "one-shot",
    "grasp",
    "synflow",
    "feddst",
    "halo",
    "ste",
    "progfed",
    "slimmable",
    "lotteryfl",
    "fedtiny",
    "fedrts",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    x = rng.normal(size=(40, 5)).astype(np.float32)
    x[np.arange(40), y] += 2
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    return path


def make(file, changes, **shared):
    """A group of trials from what sets each apart."""
    base = {"dataset": "npz", "data_dir": file, "num_clients": 3, "rounds": ROUNDS}
    base |= {"local_epochs": 1, "batch_size": 4} | shared
    group = [Trial(resolve(TrainConfig(**base, **change)), {}) for change in changes]
    assert len(program_groups(group)) == 1
    return group


def alone(trial):
    """What `train` computes, round by round, and the last model."""
    federation = assemble(trial.config, jax.devices()[:1])
    keys = Keys.from_seed(trial.config.seed)
    algorithm, sets = federation.algorithm, evaluation_sets(federation.dataset)
    state = algorithm.init(keys.state, federation.model.init(keys.model))
    step, reports = jax.jit(algorithm.step), []
    for _ in range(trial.config.rounds):
        key = round_key(keys.rounds, state.round)
        state, info = step(key, state, federation.clients)
        chunks = client_map.chunked(1)
        network = network_of(federation, algorithm, state)
        evaluations = evaluate_sets(federation, network, sets, chunks)
        tests, one_by_one = federation.tests, client_map.chunked(1)
        each = evaluate_each(
            federation, algorithm, state, sets["test"], tests, one_by_one
        )
        reports.append(Report(info, evaluations, with_tests(each, tests)))
    return state, reports


def check(group, number, *, inner=None, calls=(1, 2)):
    """A trial of a group against its own run."""
    federation = assemble(group[0].config, jax.devices()[:2])
    program = GroupProgram(federation, group, jax.devices()[:2], inner)
    expected, expected_reports = alone(group[number])
    state, reports = program.init(), []
    for rounds in calls:
        state, latest = program(state, rounds)
        assert len(latest) == len(group)
        reports += latest[number]
    chex.assert_trees_all_close(reports, expected_reports, atol=1e-5, rtol=1e-5)
    finished = list(program.finished(state))[number]
    chex.assert_trees_all_close(finished, expected, atol=1e-5, rtol=1e-7)


@pytest.mark.parametrize("algorithm", TRIED)
def test_traced_options_give_the_numbers_of_single_runs(algorithm, file):
    """All traced options that the algorithm takes at once, and the seed."""
    fields = [
        field
        for field in VALUES
        if field in OF_ALL or (field != "purge_share" and takes(algorithm, field))
    ]
    changes = [{f: VALUES[f][n] for f in fields} | {"seed": n} for n in (0, 1)]
    shorter = TWO_LEVELS if algorithm == "slimmable" else {}
    group = make(file, changes, algorithm=algorithm, **shorter)
    assert traced(group).keys() == set(fields)
    check(group, 1)


def test_every_traced_option_is_tried_by_some_algorithm():
    tried = {field for field in VALUES for name in TRIED if takes(name, field)}
    assert tried | set(OF_ALL) | {"purge_share"} == set(VALUES)
    assert set(VALUES) | set(HOSTILE) | set(OF_SOME) == set(having(TRACED))


@pytest.mark.parametrize("field", OF_SOME)
def test_traced_options_of_some_algorithms(field, file):
    values, needed = OF_SOME[field]
    changes = [{field: value, "seed": n} for n, value in enumerate(values)]
    needed = {"algorithm": "fedsparsify-global"} | needed
    group = make(file, changes, **needed)
    assert traced(group).keys() == {field}
    check(group, 1)


@pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_row_says_whether_an_algorithm_reads_examples(row):
    """Clients have row numbers for examples, unless a row asks for more."""
    text = Path(inspect.getfile(row.build)).read_text()
    assert ("clients.data.x" in text) == row.reads_examples


def test_the_multiplicative_schedule_is_traced_too(file):
    fields = ("final_sparsity", "begin", "purge_share")
    changes = [{f: VALUES[f][n] for f in fields} for n in (0, 1)]
    check(make(file, changes, schedule="multiplicative"), 1)


def test_seeds_whose_clients_differ_in_length(file):
    """Padded to the longest of all seeds, which no client notices; all at once."""
    changes = [{"seed": seed} for seed in (0, 1, 2)]
    group = make(file, changes, partition="dirichlet", optimizer_state="kept")
    federation = assemble(group[0].config, jax.devices()[:1])
    lengths = [
        assemble(trial.config, jax.devices()[:1], federation.dataset).clients.x.shape[1]
        for trial in group
    ]
    shortest = int(np.argmin(lengths))
    assert lengths[shortest] < max(lengths)
    check(group, shortest, inner=client_map.vmapped(), calls=(3,))


def test_a_trial_alone_has_all_devices(file):
    """Fewer trials than devices: these share the clients of a trial instead."""
    group = make(file, [{"seed": 3}], num_clients=4, validation_fraction=0.2)
    check(group, 0)


def test_three_trials_on_two_devices_share_their_clients(file):
    """Whole trials would leave a device with a copy; four clients divide evenly."""
    changes = [{"seed": seed, "final_sparsity": 0.5} for seed in (0, 1, 2)]
    check(make(file, changes, num_clients=4), 2)


@pytest.mark.parametrize(
    ("trials", "clients", "devices", "platform", "by_trial"),
    [
        (3, 10, 2, "cpu", False),  # 4/3 against 1.23
        (5, 10, 2, "cpu", True),  # 6/5 against 1.23
        (4, 10, 2, "cpu", True),
        (3, 3, 2, "cpu", True),  # three clients leave as much idle
        (1, 3, 2, "cpu", False),
        (9, 10, 8, "cpu", True),  # 16/9 against 1.23 * 16/10
        (9, 16, 8, "cpu", False),  # 16/9 against 1.23
        (9, 16, 8, "gpu", True),
        (3, 10, 1, "cpu", True),
    ],
)
def test_who_shares_devices(trials, clients, devices, platform, by_trial):
    options = {"num_clients": clients, "participation": 1.0}
    options["cohort_sampling"] = "fixed"
    there = [types.SimpleNamespace(platform=platform)] * devices
    assert sharded_by_trial(trials, options, there) is by_trial


def test_only_due_rounds_are_evaluated(file):
    group = make(file, [{"seed": 0}, {"seed": 1}], evaluate_every=2)
    federation = assemble(group[0].config, jax.devices()[:1])
    program = GroupProgram(federation, group, jax.devices()[:1])
    _, reports = program(program.init(), 3)
    for trial in reports:
        losses = [report.evaluations["test"].loss for report in trial]
        assert [loss != 0 for loss in losses] == [False, True, True]
