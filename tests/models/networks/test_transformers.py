"""Transformers: their parameter counts by formula, padding, order, and masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import masks, models, trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.networks.attention import TransformerBlock

TEXT = {"vocabulary": 9, "width": 4, "layers": 2, "heads": 2, "hidden": 6}


def block(width: int, hidden: int) -> int:
    """Parameters of a block: two norms, four square layers, two of the MLP."""
    square = 4 * (width * width + width)
    return 4 * width + square + 2 * width * hidden + hidden + width


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((32, 32, 3), {"layers": 2}),
        ((28, 28), {"patch": 7, "layers": 2}),
        ((8, 12), {"width": 6, "hidden": 5, "layers": 1}),
    ],
)
def test_a_vit_has_the_parameters_of_the_formula(
    shape: tuple[int, ...], options: dict[str, int], key: jax.Array
) -> None:
    model = models.build("vit_tiny", input_shape=shape, num_classes=7, **options)
    of = {"patch": 4, "width": 192, "hidden": 768, "layers": 12} | options
    width, patch = of["width"], of["patch"]
    tokens = shape[0] // patch * (shape[1] // patch) + 1
    pixels = patch * patch * (shape[2] if len(shape) == 3 else 1)
    ends = (pixels * width + width) + width + tokens * width + 2 * width
    head = 7 * width + 7
    total = ends + of["layers"] * block(width, of["hidden"]) + head
    assert trees.size(jax.eval_shape(model.init, key)) == total


def test_a_decoder_has_the_parameters_of_the_formula(key: jax.Array) -> None:
    model = models.build("transformer", input_shape=(5,), num_classes=3, **TEXT)
    ends = 9 * 4 + 5 * 4 + 2 * 4 + 3 * 4 + 3
    assert trees.size(jax.eval_shape(model.init, key)) == ends + 2 * block(4, 6)


def test_patches_that_do_not_divide_the_image_are_refused(key: jax.Array) -> None:
    model = models.build("vit_tiny", input_shape=(30, 32), num_classes=2)
    with pytest.raises(InputError, match="patch is 4: it must divide the 30 x 32"):
        jax.eval_shape(model.init, key)


def test_heads_that_do_not_divide_the_width_are_refused(key: jax.Array) -> None:
    options = TEXT | {"heads": 3}
    model = models.build("transformer", input_shape=(5,), num_classes=2, **options)
    with pytest.raises(InputError, match="heads is 3: it must divide the width 4"):
        jax.eval_shape(model.init, key)


@pytest.fixture
def decoder(made_up: Any) -> Any:
    model = models.build("transformer", input_shape=(6,), num_classes=3, **TEXT)
    variables = made_up(model.init)
    run = jax.jit(lambda x: model.apply(variables, x)[0])
    return lambda *rows: np.asarray(run(jnp.asarray(rows, jnp.int32)))


def test_padding_changes_no_answer_and_order_does(decoder: Any) -> None:
    """In front, behind, in between; a text of padding alone has an answer too."""
    words = decoder(
        [0, 0, 0, 3, 5, 2], [3, 5, 2, 0, 0, 0], [3, 0, 5, 0, 0, 2], [5, 3, 2, 0, 0, 0]
    )
    np.testing.assert_allclose(words[1:3], words[[0, 0]], atol=1e-5)
    assert np.abs(words[3] - words[0]).max() > 1e-3
    assert np.isfinite(decoder([0] * 6)).all()


def test_words_outside_the_vocabulary_are_not_made_up(decoder: Any) -> None:
    with jax.debug_nans(False):
        assert np.isnan(decoder([0, 0, 0, 3, 9, 2])).all()


def test_a_token_reads_none_behind_it(made_up: Any) -> None:
    layer = TransformerBlock(heads=2, hidden=3)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 5, 4)), jnp.float32)
    variables = made_up(lambda key: layer.init(key, x))
    causal = jnp.tril(jnp.ones((5, 5), bool))[None, None]
    other = x.at[:, 3:].set(0)
    before, after = (
        np.asarray(layer.apply(variables, inputs, causal)) for inputs in (x, other)
    )
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.any(before[:, 3:] != after[:, 3:])


def test_kernels_and_word_vectors_are_pruned_and_positions_are_not(
    key: jax.Array,
) -> None:
    spared = {"bias", "scale", "position_embedding", "class_token"}
    for name, shape in (("vit_tiny", (8, 8)), ("transformer", (6,))):
        model = models.build(name, input_shape=shape, num_classes=2, layers=1)
        variables = jax.eval_shape(model.init, key)
        chosen = masks.prunable_leaves(variables, masks.kernels_only)
        for path, may_go in trees.named_leaves(chosen):
            assert may_go == (path.split("/")[-1] not in spared), path
