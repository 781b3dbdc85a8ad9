"""``fedsparsify federate nvflare``: NVFlare's simulator, beside this library's."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import federation_nodes as nodes
import flower_processes
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip(
    "nvflare", reason="nvflare is not installed: see tools/nvflare_env.sh"
)

from fedsparsify_jax import cli, data
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.nvflare import command, job
from fedsparsify_jax.federate.options import NVFlareConfig
from fedsparsify_jax.runner import TrainConfig, train

SMALL = {
    "rounds": 3,
    "local_epochs": 1,
    "train_subset": 90,
    "final_sparsity": 0.8,
    "compilation_cache": "off",
}
ALONE = {"cohort": "map", "chunk_size": 1, "devices": 1, "measure_bytes": True}
PAGE = Path(__file__).parents[3] / "docs" / "federate.md"
COMMAND = re.compile(
    r"^    (fedsparsify federate nvflare [^\\\n]*(?:\\\n[^\n]*)?)$", re.M
)


def commands():
    """The commands of the page, as words."""
    page = PAGE.read_text(encoding="utf-8")
    return [shlex.split(text.replace("\\\n", "")) for text in COMMAND.findall(page)]


def same_as_train(out, **options):
    """Compares a run with the simulation of the same options."""
    alone = out.with_name("alone")
    train(TrainConfig(num_clients=3, out=alone, **ALONE | options), Console(quiet=True))
    pairs = zip(nodes.records(alone), nodes.records(out), strict=True)
    for one, other in pairs:
        assert nodes.without(one, "train_loss", "test_loss") == nodes.without(
            other, "train_loss", "test_loss"
        )
        assert one["message_bytes_down"] <= other["message_bytes_down"] * 1.01
        assert other["message_bytes_down"] <= one["message_bytes_down"] * 1.1
    assert nodes.same_models(alone, out, atol=1e-6)


def test_the_pages_command_trains_what_train_does_over_loopback_alone(tmp_path):
    words = commands()[0]
    assert words[:3] == ["fedsparsify", "federate", "nvflare"]
    printed = tmp_path / "printed.txt"
    with printed.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedsparsify_jax", *words[1:]],
            cwd=tmp_path,
            env=os.environ | {"OF_THIS_TEST": str(tmp_path)},
            stdout=file,
            stderr=file,
        )
    strangers, most = set(), 0
    while process.poll() is None:
        numbers = flower_processes.with_variable(f"OF_THIS_TEST={tmp_path}")
        other, sockets = flower_processes.remote_addresses(numbers)
        strangers |= other
        most = max(most, sockets)
        time.sleep(0.1)
    output = printed.read_text()
    assert process.returncode == 0, output
    assert "round 3/3" in output and "run directory" in output
    assert most and not strangers
    assert not flower_processes.with_variable(f"OF_THIS_TEST={tmp_path}")
    out = tmp_path / words[words.index("--out") + 1]
    same_as_train(out, rounds=3)


def test_local_has_the_numbers_of_train(tmp_path):
    options = SMALL | {"algorithm": "fedsparsify-local"}
    command.train(NVFlareConfig(out=tmp_path / "run", **options), Console(quiet=True))
    same_as_train(tmp_path / "run", **options)


GARBAGE = """
from fedsparsify_jax.federate.nvflare import client, site
from fedsparsify_jax.federate.nvflare.arrays import Content, bits

class Broken(site.Site):
    def answer(self, content):
        answer, t = super().answer(content), content.facts.get("round")
        if self._name != "site-2" or t in (None, 1):
            return answer
        if t == 2:
            return Content({"sparse/model": bits(b"garbage")}, {"round": t})
        raise OSError("the disk is full")

client.Site = Broken
client.main()
"""


def test_garbage_is_rejected_and_a_broken_site_drops_out(tmp_path, monkeypatch, capsys):
    script = tmp_path / "client.py"
    script.write_text(GARBAGE, encoding="utf-8")
    monkeypatch.setattr(job, "SCRIPT", script)
    command.train(NVFlareConfig(out=tmp_path / "run", **SMALL))
    rows = nodes.records(tmp_path / "run")
    assert [row["merged"] for row in rows] == [3, 2, 2]
    assert [row["rejected"] for row in rows] == [0, 1, 0]
    assert [row["dropped"] for row in rows] == [0, 0, 1]
    output = capsys.readouterr().out
    assert "note: site-2: this is no whole message of fedsparsify" in output
    assert "note: site-2: no answer" in output


def test_what_the_server_refuses_is_the_error(tmp_path):
    config = NVFlareConfig(out=tmp_path / "run", **SMALL | {"algorithm": "snip"})
    with pytest.raises(InputError, match="the server ended: snip with these options"):
        command.train(config, Console(quiet=True))


def test_a_directory_that_the_simulator_cannot_use_is_refused(tmp_path):
    with pytest.raises(InputError, match="spaces in --out"):
        command.train(NVFlareConfig(out=tmp_path / "a run", **SMALL))
    assert not list(tmp_path.iterdir())


def test_the_job_of_the_page_is_written_for_the_sites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = next(words for words in commands() if "--export" in words)
    cli.main(words[1:])
    assert not list(tmp_path.glob("run*"))
    (folder,) = (tmp_path / "jobs").iterdir()
    client = json.loads((folder / "app/config/config_fed_client.json").read_text())
    (row,) = client["executors"]
    assert row["executor"]["args"]["task_script_args"] == "--data /data/site.json"
    script = (folder / "app/custom/client.py").read_text(encoding="utf-8")
    assert script == Path(job.SCRIPT).read_text(encoding="utf-8")
    server = (folder / "app/config/config_fed_server.json").read_text(encoding="utf-8")
    assert '"site-2"' in server and '"site-3"' not in server


def test_sites_may_have_data_of_their_own(tmp_path):
    run, tmp_path = tmp_path / "run", tmp_path / "a directory"
    tmp_path.mkdir()
    digits = data.load("digits")
    x, y = digits.train
    test = {"x_test": digits.test.x, "y_test": digits.test.y}
    np.savez(tmp_path / "server.npz", x_train=x[:50], y_train=y[:50], **test)
    for n in (1, 2):
        path = tmp_path / f"site-{n}.npz"
        np.savez(path, x_train=x[n : 90 : n + 1], y_train=y[n : 90 : n + 1], **test)
        own = {"dataset": "npz", "data_dir": str(path)}
        (tmp_path / f"site-{n}.json").write_text(json.dumps(own), encoding="utf-8")
    options = SMALL | {"dataset": "npz", "data_dir": tmp_path / "server.npz"}
    options |= {"train_subset": None, "rounds": 2, "batch_size": 16, "model": "mlp"}
    command.train(
        NVFlareConfig(
            nodes=2,
            site_data=str(tmp_path / "{site}.json"),
            out=run,
            learning_rate=0.1,
            **options,
        ),
        Console(quiet=True),
    )
    assert [row["merged"] for row in nodes.records(run)] == [2, 2]
    partition = json.loads((run / "partition.json").read_text())
    assert partition["sizes"] == [45, 30]
