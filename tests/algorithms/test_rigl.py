"""RigL, SET and SNFS: adjustments and whole rounds against NumPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, linear, round_keys, run_rounds, squared_error

from fedsparsify_jax import algorithms, masks, pruning
from fedsparsify_jax.engine import sampling
from fedsparsify_jax.engine.records import RoundKeys
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.types import ClientData

X = np.random.default_rng(8).normal(size=(2, 4, 6)).astype(np.float32)
Y = np.random.default_rng(9).normal(size=(2, 4, 5)).astype(np.float32)
START = np.random.default_rng(10).normal(size=(6, 5)).astype(np.float32)
MODEL = linear(START)
COUNT = np.array([4, 3])
RATE, EPOCHS, ROUNDS, INTERVAL, UNTIL, ALPHA, BETA = 0.1, 2, 8, 2, 7, 0.9, 0.6
CLIENTS = ClientData(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(COUNT))


def adjusted(w, mask, g, k):
    """One layer: the k smallest make room for the k largest of those then pruned."""
    w, flat, g = w.ravel(), mask.ravel(), np.abs(g).ravel()
    kept = sorted(np.flatnonzero(flat), key=lambda i: (-abs(w[i]), i))
    kept = kept[: len(kept) - k]
    free = sorted(set(range(len(flat))) - set(kept), key=lambda i: (-g[i], i))
    result = np.zeros(len(flat), bool)
    result[[*kept, *free[:k]]] = True
    return result.reshape(mask.shape)


def moving(mask, t):
    """How many weights round t replaces."""
    if t % INTERVAL or t >= UNTIL:
        return 0
    return int(np.floor(ALPHA / 2 * (1 + np.cos(np.pi * t / UNTIL)) * mask.sum()))


class Numpy:
    """The federation of the linear model, whose batches hold a whole client."""

    def __init__(self, growth, place, before):
        self.growth, self.place, self.before = growth, place, before
        self.average = np.zeros(START.shape)

    def round(self, w, mask, t, draws):
        """The weights and the mask after round t."""
        models, kept, slopes = [], [], []
        for client, (x, y, n) in enumerate(zip(X, Y, COUNT, strict=True)):
            x, y, local, own = np.float64(x[:n]), y[:n], w * mask, mask
            average = np.zeros(w.shape)

            def gradient(w, x=x, y=y, n=n):
                return 2 * x.T @ (x @ w - y) / n

            for epoch in range(EPOCHS):
                if epoch == self.before and self.place == "client":
                    own = self.client_mask(
                        local, own, gradient, average, t, client, draws
                    )
                    local = local * own
                average = BETA * average + (1 - BETA) * gradient(local)
                local = (local - RATE * gradient(local)) * own
            if self.before == EPOCHS and self.place == "client":
                own = self.client_mask(local, own, gradient, average, t, client, draws)
                local = local * own
            models.append(local)
            kept.append(own)
            slopes.append(gradient(local))
        if self.place == "client":
            return self.union(np.array(models), np.array(kept), mask)
        share = COUNT / COUNT.sum()
        mean = np.tensordot(share, np.array(models), 1)
        slope = np.tensordot(share, np.array(slopes), 1)
        if t < UNTIL:
            self.average = BETA * self.average + (1 - BETA) * slope
        by = {"gradient": slope, "momentum": self.average, "random": draws["server"]}
        new = adjusted(mean, mask, by[self.growth], moving(mask, t))
        return mean * new, new

    def client_mask(self, w, mask, gradient, average, t, client, draws):
        by = {
            "gradient": gradient(w),
            "momentum": average,
            "random": draws["clients"][client],
        }
        return adjusted(w, mask, by[self.growth], moving(mask, t))

    def union(self, models, kept, mask):
        votes = np.tensordot(COUNT, kept.astype(float), 1)
        mean = np.tensordot(COUNT, models, 1) / np.maximum(votes, 1)
        flat, held = mean.ravel(), votes.ravel()
        order = sorted(np.flatnonzero(held), key=lambda i: (-abs(flat[i]), -held[i], i))
        new = np.zeros(mask.size, bool)
        new[order[: mask.sum()]] = True
        return mean * new.reshape(mask.shape), new.reshape(mask.shape)


def draws_of(key, fine_tunes):
    """The random orders of a round, of the server and of every client."""
    zeros = {"params": {"w": jnp.zeros(START.shape)}}
    keys = RoundKeys.of(jax.random.clone(key))

    def order(key):
        return np.asarray(saliency.random(key, zeros)["params"]["w"])

    clients = sampling.client_keys(keys.local, jnp.arange(2))
    parts = [jax.random.split(key, 4 if fine_tunes else 3)[1] for key in clients]
    return {"server": order(keys.server), "clients": [order(part) for part in parts]}


def build(**options):
    return algorithms.rigl(
        MODEL.apply,
        **{
            "final_sparsity": 0.6,
            "rounds": ROUNDS,
            "interval": INTERVAL,
            "adjust_until": UNTIL,
            "alpha": ALPHA,
            "growth_momentum": BETA,
            "allocation": "layer",
            "loss_fn": squared_error,
            "batch_size": 4,
            "local_epochs": EPOCHS,
            "learning_rate": RATE,
            **options,
        },
    )


@pytest.mark.parametrize("growth", ["gradient", "random", "momentum"])
@pytest.mark.parametrize("place, before", [("server", 2), ("client", 1), ("client", 2)])
def test_whole_rounds_are_numpys(growth, place, before):
    after = {"adjust_after": before} if place == "client" else {}
    algorithm = build(growth=growth, adjusted_by=place, **after)
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    oracle, moves = Numpy(growth, place, before), []
    for t in range(1, ROUNDS + 1):
        key = jax.random.key(t)
        draws = draws_of(key, fine_tunes=before < EPOCHS)
        old, (state, info) = state, step(key, state, CLIENTS)
        w, mask = old.variables["params"]["w"], np.asarray(old.masks["params"]["w"])
        if t == 1:  # the draw of the first masks; round 1 moves none of them
            mask = np.asarray(state.masks["params"]["w"])
        w, new = oracle.round(np.float64(w), mask, t, draws)
        np.testing.assert_array_equal(state.masks["params"]["w"], new)
        np.testing.assert_allclose(
            state.variables["params"]["w"], w, rtol=1e-4, atol=1e-5
        )
        moves.append(int(np.sum(mask & ~new)))
        every = {"gradient": INTERVAL, "momentum": 1, "random": ROUNDS + 1}[growth]
        sends = place == "server" and t % every == 0 and t < UNTIL
        sent = 4 * (int(mask.sum()) + sends * START.size)
        assert info.bytes_up.tolist() == [sent] * 2
        assert int(new.sum()) == 12
    # Rounds 2 and 4 adjust; in round 6 the share is below one weight.
    assert moves[1] > 0 and {t for t, n in enumerate(moves, 1) if n} <= {2, 4}


@pytest.mark.parametrize("growth", ["gradient", "random", "momentum"])
@pytest.mark.parametrize("first", ["random", "magnitude"])
def test_replacing_nothing_is_the_static_mask_bit_for_bit(growth, first, clients):
    shared = {"final_sparsity": 0.5, "first_masks": first, "learning_rate": 0.3}
    shared |= {"local_epochs": 2, "batch_size": 3}
    none = algorithms.rigl(MLP.apply, growth=growth, alpha=0.0, interval=1, **shared)
    still = algorithms.static(MLP.apply, **shared)
    runs = [
        run_rounds(
            jax.jit(algorithm.step),
            algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2))),
            clients,
            round_keys(3),
        )
        for algorithm in (none, still)
    ]
    for one, other in zip(runs[0][0], runs[1][0], strict=True):
        chex.assert_trees_all_equal(one.variables, other.variables)
        chex.assert_trees_all_equal(one.masks, other.masks)
    # A kept weight that is zero costs 32 bits where masks travel.
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert (one.bytes_up >= other.bytes_up).all()
        assert (one.bytes_up <= 4 * 20).all()


@pytest.mark.parametrize("growth", ["gradient", "random", "momentum"])
@pytest.mark.parametrize("place", ["server", "client"])
def test_layers_keep_their_counts_and_grown_weights_start_at_zero(
    growth, place, clients
):
    algorithm = algorithms.rigl(
        MLP.apply,
        growth=growth,
        adjusted_by=place,
        **{"final_sparsity": 0.5, "interval": 1, "alpha": 0.5, "rounds": 8},
        **{"local_epochs": 2, "batch_size": 3, "learning_rate": 0.3},
        **({"adjust_after": 2} if place == "client" else {}),
    )
    start = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    states, _ = run_rounds(jax.jit(algorithm.step), start, clients, round_keys(4))
    counts = jax.tree.map(int, pruning.leaf_counts(start.variables, 0.5, scope="erk"))
    changed = 0
    for old, new in itertools.pairwise(states[1:]):
        assert jax.tree.map(lambda mask: int(mask.sum()), new.masks) == counts
        chex.assert_trees_all_equal(
            masks.apply(new.masks, new.variables), new.variables
        )
        grown = jax.tree.map(lambda a, b: ~a & b, old.masks, new.masks)
        values = masks.apply(grown, new.variables)
        assert not any(leaf.any() for leaf in jax.tree.leaves(values))
        changed += sum(int(leaf.sum()) for leaf in jax.tree.leaves(grown))
    assert changed > 0


def test_clients_that_grow_by_gradient_all_along_are_feddsts(clients):
    """The same first masks, rounds of adjustment and share: every bit is the same."""
    shared = {"final_sparsity": 0.5, "interval": 1, "alpha": 0.4, "decay": "constant"}
    shared |= {"adjust_until": 99, "first_masks": "random", "batch_size": 3}
    one = algorithms.rigl(MLP.apply, adjusted_by="client", **shared)
    other = algorithms.feddst(MLP.apply, **shared)
    runs = [
        run_rounds(
            jax.jit(algorithm.step),
            algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2))),
            clients,
            round_keys(3),
        )
        for algorithm in (one, other)
    ]
    chex.assert_trees_all_equal(*runs)


def test_a_client_that_drops_out_has_no_say_in_what_grows():
    """Its gradient is left out of the mean, as its model is."""
    fails = Faults(dropout=jnp.array([0.0, 1.0]))
    both, alone = (
        build(num_clients=2, faults=fails, interval=1),
        build(num_clients=1, interval=1),
    )
    states = []
    for algorithm, data in (
        (both, CLIENTS),
        (alone, jax.tree.map(lambda leaf: leaf[:1], CLIENTS)),
    ):
        state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
        states.append(jax.jit(algorithm.step)(jax.random.key(1), state, data)[0])
    chex.assert_trees_all_equal(states[0].masks, states[1].masks)
    chex.assert_trees_all_close(states[0].variables, states[1].variables, rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"growth": "weights"}, "unknown growth 'weights': 'gradient' or 'random'"),
        ({"adjusted_by": "nobody"}, "unknown adjusted_by 'nobody': 'server' or"),
        ({"first_masks": "ones"}, "unknown first_masks 'ones'"),
        ({"growth_momentum": 1.0}, "growth_momentum is 1.0: it must be at least 0"),
        ({"interval": 0}, "interval is 0: it must be at least 1 round"),
        ({"adjust_after": 1}, 'adjust_after goes with adjusted_by="client" only'),
        (
            {"adjusted_by": "client", "adjust_after": 3},
            "adjust_after is 3: it must be from 0 to local_epochs, 2",
        ),
        (
            {"adjusted_by": "client", "growth": "momentum", "adjust_after": 0},
            "adjust_after is 0: growth by momentum needs an epoch before it",
        ),
        ({"powerprop": 1.5}, "powerprop does not go with weights that are grown"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
