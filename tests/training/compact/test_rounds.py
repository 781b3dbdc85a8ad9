"""Rounds on the compact form against the same rounds in full."""

import functools

import jax.numpy as jnp
import pytest
from compact_forms import assert_same, form_of, play, start
from conftest import make_clients

from fedsparsify_jax import algorithms, client_map, models
from fedsparsify_jax.training.compact import CompactForm, Lists, Plan, wrapper

MLP = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(12, 10))
# Room for all units but one of each hidden layer, some in another order of magnitude.
PLANS = {
    "compact": Plan((4, 10, 9, None), (None, None, None)),
    "lists": Plan((None, None, None, None), (Lists(14, 3), Lists(20, 5), None)),
    "both": Plan((5, 10, 9, None), (Lists(14, 2), None, Lists(8, 4))),
}


def mlp_masks(masks):
    """Some units that nobody reads or nothing feeds, one with a bias only."""
    first, second = masks["Dense_0"], masks["Dense_1"]
    feeds = first["kernel"].at[:, :2].set(False).at[4].set(False)
    reads = second["kernel"].at[2].set(False)
    bias = jnp.zeros(12, bool).at[1].set(True)
    last = masks["Dense_2"]["kernel"].at[7].set(False)
    return {
        "Dense_0": {"kernel": feeds, "bias": bias},
        "Dense_1": {**second, "kernel": reads},
        "Dense_2": {**masks["Dense_2"], "kernel": last},
    }


METHODS = {
    "fedsparsify_global": {"final_sparsity": 0.8, "rounds": 8},
    "fedsparsify_local": {"final_sparsity": 0.8, "rounds": 8},
    "random_pruning": {"final_sparsity": 0.8, "rounds": 8},
}


@functools.cache
def in_full(name):
    build = getattr(algorithms, name)
    return play(build, MLP, make_clients(), mlp_masks, momentum=0.5, **METHODS[name])


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ("compact", "fedsparsify_global"),
        ("lists", "fedsparsify_global"),
        ("both", "fedsparsify_global"),
        ("both", "fedsparsify_local"),
        ("both", "random_pruning"),
    ],
)
def test_rounds_of_an_mlp_are_the_same(plan, name):
    form = form_of(MLP, (5,), PLANS[plan])
    build = getattr(algorithms, name)
    first = start(build(MLP.apply, **METHODS[name]), MLP, mlp_masks)
    assert bool(form.index(first.masks).fits)
    options = METHODS[name] | {"momentum": 0.5, "compact_form": form}
    found = play(build, MLP, make_clients(), mlp_masks, **options)
    assert_same(found, in_full(name))


def test_the_compact_form_is_what_clients_train():
    plan = PLANS["both"]
    seen = []

    class Watched(CompactForm):
        def apply(self, index):
            def apply(variables, x, **flags):
                kernel = variables["params"]["Dense_0"]["kernel"]
                seen.append(kernel.shape)
                return CompactForm.apply(self, index)(variables, x, **flags)

            return apply

    plain = form_of(MLP, (5,), plan)
    form = Watched(plain.apply_fn, plain.stages, plan)
    build = algorithms.fedsparsify_global
    play(build, MLP, make_clients(), mlp_masks, times=1, compact_form=form)
    assert set(seen) == {(14, 2)}


def test_masks_that_do_not_fit_are_trained_in_full():
    form = form_of(MLP, (5,), Plan((2, 10, 9, None), (None, None, None)))
    name = "fedsparsify_global"
    build = getattr(algorithms, name)
    first = start(build(MLP.apply), MLP, mlp_masks)
    assert not bool(form.index(first.masks).fits)
    options = METHODS[name] | {"momentum": 0.5, "compact_form": form}
    found = play(build, MLP, make_clients(), mlp_masks, **options)
    assert_same(found, in_full(name))


def test_any_cohort_strategy_will_do():
    form = form_of(MLP, (5,), PLANS["both"])
    strategy = client_map.sharded(client_map.device_mesh(), inner=client_map.chunked(1))
    name = "fedsparsify_global"
    options = METHODS[name] | {"momentum": 0.5, "client_map": strategy}
    build = getattr(algorithms, name)
    found = play(build, MLP, make_clients(), mlp_masks, compact_form=form, **options)
    assert_same(found, in_full(name))


@pytest.mark.parametrize(
    ("build", "options", "reason"),
    [
        (algorithms.fedprox, {}, "hook 'objective'"),
        (algorithms.prunefl, {"num_clients": 4}, "hook"),
        (algorithms.fedavg, {"optimizer_state": "kept"}, "kept between rounds"),
        (algorithms.fedsparsify_local, {"fine_tune_epochs": 1}, "fine-tune"),
    ],
)
def test_what_needs_full_shapes_says_so(build, options, reason):
    form = form_of(MLP, (5,), PLANS["both"])
    with pytest.raises(wrapper.UnsuitableError, match=reason):
        build(MLP.apply, compact_form=form, **options)
