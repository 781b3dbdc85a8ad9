"""The past of a run's global model: what it has forgotten, and models that help it.

In the run directory are, for every evaluated round, ``forgetting/round_000010.npz``
(--forgetting), and, every so many rounds, a model in ``past/round_000010``
(--fusion-every). A run that goes on reads those of the rounds before.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.metrics import fusion, inference_flops, layer_flops
from fedsparsify_jax.metrics.forgetting import change, is_right, is_right_of_clients
from fedsparsify_jax.metrics.prediction import examples_at_once, outputs_of
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.storage.model_files import load_model, save_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory
from fedsparsify_jax.types import ClientData, Examples, RoundInfo, State, Variables

_FIELDS = ("forgotten", "learned", "client_forgotten")


def history(
    config: TrainConfig, federation: Federation, directory: RunDirectory, clients: Any
) -> "History | None":
    """Returns what keeps the past of a run; None unless the run wants some of it."""
    if config.forgetting == "off" and config.fusion_every is None:
        return None
    return History(config, federation, directory, clients)


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round_"))


class History:
    """Observes the global model of round after round.

    It is told the state of evaluated rounds, and looks at it when their record is
    written, so that this takes no part in the seconds of a round.

    Args of the constructor:
      config: resolved.
      federation: what is trained.
      directory: of the run.
      clients: all clients' data, or none of them.

    Raises:
      InputError: for a regression.
    """

    def __init__(
        self,
        config: TrainConfig,
        federation: Federation,
        directory: RunDirectory,
        clients: ClientData,
    ):
        validation = federation.dataset.validation
        assert validation is not None  # `resolve` asks for one
        if federation.dataset.task != "classification":
            raise InputError(
                "--forgetting and --fusion-every need classes: the targets are numbers"
            )
        self._config, self._federation = config, federation
        self._directory, self._clients = directory, clients
        self._sets = {"validation": validation, "test": federation.dataset.test}
        self._batch_size = examples_at_once(validation.x.shape[1:])
        self._right: dict[int, np.ndarray] = {}  # of the validation set, by round
        self._of_clients: dict[int, np.ndarray] = {}  # [N, M], by round
        self._next: tuple[int, State] | None = None
        self._judge = jax.jit(self._judged)
        self._answer = jax.jit(self._answered)

    @property
    def _rows(self) -> Path:
        return self._directory.path / "forgetting"

    @property
    def _past(self) -> Path:
        return self._directory.path / "past"

    def restore(self, completed: int) -> None:
        """Takes up what was observed of the rounds before."""
        if self._config.forgetting == "off":
            return
        for path in sorted(self._rows.glob("round_*.npz")):
            if _round_of(path) <= completed:
                with np.load(path, allow_pickle=False) as row:
                    self._keep(_round_of(path), row["validation"], row["clients"])

    def next(self, completed: int, state: State) -> None:
        """Takes the state after a round, to look at when its record is written."""
        self._next = (completed, state)

    def _observe(self, completed: int, state: State) -> None:
        every = self._config.fusion_every
        model = self._federation.algorithm.model(state)
        if self._config.forgetting == "on":
            right, of_clients = self._judgement(model)
            self._keep(completed, right, of_clients)
            with self._directory.writing():
                self._rows.mkdir(exist_ok=True)
                np.savez_compressed(
                    self._rows / f"round_{completed:06}",
                    validation=right,
                    clients=of_clients,
                )
        if every is not None and completed % every == 0:
            with self._directory.writing():
                about = {"round": completed, "model": self._config.model}
                path = self._past / f"round_{completed:06}"
                save_model(path, jax.device_get(model), about)

    def __call__(self, info: RoundInfo) -> Record:
        """Returns the fields that forgetting adds to the record of a round.

        Shares of examples, since the evaluated round before it; null in the first.
        """
        now = int(info.round)
        if self._next is not None and self._next[0] == now:
            self._observe(*self._next)
            self._next = None
        if self._config.forgetting == "off":
            return {}
        before = [t for t in self._right if t < now]
        if now not in self._right or not before:
            return dict.fromkeys(_FIELDS)
        last = max(before)
        changed = change(self._right[last], self._right[now])
        return {
            "forgotten": _shortest(changed.forgotten),
            "learned": _shortest(changed.learned),
            "client_forgotten": _mean_of(self._by_client(last, now)),
        }

    def summary(self, state: State) -> dict[str, Any]:
        """Returns what the summary of the run says of its past.

        Args:
          state: the last one, after post-training.
        """
        model = self._federation.algorithm.model(state)
        result = {}
        if self._config.forgetting == "on":
            last = self._judgement(model)
            if not self._right:  # a run that was over before it was asked
                self._keep(int(state.round), *last)
            result["forgetting"] = self._forgetting(*last)
        if self._config.fusion_every is not None:
            result["fusion"] = self._fusion(model, state)
        return result

    def _keep(self, t: int, right: np.ndarray, of_clients: np.ndarray) -> None:
        self._right[t], self._of_clients[t] = right, of_clients

    def _judgement(self, model: Variables) -> tuple[np.ndarray, np.ndarray]:
        """Returns which examples a model is right about: validation, and clients'."""
        validation = self._sets["validation"]
        right: tuple[np.ndarray, np.ndarray] = jax.device_get(
            self._judge(model, validation, self._clients)
        )
        return right

    def _judged(
        self, model: Variables, validation: Examples, clients: ClientData
    ) -> tuple[jax.Array, jax.Array]:
        apply = self._federation.model.apply
        right = is_right(apply, model, validation, batch_size=self._batch_size)
        if not len(clients.sizes):  # they are on disk
            return right, jnp.zeros((0, 0), bool)
        return right, is_right_of_clients(
            apply, model, clients, batch_size=self._batch_size
        )

    def _answered(self, model: Variables, x: Any) -> jax.Array:
        outputs = outputs_of(
            self._federation.model.apply, model, x, batch_size=self._batch_size
        )
        return jax.nn.softmax(outputs, axis=-1)

    def _by_client(self, before: int, after: int) -> list[float]:
        """Returns the share of its examples that each client's model forgot."""
        sizes = self._clients.sizes
        valid = (
            np.arange(self._of_clients[after].shape[-1]) < np.asarray(sizes)[:, None]
        )
        of = change(self._of_clients[before], self._of_clients[after], valid)
        return np.asarray(of.forgotten).tolist()

    def _forgetting(self, last: np.ndarray, of_clients: np.ndarray) -> dict[str, Any]:
        """Returns F_e and L_e of all observed rounds, as seen from the last model."""
        rounds = sorted(self._right)
        end = rounds[-1] + 1  # what comes after it, if only post-training
        self._keep(end, last, of_clients)
        changed = change(np.stack([self._right[t] for t in rounds]), last)
        by_client = np.array([self._by_client(t, end) for t in rounds])
        worst, means = [], []
        if by_client.size:
            worst = list(map(_shortest, by_client.max(axis=0)))
            means = list(map(_shortest, by_client.mean(axis=1)))
        return {
            "rounds": rounds,
            "forget_fraction": list(map(_shortest, changed.forgotten)),
            "learned_fraction": list(map(_shortest, changed.learned)),
            "most_forgotten": _shortest(changed.forgotten.max()),
            "clients_forget_fraction": means,
            "most_forgotten_by_client": worst,
        }

    def _fusion(self, model: Variables, state: State) -> dict[str, Any]:
        """Chooses past models on the validation set, and measures them on the test."""
        window = self._config.fusion_window
        paths = self._kept_before(int(state.round))
        load = self._loader(state)
        validation, test = self._sets["validation"], self._sets["test"]

        def answers(examples: Examples, numbers: Sequence[int]) -> list[Any]:
            return [
                np.asarray(self._answer(load(path), examples.x))
                if n in numbers
                else None
                for n, path in enumerate(paths)
            ]

        everyone = answers(validation, range(len(paths)))
        last = np.asarray(self._answer(model, validation.x))
        labels = np.asarray(validation.y)
        links = fusion.fuse(everyone, last, labels, window=window)
        chosen = fusion.members(links, len(paths), window)
        reached = fusion.fused(everyone, last, links, window=window)
        on_test = answers(test, chosen)
        last_on_test = np.asarray(self._answer(model, test.x))
        final = fusion.fused(on_test, last_on_test, links, window=window)
        return {
            "checkpoints": len(paths),
            "links": [
                {"round": _round_of(paths[link.checkpoint]), "weight": link.weight}
                for link in links
            ],
            "rounds": [_round_of(paths[number]) for number in chosen],
            "models": len(chosen) + 1,
            "validation_accuracy": fusion.accuracy(reached, labels),
            "test_accuracy": fusion.accuracy(final, np.asarray(test.y)),
            **self._costs([model, *(load(paths[number]) for number in chosen)]),
        }

    def _kept_before(self, end: int) -> list[Path]:
        every = self._config.fusion_every or 1
        paths = {_round_of(path): path for path in self._past.glob("round_*")}
        return [paths[t] for t in sorted(paths) if t % every == 0 and t < end]

    def _loader(self, state: State) -> Callable[[Path], Variables]:
        """Returns what loads a past model, under the final masks if that is wanted."""
        kept = dict(trees.named_leaves(jax.device_get(state.masks)))

        def load(path: Path) -> Variables:
            model = load_model(path)[0]
            if self._config.fusion_masks == "own":
                return model
            masked: Variables = trees.map_with_name(
                lambda name, leaf: leaf * kept[name] if name in kept else leaf, model
            )
            return masked

        return load

    def _costs(self, models: list[Variables]) -> dict[str, Any]:
        """Returns numbers and FLOPs of an example, of all models together."""
        kept = [
            {n: int(np.count_nonzero(leaf)) for n, leaf in trees.named_leaves(model)}
            for model in models
        ]
        costs: dict[str, Any] = {
            "nonzeros": sum(sum(counts.values()) for counts in kept),
            "bytes": 4 * sum(sum(counts.values()) for counts in kept),
        }
        x = self._sets["test"].x[:1]
        apply = self._federation.model.apply
        try:
            layers = layer_flops(apply, models[0], x.shape, x.dtype)
        except ValueError:  # a loop of unknown length, say
            return costs
        flops = sum(inference_flops(layers, kept=counts) for counts in kept)
        return costs | {"inference_flops": flops}


def _mean_of(values: list[float]) -> float | None:
    return _shortest(np.mean(values)) if values else None


def _shortest(share: Any) -> float:
    """Returns the shortest decimal of a float32.

    >>> _shortest(np.float32(0.1))
    0.1
    """
    return float(str(np.float32(share)))
