"""Tables: what they ask for, how a part is named, how a method is added."""

import dataclasses
import doctest
import importlib
import pkgutil

import pytest

import experiments
from experiments.lib.registry import TABLES
from experiments.lib.reporting import methods
from experiments.lib.results import Results
from experiments.lib.running import describe
from experiments.lib.table import Row, identity, restrict
from experiments.tables.fashion_mnist import TABLE
from fedsparsify_jax.errors import InputError


@pytest.mark.parametrize(
    "name",
    [m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.")],
)
def test_examples_in_docstrings(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    assert module.__doc__


def test_the_table_has_the_cells_that_it_should_have():
    # Methods without a sparsity are run once a partition and seed.
    dense, sparse = 3, 9
    assert len(TABLE.cells("paper")) == (dense + sparse * 5) * 2 * 3


def test_every_table_asks_for_what_train_takes():
    for table, _ in TABLES.values():
        for preset in table.presets:
            assert table.cells(preset), (table.name, preset)
        assert f"{table.name}: " in describe(table)
        keys = [row.key for row in table.rows]
        assert len(set(keys)) == len(keys) and table.reference in keys
        for row in table.rows:
            if row.of is not None:
                wanted = TABLES[row.of][0].cells("paper")
                points = [identity(point) for point in table.points(row, "paper")]
                assert set(points) <= set(wanted), (table.name, row.key)


def test_a_method_is_one_line():
    row = Row("synflow", "SynFlow", {"algorithm": "synflow"})
    table = dataclasses.replace(TABLE, rows=(*TABLE.rows, row))
    added = set(table.cells("paper")) - set(TABLE.cells("paper"))
    assert len(added) == 5 * 2 * 3
    assert all('"synflow"' in name for name in added)
    shown = methods(Results(table, "paper")).blocks["last_5-iid"][1]
    assert shown.splitlines()[-1].startswith("| SynFlow |")


def test_identity_is_what_a_run_computes():
    point = {"dataset": "digits", "algorithm": "snip", "final_sparsity": 0.9}
    assert identity(point) == identity({**point, "rounds": 50, "out": None})
    assert identity(point) == identity({**point, "data_dir": "elsewhere"})
    assert identity(point) != identity({**point, "seed": 1})
    assert identity(point) != identity({**point, "final_sparsity": 0.8})
    with pytest.raises(InputError, match="sparsityness: no option of train"):
        identity({**point, "sparsityness": 1})


def test_parts_of_a_table():
    part = restrict(TABLE, "paper", ["snip", "partition=iid", "final_sparsity=.9"])
    assert len(part.cells("paper")) == 3
    assert set(part.cells("paper")) < set(TABLE.cells("paper"))
    assert restrict(TABLE, "paper", []).cells("paper") == TABLE.cells("paper")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("snap", "unknown row 'snap': did you mean 'snip'"),
        ("final_sparsity=0.7", "unknown value of final_sparsity '0.7'"),
        ("final_sparsity=much", "unknown value of final_sparsity 'much'"),
        ("frequency=1", "unknown option 'frequency'"),
    ],
)
def test_parts_that_there_are_not(word, message):
    with pytest.raises(InputError, match=message):
        restrict(TABLE, "paper", [word])


def test_presets_that_there_are_not():
    with pytest.raises(InputError, match="unknown preset 'smok': did you mean 'smoke'"):
        TABLE.preset("smok")
