"""Checksums of a directory's files, which detect damage and name it.

``manifest.json`` lists every other file below the directory with its size and digest,
and carries a digest of itself. It is written last: a directory without one is not
whole.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT, VERSION = "fedsparsify-checkpoint", 1


def _digest(path: Path) -> str:
    """Returns BLAKE2b of a file's bytes."""
    with path.open("rb") as file:
        new = functools.partial(hashlib.blake2b, digest_size=16)
        return hashlib.file_digest(file, new).hexdigest()


def own_digest(content: dict[str, Any]) -> str:
    """Returns a digest of JSON values, but for the one under ``digest``."""
    values = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _files(directory: Path) -> dict[str, Path]:
    """Returns all files and links below a directory, but the manifest, by name."""
    files = {}
    for parent, folders, names in os.walk(directory):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in names + links:
            path = Path(parent) / name
            files[path.relative_to(directory).as_posix()] = path
    files.pop(MANIFEST, None)
    return files


def to_disk(path: Path) -> None:
    """Flushes a file or directory from the system's memory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(directory: Path, about: dict[str, Any]) -> None:
    """Writes the manifest of a directory, and flushes all of it to the disk.

    Args:
      directory: complete but for the manifest.
      about: JSON values to keep in it.
    """
    files = {}
    for name, path in sorted(_files(directory).items()):
        to_disk(path)
        files[name] = [path.stat().st_size, _digest(path)]
    content = {"format": FORMAT, "version": VERSION, "about": about, "files": files}
    text = json.dumps(content | {"digest": own_digest(content)}, indent=1) + "\n"
    partial = directory / (MANIFEST + ".partial")
    partial.write_text(text, encoding="utf-8")
    to_disk(partial)
    os.replace(partial, directory / MANIFEST)
    for parent, _, _ in os.walk(directory):
        to_disk(Path(parent))


def read(directory: Path) -> dict[str, Any] | str:
    """Returns the content of a manifest, or what is wrong with it."""
    path = directory / MANIFEST
    if not path.is_file():
        return f"{MANIFEST} is missing"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["version"] != VERSION:
            return f"{MANIFEST} is of another version or program"
        if content["digest"] != own_digest(content):
            return f"{MANIFEST} is damaged"
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    return dict(content)


def damage(directory: Path) -> list[str]:
    """Returns what is wrong with a sealed directory, file by file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name:
      ...     one = Path(name) / "one"
      ...     _ = one.write_text("whole")
      ...     seal(Path(name), {})
      ...     before = damage(Path(name))
      ...     _ = one.write_text("who")
      ...     before, damage(Path(name))
      ([], ['one has 3 of 5 bytes'])
    """
    content = read(directory)
    if isinstance(content, str):
        return [content]
    files, listed = _files(directory), content["files"]
    wrong = [f"{name} is missing" for name in listed if name not in files]
    wrong += [f"{name} does not belong there" for name in files if name not in listed]
    both = sorted(files.keys() & listed.keys())
    complaints = {name: _complaint(files[name], *listed[name]) for name in both}
    return wrong + [f"{name} {why}" for name, why in complaints.items() if why]


def _complaint(path: Path, size: int, digest: str) -> str:
    """Returns what is wrong with a file; "" if nothing is."""
    if path.is_symlink() or not path.is_file():
        return "is no plain file"
    try:
        actual = path.stat().st_size
        if actual != size:
            return f"has {actual} of {size} bytes" if actual < size else "is too long"
        return "" if _digest(path) == digest else "has changed bytes"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
