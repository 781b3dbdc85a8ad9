"""``--config FILE``: what a run was is what is run again, and what no file may say."""

import json
import re
from unittest import mock

import pytest

from fedsparsify_jax import cli
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.sweep_config import values


@pytest.fixture
def write(tmp_path):
    def write(content, name="config.json"):
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def read_back(*words):
    """The configuration that a command line stands for."""
    configs = []
    with mock.patch.multiple(cli, train=configs.append, sweep=configs.append):
        assert main(words) == 0
    return configs[0]


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar100"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_s_options_come_back(algorithm, dataset, write):
    config = resolve(TrainConfig(algorithm=algorithm, dataset=dataset, seed=7))
    path = write({"run": "x", "options": to_json(config), "digest": "y"})
    assert resolve(read_back("train", "--config", path)) == config


def test_unusual_options_come_back(write):
    config = TrainConfig(
        final_sparsity=0.95,
        learning_rate=1e-3,
        client_sizes="1,2,3",
        num_clients=3,
        faults="dropout=0.1,nan=0.05@5-9",
        logger=("csv", "tensorboard"),
        show_partition=True,
        validation_fraction=0.1,
    )
    path = write({"options": to_json(config)})
    assert resolve(read_back("train", "--config", path)) == resolve(config)


def test_the_command_line_wins_wherever_it_stands(write):
    path = write({"rounds": 7, "momentum": 0.5, "out": "elsewhere", "resume": True})
    for words in (
        ["--rounds", "9", "--config", path],
        ["--config", path, "--rounds=9"],
        [f"--config={path}", "--rounds", "9"],
    ):
        config = read_back("train", *words)
        assert (config.rounds, config.momentum) == (9, 0.5)
        # Where a run was written is no option of the next one.
        assert config.out is None and not config.resume


def test_toml_and_hyphens(write):
    text = '# ours\nalgorithm = "snip"\nfinal-sparsity = 0.8\nverbose = true\n'
    config = read_back("train", "--config", write(text, "a.toml"))
    assert (config.algorithm, config.final_sparsity) == ("snip", 0.8)
    assert config.verbose


NATURAL = {
    "pin_sparsity = false": {"pin_sparsity": "off"},
    "pin-sparsity = true": {"pin_sparsity": "on"},
    "nesterov = true": {"nesterov": "on"},
    "augmentation = false": {"augmentation": "off"},
    "sparse_training = false": {"sparse_training": "off"},
    "compilation_cache = false": {"compilation_cache": "off"},
    "verbose = false": {"verbose": False},
    "client_sizes = [1, 2, 3]": {"client_sizes": "1,2,3"},
    'faults = ["dropout=0.1", "nan=0.2"]': {"faults": "dropout=0.1,nan=0.2"},
    'logger = "csv"': {"logger": ("csv",)},
    "rounds = 2.0": {"rounds": 2},
    "\ufeffrounds = 2": {"rounds": 2},
}


@pytest.mark.parametrize("text", NATURAL)
def test_natural_forms_mean_what_the_command_line_says(text, write):
    config = read_back("train", "--config", write(text, "a.toml"))
    assert config == TrainConfig(**NATURAL[text])


def test_natural_forms_in_a_sweep(write):
    text = "pin_sparsity = [true, false]\nclient_sizes = [1, 2]\nrounds = [2.0, 3]\n"
    options = values(read_back("sweep", "--config", write(text, "a.toml")))
    assert options["pin_sparsity"] == ["on", "off"]
    assert (options["client_sizes"], options["rounds"]) == (["1,2"], [2, 3])
    lists = write("client_sizes = [[1, 2], [3, 4]]", "b.toml")
    two = values(read_back("sweep", "--config", lists))
    assert two["client_sizes"] == ["1,2", "3,4"]


def test_a_sweep_s_options_come_back(write):
    grid = {"dataset": ["digits"], "final_sparsity": [0.5, 0.9], "seed": [0, 1]}
    path = write({"options": grid}, "sweep.json")
    assert values(read_back("sweep", "--config", path)) == grid
    more = values(read_back("sweep", "--config", path, "--seeds", "3"))
    assert more == grid | {"seed": [0, 1, 2]}
    other = values(read_back("sweep", "--config", path, "--final-sparsity", "0.8"))
    assert other == grid | {"final_sparsity": [0.8]}
    # A run's file has options that a sweep leaves to itself.
    run = write({"options": to_json(resolve(TrainConfig(seed=3)))})
    found = values(read_back("sweep", "--config", run, "--exponent", "1", "3"))
    assert found["seed"] == [3] and found["exponent"] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "must be a table of options"),
        ({"roundz": 3}, "did you mean 'rounds'"),
        ({"rounds": {"a": 1}}, "rounds is .* must be text, a number"),
        ({"rounds": [True]}, "rounds is .* must be text, a number"),
        ({"rounds": [1, 2]}, "--rounds has 2 values: train takes one"),
        ({"rounds": True}, "config.json: --rounds is True: it must be text, a number"),
        ({"rounds": 2.5}, "config.json: --rounds: expected INT, not '2.5'"),
        ({"sparse_training": True}, "--sparse-training is True.* off|auto"),
        ('{"rounds": 2, "rounds": 3}', "no JSON: the key 'rounds' is there twice"),
        ({"batch_size": 2, "batch-size": 3}, "batch-size is there twice"),
        ({"rounds": "many"}, "expected INT, not 'many'"),
        ({"rounds": -1}, "--rounds is -1: it must be at least 1"),
    ],
)
def test_what_no_file_may_say(content, said, write, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(content)
    assert main(["train", "--config", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "none.json"], "--config none.json: No such file"),
        (["--config", "."], "--config .: Is a directory"),
        (["--config"], "--config: expected FILE (see --help)"),
        (["--config="], "--config is '': it must be text that is not empty"),
        (["--config", "--rounds", "3"], "--config: expected FILE (see --help)"),
        (["--config", "a", "--config=b"], "--config specified multiple times"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_files_that_are_not_there(command, words, message, capsys):
    assert main([command, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_repeats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--rounds", "2", "--local-epochs", "1", "--num-clients", "5"]
    assert main(["train", *small, "--final-sparsity", "0.5", "--out", "one"]) == 0
    assert main(["train", "--config", "one/config.json", "--out", "two"]) == 0
    first, second = (
        (tmp_path / run / "model" / "model.safetensors").read_bytes()
        for run in ("one", "two")
    )
    assert first == second
