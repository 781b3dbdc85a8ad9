"""Checksums of a directory's files, so that damage shows and has a name.

``manifest.json`` lists every other file below the directory with its size and digest,
and carries a digest of itself. It is written last: a directory without one is not
whole.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT, VERSION = "fedsparsify-checkpoint", 1

_CHUNK = 2**20


def _digest(path: Path) -> str:
    """BLAKE2b of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def own_digest(content: dict[str, Any]) -> str:
    """A digest of JSON values, apart from the one under ``digest``."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _files(directory: Path) -> dict[str, Path]:
    """Everything below a directory that is not one, but the manifest."""
    found = {}
    for parent, links, names in os.walk(directory):
        links = [name for name in links if (Path(parent) / name).is_symlink()]
        for name in names + links:
            path = Path(parent) / name
            found[path.relative_to(directory).as_posix()] = path
    found.pop(MANIFEST, None)
    return found


def to_disk(path: Path) -> None:
    """Has the system write out what it still holds of a file or directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(directory: Path, about: dict[str, Any]) -> None:
    """Writes the manifest of a directory; everything in there is on the disk then.

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
    """The content of a manifest, or what is wrong with it; looks at no other file."""
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
    """What is wrong with a directory that was sealed, file by file; nothing if whole.

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
    there, listed = _files(directory), content["files"]
    wrong = [f"{name} is missing" for name in listed if name not in there]
    wrong += [f"{name} does not belong there" for name in there if name not in listed]
    for name in sorted(set(there) & set(listed)):
        complaint = _complaint(there[name], *listed[name])
        if complaint:
            wrong.append(f"{name} {complaint}")
    return wrong


def _complaint(path: Path, size: int, digest: str) -> str:
    """What is wrong with one file; "" if nothing is."""
    if path.is_symlink() or not path.is_file():
        return "is no plain file"
    try:
        found = path.stat().st_size
        if found != size:
            return f"has {found} of {size} bytes" if found < size else "is too long"
        return "" if _digest(path) == digest else "has changed bytes"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
