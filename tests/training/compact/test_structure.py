"""Which units count as alive, and where the stages of a network end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import masks, models
from fedsparsify_jax.models.adapters.layers import Layer, layers_of
from fedsparsify_jax.training.compact import stages_of
from fedsparsify_jax.training.compact.structure import alive_units


def stages(name, shape, **options):
    model = models.build(name, input_shape=shape, num_classes=3, **options)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return model, stages_of(layers_of(model.apply, variables, x))


def test_stages_of_a_cnn():
    _, found = stages("cnn", (4, 4, 2), widths=(3, 5), hidden=6)
    described = [
        (s.path[0], s.inputs, s.outputs, s.norm and s.norm[0], s.dropouts, s.places)
        for s in found
    ]
    assert described == [
        ("Conv_0", 2, 3, None, (), 16),
        ("Conv_1", 3, 3, "BatchNorm_0", (), 16),
        ("Conv_2", 3, 5, None, (), 4),
        ("Conv_3", 5, 5, None, (), 4),
        ("Dense_0", 5, 6, None, (("Dropout_0",),), 1),
        ("Dense_1", 6, 3, None, (), 1),
    ]


@pytest.mark.parametrize(
    ("name", "sequential"),
    {
        **dict.fromkeys(["mlp", "cnn", "vgg16_bn", "lenet5", "femnist_cnn"], True),
        **dict.fromkeys(["resnet56", "resnet18_gn", "vit_tiny"], False),
    }.items(),
)
def test_who_says_to_be_sequential(name, sequential):
    model = models.build(name, input_shape=(32, 32, 3), num_classes=3)
    assert model.sequential is sequential


def test_a_layer_used_twice_or_unknown_makes_no_stages():
    dense = Layer(("a",), "Dense", 4, 4)
    assert stages_of([dense, dense]) == ()
    assert stages_of([dense, Layer(("n",), "Other", 4, 4)]) == ()


def set_false(tree, *path, at=...):
    """A mask tree with some entries of one leaf set to False."""
    name, *rest = path
    if rest:
        return tree | {name: set_false(tree[name], *rest, at=at)}
    return tree | {name: tree[name].at[at].set(False)}


def test_alive_units_of_a_cnn():
    model, found = stages("cnn", (4, 4, 2), widths=(3, 5), hidden=6)
    full = masks.ones_like(model.init(jax.random.key(0)))
    every = np.index_exp
    params = full["params"]
    for layer in ("Conv_0", "Conv_1", "Conv_3"):
        # channel 0 of each has no weights and no bias
        params = set_false(params, layer, "kernel", at=every[..., 0])
        params = set_false(params, layer, "bias", at=0)
    params = set_false(params, "BatchNorm_0", "bias", at=0)
    # nobody reads channel 1 of the first, normed or third convolution
    for layer in ("Conv_1", "Conv_2", "Conv_3"):
        params = set_false(params, layer, "kernel", at=every[..., 1, :])
    alive = alive_units(found, full | {"params": params})
    found_alive = [units.astype(int).tolist() for units in alive]
    assert found_alive[1] == [0, 0, 1]
    assert found_alive[2] == [0, 1, 1]  # unread, but its running statistics move
    assert found_alive[3] == [1, 0, 1, 1, 1]
    assert found_alive[4] == [0, 1, 1, 1, 1]
    shifted = params | {"BatchNorm_0": full["params"]["BatchNorm_0"]}
    alive = alive_units(found, full | {"params": shifted})
    assert alive[2].tolist() == [True, True, True]  # a shift that is read


def test_death_spreads_both_ways():
    model, found = stages("mlp", (4,), hidden=(3, 3))
    full = masks.ones_like(model.init(jax.random.key(0)))
    params = full["params"]
    # input 0 feeds only unit 0, which feeds only unit 0, which nobody reads
    params = set_false(params, "Dense_0", "kernel", at=np.index_exp[0, 1:])
    params = set_false(params, "Dense_1", "kernel", at=np.index_exp[0, 1:])
    params = set_false(params, "Dense_2", "kernel", at=np.index_exp[0])
    # unit 2 has neither bias nor inputs, and is all that its successor reads
    params = set_false(params, "Dense_0", "kernel", at=np.index_exp[:, 2])
    params = set_false(params, "Dense_0", "bias", at=2)
    params = set_false(params, "Dense_1", "kernel", at=np.index_exp[:2, 2])
    params = set_false(params, "Dense_1", "bias", at=2)
    alive = alive_units(found, full | {"params": params})
    assert [units.astype(int).tolist() for units in alive] == [
        [0, 1, 1, 1],
        [0, 1, 0],
        [0, 1, 0],
        [1, 1, 1],
    ]
