import sys
import tomllib

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.flower import commands


def test_without_flower_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/bin/python")
    words = r'Flower is not installed .*pip install "fedsparsify_jax\[flower\]"'
    with pytest.raises(InputError, match=words):
        commands.program("flower-superlink")


def test_flower_reports_nothing_and_installs_nothing(tmp_path):
    environment = commands.environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)


@pytest.mark.parametrize("trusted", [False, True])
def test_the_command_line_trusts_the_authority_or_speaks_plain_text(tmp_path, trusted):
    authority = tmp_path / 'a "b".crt'
    text = commands.configuration("127.0.0.1:8000", authority if trusted else None)
    connection = {"address": "127.0.0.1:8000"}
    connection |= (
        {"root-certificates": str(authority)} if trusted else {"insecure": True}
    )
    assert tomllib.loads(text)["superlink"] == {
        "default": "federation",
        "federation": connection,
    }
