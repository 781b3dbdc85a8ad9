"""Compressed uploads: whole rounds against NumPy, and what every round has to keep."""

import functools
import itertools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_federation as oracle
import pytest
from conftest import make_clients
from oracle_draws import batch_orders, to_layers
from toy import MLP, run_rounds

from fedsparsify_jax import algorithms, client_map, models
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.deploy.exchange import encode_change
from fedsparsify_jax.engine.wrappers.faults import Faults


class Normed(nn.Module):
    """5-4-3 with batch statistics."""

    @nn.compact
    def __call__(self, x, *, train=False, valid=None):
        mask = None if valid is None else valid[:, None]
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=not train, epsilon=1.0)(x, mask=mask)
        return nn.Dense(3)(nn.relu(x))


COUNTS, EPOCHS, BATCH, RATE, ROUNDS, FINAL = (7, 4, 1, 6), 2, 3, 0.3, 4, 0.6
MODEL = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(6, 4))
NORMED = models.from_linen(Normed(), (5,))
NAMES = ("fedavg", "fedsparsify_global", "fedsparsify_local")
COMPRESSIONS = {
    "topk": {"upload_compression": "topk", "topk_fraction": 0.3},
    "topk, no feedback": {
        "upload_compression": "topk",
        "topk_fraction": 0.3,
        "error_feedback": False,
    },
    "int8": {"upload_compression": "int8"},
    "int4": {"upload_compression": "int4"},
    "int4, feedback": {"upload_compression": "int4", "error_feedback": True},
}
CASES = [("fedsparsify_global", compression) for compression in COMPRESSIONS]
CASES += [("fedsparsify_local", "topk"), ("fedsparsify_local", "int4")]
CASES += [("fedavg", "int8")]
every_case = pytest.mark.parametrize(("name", "compression"), CASES)


def build(name, model=MLP, **more):
    options = {
        "learning_rate": RATE,
        "num_clients": len(COUNTS),
        "local_epochs": EPOCHS,
        "batch_size": BATCH,
    }
    if name != "fedavg":
        options |= {"final_sparsity": FINAL, "rounds": ROUNDS}
    return getattr(algorithms, name)(model.apply, **options | more)


def play(algorithm, clients, model=MLP):
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    keys = list(jax.random.split(jax.random.key(3), ROUNDS))
    return run_rounds(jax.jit(algorithm.step), state, clients, keys)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def schedule(t):
    return FINAL * (1 - (1 - (t - 1) / (ROUNDS - 1)) ** 3)


def run_oracle(name, variables, clients, round_keys, cohorts, fraction, feedback):
    """Replays rounds of top-k in float64: weights, masks, residuals, bytes."""
    layers = to_layers(variables)
    ones = [(np.ones_like(w), np.ones_like(b)) for w, b in layers]
    zeros = [(np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    residuals = np.zeros((len(COUNTS), oracle.flatten(layers).size))
    masks, history = ones, []
    for t, (key, cohort) in enumerate(zip(round_keys, cohorts, strict=True), start=1):
        orders = batch_orders(key, cohort, COUNTS)
        uploads, own_masks = [], []
        for client in map(int, cohort):
            count = COUNTS[client]
            x = np.float64(clients.x[client, :count])
            y = np.asarray(clients.y[client, :count])
            local, _, _ = oracle.train(
                layers, masks, x, y, orders[client], BATCH, RATE, 0.0, zeros
            )
            own = masks
            if name == "fedsparsify_local":
                own = oracle.keep_largest(local, masks, schedule(t))
            kept = oracle.flatten(own) > 0
            origin = oracle.flatten(layers) * kept
            change = oracle.flatten(local) * kept - origin
            if feedback:
                change += residuals[client] * kept
            count = max(1, int(fraction * kept.sum() + 1e-6))
            sent = np.zeros_like(change)
            places = np.argsort(-np.abs(change), kind="stable")[:count]
            sent[places] = change[places]
            if feedback:
                residuals[client] = change - sent
            uploads.append(oracle.unflatten(origin + sent, layers))
            own_masks.append(own)
        weights = np.array([COUNTS[int(client)] for client in cohort], float)
        layers = oracle.mean(uploads, weights)
        if name == "fedsparsify_global":
            masks = oracle.keep_largest(layers, masks, schedule(t))
        if name == "fedsparsify_local":
            masks = oracle.vote(own_masks)
        layers = oracle.apply_masks(layers, masks)
        history.append(
            (oracle.flatten(layers), oracle.flatten(masks), residuals.copy())
        )
    return history


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_rounds_of_top_k(name, feedback, clients):
    algorithm = build(
        name,
        MODEL,
        participation=0.5,
        upload_compression="topk",
        topk_fraction=0.25,
        error_feedback=feedback,
    )
    variables = MODEL.init(jax.random.key(5))
    state = algorithm.init(jax.random.key(0), variables)
    keys = list(jax.random.split(jax.random.key(6), ROUNDS))
    (_, *states), infos = run_rounds(jax.jit(algorithm.step), state, clients, keys)
    cohorts = [np.asarray(info.cohort) for info in infos]
    assert len({tuple(cohort) for cohort in cohorts}) > 1
    with jax.debug_key_reuse(False):  # to replay the run is to use its keys again
        history = run_oracle(name, variables, clients, keys, cohorts, 0.25, feedback)
    for now, (weights, masks, residuals) in zip(states, history, strict=True):
        np.testing.assert_allclose(flat(now.variables), weights, atol=2e-5)
        np.testing.assert_array_equal(flat(now.masks), masks)
        if feedback:
            for client, row in enumerate(residuals):
                kept = jax.tree.map(
                    lambda r, c=client: r[c], now.clients.extra.residual
                )
                np.testing.assert_allclose(flat(kept), row, atol=2e-5)
        else:
            assert now.clients.extra == ()


@every_case
def test_what_is_sent_and_what_is_left_out_make_up_the_change(
    name, compression, clients, optimized
):
    """And the server has the model plus what is sent, to the last bit."""
    options = COMPRESSIONS[compression]
    algorithm = build(name, keep_messages=True, participation=0.5, **options)
    states, infos = play(algorithm, clients)
    plain = build(name, keep_messages=True, participation=0.5)
    step = jax.jit(plain.step)
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    for (before, after), info, key in zip(
        itertools.pairwise(states), infos, keys, strict=True
    ):
        # The same round without compression has the uploads before it.
        start = jax.tree.map(jnp.asarray, before)
        start = start._replace(clients=start.clients._replace(extra=()))
        _, uncompressed = step(key, start, clients)
        for place, client in enumerate(np.asarray(info.cohort)):
            one = lambda tree, p=place: flat(jax.tree.map(lambda a: a[p], tree))
            masks = one(info.messages.upload_masks)
            origin = np.where(masks, flat(before.variables), np.float32(0))
            sent = one(info.messages.changes.numbers)
            np.testing.assert_array_equal(one(info.messages.uploads), origin + sent)
            np.testing.assert_array_equal(
                masks, one(uncompressed.messages.upload_masks)
            )
            change = one(uncompressed.messages.uploads) - origin
            mine = lambda tree, c=client: flat(jax.tree.map(lambda a: a[c], tree))
            if before.clients.extra != ():
                change += np.where(masks, mine(before.clients.extra.residual), 0)
                left = mine(after.clients.extra.residual)
                np.testing.assert_array_equal(left, change - sent)
                if "topk" in compression:  # not even rounded
                    np.testing.assert_array_equal(sent + left, change)
                assert not left[~masks].any()
            assert not sent[~masks].any()
            if "topk" in compression:
                assert np.count_nonzero(sent) == max(1, int(0.3 * masks.sum() + 1e-6))
                assert set(sent[sent != 0]) <= set(change)


@pytest.mark.parametrize(
    ("name", "compression", "values"),
    [
        *((*case, "float32") for case in CASES if case[0] != "fedavg"),
        ("fedsparsify_global", "topk", "float16"),
        ("fedsparsify_global", "int4", "float16"),
    ],
)
def test_a_decoded_message_is_what_was_merged(
    name, compression, values, clients, optimized
):
    """The server adds the message to the model that it sent out."""
    options = COMPRESSIONS[compression] | {"wire_values": values}
    algorithm = build(name, NORMED, keep_messages=True, **options)
    _, infos = play(algorithm, clients, NORMED)
    kind = options["upload_compression"]
    for info in infos:
        messages = jax.tree.map(np.asarray, info.messages)
        for k in range(len(COUNTS)):
            variables, masks, change = jax.tree.map(
                lambda leaf, k=k: leaf[k],
                (messages.uploads, messages.upload_masks, messages.changes),
            )
            options = {"previous": messages.masks, "compress": "zstd"}
            message = encode_change(
                kind, variables, change, masks, values=values, **options
            )
            decoded = wire.decode(message, previous=messages.masks)
            chex.assert_trees_all_equal(decoded.masks, masks)
            origin = jax.tree.map(
                lambda m, w: np.where(m, w, np.float32(0)), masks, messages.variables
            )
            arrived = jax.tree.map(
                np.add, origin["params"], decoded.variables["params"]
            )
            chex.assert_trees_all_equal(arrived, variables["params"])
            chex.assert_trees_all_equal(
                decoded.variables["batch_stats"], variables["batch_stats"]
            )


@pytest.mark.parametrize("compression", ["topk", "int4, feedback"])
def test_only_clients_that_are_merged_change_their_residual(compression, clients):
    faults = Faults(dropout=0.3, broken=0.3)
    options = COMPRESSIONS[compression] | {"participation": 0.75, "faults": faults}
    algorithm = build("fedsparsify_global", keep_messages=True, **options)
    with jax.debug_nans(False):
        states, infos = play(algorithm, clients)
    same, counted = 0, 0
    for (before, after), info in zip(itertools.pairwise(states), infos, strict=True):
        sent = jax.tree.map(np.asarray, info.messages.uploads)
        rows = [u.reshape(3, -1) for u in jax.tree.leaves(sent)]
        finite = np.isfinite(np.concatenate(rows, axis=1)).all(axis=1)
        merged = set(np.asarray(info.cohort)[finite & info.messages.arrived].tolist())
        counted += len(merged)
        assert len(merged) == int(info.merged)
        for client in range(len(COUNTS)):
            rows = [
                flat(
                    jax.tree.map(lambda r, c=client: r[c], state.clients.extra.residual)
                )
                for state in (before, after)
            ]
            assert (rows[0] != rows[1]).any() == (client in merged)
            same += client not in merged
        chex.assert_tree_all_finite(after)
    assert same and counted


@functools.cache
def played(name, compression):
    """All states and infos of a run, with its messages."""
    algorithm = build(name, keep_messages=True, **COMPRESSIONS[compression])
    return play(algorithm, make_clients())


@every_case
def test_bytes_are_those_of_the_formula(name, compression):
    """By hand: the network has kernels of 20 and 12 and biases of 4 and 3 numbers."""
    _, infos = played(name, compression)
    for info in infos:
        for k, total in enumerate(np.asarray(info.bytes_up).tolist()):
            expected = 0
            for numbers, mask in zip(
                jax.tree.leaves(info.messages.changes.numbers),
                jax.tree.leaves(info.messages.upload_masks),
                strict=True,
            ):
                kept = int(mask[k].sum())
                if "topk" in compression:
                    sent = np.count_nonzero(numbers[k])
                    places = min(-(-kept // 8), sent, kept - sent)
                    expected += 4 * sent + (places if sent < kept else 0)
                else:
                    expected += 4 + (kept if "int8" in compression else -(-kept // 2))
            assert total == expected


@pytest.mark.parametrize("name", ["fedsparsify_global", "fedsparsify_local"])
@pytest.mark.parametrize("compression", ["topk", "int4"])
def test_strategies_agree_on_what_is_sent(name, compression, clients):
    options = COMPRESSIONS[compression]
    expected, infos = played(name, compression)
    chunked = build(name, client_map=client_map.chunked(3), **options)
    states, found = play(chunked, clients)
    chex.assert_trees_all_close(states[-1], expected[-1], atol=1e-5)
    chex.assert_trees_all_equal(
        [info.bytes_up for info in infos], [info.bytes_up for info in found]
    )


def test_a_traced_fraction(clients):
    def train(fraction):
        algorithm = build("fedavg", upload_compression="topk", topk_fraction=fraction)
        start = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
        return algorithm.step(jax.random.key(3), start, clients)[1].bytes_up

    traced = jax.jit(jax.vmap(train))(jnp.array([0.1, 0.5]))
    for fraction, row in zip((0.1, 0.5), traced, strict=True):
        np.testing.assert_array_equal(row, jax.jit(train)(fraction))


def test_numbers_of_top_k_travel_in_sixteen_bits(clients):
    options = COMPRESSIONS["topk"] | {"wire_values": "float16", "keep_messages": True}
    states, infos = play(build("fedsparsify_global", **options), clients)
    sent = flat(infos[0].messages.changes.numbers)
    np.testing.assert_array_equal(sent, sent.astype(np.float16).astype(np.float32))
    # What rounding takes away is left for the next time.
    left = flat(states[1].clients.extra.residual)[sent != 0]
    assert left.any() and np.abs(left).max() < 1e-2 * np.abs(sent).max()


def test_feedback_needs_to_know_how_many_clients_there_are():
    algorithm = build("fedavg", num_clients=None, upload_compression="topk")
    with pytest.raises(ValueError, match="num_clients is needed to keep state"):
        algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
