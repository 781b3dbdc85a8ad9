"""FLOPs by hand, against XLA's cost analysis, and through every way to use a kernel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fedsparsify_jax import masks, metrics, models, trees
from fedsparsify_jax.metrics import inference_flops, layer_flops, training_flops
from fedsparsify_jax.metrics.flops import NO_LEAF, product_order

A, B, C = (f"params/Dense_{n}/kernel" for n in range(3))


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def mlp():
    return models.build("mlp", input_shape=(28, 28), num_classes=10)


def of(fn, variables, x_shape):
    """Forward FLOPs of a plain function of params and x."""
    layers = layer_flops(
        lambda v, x: (fn(v["params"], x), {}), {"params": variables}, x_shape
    )
    return {
        path.removeprefix("params/"): layer.forward for path, layer in layers.items()
    }


@pytest.mark.parametrize("batch", [1, 32])
def test_the_mlp_of_the_paper_by_hand(batch):
    layers = layer_flops(mlp().apply, shapes(mlp()), (batch, 28, 28), jnp.uint8)
    sizes = {A: 784 * 128, B: 128 * 128, C: 128 * 10}
    assert {path: flops.forward for path, flops in layers.items()} == {
        path: 2 * batch * size for path, size in sizes.items()
    }
    assert [flops.input_gradient > 0 for flops in layers.values()] == [0, 1, 1]
    assert inference_flops(layers) == 2 * batch * 118_016
    assert training_flops(layers) == 2 * batch * (3 * 118_016 - 784 * 128)


def test_masks_scale_every_layer_by_its_own_density():
    variables = mlp().init(jax.random.key(0))
    layers = layer_flops(mlp().apply, variables, (1, 28, 28))
    kept = masks.ones_like(variables)
    for layer, count in (("Dense_0", 1000), ("Dense_1", 3), ("Dense_2", 0)):
        kernel = kept["params"][layer]["kernel"]
        first = jnp.arange(kernel.size).reshape(kernel.shape) < count
        kept["params"][layer]["kernel"] = first
    assert inference_flops(layers, kept) == 2 * 1003
    assert training_flops(layers, kept) == 2 * (2 * 1000 + 3 * 3)
    counts = {path: int(n) for path, n in masks.kept(kept).items()}
    assert training_flops(layers, kept=counts) == training_flops(layers, kept)
    traced = jax.jit(lambda kept: training_flops(layers, kept))(kept)
    assert traced.dtype == jnp.float32 and float(traced) == 2 * (2 * 1000 + 3 * 3)
    everything = masks.ones_like(variables)
    assert training_flops(layers, everything) == training_flops(layers)


def cost(fn, *arguments):
    """XLA's count for the compiled program."""
    return jax.jit(fn).lower(*arguments).compile().cost_analysis()["flops"]


def total_of(model):
    """The sum of a model's outputs: a loss almost without work of its own."""
    return lambda params, x: jnp.sum(model.apply({"params": params}, x)[0])


class Conv(nn.Module):
    """Two convolutions without padding (XLA leaves padded taps out), one dense."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x))
        x = nn.relu(nn.Conv(32, (3, 2), padding="VALID", strides=2)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


# Elementwise work is what XLA counts beyond ours. In the MLP a layer's O biases and
# activations stand beside I x O products: 2 O / (2 I O), at most 1/128; in the small
# convolutions 3 operations beside 2 * 27 of the first kernel. Training also adds XLA's
# sums for the gradients of biases. 5 % covers the three of them.
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_xla_counts_the_same_up_to_elementwise_work(name):
    conv = name == "conv"
    model = models.from_linen(Conv(), (12, 12, 3)) if conv else mlp()
    shape = (8, 12, 12, 3) if conv else (8, 28, 28)
    variables, x = shapes(model), jax.ShapeDtypeStruct(shape, jnp.float32)
    layers = layer_flops(model.apply, variables, shape)
    forward = cost(lambda v, x: model.apply(v, x)[0], variables, x)
    assert inference_flops(layers) == pytest.approx(forward, rel=0.05)
    step = cost(jax.grad(total_of(model)), variables["params"], x)
    assert training_flops(layers) == pytest.approx(step, rel=0.05)


def test_convolutions_by_hand():
    model = models.from_linen(Conv(), (12, 12, 3))
    layers = layer_flops(model.apply, shapes(model), (8, 12, 12, 3))
    first, second = 10 * 10 * 3 * 3 * 3 * 16, 4 * 5 * 3 * 2 * 16 * 32
    dense = 4 * 5 * 32 * 10
    assert [flops.forward for flops in layers.values()] == [
        2 * 8 * count for count in (first, second, dense)
    ]
    assert training_flops(layers) == 2 * 8 * (2 * first + 3 * second + 3 * dense)


def test_winograd_counts_like_the_convolution_that_it_is():
    options = {"input_shape": (8, 8, 3), "num_classes": 10, "widths": (16, 16)}
    counts = []
    for conv in ("winograd", "patches", "xla"):
        model = models.build("cnn", **options, conv=conv)
        counts.append(layer_flops(model.apply, shapes(model), (32, 8, 8, 3)))
    assert counts[0] == counts[1] == counts[2]
    forward = 2 * 32 * 8 * 8 * 9 * 16 * 16
    assert counts[0]["params/Conv_1/kernel"].forward == forward


def test_groups_padding_and_dilated_inputs():
    grouped = nn.Conv(8, (3, 3), feature_group_count=4)  # same padding counts whole
    model = models.from_linen(grouped, (6, 6, 4))
    (flops,) = layer_flops(model.apply, shapes(model), (1, 6, 6, 4)).values()
    assert flops.forward == 2 * 6 * 6 * 3 * 3 * 1 * 8
    model = models.from_linen(nn.ConvTranspose(8, (2, 2), (2, 2)), (6, 6, 4))
    (flops,) = layer_flops(model.apply, shapes(model), (1, 6, 6, 4)).values()
    assert flops.forward == 2 * 6 * 6 * 2 * 2 * 4 * 8


def patches(kernel, x):
    """A 2x2 convolution as shifted slices times the flattened kernel."""
    rows = jnp.concatenate(
        [x[:, i : i + 3, j : j + 3] for i in range(2) for j in range(2)], axis=-1
    )
    flat = kernel.reshape(-1, kernel.shape[-1])
    return jax.jit(jnp.matmul)(rows.reshape(-1, rows.shape[-1]), flat)


W = jnp.ones((4, 6))
WAYS = {
    "transposed": lambda p, x: lax.dot_general(x, p["w"].T, (((1,), (1,)), ((), ()))),
    "cast": lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16),
    "masked": lambda p, x: x @ (p["w"] * jnp.eye(4, 6)),
    "selected": lambda p, x: x @ jnp.where(p["w"] > 0, p["w"], 0.0),
    "powerpropagation": lambda p, x: x @ (p["w"] * jnp.abs(p["w"])),
    "jitted": lambda p, x: jax.jit(jnp.matmul)(x, p["w"]),
    "checkpointed": lambda p, x: jax.checkpoint(jnp.matmul)(x, p["w"]),
    "kernel on the left": lambda p, x: (p["w"].T @ x.T).T,
    "branched": lambda p, x: lax.cond(
        x[0, 0] > 0, lambda: x @ p["w"], lambda: jnp.zeros((5, 6))
    ),
    "behind a barrier": lambda p, x: jnp.matmul(*lax.optimization_barrier((x, p["w"]))),
    "row by row": lambda p, x: lax.map(lambda row: row @ p["w"], x),
    "fused": lambda p, x: x @ jnp.concatenate([p["w"], p["w"]], axis=1)[:, :6],
    "half and half": lambda p, x: (x @ p["w"][:, :3], x @ p["w"][:, 3:]),
}


@pytest.mark.parametrize("way", WAYS)
def test_kernels_are_followed(way):
    assert of(WAYS[way], {"b": jnp.ones(6), "w": W}, (5, 4)) == {"w": 2 * 5 * 4 * 6}


def test_patches_are_followed_to_the_kernel():
    kernel = {"k": jnp.ones((2, 2, 3, 7))}
    flops = of(lambda p, x: patches(p["k"], x), kernel, (2, 4, 4, 3))
    assert flops == {"k": 2 * (2 * 3 * 3) * (2 * 2 * 3) * 7}


def test_concatenated_and_padded_kernels_are_divided():
    flops = of(
        lambda p, x: x @ jnp.concatenate([p["w"], p["v"]], axis=1),
        {"w": W, "v": jnp.ones((4, 3))},
        (5, 4),
    )
    assert flops == {"w": 2 * 5 * 4 * 6, "v": 2 * 5 * 4 * 3}
    flops = of(lambda p, x: x @ jnp.pad(p["w"], ((0, 0), (0, 2))), {"w": W}, (5, 4))
    assert flops == {"w": 2 * 5 * 4 * 6, NO_LEAF: 2 * 5 * 4 * 2}


def recurrent(params, x):
    def step(state, row):
        return jnp.tanh(row @ params["in"] + state @ params["over"]), state

    return lax.scan(step, jnp.zeros(6), x)[0]


def test_scans_count_every_step_and_gradients_reach_the_carry():
    params = {"in": W, "over": jnp.ones((6, 6))}
    flops = layer_flops(
        lambda v, x: (recurrent(v["params"], x), {}), {"params": params}, (7, 4)
    )
    first, over = 2 * 7 * 4 * 6, 2 * 7 * 6 * 6
    assert tuple(flops["params/in"]) == (first, first, 0, 24)
    assert tuple(flops["params/over"]) == (over, over, over, 36)


def test_layers_stacked_for_a_scan_belong_to_the_stack():
    def deep(params, x):
        return lax.scan(lambda x, w: (x @ w, None), x, params["w"])[0]

    flops = of(deep, {"w": jnp.ones((3, 4, 4))}, (5, 4))
    assert flops == {"w": 3 * 2 * 5 * 4 * 4}


def test_products_of_activations_are_no_leafs_and_stay_dense():
    def attention(variables, x):
        queries, keys = x @ variables["params"]["w"], x @ variables["params"]["v"]
        return queries @ keys.T, {}

    variables = {"params": {"w": W, "v": W}}
    layers = layer_flops(attention, variables, (5, 4))
    dense = 2 * 5 * 6 * 5
    assert tuple(layers[NO_LEAF]) == (dense, 0, 2 * dense, 0)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), variables)
    assert inference_flops(layers, nothing) == dense
    assert training_flops(layers, nothing) == 3 * dense


def test_a_normalised_activation_is_not_the_scale_it_was_multiplied_with():
    params = {"scale": jnp.ones((1, 4)), "w": W}
    assert of(lambda p, x: (x * p["scale"]) @ p["w"], params, (5, 4)) == {"w": 240}


def test_what_is_not_trained_has_no_gradients():
    def apply(variables, x):
        frozen = x @ lax.stop_gradient(variables["params"]["w"])
        return (frozen + x @ variables["consts"]["c"]) @ variables["params"]["out"], {}

    variables = {"params": {"w": W, "out": jnp.ones((6, 2))}, "consts": {"c": W}}
    layers = layer_flops(apply, variables, (5, 4))
    gradients = {path: flops[1:3] for path, flops in layers.items()}
    assert gradients == {
        "consts/c": (0, 0),
        "params/out": (120, 0),
        "params/w": (0, 0),
    }


def test_an_embedding_table_is_read_without_products():
    def apply(variables, x):
        return variables["params"]["table"][x] @ variables["params"]["w"], {}

    variables = {"params": {"table": jnp.ones((9, 4)), "w": W}}
    layers = layer_flops(apply, variables, (5,), jnp.int32)
    assert {path: tuple(flops) for path, flops in layers.items()} == {
        "params/w": (240, 240, 240, 24)
    }


def test_nothing_is_run():
    model = models.build("mlp", input_shape=(10**5,), num_classes=10**5)
    layers = layer_flops(model.apply, shapes(model), (10**4, 10**5))
    assert inference_flops(layers) == 2 * 10**4 * (2 * 128 * 10**5 + 128**2)


def test_what_cannot_be_counted_is_refused():
    def until(params, x):
        return lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ params["w"], x)

    with pytest.raises(ValueError, match="cannot count the products inside 'while'"):
        of(until, {"w": jnp.ones((4, 4))}, (5, 4))
    layers = layer_flops(mlp().apply, shapes(mlp()), (1, 28, 28))
    with pytest.raises(ValueError, match=f"no mask or count for {B}, {C}"):
        inference_flops(layers, kept={A: 1})
    kept = {"params": {"w": jnp.ones(1, bool)}}
    with pytest.raises(ValueError, match="not both"):
        training_flops(layers, kept, kept={A: 1})


def test_the_engines_counts_are_understood():
    """`RoundInfo.kept` names leaves as `layer_flops` does."""
    variables = mlp().init(jax.random.key(0))
    layers = layer_flops(mlp().apply, variables, (1, 28, 28))
    kept = {path: leaf.size // 2 for path, leaf in trees.named_leaves(variables)}
    assert metrics.inference_flops(layers, kept=kept) == 118_016
    flops = metrics.inference_flops(
        layers, kept={p: np.int32(n) for p, n in kept.items()}
    )
    assert flops == 118_016 and isinstance(flops, int)


def test_the_order_of_products_is_that_of_the_layers():
    """From the input to the output, whatever the names and however deep."""
    network = models.build(
        "resnet56", input_shape=(8, 8, 3), num_classes=3, widths=(4, 8), blocks=1
    )
    order = product_order(network.apply, shapes(network), (1, 8, 8, 3))
    blocks = [f"params/Block_{b}/Conv_{n}/kernel" for b in (0, 1) for n in (0, 1)]
    assert order == ["params/Conv_0/kernel", *blocks, "params/Dense_0/kernel"]
    deep = models.build(
        "mlp", input_shape=(5,), num_classes=3, hidden=tuple(range(2, 14))
    )
    order = product_order(deep.apply, shapes(deep), (2, 5), jnp.uint8)
    assert order == [f"params/Dense_{n}/kernel" for n in range(13)]
