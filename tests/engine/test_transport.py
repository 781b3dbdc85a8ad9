"""Numbers that travel in fewer bits, and the record of all that is sent."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, run_rounds

from fedsparsify_jax import algorithms
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.engine.wrappers.transport import rounded
from fedsparsify_jax.types import RoundMessages

ROUNDS = 3
ENGINE = {"learning_rate": 0.3, "local_epochs": 1, "batch_size": 4, "num_clients": 4}
SPARSE = {"final_sparsity": 0.6, "rounds": ROUNDS}
BUILDERS = {
    "fedavg": lambda **more: algorithms.fedavg(MLP.apply, **ENGINE, **more),
    "median": lambda **more: algorithms.fedavg(
        MLP.apply, merge="median", **ENGINE, **more
    ),
    "global": lambda **more: algorithms.fedsparsify_global(
        MLP.apply, **SPARSE, **ENGINE, **more
    ),
    "local": lambda **more: algorithms.fedsparsify_local(
        MLP.apply, **SPARSE, **ENGINE, **more
    ),
    # It prunes before round 1.
    "snip": lambda **more: algorithms.snip(
        MLP.apply, final_sparsity=0.6, **ENGINE, **more
    ),
}


def play(algorithm, clients):
    """The states after every round, and what these report."""
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    states, infos = run_rounds(jax.jit(algorithm.step), state, clients, keys)
    return states, infos


def numbers(seed=0, size=50_000):
    """Any bits, and numbers whose float16 is subnormal; no subnormal float32."""
    rng = np.random.default_rng(seed)
    anything = np.frombuffer(rng.bytes(4 * size), np.float32)
    small = 1e-5 * rng.normal(size=size).astype(np.float32)
    both = np.concatenate([anything, small])
    return both[~((np.abs(both) < 2.0**-126) & (both != 0))]


@pytest.mark.parametrize("values", ["float16", "bfloat16"])
def test_rounded_numbers_are_those_of_a_decoded_message(values, optimized):
    sent = {"w": numbers(), "n": np.arange(3)}
    decoded = wire.decode(wire.encode(sent, values=values)).variables
    for function in (rounded, jax.jit(rounded, static_argnums=1)):
        with jax.debug_nans(False):
            seen = function(jax.tree.map(jnp.asarray, sent), values)
        np.testing.assert_array_equal(seen["w"], decoded["w"])
        np.testing.assert_array_equal(seen["n"], sent["n"])
    changed = decoded["w"] != sent["w"]
    assert changed.mean() > 0.5


@pytest.mark.parametrize("name", BUILDERS)
def test_keeping_messages_changes_nothing_else(name, clients):
    plain, infos = play(BUILDERS[name](), clients)
    kept, reported = play(BUILDERS[name](keep_messages=True), clients)
    chex.assert_trees_all_equal(plain, kept)
    for one, other in zip(infos, reported, strict=True):
        assert one.messages == ()
        assert isinstance(other.messages, RoundMessages)
        chex.assert_trees_all_equal(one, other._replace(messages=()))


@pytest.mark.parametrize("values", ["float32", "float16", "bfloat16"])
def test_the_mean_of_what_is_sent_is_the_model(values, clients):
    """Clients get the model of the round before, rounded; the server their answers."""
    states, infos = play(
        BUILDERS["fedavg"](keep_messages=True, wire_values=values), clients
    )
    shares = np.asarray(clients.sizes) / np.sum(clients.sizes)
    for before, after, info in zip(states[:-1], states[1:], infos, strict=True):
        messages = info.messages
        chex.assert_trees_all_equal(
            messages.variables, rounded(before.variables, values)
        )
        chex.assert_trees_all_equal(messages.uploads, rounded(messages.uploads, values))
        mean = jax.tree.map(
            lambda leaf: np.tensordot(shares, leaf, 1), messages.uploads
        )
        chex.assert_trees_all_close(after.variables, mean, atol=1e-6)
        assert messages.arrived.all() and not messages.extra_up.any()


@pytest.mark.parametrize("name", ["global", "local", "snip"])
def test_numbers_of_sixteen_bits_change_training_and_no_counts(name, clients):
    plain, infos = play(BUILDERS[name](), clients)
    coarse, reported = play(BUILDERS[name](wire_values="float16"), clients)
    largest = 0.0
    for one, other in zip(plain[1:], coarse[1:], strict=True):
        apart = jax.tree.map(
            lambda a, b: float(jnp.max(jnp.abs(a - b))), one.variables, other.variables
        )
        largest = max(largest, *jax.tree.leaves(apart))
    assert 1e-5 < largest < 0.2
    for one, other in zip(infos, reported, strict=True):
        assert one.sparsity == other.sparsity
        chex.assert_trees_all_equal(one.bytes_down, other.bytes_down)


def test_masks_of_both_ways_are_those_of_the_method(clients):
    """Of Global the round's for all; of Local each client's own, pruned further."""
    states, infos = play(BUILDERS["global"](keep_messages=True), clients)
    for before, info in zip(states[:-1], infos, strict=True):
        messages = info.messages
        chex.assert_trees_all_equal(messages.masks, before.masks)
        for leaf, shared in zip(
            jax.tree.leaves(messages.upload_masks),
            jax.tree.leaves(messages.masks),
            strict=True,
        ):
            assert (np.asarray(leaf) == np.asarray(shared)).all()
    _, infos = play(BUILDERS["local"](keep_messages=True), clients)
    last = infos[-1].messages
    counts = [
        sum(int(m[k].sum()) for m in jax.tree.leaves(last.upload_masks))
        for k in range(4)
    ]
    assert max(counts) <= sum(int(m.sum()) for m in jax.tree.leaves(last.masks))
    # The formula counts the same numbers.
    assert [4 * count for count in counts] == np.asarray(infos[-1].bytes_up).tolist()


def test_masks_from_before_round_one_are_in_its_messages(clients):
    _, infos = play(BUILDERS["snip"](keep_messages=True), clients)
    kept = sum(int(m.sum()) for m in jax.tree.leaves(infos[0].messages.masks))
    assert kept == sum(int(count) for count in infos[0].kept.values()) < 39


def test_clients_that_drop_out_send_nothing(clients):
    faults = Faults(dropout=0.5)
    _, infos = play(BUILDERS["global"](keep_messages=True, faults=faults), clients)
    arrived = np.stack([info.messages.arrived for info in infos])
    assert 0 < arrived.sum() < arrived.size
    for row, info in zip(arrived, infos, strict=True):
        assert int(info.dropped) == int((~row).sum())


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match="unknown wire_values 'int4': float32, float1"):
        BUILDERS["fedavg"](wire_values="int4")
