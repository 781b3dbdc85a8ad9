"""Imports point one way: down the list of layers, and never sideways into files."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fedsparsify_jax

ROOT = Path(fedsparsify_jax.__file__).parent
PACKAGE = "fedsparsify_jax"

# Rooms from the bottom up; a module imports from rows below its own, or its own room.
LAYERS = [
    ("types", "errors", "text_table"),
    ("trees", "schedules"),
    ("masks", "client_map"),
    ("pruning", "method"),
    ("aggregation", "models", "compressors"),
    ("training",),
    ("metrics",),
    ("privacy",),
    ("engine",),
    ("algorithms", "data"),
    ("deploy",),
    ("runner",),
    ("report",),
    ("federate",),
    ("cli",),
    ("__main__",),
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row}
# Third-party packages that only one place may know.
CONFINED = {
    "flax": {"models"},
    "filelock": {"runner/storage/lock.py"},
    "orbax": {"runner/storage/checkpoints.py"},
    "safetensors": {"deploy/wire/container.py", "runner/storage/model_files.py"},
    "coremltools": {"deploy"},
    "onnx": {"deploy"},
    "onnxruntime": {"deploy"},
    "flatbuffers": {"deploy"},
    "tenseal": {"deploy"},
    "zstandard": {"deploy/wire/container.py"},
    "dp_accounting": {"privacy/accounting.py"},
    "datasets": {"data"},
    "nibabel": {"data"},
    "cyclopts": {"cli.py"},
    "rich": {"runner", "federate"},
    "optax": {"training", "engine", "algorithms"},
    "PIL": {"data", "report"},
    "jinja2": {"report"},
    "pandas": {"report"},
    "scipy": {"report"},
    "tensorboardX": {"runner/display/loggers.py"},
    "flwr": {"federate"},
    "nvflare": {"federate"},
    "cryptography": {"federate"},
    "wandb": {"runner/display/loggers.py"},
}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def layer(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    unknown = {layer(path) for path, _ in modules()} - set(RANK) - {"__init__"}
    assert not unknown


def test_imports_point_down():
    upward, seen = [], 0
    for path, tree in modules():
        if path == Path("__init__.py"):
            continue  # the list of public names
        for name in imported(tree):
            if name.split(".")[0] != PACKAGE:
                continue
            target = name.split(".")[1]
            seen += 1
            same_package = target == layer(path) and len(path.parts) > 1
            if not same_package and RANK[target] >= RANK[layer(path)]:
                upward.append(f"{path} imports {name}")
    assert seen > 50
    assert not upward


def test_heavy_packages_stay_where_they_belong():
    strays = []
    for path, tree in modules():
        places = {path.parts[0], path.as_posix()}
        for name in imported(tree):
            allowed = CONFINED.get(name.split(".")[0])
            if allowed is not None and not places & allowed:
                strays.append(f"{path} imports {name}")
    assert not strays


def test_the_core_does_no_input_or_output():
    shell = {"runner", "report", "federate", "cli", "__main__"}
    shell |= {"data", "deploy", "__init__"}
    for path, tree in modules():
        if layer(path) in shell:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("open", "print", "input"), path


def test_algorithms_do_not_import_one_another():
    for path, tree in modules():
        if layer(path) != "algorithms" or path.name in ("__init__.py", "registry.py"):
            continue
        for name in imported(tree):
            if path.name == "one_shot.py" and "fedsparsify_global" in name:
                continue  # OneShot is Global under another schedule
            if "._shared" in name:
                continue
            assert not name.startswith(f"{PACKAGE}.algorithms"), path


def file_of(name: str) -> Path | None:
    """The file that an import of the package reads."""
    parts = name.split(".")[1:]
    while parts:
        path = Path(*parts)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if (ROOT / candidate).exists():
                return candidate
        parts = parts[:-1]
    return None


def imports_of_files():
    return {
        path: {
            target
            for name in imported(tree)
            if name.split(".")[0] == PACKAGE
            and (target := file_of(name)) not in (None, path, Path("__init__.py"))
        }
        for path, tree in modules()
        if path != Path("__init__.py")
    }


def test_files_do_not_import_in_circles():
    order = list(TopologicalSorter(imports_of_files()).static_order())
    assert order.index(Path("trees.py")) < order.index(Path("engine/round.py"))


@pytest.mark.parametrize("house", ["data", "deploy", "models", "runner"])
def test_rooms_of_a_folder_do_not_import_in_circles(house):
    rooms = {}
    for path, targets in imports_of_files().items():
        if path.parts[0] != house or path.name == "__init__.py" == path.parts[1]:
            continue
        room = rooms.setdefault(path.parts[1], set())
        room |= {t.parts[1] for t in targets if t.parts[0] == house}
        room -= {path.parts[1], "__init__.py"}
    assert len(list(TopologicalSorter(rooms).static_order())) > 2
