"""Federations of real processes, which need flwr."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import flower_processes
import pytest

from fedsparsify_jax.errors import InputError

pytest.importorskip("flwr", reason="flwr is not installed: see tools/federate_env.sh")

from fedsparsify_jax.federate.flower import local, project

ASKING = "federation_toys:asking"
NAMES = ({"name": "north"}, {"name": "south"})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("federation")
    (directory / "user").mkdir()
    with flower_processes.surroundings(directory / "user"):
        yield directory


@pytest.fixture(scope="module")
def running(place):
    answer = "federation_toys:counting"
    with local.federation(place / "a", NAMES, answer=answer) as federation:
        yield federation


def run(federation, directory, server=ASKING, poll=lambda: None, **settings):
    """Runs a server; returns the outcome, and what it wrote."""
    out = directory / "out.json"
    settings = {"server": server, "out": str(out), "nodes": 2, "timeout": 60} | settings
    path = project.write(directory / "project", settings)
    outcome = federation.run(path, poll)
    return outcome, json.loads(out.read_text()) if out.exists() else None


def test_one_worker_answers_all_rounds_and_errors_come_back(running, tmp_path):
    polls = []
    outcome, rounds = run(
        running,
        tmp_path,
        messages="hello refuse crash hello",
        poll=lambda: polls.append(time.monotonic()),
    )
    assert (outcome.status, outcome.error) == ("completed", "")
    refusal = ["", "this node has no such data: ask another"]
    first, *between, last = (r["replies"] for r in rounds)
    assert [text.split()[::2] for text, _ in first] == [
        ["north", "hello"],
        ["south", "hello"],
    ]
    assert between == [[refusal, refusal], [["", "ValueError: two lines"]] * 2]
    counts = [int(text.split()[1]) for text, _ in first]
    assert [int(text.split()[1]) for text, _ in last] == [n + 3 for n in counts]
    pauses = [after - before for before, after in itertools.pairwise(polls)]
    assert sorted(pauses)[len(pauses) // 2] < 0.3  # the caller shows progress
    print("seconds of the rounds:", [round(r["seconds"], 1) for r in rounds])


@pytest.mark.skipif(not flower_processes.PROC.exists(), reason="there is no /proc")
def test_a_process_that_all_machines_reach_would_be_seen():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert flower_processes.remote_addresses([os.getpid()])[0] == set()
        other.bind(("0.0.0.0", 0))
        other.listen()
        assert flower_processes.remote_addresses([os.getpid()])[0] == {"00000000"}


@pytest.mark.skipif(not flower_processes.PROC.exists(), reason="there is no /proc")
def test_processes_speak_to_this_machine_alone(running, place, tmp_path):
    strangers, sockets = set(), 0

    def look():
        nonlocal sockets
        numbers = flower_processes.family(place / "a" / "home")
        addresses, number = flower_processes.remote_addresses(numbers)
        strangers.update(addresses)
        sockets = max(sockets, number)

    assert run(running, tmp_path, messages="hello", poll=look)[0].status == "completed"
    assert sockets
    assert not strangers


def test_the_servers_refusal_is_the_error_of_the_run(running, tmp_path):
    outcome, _ = run(running, tmp_path, server="federation_toys:refusing")
    assert outcome.status == "failed"
    assert outcome.error.endswith("the cohort needs 9 nodes: there are 2")
    assert "\n" not in outcome.error
    assert "there are 2" in outcome.log.read_text()


def test_a_directory_without_a_project_is_one_line(running, tmp_path):
    with pytest.raises(InputError, match=r"run ended with status \d+: .*run\.log"):
        running.run(tmp_path)


def test_what_the_caller_raises_ends_the_wait(running, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(running, tmp_path, messages="hello", poll=lambda: 1 / 0)


def test_a_killed_node_is_an_error_and_comes_back(running, tmp_path):
    out = tmp_path / "out.json"
    done = []

    def poll():
        rounds = len(json.loads(out.read_text())) if out.exists() else 0
        if rounds >= 1 and not done:
            running.nodes[1].kill()
            done.append("killed")
        if rounds >= 2 and done == ["killed"]:
            running.nodes[1].start()
            running.nodes[1].wait()
            done.append("started")

    outcome, rounds = run(
        running, tmp_path, messages="a b c d e", timeout=15, poll=poll
    )
    assert outcome.status == "completed"
    whole, part, *later = ([r[0] for r in row["replies"]] for row in rounds)
    assert [text.split()[0] for text in whole] == ["north", "south"]
    assert [text.split()[:1] for text in part] == [[], ["north"]]
    errors = [error for row in rounds[1:2] for _, error in row["replies"] if error]
    assert errors == ["no answer within 15 s"]
    assert any("south 1" in text for row in later for text in row)


def test_nothing_of_the_users_is_touched(running, place):
    assert not list((place / "user").iterdir())


def test_sixty_megabytes_pass_both_ways(place, tmp_path):
    answer = "federation_toys:digesting"
    with local.federation(tmp_path, [{}, {}], answer=answer) as federation:
        outcome, sizes = run(federation, tmp_path, server="federation_toys:large")
    assert outcome.status == "completed"
    assert sizes == [[32, 32], [33, 33], [60_000_032, 60_000_032]]


SCRIPT = """
import pathlib, sys, time
from fedsparsify_jax.federate.flower import local, project
directory = pathlib.Path(sys.argv[1])
with local.federation(
    directory, [{"name": "north"}], answer="federation_toys:counting"
) as federation:
    print("up", flush=True)
    if len(sys.argv) == 2:
        time.sleep(600)
    settings = {"server": "federation_toys:asking", "out": sys.argv[2], "nodes": 1}
    settings |= {"timeout": 60, "messages": "hello"}
    print(federation.run(project.write(directory / "project", settings)).status)
"""


def script(*arguments, before=()):
    words = [*before, sys.executable, "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not flower_processes.PROC.exists(), reason="there is no /proc")
@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_caller_ends_all_processes(place, tmp_path, name):
    with script(tmp_path) as caller:
        assert caller.stdout.readline() == "up\n"
        assert len(flower_processes.family(tmp_path / "home")) >= 4
        caller.send_signal(name)
        caller.wait(timeout=30)
    deadline = time.monotonic() + 15
    while flower_processes.family(tmp_path / "home"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_process_tries_to_reach_another_machine(place, tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-e", "signal=none"]
    with script(
        tmp_path / "f", tmp_path / "out.json", before=[*strace, "-o", trace]
    ) as caller:
        assert caller.communicate(timeout=300)[0] == "up\ncompleted\n"
    text = trace.read_text()
    addresses = re.findall(
        r'inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)"', text
    )
    assert {"".join(pair) for pair in addresses} == {"127.0.0.1"}


def test_a_taken_port_is_one_line(place, tmp_path):
    with socket.socket() as other:
        other.bind((local.LOCALHOST, 0))
        other.listen()
        port = other.getsockname()[1]
        words = f"^port {port} of 127.0.0.1 is taken: choose another"
        with (
            pytest.raises(InputError, match=words),
            local.federation(tmp_path, NAMES, port=port),
        ):
            pass


def test_a_worker_that_cannot_start_is_one_line(place, tmp_path):
    words = "node-1-worker ended with status 2: worker: no data at /nowhere: mount"
    with (
        pytest.raises(InputError, match=words),
        local.federation(tmp_path, NAMES, answer="federation_toys:unable"),
    ):
        pass
    assert not flower_processes.family(tmp_path / "home")


def test_the_readmes_options_are_flowers():
    directory = Path(sys.executable).parent
    text = project.guide.text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line]
    checked = 0
    for name in ("flower-superlink", "flower-supernode", "flwr"):
        for line in (one for one in lines if one.split()[0] == name):
            words = re.match(r"flwr (supernode register|run)", line)
            command = [directory / name, *(words[1].split() if words else ())]
            environment = os.environ | {"COLUMNS": "200"}
            helped = subprocess.run(
                [*command, "--help"], capture_output=True, text=True, env=environment
            ).stdout
            for option in re.findall(r"\s(--[a-z-]+)", line):
                assert option in helped, line
                checked += 1
    assert checked > 12
