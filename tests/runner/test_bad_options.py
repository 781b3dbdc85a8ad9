"""Options of any type and value: they resolve, or one line names what is wrong."""

import dataclasses
import io
import math
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import cli
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.grammars import EPOCHS
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import Choice, flag
from fedsparsify_jax.runner.options.sweep_config import OPTIONS, SweepConfig, values
from fedsparsify_jax.runner.options.sweep_grid import trials

EVERY = schema.read(TrainConfig)


def names():
    known = {name for found in EVERY.values() for rule in found.rules
             if isinstance(rule, Choice) for name in rule.names}  # fmt: skip
    return st.sampled_from(sorted(known))


ANYTHING = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(0, 1),
    st.floats(),
    st.booleans(),
    names(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "\0", "a\0b", "a\nb", "\udcff", "x" * 5000, "1" * 5000, "nan", "1e999"]
    ),
    st.sampled_from(["hf:a/b", "hf:", "hf:a/b,c", "3,2,1", "1,,2", "auto", "host:1"]),
    st.sampled_from([10**400, 10**5000, 2**31, 2**32, 1e300, 1e-300, 1 - 1e-12]),
    st.sampled_from([b"x", (), [1], {}, object, 1j, Path("a"), Path("a\0b")]),
    st.sampled_from(
        [np.int64(3), np.float32(0.5), np.nan, np.array([1, 2]), np.bool_(1)]
    ),
    st.none(),
)
GIVEN = st.dictionaries(
    st.sampled_from(sorted(EVERY)), ANYTHING, min_size=1, max_size=4
)


def refused(attempt):
    """The one line of an `InputError`, None without one; all else goes through."""
    try:
        attempt()
    except InputError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 1500
        return line


@settings(max_examples=400)
@given(GIVEN)
def test_a_configuration_resolves_or_one_line_says_why(given):
    found = []
    line = refused(lambda: found.append(resolve(TrainConfig(**given))))
    if line is None:
        assert resolve(found[0]) == found[0]
        for field, known in EVERY.items():
            value = getattr(found[0], field)
            kind = tuple if known.several else known.kind
            if EPOCHS in known.rules:  # whole ones are integers
                kind = float if value != int(value) else int
            assert value is None or isinstance(value, kind)
        to_json(found[0])
    elif len(given) == 1:
        # Together with the defaults a rule about several options may name another.
        assert "--" in line or "hf:" in line or "store" in line


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from([*OPTIONS, "seeds", "out", "devices", "compilation_cache"]),
        st.one_of(
            ANYTHING,
            st.lists(st.one_of(names(), st.text(max_size=8)), max_size=3).map(tuple),
            st.lists(st.integers(0, 60).map(str), max_size=3).map(tuple),
            st.lists(ANYTHING, max_size=2),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_sweep_has_cells_or_one_line_says_why(given):
    refused(lambda: trials(values(SweepConfig(**given))))


WORDS = st.one_of(
    names(),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "-1", "--", "-", "a\nb", "{}", "[red]x", "\udcff", "1_0", "٣"]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)


@settings(max_examples=40)
@given(
    st.sampled_from(["train", "sweep"]),
    st.lists(st.tuples(st.sampled_from(sorted(EVERY)), WORDS), min_size=1, max_size=2),
)
def test_a_command_line_parses_or_one_line_says_why(command, pairs):
    arguments = [command]
    for field, word in pairs:
        arguments += [f"{flag(field)}={word}"]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(cli, "train", resolve),
        mock.patch.object(cli, "sweep", lambda config: trials(values(config))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = cli.main(arguments)
    assert out.getvalue() == ""
    if status:
        said = err.getvalue()
        assert status == 2 and said.startswith("fedsparsify: error: ")
        assert said[:-1].isprintable() and said.endswith("\n")


def test_every_number_has_a_rule_and_every_option_a_help():
    for field, known in EVERY.items():
        assert known.help, field
        if known.kind in (int, float):
            assert known.rules, f"{flag(field)} takes any number: give it a rule"


def test_rules_hold_for_the_defaults():
    for field, known in EVERY.items():
        assert known.check(known.default) == known.default, field


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rounds", "3", "--rounds is '3': it must be a whole number"),
        ("rounds", True, "--rounds is True: it must be a whole number"),
        ("rounds", 3.0, "--rounds is 3.0: it must be a whole number"),
        ("rounds", 2**31, "--rounds is 2147483648: it must be at least 1 and below"),
        ("alpha", False, "--alpha is False: it must be a number"),
        ("alpha", 10**400, "--alpha is 1000000000"),
        ("alpha", 1e300, "is 1e+300: it must be above 0 and finite, in 32 bits"),
        ("final_sparsity", 1 - 1e-12, "it must be at least 0 and below 1, in 32 bits"),
        ("learning_rate", None, None),
        ("participation", None, "--participation is None: it must be a number"),
        ("resume", 1, "--resume is 1: it must be True or False"),
        ("model", 3, "--model is 3: it must be text"),
        ("model", "", "--model is '': it must be text that is not empty"),
        ("model", "a\nb", r"--model: unknown model 'a\nb': (known:"),
        ("out", "a\0b", r"--out is 'a\x00b': it must be a path without a null byte"),
        ("out", "", "--out is '': it must be a path"),
        ("out", b"run", "--out is b'run': it must be a path"),
        ("out", "x" * 300, "it must be a path that a file system can hold"),
        ("client_sizes", "3,0", "--client-sizes is '3,0': expected whole numbers"),
        ("client_sizes", "1," + "9" * 20, "expected whole numbers such as 30,20,10"),
        ("merge", "meen", "--merge: unknown merge 'meen': did you mean 'mean'?"),
        ("begin", 51, "--begin is 51: there are only 50 rounds"),
        ("frequency", 51, "--frequency is 51: there are only 50 rounds"),
        ("initial_sparsity", 0.95, "must be at most the final sparsity, 0.9"),
        ("dataset", "hf:a/" + "b" * 99, "is not of the form hf:owner/name"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_named(field, value, message):
    line = refused(lambda: resolve(TrainConfig(**{field: value})))
    assert (line is None) == (message is None)
    assert message is None or message in line


def test_a_number_too_long_to_write_is_refused():
    line = refused(lambda: resolve(TrainConfig(rounds=10**5000)))
    assert line == "--rounds is an int: it must be at least 1 and below 2^31"


def test_numbers_of_numpy_and_paths_as_text_are_taken():
    given = {"rounds": np.int64(3), "alpha": np.float32(0.5), "momentum": 0, "out": "a"}
    found = resolve(TrainConfig(**given))
    assert dataclasses.asdict(found).items() >= {"rounds": 3, "out": Path("a")}.items()
    assert type(found.rounds) is int and type(found.momentum) is float
    assert math.isclose(found.alpha, 0.5) and type(found.alpha) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 3}, "--rounds is 3: it must be a tuple of words"),
        ({"rounds": "34"}, "--rounds is '34': it must be a tuple of words"),
        ({"rounds": (3,)}, "--rounds is 3: it must be a word, as on the command line"),
        ({"seeds": 10**9}, "--seeds is 1000000000: it must be at least 1 and"),
        ({"devices": 0}, "--devices is 0: it must be at least 1"),
        ({"rounds": ("9" * 400,)}, "it must be at least 1 and below 2^31"),
        (
            {"rounds": (",".join(map(str, range(1, 999))),), "seeds": 9999},
            "9,979,002 combinations: at most 100,000",
        ),
    ],
)  # fmt: skip
def test_a_sweep_names_what_is_no_word_of_its_option(given, message):
    assert message in refused(lambda: trials(values(SweepConfig(**given))))
