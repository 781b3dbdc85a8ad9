"""Which norm reads which layer's channels."""

import flax.linen as nn
import jax
import pytest

from fedsparsify_jax import models
from fedsparsify_jax.models.adapters.norms import norms_behind

X = jax.ShapeDtypeStruct((1, 8, 8, 4), "float32")


class Net(nn.Module):
    """A convolution, something between, and a norm."""

    between: str

    @nn.compact
    def __call__(self, x, *, train=False):
        y = nn.Conv(4, (3, 3))(x)
        y = {
            "nothing": lambda y: y,
            "activations": lambda y: nn.gelu(nn.relu(y) * 2),
            "pooling": lambda y: nn.avg_pool(nn.max_pool(y, (2, 2)), (2, 2)),
            "sum": lambda y: x + y,
            "layer": lambda y: nn.Conv(4, (1, 1))(y),
            "flattening": lambda y: y.reshape(len(y), -1),
            "softmax": nn.softmax,
        }[self.between](y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        return nn.Dense(2)(y.reshape(len(y), -1))


def pairs_of(net, x=X):
    variables = jax.eval_shape(net.init, jax.random.key(0), x)

    def apply(variables, x):
        return net.apply(variables, x), variables

    return norms_behind(apply, variables, x)


@pytest.mark.parametrize(
    ("between", "layer"),
    [
        ("nothing", "Conv_0"),
        ("activations", "Conv_0"),
        ("pooling", "Conv_0"),
        ("layer", "Conv_1"),
        ("sum", None),
        ("flattening", None),
        ("softmax", None),
    ],
)
def test_a_norm_belongs_to_the_layer_whose_channels_reach_it(between, layer):
    expected = {f"params/{layer}": "params/BatchNorm_0"} if layer else {}
    assert pairs_of(Net(between)) == expected


def test_norms_of_residual_networks_belong_to_the_layers_inside_blocks():
    model = models.build("resnet56", input_shape=(8, 8, 3), num_classes=3, blocks=1)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    pairs = norms_behind(model.apply, variables, x)
    inside = {
        f"params/Block_{n}/Conv_0": f"params/Block_{n}/BatchNorm_1" for n in "012"
    }
    assert pairs == {"params/Conv_0": "params/Block_0/BatchNorm_0", **inside}


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_networks_of_tokens_have_no_norm_right_behind_a_layer(name):
    model = models.build(name, input_shape=(6,), num_classes=3)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((1, 6), "int32")
    assert norms_behind(model.apply, variables, tokens) == {}


def test_a_model_of_functions_has_none():
    assert norms_behind(lambda v, x: (x @ v["params"]["w"], v), *toy()) == {}


def toy():
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((3, 2), (1, 3))]
    return {"params": {"w": shapes[0]}}, shapes[1]
