"""`fedsparsify costs` in process: the reference's numbers, and bad input."""

import json

import pytest

from fedsparsify_jax import models
from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.costs import CostsConfig, costs, describe


def printed(arguments, capsys):
    assert main(["costs", *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_the_table_of_the_reference_is_printed(capsys):
    lines = printed([], capsys).splitlines()
    assert lines[0] == "mlp: 118,282 numbers, 118,282 of them prunable"
    assert lines[1] == "200 rounds of 10 clients: dense 1,892.5 MB both ways"
    start = lines.index("Times fewer bytes, at 32 bit a non-zero, as the authors count")
    assert lines[start + 1 : start + 6] == [
        "               80 %  85 %  90 %  95 %   99 %",
        "  exponent 1   1.66  1.73  1.81  1.90   1.97",
        "  exponent 3   2.48  2.73  3.05  3.44   3.83",
        "  exponent 6   3.15  3.64  4.30  5.27   6.42",
        "  exponent 12  3.77  4.56  5.77  7.84  11.02",
    ]
    assert lines[-3:] == [
        "             dense   80 %   85 %   90 %   95 %   99 %",
        "  inference  0.236  0.047  0.035  0.024  0.012  0.002",
        "  training   0.507  0.101  0.076  0.051  0.025  0.005",
    ]
    assert all(line == line.rstrip() for line in lines)


def test_options_and_json(capsys):
    options = "--rounds 3 --num-clients 2 --exponent 3 --final-sparsity 0 0.5 --json"
    found = json.loads(printed(options.split(), capsys))
    size = 118_282
    assert (found["rounds"], found["num_clients"]) == (3, 2)
    assert found["dense_bytes"] == 2 * 3 * 2 * size * 4
    assert found["flops"]["inference"] == [236_032, 236_032, 118_016]
    assert found["flops"]["training"] == [507_392, 507_392, 253_696]
    # s_2 = 0.5 * (1 - 0.5^3) = 0.4375: dense twice and once, then both ends.
    second, last = size - int(0.4375 * size), size - size // 2
    ratio = 6 * size / (3 * size + 2 * second + last)
    bits = 6 * (-(-size // 8)) / 4
    assert found["communication"] == {
        "nonzero": [[1.0, pytest.approx(ratio)]],
        "bitmap": [
            [
                pytest.approx(6 * size / (6 * size + bits)),
                pytest.approx(6 * size / (3 * size + 2 * second + last + bits)),
            ]
        ],
        "indexed": [[0.5, pytest.approx(ratio / 2)]],
    }


@pytest.mark.parametrize("model", models.NAMES)
def test_every_model_has_costs(model):
    one = CostsConfig(
        model=model.replace("_", "-"), final_sparsity=(0.5,), exponent=(3.0,)
    )
    found = costs(one)
    assert found["model"] == model and 0 < found["prunable"] <= found["parameters"]
    inference, training = found["flops"]["inference"], found["flops"]["training"]
    # Training is three times inference, less the first layer's input gradient.
    assert 2 * inference[0] < training[0] <= 3 * inference[0]
    # Products of two activations, as attention has, stay as they are.
    attention = {"vit_tiny": 0.06, "transformer": 0.21}.get(model, 0.0)
    assert inference[1] == pytest.approx(inference[0] / 2, rel=attention or 1e-3)
    assert 1 < found["communication"]["nonzero"][0][0] < 2
    assert describe(found).startswith(f"{model}: {found['parameters']:,} numbers")


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "--model mpl": "--model: unknown model 'mpl': did you mean 'mlp'?",
        "--rounds 0": "--rounds is 0: it must be at least 1",
        "--num-clients -3": "--num-clients is -3: it must be at least 1",
        "--final-sparsity 0.5 1": "--final-sparsity is 1.0: it must be at least 0",
        "--final-sparsity nan": "--final-sparsity is nan: it must be at least 0",
        "--final-sparsity": "--final-sparsity: expected FLOAT (see --help)",
        "--exponent 0": "--exponent is 0.0: it must be above 0 and finite",
        "--exponent inf": "--exponent is inf: it must be above 0 and finite",
        "--ronds 3": "unknown option --ronds: did you mean --rounds? (see --help)",
        "--participation 1": "costs has no option --participation: it is one of train",
    }.items(),
)
def test_bad_options_are_one_line(options, message, capsys):
    assert main(["costs", *options.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert shown.err.startswith(f"fedsparsify: error: {message}")


def test_an_option_of_costs_is_none_of_training(capsys):
    assert main(["train", "--json"]) == 2
    assert capsys.readouterr().err == (
        "fedsparsify: error: train has no option --json: it is one of costs "
        "(see --help)\n"
    )


def test_from_code_too():
    with pytest.raises(InputError, match="--rounds is 0"):
        costs(CostsConfig(rounds=0))
    with pytest.raises(InputError, match="--exponent is empty: give at least one"):
        costs(CostsConfig(exponent=()))
