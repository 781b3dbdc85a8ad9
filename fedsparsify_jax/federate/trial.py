"""``fedsparsify federate local``: a federation of real processes on this machine."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.federate import server, watching
from fedsparsify_jax.federate.flower import local, project
from fedsparsify_jax.federate.flower.commands import Tls
from fedsparsify_jax.federate.options import LocalConfig, of_nodes, written
from fedsparsify_jax.federate.settings import ServerSettings
from fedsparsify_jax.runner.display import summary
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.storage.lock import refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import (
    check_name,
    default_path,
    plan,
    read_json,
    write_json,
)

BESIDE = ".federation"
"""Ending of the directory beside a run's that has logs, keys and settings."""


def train(
    config: LocalConfig,
    console: Console | None = None,
    meanwhile: Callable[[local.Federation], None] = lambda federation: None,
) -> dict[str, Any]:
    """Trains a federation of processes and writes the run directory.

    Args:
      config: the options.
      console: where progress goes; standard output by default.
      meanwhile: called with the federation some times a second while it trains, for
        instance to kill a node and start it again.

    Returns:
      The content of ``summary.json``.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: after SIGTERM or SIGINT, everything that was started being stopped.
    """
    schema.check(config)
    console = console or Console(highlight=False)
    run = server.checked(of_nodes(config))
    out = (run.out or default_path(run)).absolute()
    data_dir = run.data_dir and run.data_dir.absolute()
    run = dataclasses.replace(run, out=out, data_dir=data_dir)
    check_name(out)
    refuse_if_locked(out)
    completed = plan(out, run).completed

    files = _prepared(config, run, out.with_name(out.name + BESIDE))
    console.print(f"starting a server and {counted(config.nodes, 'node')}")
    with (
        contextlib.closing(watching.following(out, run, completed, console)) as follow,
        local.federation(
            files.directory,
            files.settings,
            tls=files.tls,
            keys=files.keys,
            poll=lambda: next(follow),
        ) as federation,
    ):

        def poll() -> None:
            next(follow)
            meanwhile(federation)

        outcome = federation.run(files.project, poll)
        next(follow)
    for line in watching.notes(outcome.log):
        console.print(line, soft_wrap=True)
    result = read_json(out / "summary.json")
    if outcome.error or result is None:
        reason = watching.refusal(outcome.log) or outcome.error or outcome.status
        raise InputError(f"the server ended: {reason} (see {outcome.log})")
    summary.display(console, result, str(out))
    return result


class _Files(NamedTuple):
    """Files of a trial, and what its nodes are told."""

    directory: Path
    project: Path
    settings: Sequence[dict[str, Any]]
    tls: Tls | None
    keys: Sequence[Path]


def _prepared(config: LocalConfig, run: TrainConfig, directory: Path) -> _Files:
    """Writes everything that server and nodes need; what is kept for clients stays."""
    for name in ("project", "tls", "keys"):
        shutil.rmtree(directory / name, ignore_errors=True)
    if not run.resume:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = ServerSettings(
        join_timeout=config.join_timeout, round_timeout=config.round_timeout
    )
    path = directory / "federation.json"
    write_json(path, written(run, settings))
    nodes: list[dict[str, Any]] = []
    for client in range(config.nodes):
        node = {"client": client, "state": str(directory / "state" / str(client))}
        if run.encrypted and client == 0:
            node["keys"] = str(directory / "secret")
        nodes.append(node)
    tls, keys = _secured(config, directory)
    return _Files(
        directory=directory,
        project=project.write(directory / "project", {"config": str(path)}),
        settings=nodes,
        tls=tls,
        keys=keys,
    )


def _secured(config: LocalConfig, directory: Path) -> tuple[Tls | None, Sequence[Path]]:
    if not config.secure:
        return None, ()
    from fedsparsify_jax.federate.flower import security

    keys = [
        security.make_node_key(directory / "keys", f"node-{client}")
        for client in range(config.nodes)
    ]
    return security.make_certificates(directory / "tls"), keys
