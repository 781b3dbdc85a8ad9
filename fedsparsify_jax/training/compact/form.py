"""The compact form of a sequential network: living units, surviving weights."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax.models.adapters.layers import LayerCall, Replacement, replaced
from fedsparsify_jax.training.compact import ellpack
from fedsparsify_jax.training.compact.structure import Path, Stage, alive_units, entry
from fedsparsify_jax.types import ApplyFn, Masks, PyTree, Variables


class Lists(NamedTuple):
    """The static sizes of the index lists of a dense layer."""

    rows: int
    slots: int


class Plan(NamedTuple):
    """The static sizes of a compact form.

    Attributes:
      units: room for the living units of every edge, see `structure.alive_units`; None
        where all are kept in their places.
      lists: of every stage: the sizes of its index lists, None to hold it densely.
    """

    units: tuple[int | None, ...]
    lists: tuple[Lists | None, ...]


def full_plan(stages: Sequence[Stage]) -> Plan:
    """Returns the plan that keeps everything in its place."""
    return Plan((None,) * (len(stages) + 1), (None,) * len(stages))


class Index(NamedTuple):
    """The places of the entries of a compact form."""

    fits: jax.Array  # bool scalar
    units: tuple[jax.Array | None, ...]  # [room] int32, padded with the number of units
    lists: tuple[ellpack.Lists | None, ...]


@dataclasses.dataclass(frozen=True)
class CompactForm:
    """A `wrapper.Form` of living units and index lists.

    Attributes:
      apply_fn: the model's forward pass.
      stages: its stages, see `structure.stages_of`.
      plan: the sizes.
    """

    apply_fn: ApplyFn
    stages: tuple[Stage, ...]
    plan: Plan

    def index(self, masks: Masks) -> Index:
        """Returns the places of all entries, for these masks."""
        alive = alive_units(self.stages, masks)
        fits = jnp.bool_(True)
        units: list[jax.Array | None] = []
        for living, room in zip(alive, self.plan.units, strict=True):
            if room is None:
                units.append(None)
                continue
            fits &= jnp.sum(living, dtype=jnp.int32) <= room
            (places,) = jnp.nonzero(living, size=room, fill_value=living.shape[0])
            units.append(places.astype(jnp.int32))
        lists: list[ellpack.Lists | None] = []
        for number, size in enumerate(self.plan.lists):
            if size is None:
                lists.append(None)
                continue
            mask = self._gather(number, units, masks["params"])["kernel"]
            fits &= ellpack.rows_needed(mask, size.slots) <= size.rows
            lists.append(ellpack.index_lists(mask, size.rows, size.slots))
        return Index(fits, tuple(units), tuple(lists))

    def compact(self, index: Index, variables: PyTree) -> PyTree:
        """Returns variables or masks in compact shapes."""
        params = variables["params"]
        for number, stage in enumerate(self.stages):
            lists = self._lists(number, index, params)
            own = self._gather(number, index.units, params, kernel=lists is None)
            if lists is not None:
                own["kernel"] = ellpack.pack(lists, own["kernel"])
            params = _with_entry(params, stage.path, own)
        for path, units in self._norms(index.units):
            own = {name: _take(v, units, -1) for name, v in entry(params, path).items()}
            params = _with_entry(params, path, own)
        return {**variables, "params": params}

    def expand(self, index: Index, small: Variables, variables: Variables) -> Variables:
        """Writes compact variables into full ones."""
        params = variables["params"]
        for number, stage in enumerate(self.stages):
            new, own = entry(small["params"], stage.path), entry(params, stage.path)
            own, lists = dict(own), self._lists(number, index, params)
            for name, rows, columns in self._places(number, index.units, own):
                if name == "kernel" and lists is not None:
                    own[name] = ellpack.unpack(lists, new[name], own[name])
                else:
                    own[name] = _scatter(own[name], rows, columns, new[name])
            params = _with_entry(params, stage.path, own)
        for path, units in self._norms(index.units):
            own, new = dict(entry(params, path)), entry(small["params"], path)
            for name in own:
                own[name] = own[name].at[units].set(new[name], mode="drop")
            params = _with_entry(params, path, own)
        return {**small, "params": params}

    def apply(self, index: Index) -> ApplyFn:
        """Returns the forward pass on compact variables."""
        replacements: dict[Path, Replacement] = {}
        for number, stage in enumerate(self.stages):
            first = index.units[0] if number == 0 else None
            kept = index.units[number + 1]
            outputs = stage.outputs if kept is None else kept.shape[0]
            lists = index.lists[number]
            replacements[stage.path] = partial(_layer, first, lists, outputs)
            if kept is not None:
                for path in stage.dropouts:
                    replacements[path] = partial(_dropout, kept, stage.outputs)
        norms = dict(self._norms(index.units))
        return replaced(self.apply_fn, replacements, norms)

    def _lists(self, number: int, index: Index, params: PyTree) -> ellpack.Lists | None:
        """Returns a stage's lists with the places of inputs and outputs in full."""
        lists = index.lists[number]
        if lists is None:
            return None
        own = entry(params, self.stages[number].path)
        _, rows, columns = next(self._places(number, index.units, own))
        inputs = lists.inputs if rows is None else rows[lists.inputs]
        owner = lists.owner if columns is None else columns[lists.owner]
        return lists._replace(inputs=inputs, owner=owner)

    def _gather(
        self, number: int, units: Any, params: PyTree, *, kernel: bool = True
    ) -> dict[str, jax.Array]:
        """Gathers a stage's leaves at its living units, zero in the padding."""
        own = dict(entry(params, self.stages[number].path))
        for name, rows, columns in self._places(number, units, own):
            if name == "kernel" and not kernel:
                continue
            for axis, places in ((-2, rows), (-1, columns)):
                if places is not None:
                    own[name] = _take(own[name], places, axis)
        return own

    def _norms(self, units: Any) -> Iterator[tuple[Path, jax.Array]]:
        """Yields path and units of the batch norms with only some of their channels."""
        for stage, kept in zip(self.stages, units[1:], strict=True):
            if stage.norm is not None and kept is not None:
                yield stage.norm, kept

    def _places(
        self, number: int, units: Any, own: Mapping[str, jax.Array]
    ) -> Iterator[tuple[str, jax.Array | None, jax.Array | None]]:
        """Yields name, rows (of the kernel only) and columns of a stage's leaves."""
        before, columns = units[number], units[number + 1]
        rows = before
        if before is not None:
            width = self._width(number)
            inputs = own["kernel"].shape[-2]
            # A flattened image has a row for every place of a channel.
            place = jnp.arange(inputs // width, dtype=jnp.int32)[:, None] * width
            place = place + before[None]
            rows = jnp.where(before[None] < width, place, inputs).ravel()
        yield "kernel", rows, columns
        if "bias" in own:
            yield "bias", None, columns

    def _width(self, edge: int) -> int:
        return self.stages[edge - 1].outputs if edge else self.stages[0].inputs


def _take(leaf: jax.Array, places: jax.Array, axis: int) -> jax.Array:
    """Entries along an axis, zero where the place is padding."""
    return jnp.take(leaf, places, axis=axis, mode="fill", fill_value=0)


def _scatter(
    leaf: jax.Array, rows: jax.Array | None, columns: jax.Array | None, new: jax.Array
) -> jax.Array:
    """Writes ``new`` at the rows and columns of the last two axes (or the last)."""
    if columns is None:
        columns = jnp.arange(leaf.shape[-1])
    if leaf.ndim == 1:
        return leaf.at[columns].set(new, mode="drop")
    if rows is None:
        rows = jnp.arange(leaf.shape[-2])
    return leaf.at[..., rows[:, None], columns[None]].set(new, mode="drop")


def _with_entry(tree: Any, path: Path, new: Any) -> Any:
    """Replaces the entry at a path of a nested dict."""
    if not path:
        return new
    return {**tree, path[0]: _with_entry(tree[path[0]], path[1:], new)}


def _layer(
    inputs: jax.Array | None,
    lists: ellpack.Lists | None,
    outputs: int,
    own: Mapping[str, jax.Array],
    x: jax.Array,
    call: LayerCall,
) -> jax.Array:
    """Applies a layer to the inputs that it reads."""
    if inputs is not None:
        x = jnp.take(x, inputs, axis=-1, mode="clip")
    if lists is None:
        return call(x)
    y = ellpack.matmul(lists, own["kernel"], x.T, outputs).T
    return y + own["bias"][None] if "bias" in own else y


def _dropout(
    kept: jax.Array,
    width: int,
    own: Mapping[str, jax.Array],
    x: jax.Array,
    call: LayerCall,
) -> jax.Array:
    """Draws the full layer's dropout, of which it takes the living units."""
    del own
    factor = call(jnp.ones((*x.shape[:-1], width), x.dtype))
    return x * jnp.take(factor, kept, axis=-1, mode="clip")
