"""Rounds small enough to be worked out by hand.

Three weights w, and clients whose loss is |w - target|^2 / 2 with one example each: a
step of SGD with rate 1/2 moves w half-way to the client's target. Numbers are exact in
binary, so equality is exact.
"""

import jax
import jax.numpy as jnp
import pytest
import toy
from toy import apply_fn, half_square, round_keys, run_rounds, weights

from fedsparsify_jax import algorithms

START = {"params": {"w": jnp.array([4.0, -2.0, 1.0])}}


def play(build, clients, played, **options):
    algorithm = build(
        apply_fn,
        loss_fn=half_square,
        learning_rate=0.5,
        local_epochs=1,
        batch_size=1,
        **options,
    )
    state = algorithm.init(jax.random.key(0), START)
    keys = round_keys(played)
    states, infos = run_rounds(jax.jit(algorithm.step), state, clients, keys)
    return list(zip([weights(s).tolist() for s in states[1:]], infos, strict=True))


TWO = toy.clients([0.0, 2.0, 1.0], [4.0, 2.0, -1.0])


def test_fedavg():
    # Clients go to [2, 0, 1] and [4, 0, 0]; their mean is [3, 0, .5]. In round 2 they
    # go to [1.5, 1, .75] and [3.5, 1, -.25].
    history = play(algorithms.fedavg, TWO, played=2)
    assert history[0][0] == [3.0, 0.0, 0.5]
    assert history[1][0] == [2.5, 1.0, 0.25]
    # Losses before the step: (16 + 16 + 0)/2 and (0 + 16 + 4)/2, then their mean.
    assert float(history[0][1].loss) == 13.0
    # A weight of exactly zero costs nothing by the authors' formula.
    assert history[0][1].bytes_up.tolist() == [8, 4]
    assert history[1][1].bytes_down.tolist() == [12, 12]


def test_fedsparsify_global():
    # s_1 = 0, s_2 = .34. Round 1 is FedAvg's. Round 2 merges to [2.5, 1, .25], and one
    # weight of three is purged: the last.
    history = play(
        algorithms.fedsparsify_global, TWO, played=3, final_sparsity=0.34, rounds=2
    )
    assert history[0][0] == [3.0, 0.0, 0.5]
    assert history[1][0] == [2.5, 1.0, 0.0]
    assert history[1][1].bytes_up.tolist() == [12, 12]
    assert history[1][1].bytes_down.tolist() == [8, 8]
    # Round 3 tunes what is left, to [1.25, 1.5, -] and [3.25, 1.5, -]; the purged
    # weight stays zero although both clients pull at it.
    assert history[2][0] == [2.25, 1.5, 0.0]
    assert float(history[2][1].sparsity) == pytest.approx(1 / 3)


def test_fedsparsify_local():
    # Targets T, and after round 1 the mean [10/3, -1/3, 17/12]. In round 2, s = .34 of
    # three weights purges one on every client:
    #   T = [0, 2, 1]     -> [5/3, 5/6, 29/24]    purges the second
    #   T = [4, 2, -1]    -> [11/3, 5/6, 5/24]    purges the third
    #   T = [4, 0, 11/2]  -> [11/3, -1/6, 83/24]  purges the second
    # Votes [3, 1, 2]. By the authors' rule floor(3/2) = 1 is enough: all stay, and the
    # zeros count in the mean. By the strict rule two are needed: the second goes.
    three = toy.clients([0.0, 2.0, 1.0], [4.0, 2.0, -1.0], [4.0, 0.0, 5.5])
    one = play(algorithms.fedavg, three, played=1)[0][0]
    assert one == pytest.approx([10 / 3, -1 / 3, 17 / 12])
    for rule, sparsity in (("authors", 0.0), ("strict", 1 / 3)):
        history = play(
            algorithms.fedsparsify_local,
            three,
            played=2,
            final_sparsity=0.34,
            rounds=2,
            vote_rule=rule,
        )
        w = history[1][0]
        assert w[0] == pytest.approx(3.0)
        assert w[2] == pytest.approx((29 / 24 + 83 / 24) / 3)
        assert w[1] == pytest.approx(5 / 18 if rule == "authors" else 0.0)
        assert float(history[1][1].sparsity) == pytest.approx(sparsity)
        assert history[1][1].bytes_up.tolist() == [8, 8, 8]
