"""A process that runs contestants of `inference.py`, one request a line.

It runs in whatever environment has the engines, so each is imported by its builder. A
request is JSON: ``name`` of the contestant (an engine of `ENGINES`, a form), ``folder``
of the model, ``threads``, ``batch``, ``seconds`` to spend. The answer has the seconds
of every call, or a ``complaint``. Outputs are compared before the first timing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]
CLOSE, WARM, FEWEST = 1e-4, 1, 2


def _arrays(folder: Path, form: str) -> tuple[list[Any], list[dict[str, np.ndarray]]]:
    """The layers of a network, and the arrays of each."""
    layers = json.loads((folder / f"{form}.json").read_text())
    own: list[dict[str, np.ndarray]] = [{} for _ in layers]
    with np.load(folder / f"{form}.npz") as archive:
        for name in archive.files:
            number, key = name.split(".")
            own[int(number)][key] = archive[name]
    return layers, own


def _onnxruntime(folder: Path, form: str, threads: int, batch: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        folder / f"{form}.onnx", options, providers=["CPUExecutionProvider"]
    )
    return lambda x: session.run(None, {"input": x})[0]


def _openvino(folder: Path, form: str, threads: int, batch: int) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / f"{form}.onnx")
    sizes = list(model.input(0).partial_shape)[1:]
    model.reshape([batch, *(size.get_length() for size in sizes)])
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 is its choice on some machines
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        request.infer([x], share_inputs=True)
        return request.get_output_tensor().data

    return run


def _litert(folder: Path, form: str, threads: int, batch: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter
    from inference_tflite import to_tflite

    content = to_tflite(*_arrays(folder, form), batch)
    engine = Interpreter(model_content=content, num_threads=threads)
    engine.allocate_tensors()
    source = engine.get_input_details()[0]["index"]
    target = engine.get_output_details()[0]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        engine.set_tensor(source, x)
        engine.invoke()
        return engine.get_tensor(target)

    return run


def _deepsparse(folder: Path, form: str, threads: int, batch: int) -> Run:
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    import deepsparse

    path = str(folder / f"{form}.onnx")
    engine = deepsparse.compile_model(path, batch_size=batch, num_cores=threads)
    return lambda x: engine.run([x])[0]


def _scipy(folder: Path, form: str, threads: int, batch: int) -> Run:
    """SciPy multiplies in one thread; activations lie batch-last."""
    import scipy.sparse

    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    for node, own in zip(*_arrays(folder, form), strict=True):
        kind = node["kind"]
        if kind == "dense":
            matrix = scipy.sparse.csr_matrix(own["kernel"].T)
            bias = own.get("bias", np.zeros(matrix.shape[0], np.float32))[:, None]
            steps.append(lambda x, m=matrix, b=bias: m @ x + b)
        elif kind == "affine":
            scale = own.get("scale", np.float32(1))
            shift = own.get("shift", np.float32(0))
            if scale.ndim or shift.ndim:
                raise ValueError("only normalization with one mean and deviation")
            steps.append(lambda x, a=scale, b=shift: x * a + b if b else x * a)
        elif kind == "take":
            steps.append(lambda x, places=own["indices"]: x[places])
        elif kind == "relu":
            steps.append(lambda x: np.maximum(x, 0, out=x))
        elif kind == "cast":
            steps.append(lambda x: np.ascontiguousarray(x, np.float32))
        elif kind not in ("input", "reshape"):
            raise ValueError(f"no CSR form of the layer {kind}")

    def run(x: np.ndarray) -> np.ndarray:
        result = x.reshape(len(x), -1).T
        for step in steps:
            result = step(result)
        return result.T

    return run


def _numba(folder: Path, form: str, threads: int, batch: int) -> Run:
    from inference_numba import network

    return network(*_arrays(folder, form), batch, threads)


def _xla(folder: Path, form: str, threads: int, batch: int) -> Run:
    from fedsparsify_jax import deploy
    from fedsparsify_jax.deploy.running import of_saved

    return of_saved(deploy.load(folder / f"{form}.safetensors")).run


def _lists(folder: Path, form: str, threads: int, batch: int) -> Run:
    """The trainer's index lists for every dense layer, of least padded size."""
    import jax
    import jax.numpy as jnp

    from fedsparsify_jax import deploy
    from fedsparsify_jax.models.adapters.layers import layers_of
    from fedsparsify_jax.training import compact
    from fedsparsify_jax.training.compact.ellpack import rows_needed
    from fedsparsify_jax.training.compact.plan import SLOTS

    saved = deploy.load(folder / "full.safetensors")
    variables = jax.tree.map(jnp.asarray, saved.variables)
    masks = jax.tree.map(jnp.asarray, saved.masks)
    example = jax.ShapeDtypeStruct((1, *saved.about["input_shape"]), jnp.uint8)
    stages = compact.stages_of(layers_of(saved.model.apply, variables, example))
    lists = []
    for stage in stages:
        mask = masks["params"]
        for name in stage.path:
            mask = mask[name]
        sizes = [(int(rows_needed(mask["kernel"], slots)), slots) for slots in SLOTS]
        rows, slots = min(sizes, key=lambda size: size[0] * size[1])
        lists.append(compact.Lists(rows, slots))
    units = (None,) * (len(stages) + 1)
    plan = compact.Plan(units, tuple(lists))
    small_form = compact.CompactForm(saved.model.apply, stages, plan)
    index = small_form.index(masks)
    small, apply = small_form.compact(index, variables), small_form.apply(index)
    forward = jax.jit(lambda x: apply(small, x)[0])
    return lambda x: np.asarray(forward(x))


ENGINES: dict[str, Callable[[Path, str, int, int], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "deepsparse": _deepsparse,
    "scipy csr": _scipy,
    "numba": _numba,
    "xla": _xla,
    "xla lists": _lists,
}


def _checked(request: dict[str, Any]) -> tuple[Run, np.ndarray, float]:
    """A contestant, its inputs, and how far its outputs are from the expected ones."""
    engine, form = request["name"].split(", ")
    folder, batch = Path(request["folder"]), request["batch"]
    x = np.load(folder / "x.npy")[:batch]
    expected = np.load(folder / "expected.npy")[:batch]
    run = ENGINES[engine](folder, form, request["threads"], batch)
    found = np.array(run(x))
    apart = float(np.max(np.abs(found - expected)) / np.std(expected))
    if not apart <= CLOSE:
        raise ValueError(f"outputs differ by {apart:.1e} of their deviation")
    return run, x, apart


def _timed(run: Run, x: np.ndarray, seconds: float) -> list[float]:
    """Seconds of single calls, as many as the time allows."""
    for _ in range(WARM):
        run(x)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    threads = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print what they like
    # XLA has no option for threads: it makes one for each core it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    ready: dict[tuple[Any, ...], Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = (request["name"], request["folder"], request["batch"])
        answer: dict[str, Any] = {}
        try:
            if key not in ready:
                ready = {k: v for k, v in ready.items() if k[1:] == key[1:]}
                ready[key] = _checked(request)
            run, x, apart = ready[key]
            answer = {"apart": apart, "seconds": _timed(run, x, request["seconds"])}
        except Exception as error:  # every engine has kinds of its own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            answer = {"complaint": f"{type(error).__name__}: {reason}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
