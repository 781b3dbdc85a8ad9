"""A federation as a project that Flower runs."""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.federate import forwarding
from fedsparsify_jax.federate.flower import guide

PACKAGE = "fedsparsify_federation"
"""The Python package of a project."""
_FOLDER = Path(__file__).parent
_COPIED = {
    "client_app.py": _FOLDER / "client_app.py",
    "records.py": _FOLDER / "records.py",
    "forwarding.py": Path(forwarding.__file__),
}
_SERVER = '''"""The server, which needs fedsparsify_jax."""

from fedsparsify_jax.federate.flower import server_app

app = server_app.app  # `flwr run` looks for an assignment
'''
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

Scalar = str | int | float | bool


def write(
    directory: Path,
    settings: Mapping[str, Scalar],
    fill: Callable[[Path], None] = lambda whole: None,
) -> Path:
    """Writes the project of a federation, all of it or nothing.

    Args:
      directory: where; it is made, or is empty.
      settings: what the server is given (``run_config`` in Flower).
      fill: writes further files into a directory that then becomes the project.

    Returns:
      The directory.

    Raises:
      InputError: for a directory with files, and settings that Flower cannot take.
    """
    files = _files(settings)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is not empty: choose another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for name, text in files.items():
            (whole / name).parent.mkdir(exist_ok=True)
            (whole / name).write_text(text, encoding="utf-8")
        fill(whole)
        whole.chmod(0o755)
        whole.replace(directory)
    except BaseException:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    return directory


def _files(settings: Mapping[str, Scalar]) -> dict[str, str]:
    """Returns the files of a project: name -> text."""
    files = {
        "pyproject.toml": _pyproject(settings),
        "README.md": guide.text(),
        f"{PACKAGE}/__init__.py": '"""A federation over Flower."""\n',
        f"{PACKAGE}/server_app.py": _SERVER,
    }
    for name, path in _COPIED.items():
        text = path.read_text(encoding="utf-8")
        files[f"{PACKAGE}/{name}"] = _standing_alone(text)
    return files


def _standing_alone(text: str) -> str:
    """Returns a file's text with its imports from the project's own package."""
    return re.sub(r"from fedsparsify_jax\.federate(\.flower)? import", _IMPORT, text)


_IMPORT = f"from {PACKAGE} import"


def _pyproject(settings: Mapping[str, Scalar]) -> str:
    config = "\n".join(f"{_key(k)} = {_value(k, v)}" for k, v in settings.items())
    return f"""[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "fedsparsify-federation"
version = "1.0.0"
description = "A federation of fedsparsify_jax over Flower"
license = "Apache-2.0"
requires-python = ">=3.11"
dependencies = ["flwr>=1.42,<1.43"]

[tool.setuptools]
packages = ["{PACKAGE}"]

[tool.flwr.app]
publisher = "local"

[tool.flwr.app.components]
serverapp = "{PACKAGE}.server_app:app"
clientapp = "{PACKAGE}.client_app:app"

[tool.flwr.app.config]
{config}
"""


def _key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise InputError(
            f"Flower cannot take the setting {shown(key)}: letters, digits, - and _"
        )
    return key


def _value(key: str, value: Scalar) -> str:
    """Returns a scalar in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        # TOML's strings are JSON's, but for DEL and pairs of surrogates.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    kinds = "a text, a number of 64 bits or a truth value"
    raise InputError(f"Flower cannot take {key}={shown(value)}: it needs {kinds}")
