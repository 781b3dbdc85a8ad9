"""Bad options, corrupted files and messages by the thousand: refused, or harmless.

Claim: whatever is given for an option, in Python, to a sweep or on the command line,
it resolves or one line names what is wrong; whatever happens to a file of data, one
line names it, or data come of it that can be trained on (of npz files and stores, which
have checksums: the data that were written); whatever arrives as a message, one line
says what is wrong with it, or it is a model and masks that fit one another. Nothing
else: no other exception, no hang, no label out of range.

Work: configurations with 1 to 3 options of random types and values, 6 in 10 given to
`resolve`, 2 to a sweep, 2 to the command line; files of every source of
`tests/damaged.py`, small and valid, with 1 to 3 accidents to one of them: bits flipped,
bytes inserted, cut out, copied or overwritten, truncation, a foreign file. Model files
of every format (`tests/damaged_models.py`) have the same accidents, and messages of
every kind (`tests/messages.py`) have them or an edited header. An input that takes more
than 10 seconds twice counts as hung.

    python benchmarks/soak_inputs.py --jobs 2 --out FILE.json   # about three minutes
    python benchmarks/soak_inputs.py --count 100 --seed 1
    python benchmarks/soak_inputs.py --count 100000 --kinds models
"""

import argparse
import collections
import contextlib
import functools
import io
import logging
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import ROOT, write_result

sys.path.insert(0, str(ROOT / "tests"))

import damaged
import damaged_models
import datasets
import messages as wire_messages

from fedsparsify_jax import cli
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import Choice, flag
from fedsparsify_jax.runner.options.sweep_config import OPTIONS, SweepConfig, values
from fedsparsify_jax.runner.options.sweep_grid import trials

SECONDS = 10.0
# The hub's reader takes 0.1 s a table, everything else a hundredth of that.
SHARES = {"images in parquet": 0.08, "texts": 0.08, "CIFAR, binary": 0.08}
Counts = dict[str, Any]
_OUTCOMES = ("refused", "accepted", "wrong", "hung")
_SAID = ("count", "seed", "jobs")


class Hung(BaseException):
    """Nothing that loaders catch."""


def _stop(*_: Any) -> None:
    raise Hung


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    old = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Tally:
    """What came of inputs, and of which ones nothing good."""

    def __init__(self) -> None:
        self.counts = collections.Counter(dict.fromkeys(_OUTCOMES, 0))
        self.examples: list[str] = []

    def count(self, what: str, attempt: Callable[[], str]) -> None:
        """Adds what comes of an attempt: its answer, or that it is wrong or hung."""
        try:
            try:
                with _limited():
                    answer = attempt()
            except Hung:  # or the machine was: a second time tells
                with _limited():
                    answer = attempt()
            self.counts[answer] += 1
        except Hung:
            self._bad("hung", what)
        except Exception as error:
            self._bad("wrong", f"{what}: {type(error).__name__}: {error!s:.200}")

    def _bad(self, kind: str, what: str) -> None:
        self.counts[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {what}")

    def result(self) -> Counts:
        """The counts, with up to 20 inputs that went wrong."""
        return {**self.counts, "examples": self.examples}


_NAMES = sorted(
    name
    for known in schema.read(TrainConfig).values()
    for rule in known.rules
    if isinstance(rule, Choice)
    for name in rule.names
)
_ODD: list[Any] = [
    *(None, True, False, "", "\0", "a\0b", "a\nb", "\udcff", "x" * 5000, "1" * 5000),
    *(10**400, 10**5000, 2**31, 2**32, -1, 0, 0.0, 1.0, 1e300, 1e-300, 1 - 1e-12),
    *(float("nan"), float("inf"), -float("inf"), "nan", "1e999", "0x10", "1_000"),
    *(b"x", (), [1], {}, {1: 2}, object, 1j, Path("a"), Path("a\0b"), len, range(3)),
    *(np.int64(3), np.float32(0.5), np.nan, np.array([1, 2]), np.bool_(True)),
    *("hf:a/b", "hf:", "hf:a/b,c", "hf:a/b,label=", "3,2,1", "1,,2", "auto", "host:1"),
]


def _misspelt(rng: random.Random, name: str) -> str:
    place = rng.randrange(len(name))
    return name[:place] + rng.choice(("", "x", name[place] * 2)) + name[place + 1 :]


def _value(rng: random.Random) -> Any:
    """Anything at all."""
    match rng.randrange(7):
        case 0:
            return rng.randrange(-3, 300)
        case 1:
            return rng.choice((-1, 1)) * 2 ** rng.randrange(80)
        case 2:
            return rng.uniform(-0.5, 1.5)
        case 3:
            return rng.choice(_NAMES)
        case 4:
            return _misspelt(rng, rng.choice(_NAMES))
        case 5:
            codes = (rng.choice((range(128), range(0x11000)))[:] for _ in range(6))
            return "".join(chr(rng.choice(some)) for some in codes)
    return rng.choice(_ODD)


def _word(rng: random.Random) -> str:
    value = _value(rng)
    try:
        return str(value).replace("\0", "")
    except ValueError:  # a number too long to be written
        return "9" * 6000


def _one_line(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except InputError as error:
        assert str(error).isprintable(), "more than a line"
        return "refused"
    return "accepted"


def _trained(given: dict[str, Any]) -> str:
    def attempt() -> None:
        found = resolve(TrainConfig(**given))
        assert resolve(found) == found, "resolved twice it is another"
        for field, known in schema.read(TrainConfig).items():
            value = getattr(found, field)
            values = value if known.several else (value,)
            assert all(v is None or isinstance(v, known.kind) for v in values), field

    return _one_line(attempt)


def _said(arguments: list[str]) -> str:
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(cli, "train", resolve),
        mock.patch.object(cli, "sweep", lambda config: trials(values(config))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.main(arguments)
    assert out.getvalue() == "" and status in (0, 2)
    if not status:
        return "accepted"
    said = err.getvalue()
    assert said.startswith("fedsparsify: error: ") and said.endswith("\n"), said
    assert said[:-1].isprintable(), "more than a line"
    return "refused"


def configurations(count: int, seed: int) -> Counts:
    """Gives options random values.

    Args:
      count: configurations.
      seed: of all that is random.

    Returns:
      How many were refused in one line and accepted, how many went wrong or hung, and
      examples of these.
    """
    rng, tally = random.Random(seed), Tally()
    fields, of_sweep = sorted(schema.read(TrainConfig)), [*OPTIONS, "seeds", "devices"]
    for number in range(count):
        how = number % 10
        if how < 6:
            chosen = rng.sample(fields, rng.randrange(1, 4))
            given = {field: _value(rng) for field in chosen}
            tally.count(f"train {chosen}", lambda given=given: _trained(given))
        elif how < 8:
            chosen = rng.sample(of_sweep, rng.randrange(1, 4))
            given = {
                field: rng.choice((_value(rng), (_word(rng),), (_word(rng), "1,2")))
                for field in chosen
            }
            tally.count(
                f"sweep {chosen}",
                lambda given=given: _one_line(
                    lambda: trials(values(SweepConfig(**given)))
                ),
            )
        else:
            arguments = [rng.choice(("train", "sweep"))]
            for field in rng.sample(fields, rng.randrange(1, 3)):
                arguments.append(f"{flag(field)}={_word(rng)}")
            tally.count(" ".join(arguments)[:200], lambda words=arguments: _said(words))
    return tally.result()


@contextlib.contextmanager
def _quiet_hub(directory: Path) -> Iterator[None]:
    """A cache of its own, offline, without a line on standard error a file."""
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    with (
        mock.patch.object(datasets.config, "HF_DATASETS_CACHE", directory),
        mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True),
    ):
        yield


def _corrupted(name: str, count: int, rng: random.Random, tally: Tally) -> None:
    source = damaged.SOURCES[name]
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        home = Path(made)
        directory = home / "damaged"
        (home / "whole").mkdir()
        with _quiet_hub(home / "cache"):
            files = damaged.written(source, home / "whole")
            original = source.load(home / "whole")
            for number in range(count):
                file = rng.choice(sorted(files))
                changed = damaged.damage(rng, files[file])
                damaged.put(files | {file: changed}, directory)
                tally.count(
                    f"{name}, {file}, input {number}",
                    lambda: damaged.outcome(source, directory, original),
                )
                if number % 50 == 0:
                    shutil.rmtree(home / "cache", ignore_errors=True)


def files(count: int, seed: int) -> Counts:
    """Damages files of every source and loads them.

    Args:
      count: files.
      seed: of all that is random.

    Returns:
      As from `configurations`, and the counts of every source.
    """
    rng, total, by_source = random.Random(seed), Tally(), {}
    few = {name: int(share * count) for name, share in SHARES.items()}
    others = [name for name in damaged.SOURCES if name not in few]
    rest = count - sum(few.values())
    for place, name in enumerate(others):
        few[name] = rest // len(others) + (place < rest % len(others))
    for name, number in few.items():
        tally = Tally()
        _corrupted(name, number, rng, tally)
        by_source[name] = dict(tally.counts)
        total.counts.update(tally.counts)
        total.examples += tally.examples
    return {**total.result(), "by_source": by_source}


def models(count: int, seed: int) -> Counts:
    """Damages model files and reads them.

    Args:
      count: files.
      seed: of all that is random.

    Returns:
      As from `files`.
    """
    rng, total, by_source = random.Random(seed), Tally(), {}
    kinds = list(damaged_models.MODEL_FILES.items())
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        for place, (name, file) in enumerate(kinds):
            tally, content = Tally(), file.content
            path = Path(made) / f"model.{file.format}"
            few = count // len(kinds) + (place < count % len(kinds))
            for number in range(few):
                path.write_bytes(damaged.damage(rng, content))
                tally.count(
                    f"{name}, input {number}",
                    functools.partial(damaged_models.outcome, path),
                )
            by_source[name] = dict(tally.counts)
            total.counts.update(tally.counts)
            total.examples += tally.examples
    return {**total.result(), "by_source": by_source}


def messages(count: int, seed: int) -> Counts:
    """Damages messages of every kind and decodes them.

    Args:
      count: messages.
      seed: of all that is random.

    Returns:
      As from `configurations`.
    """
    rng, tally = random.Random(seed), Tally()
    kinds = list(wire_messages.examples().items())
    for number in range(count):
        name, (message, receiver) = kinds[number % len(kinds)]
        spoil = rng.choice((damaged.damage, wire_messages.edited))
        changed = spoil(rng, message)
        tally.count(
            f"message {name}, input {number}",
            lambda changed=changed, receiver=receiver: wire_messages.outcome(
                changed, receiver
            ),
        )
    return tally.result()


KINDS: dict[str, Callable[[int, int], Counts]] = {
    "configurations": configurations,
    "files": files,
    "models": models,
    "messages": messages,
}


def _added(one: Any, other: Any) -> Any:
    """Counts added up, name by name, and lists joined."""
    if not isinstance(one, dict):
        return one + other
    return {name: _added(one[name], other[name]) for name in one}


def in_parallel(
    count: int, seed: int, jobs: int, kinds: list[str]
) -> dict[str, Counts]:
    """Runs kinds of input, each divided among processes.

    Args:
      count: of each kind.
      seed: of the first process; the others have the following ones.
      jobs: processes.
      kinds: keys of `KINDS`.
    """
    shares = [count // jobs + (job < count % jobs) for job in range(jobs)]
    seeds = range(seed, seed + jobs)
    chosen = {kind: KINDS[kind] for kind in kinds}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        found = {kind: pool.map(soak, shares, seeds) for kind, soak in chosen.items()}
        return {kind: functools.reduce(_added, parts) for kind, parts in found.items()}


def _print(what: str, found: Counts) -> None:
    counts = (f"{found[kind]:,} {kind}" for kind in _OUTCOMES)
    print(f"{what}: {', '.join(counts)}")
    for example in found["examples"][:20]:
        print(f"  {example}")


def main() -> None:
    """Runs all kinds and prints their counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS])
    options = parser.parse_args()
    result: dict[str, Any] = {name: getattr(options, name) for name in _SAID}
    start = time.perf_counter()
    result |= in_parallel(options.count, options.seed, options.jobs, options.kinds)
    result["seconds"] = round(time.perf_counter() - start, 1)
    for what in options.kinds:
        _print(what, result[what])
        for name, counts in result[what].get("by_source", {}).items():
            print(f"  {name}: {counts}")
    if options.out:
        write_result(options.out, result)
    if any(result[what][bad] for what in options.kinds for bad in ("wrong", "hung")):
        sys.exit(1)


if __name__ == "__main__":
    main()
