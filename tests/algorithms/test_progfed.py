"""ProgFed: rounds of every kind against NumPy, what is sent, and what it costs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy_federation
import optax
import pytest
from toy import round_keys, run_rounds

from fedsparsify_jax import algorithms, metrics, models, trees
from fedsparsify_jax.algorithms._shared import stages as staging
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine import sweeps
from fedsparsify_jax.types import ClientData

# 5-4-3-3: blocks of 24 and 15 numbers, a head of 12, and one of 15 behind block 1.
MODEL = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4, 3))
# No unit is without a gradient at first.
START = jax.tree.map(lambda leaf: leaf + 0.1, MODEL.init(jax.random.key(2)))
RATE, EPOCHS, MOMENTUM, FINAL = 0.3, 2, 0.5, 0.4
PLAIN = {"local_epochs": EPOCHS, "batch_size": 4, "learning_rate": RATE}


def of_clients():
    """Two clients with 4 and 3 examples: every batch is all of a client's data."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 4, 5)).astype(np.float32)
    y = rng.integers(0, 3, (2, 4))
    return ClientData(jnp.asarray(x), jnp.asarray(y, jnp.int32), jnp.array([4, 3]))


def build(**options):
    return algorithms.progfed(
        MODEL.apply, parts=MODEL.parts, **{**PLAIN, "stages": 2, **options}
    )


@functools.cache
def played(rounds, **options):
    """The algorithm, and its states and infos of all rounds."""
    algorithm = build(rounds=rounds, **options)
    state = algorithm.init(jax.random.key(1), START)
    return algorithm, *run_rounds(
        jax.jit(algorithm.step), state, of_clients(), round_keys(rounds)
    )


def layers(tree, *names):
    """Kernels and biases of some layers, in float64."""
    return [
        tuple(np.asarray(tree["params"][n][leaf], float) for leaf in ("kernel", "bias"))
        for n in names
    ]


STAGES = [("Dense_0", "head_1"), ("Dense_0", "Dense_1", "Dense_2")]


def oracle_round(weights, kept, target, frozen):
    """One round of a stage's layers, the first ``frozen`` of which do not move."""
    data, results = of_clients(), []
    for x, y, size in zip(*map(np.asarray, data), strict=True):
        x, y, local = x[:size].astype(float), y[:size], weights
        velocity = [(0 * w, 0 * b) for w, b in weights]
        for _ in range(EPOCHS):
            _, slopes = numpy_federation.gradients(local, x, y)
            velocity = [
                (MOMENTUM * v + g, MOMENTUM * u + h)
                for (v, u), (g, h) in zip(velocity, slopes, strict=True)
            ]
            moved = [
                (w - RATE * v, b - RATE * u) if n >= frozen else (w, b)
                for n, ((w, b), (v, u)) in enumerate(zip(local, velocity, strict=True))
            ]
            local = numpy_federation.apply_masks(moved, kept)
        results.append(local)
    merged = numpy_federation.mean(results, np.array([4 / 7, 3 / 7]))
    kept = numpy_federation.keep_largest(merged, kept, target)
    return numpy_federation.apply_masks(merged, kept), kept


def all_kept(weights):
    return [(np.ones_like(w), np.ones_like(b)) for w, b in weights]


def test_rounds_of_both_stages_and_of_warming_up_are_numpys():
    """Rounds of stage 1, of warming up, and of stage 2: 2, 1, 7 of 10."""
    rounds = 10
    _, states, infos = played(
        rounds, warmup_rounds=1, final_sparsity=FINAL, momentum=MOMENTUM
    )
    weights = layers(states[0].variables, "Dense_0", "head_1")
    kept = all_kept(weights)
    for t, (state, info) in enumerate(zip(states[1:], infos, strict=True), start=1):
        if t == 3:
            new = layers(START, "Dense_1", "Dense_2")
            weights, kept = [weights[0], *new], [kept[0], *all_kept(new)]
        target = FINAL * (1 - (1 - (t - 1) / (rounds - 1)) ** 3)
        frozen = 1 if t == 3 else 0
        weights, kept = oracle_round(weights, kept, target, frozen)
        names = STAGES[t > 2]
        for one, other in zip(layers(state.variables, *names), weights, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        for one, other in zip(layers(state.masks, *names), kept, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        sizes = [leaf.size for layer in kept for leaf in layer]
        lost = sum(int((leaf == 0).sum()) for layer in kept for leaf in layer)
        assert float(info.sparsity) == pytest.approx(lost / sum(sizes), abs=1e-6)


def test_bytes_are_those_of_the_layers_of_the_stage():
    """39 numbers behind block 1, 51 in all; whoever is absent is not sent."""
    _, states, infos = played(4, final_sparsity=0.0)
    assert [int(info.bytes_up[0]) for info in infos] == [4 * 39, *[4 * 51] * 3]
    assert [int(info.bytes_down[0]) for info in infos] == [4 * 39, *[4 * 51] * 3]
    for path, kept in (("head_1", [12, 0, 0, 0]), ("Dense_1", [0, 12, 12, 12])):
        assert [int(info.kept[f"params/{path}/kernel"]) for info in infos] == kept
    absent = states[1].variables["params"]["Dense_1"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(absent))
    gone = states[2].variables["params"]["head_1"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gone))


def test_whoever_comes_later_starts_from_the_first_weights():
    """At a rate of zero nothing moves, and all of the model is there in the end."""
    algorithm, states, _ = played(
        5, warmup_rounds=1, final_sparsity=0.0, learning_rate=0.0
    )
    chex.assert_trees_all_close(algorithm.model(states[-1]), START, rtol=1e-6)
    for state in states[3:]:
        chex.assert_trees_all_close(
            state.variables["params"]["Dense_1"], START["params"]["Dense_1"], rtol=1e-6
        )


def test_the_model_that_is_handed_out_has_no_heads():
    algorithm, states, _ = played(4, final_sparsity=0.0)
    for state in states:
        chex.assert_trees_all_equal_shapes(algorithm.model(state), START)
    assert set(states[-1].variables["params"]) == {*START["params"], "head_1"}


def test_between_rounds_the_network_of_the_stage_is_evaluated():
    algorithm, states, _ = played(4, final_sparsity=0.0)
    x = of_clients().x[0]
    for state, network in zip(states, [0, 0, 1, 1, 1], strict=True):
        apply_fn, variables = algorithm.evaluated(state)
        answers, changed = apply_fn(variables, x)
        expected, _ = MODEL.parts[network].apply(state.variables, x)
        np.testing.assert_allclose(answers, expected, rtol=1e-6)
        assert changed == {}


def products(jaxpr):
    """How many products every branch of the outermost switch has."""
    switches = [e for e in jaxpr.eqns if e.primitive.name == "cond"]
    (switch,) = [e for e in switches if "dot_general" in str(e)]
    return [str(b).count("dot_general[") for b in switch.params["branches"]]


def test_a_round_computes_no_more_than_its_network():
    """Forward, by weights, and by inputs but the first: 2 + 2 + 1 and 3 + 3 + 2."""
    algorithm = build(rounds=4)
    state = algorithm.init(jax.random.key(1), START)
    args = jax.random.key(0), state, of_clients()
    assert products(jax.make_jaxpr(algorithm.step)(*args).jaxpr) == [5, 8]


def test_a_sweep_of_seeds_has_the_same_branches():
    algorithm = build(rounds=4)
    states = sweeps.stack_states([algorithm.init(jax.random.key(1), START)] * 2)

    def one(state, clients, key):
        return algorithm.step(key, state, clients)

    rounds = sweeps.over_trials(one)
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.debug_key_reuse(False):
        jaxpr = jax.make_jaxpr(rounds)(states, of_clients(), keys).jaxpr
    assert products(jaxpr) == [5, 8]


def test_flops_are_those_of_the_network_of_the_stage():
    """Two for every kept weight of a kernel: 20 + 12 behind block 1, then 20 + 12 + 9.

    A step is three times that, but for the gradient by the first layer's inputs.
    """
    _, _, infos = played(4, final_sparsity=0.0)
    for info, network, weights in zip(infos, (0, 1), (32, 41), strict=False):
        part = MODEL.parts[network]
        shapes = jax.eval_shape(part.init, jax.random.key(0))
        flops = metrics.layer_flops(part.apply, shapes, (1, 5))
        assert metrics.inference_flops(flops, kept=info.kept) == 2 * weights
        step = 3 * 2 * weights - 2 * 20
        assert metrics.training_flops(flops, kept=info.kept) == step


def test_one_stage_is_fedsparsify_global():
    states = []
    for method in (algorithms.fedsparsify_global, algorithms.progfed):
        more = {"stages": 1} if method is algorithms.progfed else {}
        algorithm = method(MODEL.apply, rounds=3, final_sparsity=0.5, **PLAIN, **more)
        start = algorithm.init(jax.random.key(1), START)
        step = jax.jit(algorithm.step)
        states.append(run_rounds(step, start, of_clients(), round_keys(3))[0][-1])
    chex.assert_trees_all_equal(*states)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_warming_up_moves_nothing_but_what_is_new(optimizer):
    """Not even those that decay weights."""
    options = {
        "sgd": {},
        "adamw": {"optimizer": optax.adamw(0.1, weight_decay=0.5)},
        "lars": {"optimizer": "lars", "weight_decay": 0.5, "trust_coefficient": 0.1},
    }[optimizer]
    _, states, _ = played(5, warmup_rounds=1, final_sparsity=0.0, **options)
    before, after = (state.variables["params"] for state in states[1:3])
    chex.assert_trees_all_close(after["Dense_0"], before["Dense_0"], rtol=1e-6)
    for name in ("Dense_1", "Dense_2"):
        assert np.any(after[name]["kernel"] != START["params"][name]["kernel"])
    later = states[3].variables["params"]
    assert np.any(later["Dense_0"]["kernel"] != after["Dense_0"]["kernel"])


def test_kept_optimizers_start_anew_with_a_stage():
    options = {"momentum": 0.9, "optimizer_state": "kept", "num_clients": 2}
    algorithm, states, _ = played(8, final_sparsity=0.0, **options)
    forgotten = states[2]
    assert any(np.any(m) for m in jax.tree.leaves(forgotten.clients.optimizer))
    forgotten = forgotten._replace(
        clients=forgotten.clients._replace(
            optimizer=jax.tree.map(jnp.zeros_like, forgotten.clients.optimizer)
        )
    )
    again, _ = jax.jit(algorithm.step)(round_keys(8)[2], forgotten, of_clients())
    chex.assert_trees_all_equal(again, states[3])


def test_an_average_of_a_new_block_starts_from_its_first_weights():
    """Round 3 has the rate (1 - d) / (1 - d^3), d = 1/2: 4/7 of the new weights."""
    algorithm, states, _ = played(8, final_sparsity=0.0, server_ema=0.5)
    average = algorithm.model(states[3])["params"]["Dense_1"]["kernel"]
    first = START["params"]["Dense_1"]["kernel"]
    new = states[3].variables["params"]["Dense_1"]["kernel"]
    np.testing.assert_allclose(average, (3 * first + 4 * new) / 7, rtol=1e-5)
    assert not np.any(algorithm.model(states[2])["params"]["Dense_1"]["kernel"])


@pytest.mark.parametrize("rounds", [4, 5, 17, 100])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("warmup", [0, 3])
def test_stages_take_all_rounds(rounds, stages, warmup):
    total = rounds + (stages - 1) * warmup
    phases = staging.phases_of(total, stages, warmup)
    assert sum(phase.length for phase in phases) == total
    assert [p.stage for p in phases if not p.warm] == list(range(stages))
    warm = [phase.length for phase in phases if phase.warm]
    assert warm == ([warmup] * (stages - 1) if warmup else [])
    lengths = [phase.length for phase in phases if not phase.warm]
    assert set(lengths[:-1]) <= {max(rounds // (2 * stages), 1)}


@pytest.mark.parametrize(
    "stages, depths", [(1, [5]), (2, [2, 5]), (3, [1, 3, 5]), (None, [1, 2, 3, 4, 5])]
)
def test_stages_end_behind_blocks(stages, depths):
    network = models.build(
        "mlp", input_shape=(5,), num_classes=3, hidden=(2, 2, 2, 2, 2)
    )
    found = staging.stages_of(network.apply, network.parts, stages)
    kernels = [sum("kernel" in leaf for leaf in stage.leaves) for stage in found]
    assert kernels == [depth + 1 for depth in depths]


TINY = {
    "cnn": {"widths": (2, 2), "hidden": 4},
    "vgg16_bn": {"widths": ((2,), (3,))},
    "resnet56": {"widths": (2, 4), "blocks": 1},
}


@pytest.mark.parametrize("name", TINY)
def test_convolutional_networks_grow(name):
    """Batch statistics of blocks to come are absent too, and then move."""
    network = models.build(name, input_shape=(8, 8, 1), num_classes=3, **TINY[name])
    assert len(network.parts) == 2
    options = PLAIN | {"learning_rate": 0.01, "final_sparsity": 0.0, "rounds": 2}
    options["client_map"] = chunked(1)
    algorithm = algorithms.progfed(network.apply, parts=network.parts, **options)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 4, 8, 8, 1)).astype(np.float32))
    clients = of_clients()._replace(x=x)
    start = network.init(jax.random.key(0))
    states, infos = run_rounds(
        jax.jit(algorithm.step),
        algorithm.init(jax.random.key(1), start),
        clients,
        round_keys(2),
    )
    chex.assert_tree_all_finite((states[-1].variables, [i.loss for i in infos]))
    for state, info, part in zip(states[1:], infos, network.parts, strict=True):
        shapes = jax.eval_shape(part.init, jax.random.key(0))
        there = {path for path, _ in trees.named_leaves(shapes)}
        for path, weights in trees.named_leaves(state.variables):
            assert path in there or not np.any(weights), path
        statistics = [path for path in there if path.startswith("batch_stats")]
        assert all(int(info.kept[path]) > 0 for path in statistics)
    model = algorithm.model(states[-1])
    chex.assert_trees_all_equal_shapes(model, start)
    for (path, old), (_, new) in zip(
        trees.named_leaves(start["params"]),
        trees.named_leaves(model["params"]),
        strict=True,
    ):
        assert np.any(old != new), path


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stages": 3}, "stages is 3: it must be at least 1, and at most 2 for this"),
        ({"stages": 0}, "stages is 0: it must be at least 1"),
        ({"parts": ()}, "stages is 2: the model does not offer its first blocks"),
        (
            {"rounds": 1},
            "rounds is 1: 2 stages with warmup_rounds of 0 take",
        ),
        ({"rounds": 9, "warmup_rounds": 8}, "warmup_rounds of 8 take at least 10"),
        ({"warmup_rounds": -1}, "warmup_rounds is -1: it must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    arguments = {"parts": MODEL.parts, "stages": 2, **options}
    with pytest.raises(ValueError, match=message):
        algorithms.progfed(MODEL.apply, **arguments)


def test_models_of_ones_own_offer_no_blocks_unless_they_say_so():
    own = models.from_functions(lambda key: {"w": jnp.ones(5)}, lambda p, x: x @ p["w"])
    assert own.parts == ()
    with pytest.raises(ValueError, match="does not offer its first blocks"):
        algorithms.progfed(own.apply, parts=own.parts)
    algorithms.progfed(own.apply, stages=1)
