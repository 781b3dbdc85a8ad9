"""The trained models that `inference.py` times, made once and kept as files.

* mlp: FedSparsify-Global with 10 FashionMNIST clients, 20 rounds of 4 epochs, one
  run for each sparsity.
* cnn: a federation of it takes hours on two cores, and the time of an inference
  depends on masks and shapes alone. So one model is trained centrally on a subset:
  SGD with momentum, purged by the library's `pruning.prune` (magnitudes, one
  threshold, within the masks before) to one sparsity after the other, with epochs of
  tuning after each. What stands after them is the model of that sparsity.

A folder of each model has the full and the compacted network as safetensors, ONNX
(zeros stored) and plain layers, inputs, the expected outputs, and the accuracy.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import CACHE, ROOT

from fedsparsify_jax import data, deploy, masks, models, pruning
from fedsparsify_jax.deploy.graph import nodes
from fedsparsify_jax.deploy.running import of_saved
from fedsparsify_jax.deploy.saved import compacted, graph_of
from fedsparsify_jax.training.losses import cross_entropy

FEDERATED = ["--num-clients", "10", "--rounds", "20", "--local-epochs", "4"]
EXAMPLES, BATCH, RATE, MOMENTUM = 6000, 64, 0.02, 0.9
DENSE_EPOCHS, TUNING_EPOCHS = 5, 2
TESTED = 1000
Step = Callable[..., Any]


def folder_of(model: str, sparsity: float, dataset: str) -> Path:
    """The place of a trained model."""
    return CACHE / "inference" / f"{dataset}-{model}-{sparsity}"


def about(folder: Path) -> dict[str, Any]:
    """Accuracy and kept weights of a trained model."""
    found: dict[str, Any] = json.loads((folder / "about.json").read_text())
    return found


def trained(model: str, sparsities: tuple[float, ...], dataset: str) -> None:
    """Makes the folders of a model that are not there yet."""
    missing = [
        s
        for s in sparsities
        if not (folder_of(model, s, dataset) / "about.json").exists()
    ]
    if not missing:
        return
    if model == "cnn":
        _chain(sorted(sparsities), dataset)
        return
    for sparsity in missing:
        _federated(model, sparsity, dataset)


def _federated(model: str, sparsity: float, dataset: str) -> None:
    folder = folder_of(model, sparsity, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"training {model} to {sparsity:.0%} ...", file=sys.stderr, flush=True)
    program = [sys.executable, "-m", "fedsparsify_jax"]
    command = [*program, "train", "--dataset", dataset, "--model", model, *FEDERATED]
    command += ["--final-sparsity", str(sparsity), "--out", str(folder / "run")]
    if not (folder / "run" / "summary.json").exists():
        shutil.rmtree(folder / "run", ignore_errors=True)  # of a run that was killed
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    file = folder / "run.safetensors"
    export = [*program, "export", str(folder / "run"), "-o", str(file)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    _write(folder, deploy.load(file), dataset)


def _stepper(model: models.Model) -> Step:
    """SGD with momentum under masks."""

    def loss(params: Any, others: Any, x: Any, y: Any, key: Any) -> Any:
        variables = {**others, "params": params}
        outputs, changed = model.apply(variables, x, train=True, key=key)
        return jnp.mean(cross_entropy(outputs, y)), changed

    def step(state: Any, mask: Any, x: Any, y: Any, key: Any) -> Any:
        variables, speed = state
        others = {k: v for k, v in variables.items() if k != "params"}
        slopes, changed = jax.grad(loss, has_aux=True)(
            variables["params"], others, x, y, key
        )
        speed = jax.tree.map(lambda v, g: MOMENTUM * v + g, speed, slopes)
        params = jax.tree.map(
            lambda w, v, m: jnp.where(m, w - RATE * v, 0.0),
            variables["params"],
            speed,
            mask,
        )
        return {**changed, "params": params}, speed

    return jax.jit(step, donate_argnums=0)


def _chain(sparsities: list[float], dataset: str) -> None:
    """Trains the cnn, and purges it to one sparsity after the other."""
    source = data.load(dataset)
    examples = data.balanced_subset(source.train, EXAMPLES)
    shape, dtype = examples.x.shape[1:], str(examples.x.dtype)
    normal = source.normalization
    about = {
        "model": "cnn",
        "input_shape": list(shape),
        "input_dtype": dtype,
        "num_classes": source.num_classes,
        "normalization": {"mean": normal.mean, "std": normal.std},
        "dataset": dataset,
    }
    model = deploy.saved.network(about)
    step, key = _stepper(model), jax.random.key(0)
    variables = model.init(key)
    state = variables, jax.tree.map(jnp.zeros_like, variables["params"])
    mask = masks.ones_like(variables["params"])
    for sparsity in sparsities:
        scores = pruning.magnitude(state[0]["params"])
        mask = pruning.prune(scores, sparsity, within=mask)
        for epoch in range(TUNING_EPOCHS if sparsity else DENSE_EPOCHS):
            key, order_key = jax.random.split(key)
            order = np.asarray(jax.random.permutation(order_key, EXAMPLES))
            for start in range(0, EXAMPLES - BATCH + 1, BATCH):
                rows = order[start : start + BATCH]
                key, own = jax.random.split(key)
                state = step(state, mask, examples.x[rows], examples.y[rows], own)
            print(f"cnn {sparsity:.0%} epoch {epoch + 1}", file=sys.stderr, flush=True)
        folder = folder_of("cnn", sparsity, dataset)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, deploy.saved_model(state[0], about), dataset)


def _write(folder: Path, saved: deploy.SavedModel, dataset: str) -> None:
    """All files of a model; the last says that they are complete."""
    for form, one in (("full", saved), ("compact", compacted(saved))):
        deploy.save(folder / f"{form}.safetensors", one)
        deploy.save(folder / f"{form}.onnx", one, dense=True)
        graph = graph_of(one)
        (folder / f"{form}.json").write_text(json.dumps(nodes.describe(graph)))
        arrays: dict[str, Any] = {
            f"{number}.{name}": np.asarray(array)
            for number, node in enumerate(graph)
            for name, array in node.arrays.items()
        }
        np.savez(folder / f"{form}.npz", **arrays)
    test = data.load(dataset).test
    x, y = np.asarray(test.x[:TESTED]), np.asarray(test.y[:TESTED])
    outputs = of_saved(saved).run(x)
    np.save(folder / "x.npy", x[:128])
    np.save(folder / "expected.npy", outputs[:128])
    found = {
        "accuracy": float(np.mean(outputs.argmax(1) == y)),
        "tested": len(y),
        "layers": {
            name: [int(np.count_nonzero(array)), int(np.size(array))]
            for name, array in _kernels(saved)
        },
    }
    (folder / "about.json").write_text(json.dumps(found))
    print(f"{folder.name}: {found}", file=sys.stderr, flush=True)


def _kernels(saved: deploy.SavedModel) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(saved.variables["params"])
    return [(path[-2].key, leaf) for path, leaf in leaves if path[-1].key == "kernel"]
