"""One table of all algorithms against the properties every one of them must have.

A new algorithm is one row in `ALGORITHMS`.
"""

import inspect
import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients

from fedsparsify_jax import algorithms, client_map, masks, models, trees
from fedsparsify_jax.algorithms import registry
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import ClientData, FederatedAlgorithm, RoundInfo, State

ROUNDS, FINAL, CLIENTS = 3, 0.6, 4


class Row(NamedTuple):
    """An algorithm and what may be expected of it."""

    build: str
    options: Mapping[str, Any] = MappingProxyType({})
    sparse: bool = True  # takes final_sparsity
    starts_dense: bool = True  # nothing is pruned before round 2
    pins_sparsity: bool = True  # the global model has exactly the target
    monotone: bool = True  # what is pruned stays pruned


KEPT_MOMENTUM = {"momentum": 0.9, "optimizer_state": "kept"}
ALGORITHMS = {
    "fedavg": Row("fedavg", sparse=False),
    "fedavg-momentum": Row("fedavg", KEPT_MOMENTUM, sparse=False),
    "global": Row("fedsparsify_global"),
    "global-momentum": Row("fedsparsify_global", KEPT_MOMENTUM),
    "global-layer": Row("fedsparsify_global", {"scope": "layer"}, pins_sparsity=False),
    "global-erk": Row("fedsparsify_global", {"scope": "erk"}),
    "local": Row("fedsparsify_local", pins_sparsity=False),
    "local-strict": Row(
        "fedsparsify_local", {"vote_rule": "strict"}, pins_sparsity=False
    ),
    "local-nonzero": Row(
        "fedsparsify_local", {"merge": "nonzero"}, pins_sparsity=False
    ),
    "local-no-vote": Row(
        "fedsparsify_local", {"vote_rule": "none"}, pins_sparsity=False
    ),
    "plus": Row("fedsparsify_plus", {"momentum": 0.9}),
    "fedprox": Row("fedprox", {"mu": 0.1}, sparse=False),
    "fedopt": Row("fedopt", {"server_optimizer": "yogi"}, sparse=False),
    "random": Row("random_pruning"),
    "one-shot": Row("one_shot", {"at": 2}),
    "snip": Row("snip", {"source": "cohort"}, starts_dense=False),
    "grasp": Row("grasp", {"source": "cohort"}, starts_dense=False),
    "synflow": Row("synflow", {"iterations": 4}, starts_dense=False),
    # Without its initial stage, which depends on one client drawn by number.
    "prunefl": Row(
        "prunefl",
        {"initial_adjustments": 0, "interval": 2},
        monotone=False,
    ),
    "feddst": Row(
        "feddst",
        {"interval": 1, "adjust_until": 3},
        starts_dense=False,
        monotone=False,
    ),
}
# The engine's own properties, played on the methods of this paper. Its neighbours have
# theirs in tests/algorithms/test_conformance.py: all seeds at once, over a mesh.
PAPER = {
    name: row
    for name, row in ALGORITHMS.items()
    if row.build in ("fedavg", "fedsparsify_global", "fedsparsify_local")
}
SPARSE = {name: row for name, row in ALGORITHMS.items() if row.sparse}

table = pytest.mark.parametrize("row", ALGORITHMS.values(), ids=ALGORITHMS)
paper_table = pytest.mark.parametrize("row", PAPER.values(), ids=PAPER)
sparse_table = pytest.mark.parametrize("row", SPARSE.values(), ids=SPARSE)


def tiny_model() -> models.Model:
    """An MLP of 5-4-3 with 39 parameters."""
    return models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4,))


def build(row: Row, final=FINAL, **options):
    settings = {
        "num_clients": CLIENTS,
        "learning_rate": 0.3,
        "local_epochs": 2,
        "batch_size": 3,
        **row.options,
        **options,
    }
    builder = getattr(algorithms, row.build)
    if row.sparse:
        settings |= {"final_sparsity": final}
        if "rounds" in inspect.signature(builder).parameters:
            settings |= {"rounds": ROUNDS}
    return builder(tiny_model().apply, **settings)


def start(algorithm) -> State:
    return algorithm.init(jax.random.key(1), tiny_model().init(jax.random.key(2)))


def keys(rounds=ROUNDS):
    return list(jax.random.split(jax.random.key(3), rounds))


_BUILT: dict[str, tuple[FederatedAlgorithm, Any]] = {}
_PLAYED: dict[str, tuple[list[State], list[RoundInfo]]] = {}


def built(row: Row, **options) -> tuple[FederatedAlgorithm, Any]:
    """An algorithm and its jitted step, which compiles once for all tests."""
    name = repr((row, sorted(options.items())))
    if name not in _BUILT:
        algorithm = build(row, **options)
        _BUILT[name] = algorithm, jax.jit(algorithm.step)
    return _BUILT[name]


def play(row: Row, clients, *, again=False, **options):
    """All states, the first included, and infos; plays nothing a second time."""
    data = hash(np.asarray(clients.x).tobytes())
    name = repr((row, sorted(options.items()), data))
    if name not in _PLAYED or again:
        algorithm, step = built(row, **options)
        if again:  # jax remembers what it compiled by the function
            algorithm = build(row, **options)
            step = jax.jit(algorithm.step)
        states, infos = [start(algorithm)], []
        for key in keys():
            state, info = step(key, states[-1], clients)
            states.append(state)
            infos.append(info)
        if again:
            return states, infos
        _PLAYED[name] = states, infos
    return _PLAYED[name]


def run(row: Row, clients, **options) -> tuple[State, list[RoundInfo]]:
    """The last state and all infos."""
    states, infos = play(row, clients, **options)
    return states[-1], infos


def scan_rounds(algorithm, key, state, clients):
    """All rounds in one program, each traced once."""

    def body(state, t):
        return algorithm.step(jax.random.fold_in(key, t), state, clients)

    return jax.lax.scan(body, state, jnp.arange(ROUNDS))


@table
def test_signatures(row):
    algorithm = build(row)
    assert list(inspect.signature(algorithm.init).parameters) == ["key", "variables"]
    names = ["key", "state", "clients"]
    assert list(inspect.signature(algorithm.step).parameters) == names


@table
def test_state_keeps_its_structure_and_one_trace_plays_every_round(row, clients):
    algorithm = build(row)
    state = start(algorithm)
    assert isinstance(state, State)
    chex.clear_trace_counter()  # it goes by the name of the function
    step = jax.jit(chex.assert_max_traces(algorithm.step, n=1))
    for t, key in enumerate(keys(), start=1):
        new, info = step(key, state, clients)
        assert isinstance(info, RoundInfo)
        chex.assert_trees_all_equal_structs(new, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        assert int(new.round) == int(info.round) == t
        state = new
    chex.assert_trees_all_equal_shapes(state.masks, state.variables)
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(state.masks))
    assert step._cache_size() == 1


@table
def test_the_key_decides_everything(row, clients):
    first, second = run(row, clients), run(row, clients, again=True)
    chex.assert_trees_all_equal(first, second)
    algorithm, step = built(row)
    one, _ = step(jax.random.key(98), start(algorithm), clients)
    other, _ = step(jax.random.key(99), start(algorithm), clients)
    kernels = [s.variables["params"]["Dense_0"]["kernel"] for s in (one, other)]
    assert not np.allclose(*kernels)


@table
def test_the_order_of_the_clients_does_not_matter(row, clients):
    # One batch holds a whole client, so that no draw decides about the result.
    order = jnp.array([2, 0, 3, 1])
    state, infos = run(row, clients, batch_size=8)
    moved, moved_infos = run(row, trees.take(clients, order), batch_size=8)
    chex.assert_trees_all_close(state.variables, moved.variables, atol=1e-5)
    chex.assert_trees_all_equal(state.masks, moved.masks)
    own = trees.take(state.clients, order)
    chex.assert_trees_all_close(own, moved.clients, atol=1e-5)
    for a, b in zip(infos, moved_infos, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, atol=1e-5)
        np.testing.assert_array_equal(a.bytes_up[order], b.bytes_up)


@paper_table
def test_vmap_over_seeds_equals_a_loop(row, clients):
    algorithm = build(row)

    def train(seed):
        init_key, model_key, round_key = jax.random.split(seed, 3)
        state = algorithm.init(init_key, tiny_model().init(model_key))
        return scan_rounds(algorithm, round_key, state, clients)

    together = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(7), 3))
    alone = jax.jit(train)
    for number, seed in enumerate(jax.random.split(jax.random.key(7), 3)):
        expected = alone(seed)
        chex.assert_trees_all_close(trees.take(together, number), expected, atol=1e-5)


@paper_table
def test_all_cohort_strategies_agree(row, clients):
    # Three clients of four: chunks of two and two devices both have one left over.
    mesh = client_map.device_mesh(jax.devices()[:2])
    strategies = [
        client_map.chunked(2),
        client_map.sharded(mesh, inner=client_map.chunked(1)),
    ]

    def played(**strategy):
        found = run(row, clients, participation=0.75, **strategy)
        return jax.tree.map(np.asarray, found)

    for strategy in strategies:
        chex.assert_trees_all_close(played(client_map=strategy), played(), atol=1e-5)


@sparse_table
def test_sparsity_zero_is_fedavg_bit_for_bit(row, clients, optimized):
    shared = ("momentum", "optimizer_state")
    options = {k: v for k, v in row.options.items() if k in shared}
    dense, _ = run(Row("fedavg", options, sparse=False), clients, again=True)
    sparse, infos = run(row, clients, again=True, final=0.0)
    if (
        "merge" in row.options or row.build == "feddst"
    ):  # divides by the holders' share: one rounding more
        chex.assert_trees_all_close(sparse.variables, dense.variables, atol=1e-6)
    else:
        chex.assert_trees_all_equal(sparse.variables, dense.variables)
    assert float(infos[-1].sparsity) == 0.0


@table
def test_pruned_weights_are_exactly_zero_and_stay_so(row, clients):
    states, _ = play(row, clients)
    for before, state in itertools.pairwise(states):
        cut = masks.apply(state.masks, state.variables)
        chex.assert_trees_all_equal(cut, state.variables)
        if row.monotone:
            shrunk = masks.intersect(before.masks, state.masks)
            chex.assert_trees_all_equal(shrunk, state.masks)


@table
def test_reported_sparsity_is_the_masks_and_the_target_where_pinned(row, clients):
    state, infos = run(row, clients)
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(state.masks["params"])]
    flat = np.concatenate(leaves)
    assert float(infos[-1].sparsity) == pytest.approx(1 - flat.mean(), abs=1e-6)
    assert sum(int(count) for count in infos[-1].kept.values()) == flat.sum()
    if row.sparse and row.starts_dense:
        assert float(infos[0].sparsity) == 0.0
    if row.sparse:
        assert float(infos[-1].target_sparsity) == pytest.approx(FINAL)
        assert float(infos[-1].sparsity) > 0.0
    if row.sparse and row.pins_sparsity:
        for info in infos[-1:] if row.build == "prunefl" else infos:
            pruned = math.floor(float(info.target_sparsity) * flat.size + 1e-4)
            assert round(float(info.sparsity) * flat.size) == pruned


@table
def test_bytes_are_the_authors_formula(row, clients):
    state, infos = run(row, clients, participation=0.5)
    nonzero = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(state.variables))
    assert infos[-1].bytes_down.tolist() == [4 * nonzero] * 2
    assert infos[-1].bytes_up.shape == (2,)
    assert int(infos[0].bytes_up.max()) <= 4 * 39
    if row == ALGORITHMS["local"]:  # every client's own purge is exact
        assert int(infos[-1].bytes_up.max()) <= 4 * (39 - math.floor(FINAL * 39))
    if row == ALGORITHMS["global"]:  # sent under the masks of the round before
        before = round((1 - float(infos[-2].sparsity)) * 39)
        assert int(infos[-1].bytes_up.max()) <= 4 * before


@table
def test_a_client_with_one_example_trains_and_stays_finite(row):
    state, infos = run(row, make_clients((1, 9, 1, 1)))
    chex.assert_tree_all_finite((state.variables, infos[-1].loss))


@table
def test_clients_of_one_example_and_a_cohort_of_one(row):
    state, infos = run(row, make_clients((1, 1, 1, 1)), participation=0.25)
    assert infos[-1].cohort.shape == (1,)
    chex.assert_tree_all_finite((state.variables, infos[-1].loss))
    if row.sparse:
        assert float(infos[-1].sparsity) > 0.4


@table
def test_what_fills_the_padding_does_not_matter(row, clients):
    real = jnp.arange(clients.y.shape[1])[None, :] < clients.sizes[:, None]
    clean = ClientData(
        jnp.where(real[..., None], clients.x, 0.0),
        jnp.where(real, clients.y, 0),
        clients.sizes,
    )
    chex.assert_trees_all_equal(run(row, clients), run(row, clean))


@table
def test_save_restore_continue_equals_uninterrupted(row, clients, tmp_path):
    whole, _ = run(row, clients)
    algorithm, step = built(row)
    first, *rest = keys()
    state, _ = step(first, start(algorithm), clients)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(1, start(algorithm))
    for key in rest:
        state, _ = step(key, state, clients)
    chex.assert_trees_all_equal(state, whole)


@table
def test_the_callers_variables_survive_donation(row, clients):
    algorithm = build(row)
    variables = tiny_model().init(jax.random.key(2))
    before = jax.tree.map(np.array, variables)
    state = algorithm.init(jax.random.key(1), variables)
    jax.jit(algorithm.step, donate_argnums=1)(jax.random.key(3), state, clients)
    chex.assert_trees_all_equal(variables, before)


@sparse_table
def test_numbers_may_be_traced(row, clients):
    def train(final, rate):
        algorithm = build(row, final=final, learning_rate=rate)
        key = jax.random.key(3)
        return scan_rounds(algorithm, key, start(algorithm), clients)

    finals, rates = jnp.array([0.0, FINAL]), jnp.array([0.1, 0.3])
    together, alone = jax.jit(jax.vmap(train))(finals, rates), jax.jit(train)
    for number in range(2):
        expected = alone(finals[number], rates[number])
        chex.assert_trees_all_close(trees.take(together, number), expected, atol=1e-5)


@paper_table
def test_rounds_can_be_scanned(row, clients):
    algorithm, step = built(row)

    play_all = jax.jit(lambda k, s: scan_rounds(algorithm, k, s, clients))
    scanned, infos = play_all(jax.random.key(3), start(algorithm))
    state = start(algorithm)
    for t in range(ROUNDS):
        key = jax.random.fold_in(jax.random.key(3), t)
        state, _ = step(key, state, clients)
    chex.assert_trees_all_close(scanned, state, atol=1e-6)
    assert infos.round.tolist() == [1, 2, 3]


def test_every_algorithm_has_a_row():
    builders = {row.build.__name__ for row in registry.ALGORITHMS.values()}
    assert {row.build for row in ALGORITHMS.values()} == builders
