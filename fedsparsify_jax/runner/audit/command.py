"""``fedsparsify audit``: attacks a finished run and writes what they came to."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy import files
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner.audit import curious_server, outsider, shadow_uploads
from fedsparsify_jax.runner.audit.attacks import Network, Result, attack, phi_is
from fedsparsify_jax.runner.audit.figures import curves, measured, table, too_few
from fedsparsify_jax.runner.audit.finished import Finished, finished
from fedsparsify_jax.runner.audit.members import Pool, asked
from fedsparsify_jax.runner.audit.options import AuditConfig, resolved
from fedsparsify_jax.runner.audit.origin import origin
from fedsparsify_jax.runner.audit.shadow_federations import check_divisible
from fedsparsify_jax.runner.audit.shadows import (
    Setting,
    Shadows,
    Trainer,
    name_of,
    trained,
)
from fedsparsify_jax.runner.model_commands.source import only
from fedsparsify_jax.runner.storage.run_directory import obstacle, versions, write_json
from fedsparsify_jax.types import Examples

RESULTS, CURVES, PAGE, FIGURE = "audit.json", "roc.npz", "audit.md", "roc.svg"
"""Files of an audit. `RESULTS` is removed first and written last: with it, the curves
are those of its figures."""
SHADOWS = "shadows"
"""The folder of shadow models' scores, in that of an audit."""


class Scene(NamedTuple):
    """All that an attacker has: a model, examples, and a trainer of models like it."""

    network: Network
    pool: Pool
    trainer: Callable[[Examples], Trainer]


def audit(config: AuditConfig) -> Path:
    """Attacks a finished run, and writes and prints the figures.

    Args:
      config: the options.

    Returns:
      The directory of the results.

    Raises:
      InputError: one line that says what is wrong with options, run or data.
    """
    config = resolved(config)
    path = only(config.run, "run", "audit")
    out = config.out or _default_out(path, config)
    run = finished(path, config.data_dir)
    if complaint := obstacle(out):
        raise InputError(complaint)
    if config.shadow_runs and config.threat == "outsider":
        check_divisible(run)
    scene = _scene(config, run)
    rows = asked(scene.pool, config.examples, config.seed)
    examples, members = scene.pool.take(rows), rows < len(scene.pool.rows)
    shadows = _shadows(config, run, scene, rows, examples, out)
    results = {
        name: attack(name, scene.network, examples, members, shadows, seed=config.seed)
        for name in str(config.attacks).split(",")
    }
    content = _content(config, run, scene.pool, results)
    _write(out, content, results)
    print(_described(content))
    return out


def _default_out(path: Path, config: AuditConfig) -> Path:
    """Returns where results go: of a curious server, to a folder of its client."""
    if config.threat == "outsider":
        return path / "audit"
    return path / "audit" / f"client-{config.client}"


def _scene(config: AuditConfig, run: Finished) -> Scene:
    """Returns what the attacker of a threat has."""
    seed, at_once = config.seed, min(config.shadows_at_once, config.shadow_runs or 1)
    if config.threat == "outsider":
        pool = outsider.pool_of(run, seed)
        trainer = outsider.trainer(run, pool, seed, config.shadow_runs, at_once)
        return Scene(network=outsider.network_of(run), pool=pool, trainer=trainer)
    assert config.client is not None
    pool = curious_server.pool_of(run, config.client, config.non_members, seed)
    seen = curious_server.observed(run, config.client)
    return Scene(
        network=curious_server.network_of(run, seen),
        pool=pool,
        trainer=shadow_uploads.trainer(run, seen, pool, seed, at_once),
    )


def _shadows(
    config: AuditConfig,
    run: Finished,
    scene: Scene,
    rows: np.ndarray,
    examples: Examples,
    out: Path,
) -> Shadows | None:
    """Returns shadow models' scores, from disk as far as they are there."""
    if not config.shadow_runs:
        return None
    decisive = {
        "run": run.name,
        "fingerprints": dict(run.fingerprints),
        "threat": config.threat,
        "client": config.client,
        "non_members": config.non_members,
        "seed": config.seed,
        "asked": rows.tolist(),
        "versions": versions(),
    }
    setting = Setting(
        number=config.shadow_runs,
        at_once=config.shadows_at_once,
        total=scene.pool.size,
        asked=rows,
        seed=config.seed,
    )
    folder = out / SHADOWS / name_of(decisive)
    with _writing(out):
        return trained(
            folder,
            setting,
            scene.trainer(examples),
            lambda line: print(line, flush=True),
        )


def _content(
    config: AuditConfig, run: Finished, pool: Pool, results: Mapping[str, Result]
) -> dict[str, Any]:
    """Returns the content of ``audit.json``."""
    attacks = {name: measured(result, config.seed) for name, result in results.items()}
    dataset = run.federation.dataset
    content: dict[str, Any] = {
        "run": str(run.path),
        "name": run.name,
        "dataset": dataset.name,
        "algorithm": run.config.algorithm,
        "threat": config.threat,
        "client": config.client,
        "pool": {"members": len(pool.rows), "others": len(pool.outside.y)},
        "attacks": attacks,
        "notes": [*run.notes, *too_few(attacks)],
    }
    if config.shadow_runs:
        content["shadows"] = {
            "number": config.shadow_runs,
            "examples": pool.size // 2,
            "score": phi_is(dataset),
        }
        if dataset.task == "regression":
            content["notes"].append(f"LiRA's score in a regression: {phi_is(dataset)}")
    options = {
        name: value
        for name, value in config.__dict__.items()
        if name not in ("run", "out", "data_dir")
    }
    return content | {"options": options, "seed": config.seed} | origin()


def _write(out: Path, content: dict[str, Any], results: Mapping[str, Result]) -> None:
    """Writes the files of an audit, each in one step."""
    file = io.BytesIO()
    np.savez(file, **curves(results))  # type: ignore[arg-type]
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (RESULTS, PAGE, FIGURE):
            (out / name).unlink(missing_ok=True)
        files.write(out / CURVES, file.getvalue())
        write_json(out / RESULTS, content)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write in {out}: {error.strerror}") from error


def _described(content: Mapping[str, Any]) -> str:
    """Returns the figures of an audit for people."""
    who = "an outsider with the final model"
    if content["threat"] == "server":
        who = f"a server with an upload of client {content['client']}"
    lines = [
        f"audit of {content['run']} ({content['algorithm']} on {content['dataset']}): "
        f"{who}; {counted(content['pool']['members'], 'member')}",
        table(content["attacks"]),
        *(f"note: {note}" for note in content["notes"]),
    ]
    return "\n".join(lines)
