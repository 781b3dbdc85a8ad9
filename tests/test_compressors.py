"""Compressors against NumPy, and what their rounding may and may not do."""

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.compressors import (
    LEVELS,
    Compression,
    compression_of,
    stochastic,
    top_k,
)

FINITE = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False)
FLAT = arrays.arrays(np.float32, st.integers(1, 40), elements=FINITE)


def largest_of(change, masks, fraction):
    """Top-k by a stable sort of all kept entries that are not zero."""
    flat = np.concatenate([np.ravel(leaf) for leaf in change])
    kept = np.concatenate([np.ravel(mask) for mask in masks])
    count = max(1, int(np.floor(np.float32(fraction) * np.float32(kept.sum()))))
    order = np.argsort(-np.abs(flat), kind="stable")
    order = [i for i in order if kept[i] and flat[i] != 0][:count]
    sent = np.zeros_like(flat)
    sent[order] = flat[order]
    return sent


# Each is compiled once, and has ever other numbers.
LENGTHS = ((1,), (2,), (40,), (7, 1), (13, 13), (3, 40, 2))
compiled_top_k = jax.jit(top_k)


@hypothesis.given(st.sampled_from(LENGTHS), st.data())
def test_top_k_is_a_sort(lengths, data):
    leaves = [data.draw(arrays.arrays(np.float32, n, elements=FINITE)) for n in lengths]
    masks = [data.draw(arrays.arrays(bool, leaf.shape)) for leaf in leaves]
    hypothesis.assume(any(mask.any() for mask in masks))
    fraction = data.draw(st.floats(2**-6, 1, width=32))
    change = [np.where(mask, leaf, 0) for mask, leaf in zip(masks, leaves, strict=True)]
    sent = compiled_top_k(change, masks, np.float32(fraction))
    flat = np.concatenate([np.ravel(leaf) for leaf in sent])
    np.testing.assert_array_equal(flat, largest_of(change, masks, fraction))


@hypothesis.given(FLAT, st.sampled_from([*LEVELS]), st.integers(0, 100))
def test_coarse_numbers_are_neighbouring_multiples_of_a_short_scale(leaf, kind, seed):
    numbers, scales = stochastic(jax.random.key(seed), [jnp.asarray(leaf)], kind)
    (sent,), (scale,) = np.float64(numbers), np.float64(scales)
    assert sent.shape == leaf.shape
    largest = float(np.max(np.abs(leaf)))
    if largest == 0:
        assert scale == 0 and not sent.any()
        return
    # The scale has 16 significant bits and is hardly larger than it must be.
    assert (
        scale == float(np.float32(scale))
        and (scale * 2**15 / 2.0 ** np.floor(np.log2(scale))).is_integer()
    )
    smallest = largest / LEVELS[kind]
    assert smallest * (1 - 2**-23) <= scale <= max(smallest * (1 + 2**-14), 2.0**-126)
    codes = sent / scale
    assert (codes == np.rint(codes)).all() and np.abs(codes).max() <= LEVELS[kind]
    assert (np.abs(sent - leaf) < scale * (1 + 1e-6)).all()
    assert not sent[leaf == 0].any()


@pytest.mark.parametrize("kind", [*LEVELS])
def test_rounding_is_unbiased(kind):
    """Means over 20,000 keys are within five standard errors of every number."""
    change = np.random.default_rng(0).normal(size=50).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 20_000)
    rounded = jax.vmap(lambda key: stochastic(key, [jnp.asarray(change)], kind))(keys)
    drawn, scale = np.float64(rounded.numbers[0]), float(rounded.scales[0][0])
    share = np.float64(change) / scale % 1  # of the draws that go up
    error = scale * np.sqrt(share * (1 - share) / len(keys))
    apart = np.abs(drawn.mean(0) - change)
    assert (apart <= 5 * error + 1e-7).all()
    # Both neighbours are drawn, and numbers are rounded independently.
    assert all(len(np.unique(column)) <= 2 for column in drawn.T)
    noise = (drawn - change)[:, (share > 0.1) & (share < 0.9)]
    correlation = np.corrcoef(noise.T) - np.eye(noise.shape[1])
    assert np.abs(correlation).max() < 0.05


def test_leaves_have_scales_and_draws_of_their_own():
    change = {
        "b": jnp.full(100, 0.3).at[0].set(1),
        "w": jnp.full(100, 3.0).at[0].set(10),
    }
    numbers, scales = stochastic(jax.random.key(0), change, "int4")
    assert float(scales["w"]) == pytest.approx(10 * float(scales["b"]), rel=1e-4)
    up = [np.asarray(numbers[name] > change[name]) for name in ("b", "w")]
    assert (up[0] != up[1]).any()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ("int2", None, None),
            "unknown upload_compression 'int2': none, topk, int8, i",
        ),
        (("topk", 0.0, None), "topk_fraction is 0.0: it must be above 0 and at most 1"),
        (("topk", float("nan"), None), "topk_fraction is nan: it must be above 0"),
        (("topk", 1.5, None), "topk_fraction is 1.5: it must be above 0"),
        (("int8", 0.1, None), "goes with the upload_compression topk, not with int8"),
        (("none", 0.1, None), "goes with the upload_compression topk, not with none"),
        (("none", None, True), "error_feedback is about what a compression leaves out"),
    ],
)
def test_options_that_make_no_compression_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        compression_of(*options)


def test_error_feedback_is_the_default_of_top_k_alone():
    assert compression_of("none", None, None) is None
    assert compression_of("topk", 0.2, None) == Compression("topk", 0.2, True)
    assert not compression_of("int4", None, None).error_feedback
    assert compression_of("int4", None, True).error_feedback
