"""Options: defaults by data set, spellings, and errors that name what is wrong."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options import rules, schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.grammars import EPOCHS
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve


@pytest.mark.parametrize(
    ("dataset", "rounds", "learning_rate"),
    [("digits", 50, 0.1), ("fashion_mnist", 200, 0.02), ("npz", 50, 0.05)],
)
def test_defaults_follow_the_data_set(dataset, rounds, learning_rate):
    resolved = resolve(TrainConfig(dataset=dataset))
    assert (resolved.rounds, resolved.learning_rate) == (rounds, learning_rate)


def test_what_is_given_wins_over_the_default():
    resolved = resolve(TrainConfig(dataset="digits", rounds=3, learning_rate=0.7))
    assert (resolved.rounds, resolved.learning_rate) == (3, 0.7)


def test_the_papers_settings_are_the_defaults():
    resolved = resolve(TrainConfig(dataset="fashion_mnist"))
    paper = {"num_clients": 10, "local_epochs": 4, "batch_size": 32, "exponent": 3.0}
    assert {field: getattr(resolved, field) for field in paper} == paper


@pytest.mark.parametrize(
    ("field", "given", "meant"),
    [
        ("dataset", "fashion-mnist", "fashion_mnist"),
        ("dataset", " Fashion_MNIST ", "fashion_mnist"),
        ("algorithm", "fedsparsify_local", "fedsparsify-local"),
        ("algorithm", "FedAvg", "fedavg"),
        ("partition", "label_shards", "label-shards"),
        ("partition", "Quantity_Skew", "quantity-skew"),
        ("model", "MLP", "mlp"),
        ("optimizer_state", "Kept", "kept"),
        ("vote_rule", "STRICT", "strict"),
    ],
)
def test_dashes_underscores_and_capitals_do_not_matter(field, given, meant):
    assert getattr(resolve(TrainConfig(**{field: given})), field) == meant


def test_resolving_twice_changes_nothing():
    once = resolve(TrainConfig(dataset="fashion-mnist", partition="label_shards"))
    assert resolve(once) == once


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("dataset", "digit", "unknown data set 'digit': did you mean 'digits'?"),
        ("model", "xlp", "unknown model 'xlp': did you mean 'mlp'?"),
        ("algorithm", "fedsparsify", "unknown algorithm 'fedsparsify': did you mean"),
        ("partition", "shards", "unknown partition 'shards': did you mean 'label-sha"),
        ("optimizer_state", "old", "unknown optimizer state 'old': (known: fresh, ke"),
        ("vote_rule", "all", "unknown vote rule 'all': (known: authors, none, strict)"),
    ],
)
def test_unknown_names_meet_the_known_ones(field, given, message):
    with pytest.raises(InputError, match=re.escape(message)):
        resolve(TrainConfig(**{field: given}))


NAN, INF = float("nan"), float("inf")
NUMBERS = {
    field: option
    for field, option in schema.read(TrainConfig).items()
    if option.kind in (int, float)
}


@pytest.mark.parametrize("field", NUMBERS)
def test_range_errors_name_option_value_and_range(field):
    (rule,) = (r for r in NUMBERS[field].rules if r is not EPOCHS)
    tried = (-3, 0, 2**32) if NUMBERS[field].kind is int else (-0.5, 1.5, NAN, INF)
    outside = [value for value in tried if not rule.holds(value)]
    assert outside
    for value in outside:
        with pytest.raises(InputError) as caught:
            resolve(TrainConfig(**{field: value}))
        message = f"{rules.flag(field)} is {value}: it must be {rule.allowed}"
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        (rules.at_least(1), (1, 2**31 - 1), (0, -3, 2**31)),
        (rules.at_least(0, below=2**32), (0, 2**32 - 1), (-1, 2**32)),
        (rules.above(0), (1e-30, 1e30), (0.0, -0.5, NAN, INF)),
        (rules.from_up(0), (0.0, 1e30), (-0.5, NAN, INF)),
        (rules.between(0, 1), (0.0, 1.0), (-0.1, 1.1, NAN)),
        (rules.BELOW_ONE, (0.0, 0.999), (1.0, -0.1, 1.5, NAN)),
        (rules.HALF, (0.0, 0.499), (0.5, -0.1, NAN)),
        (rules.SHARE, (0.1, 1.0), (0.0, -0.1, 1.1, NAN)),
    ],
)
def test_the_ends_of_the_ranges(rule, inside, outside):
    assert all(map(rule.holds, inside)) and not any(map(rule.holds, outside))


def test_a_participation_that_selects_nobody_is_refused():
    with pytest.raises(InputError, match=r"--participation 0.05 of 10 .* at least 0.1"):
        resolve(TrainConfig(participation=0.05))


def test_resume_needs_a_directory():
    with pytest.raises(InputError, match="--resume needs --out"):
        resolve(TrainConfig(resume=True))
    assert resolve(TrainConfig(resume=True, out=Path("somewhere"))).resume


def test_the_json_holds_every_option():
    config = resolve(TrainConfig(out=Path("a/b"), data_dir=Path("c")))
    stored = json.loads(json.dumps(to_json(config)))
    assert set(stored) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert stored["out"] == str(Path("a/b")) and stored["data_dir"] == "c"
    assert stored["learning_rate"] == 0.1 and stored["resume"] is False
