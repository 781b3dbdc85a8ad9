"""Slimmable training: rounds against NumPy, nested levels, statistics of each."""

import itertools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, linear, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks, models, trees
from fedsparsify_jax.algorithms._shared import nested
from fedsparsify_jax.algorithms.slimmable import loss_weights
from fedsparsify_jax.types import ClientData

RATE = 0.2
ENGINE = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 4}


class Normed(nn.Module):
    """5-4-3 with batch statistics: 43 parameters and 8 statistics."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, valid: Any = None) -> Any:
        x = nn.Dense(4, use_bias=False)(x)
        mask = None if valid is None else valid[:, None]
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x, mask=mask)
        return nn.Dense(3)(nn.relu(x))


MODEL = models.from_linen(Normed(), (5,))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_weights_of_the_paper_for_its_widths():
    densities = (1, 0.75, 0.5, 0.25)
    assert loss_weights([1 - d for d in densities]) == [2.5, 1.0, 1.0, 1.0]
    # The densest is the full network, whatever its density.
    assert loss_weights((0.8, 0.9, 0.95)) == pytest.approx([1.75, 1.0, 1.0])


def largest(w, kept, within):
    order = np.argsort(-np.where(within, np.abs(w), -1).ravel(), kind="stable")
    return np.isin(np.arange(w.size), order[:kept]).reshape(w.shape) & within


def oracle(w, x, y, rounds, levels, slow, c, b):
    """Weights and the masks of all levels after every round, one client, one batch."""
    kept = [np.ones(w.shape, bool)] * len(levels)
    weights = [1 + sum((1 - s) / (1 - levels[0]) for s in levels[1:])]
    weights += [1.0] * (len(levels) - 1)
    truth = np.eye(w.shape[1])[y]
    for t in range(1, rounds + 1):
        for _ in range(ENGINE["local_epochs"]):
            p = [softmax(x @ (m * w)) for m in kept]
            slope = kept[0] * (x.T @ (p[0] - truth)) / len(x)
            if t > slow:
                slope = slope * weights[0]
                soft = softmax(x @ (kept[0] * w) / c)
                for m, own in zip(kept[1:], p[1:], strict=True):
                    student = softmax(x @ (m * w) / c)
                    towards = (1 - b) * (own - truth) + b / c * (student - soft)
                    slope += m * (x.T @ towards) / len(x)
            w = kept[0] * (w - RATE * slope)
        now, within, new = levels[-1] * t / rounds, np.ones(w.shape, bool), []
        for number, level in enumerate(levels):
            within = kept[0] & within if number == 0 else within
            count = w.size - int(np.floor(min(level, now) * w.size + 1e-5))
            within = largest(w, count, within)
            new.append(within)
        kept, w = new, w * new[0]
        yield w, kept


@pytest.mark.parametrize("slow", [0, 1, 5])
@pytest.mark.parametrize("c, b", [(1.0, 0.5), (5.0, 0.9)])
def test_rounds_are_numpys(slow, c, b):
    rng = np.random.default_rng(0)
    w, x, y = rng.normal(size=(6, 4)), rng.normal(size=(4, 6)), np.array([0, 3, 1, 2])
    levels, rounds = (0.25, 0.5, 0.75), 4
    model = linear(jnp.asarray(w, jnp.float32))
    algorithm = algorithms.slimmable(
        model.apply,
        levels=levels,
        slow_start=slow,
        temperature=c,
        distillation=b,
        **{"rounds": rounds, "begin": 0, "exponent": 1.0},
        **ENGINE,
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    clients = ClientData(
        jnp.asarray(x, jnp.float32)[None],
        jnp.asarray(y, jnp.int32)[None],
        jnp.array([4], jnp.int32),
    )
    step = jax.jit(algorithm.step)
    states, _ = run_rounds(step, state, clients, round_keys(rounds))
    expected = oracle(w, x, y, rounds, levels, slow, c, b)
    for state, (dense, kept) in zip(states[1:], expected, strict=True):
        new = state.variables["params"]["w"]
        np.testing.assert_allclose(new, dense, rtol=1e-4, atol=1e-6)
        models_at = algorithm.variants(state)
        assert list(models_at) == ["0.25", "0.5", "0.75"]
        for variables, mask in zip(models_at.values(), kept, strict=True):
            got = variables["params"]["w"]
            np.testing.assert_allclose(got, dense * mask, rtol=1e-4, atol=1e-6)
            assert (got[~mask] == 0).all()
    assert [int(mask.sum()) for mask in kept] == [18, 12, 6]


def trained(clients, model=MODEL, rounds=3, **options):
    algorithm = algorithms.slimmable(
        model.apply,
        **{"levels": (0.3, 0.6, 0.9), "rounds": rounds, "slow_start": 1}
        | ENGINE
        | options,
    )
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    step = jax.jit(algorithm.step)
    return algorithm, *run_rounds(step, state, clients, round_keys(rounds))


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_levels_are_nested_exact_and_without_other_collections(scope, ema, clients):
    algorithm, states, _ = trained(clients, MLP, scope=scope, server_ema=ema)
    levels = algorithm.variants(states[-1])
    kept = [jax.tree.map(lambda w: w != 0, v) for v in levels.values()]
    for wider, narrower in itertools.pairwise(kept):
        chex.assert_trees_all_equal(masks.intersect(wider, narrower), narrower)
    if scope == "global":
        counts = [int(trees.nonzeros(v)) for v in levels.values()]
        assert counts == [39 - int(39 * s) for s in (0.3, 0.6, 0.9)]
    chex.assert_trees_all_equal(levels["0.3"], algorithm.model(states[-1]))
    assert all(set(v) == {"params"} for v in levels.values())


def test_the_schedule_is_the_last_levels_and_others_stop_at_theirs(clients):
    _, _, infos = trained(clients, rounds=4, exponent=1.0, begin=0)
    # The last level has 0.225, 0.45, 0.675 and 0.9.
    targets = [float(info.target_sparsity) for info in infos]
    assert targets == pytest.approx([0.225, 0.3, 0.3, 0.3])


def test_every_level_has_statistics_of_its_own(clients):
    """They are alike until the levels are trained, and those of their masks then."""
    algorithm, states, _ = trained(clients)

    def means(state):
        levels = algorithm.variants(state).values()
        return [v["batch_stats"]["BatchNorm_0"]["mean"] for v in levels]

    first, second, third = means(states[1])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    first, second, third = means(states[-1])
    assert not np.allclose(first, second) and not np.allclose(second, third)
    assert nested.COLLECTION not in algorithm.model(states[-1])


def test_statistics_of_levels_are_in_the_bytes(clients):
    _, _, alone = trained(clients, levels=(0.3,))
    _, _, three = trained(clients)
    more = three[0].bytes_up - alone[0].bytes_up
    # Two times four means and variances of 32 bits.
    assert more.tolist() == [64] * 4


def test_one_level_is_fedsparsify(clients):
    """The schedule ends at its sparsity, and there is nothing to distil."""
    slim, states, _ = trained(clients, levels=(0.6,))
    plain = algorithms.fedsparsify_global(
        MODEL.apply, final_sparsity=0.6, rounds=3, **ENGINE
    )
    state = plain.init(jax.random.key(1), MODEL.init(jax.random.key(2)))
    other, _ = run_rounds(jax.jit(plain.step), state, clients, round_keys(3))
    chex.assert_trees_all_equal(states[-1].variables, other[-1].variables)
    chex.assert_trees_all_equal(states[-1].masks, other[-1].masks)
    assert list(slim.variants(states[-1])) == ["0.6"]


def test_the_contrastive_loss_of_all_levels_is_numpys():
    """Without augmentation: both views of an example are the example."""
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(6, 4)), rng.normal(size=(3, 6))
    levels, b, c, tau = (0.25, 0.5, 0.75), 0.3, 2.0, 0.5
    model = linear(jnp.asarray(w, jnp.float32))
    algorithm = algorithms.slimmable(
        model.apply,
        levels=levels,
        slow_start=1,
        temperature=c,
        distillation=b,
        loss="contrastive",
        similarity_temperature=tau,
        rounds=3,
        **(ENGINE | {"local_epochs": 1}),
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    # The fourth row is padding, and labels are not looked at.
    padded = jnp.asarray(np.concatenate([x, x[:1]])[None], jnp.float32)
    clients = ClientData(padded, jnp.full((1, 4), 99), jnp.array([3], jnp.int32))
    step = jax.jit(algorithm.step)
    states, infos = run_rounds(step, state, clients, round_keys(3))
    for t, (before, info) in enumerate(zip(states[:-1], infos, strict=True), start=1):
        rows = []
        for variables in algorithm.variants(before).values():
            z = np.concatenate([x, x]) @ np.asarray(variables["params"]["w"])
            unit = z / np.linalg.norm(z, axis=1, keepdims=True)
            s = unit @ unit.T / tau
            rows.append([np.delete(row, i) for i, row in enumerate(s)])
        # The view itself is not there: its partner is one place before its own.
        own = [np.mean([-np.log(softmax(row)[n + 2 if n < 3 else n - 3])
                        for n, row in enumerate(of_level)])
               for of_level in rows]  # fmt: skip
        expected = own[0]
        if t > 1:
            expected = own[0] * (1 + (0.5 + 0.25) / 0.75)
            for of_level, loss in zip(rows[1:], own[1:], strict=True):
                p = [softmax(row / c) for row in rows[0]]
                q = [softmax(row / c) for row in of_level]
                kl = [np.sum(a * np.log(a / e)) for a, e in zip(p, q, strict=True)]
                expected += (1 - b) * loss + b * np.mean(kl)
        assert float(info.loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": ()}, "levels are none"),
        ({"levels": (0.9, 0.8)}, "levels are 0.9, 0.8: they must rise"),
        ({"levels": (0.9, 0.9)}, "they must rise"),
        ({"levels": (0.9, 1.0)}, "below 1"),
        ({"distillation": 1.5}, "distillation is 1.5"),
        ({"loss": "views"}, "loss is 'views': it must be one of supervised, contr"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        algorithms.slimmable(MLP.apply, **options)
