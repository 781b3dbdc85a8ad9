"""What is decoded is what was encoded: any tree, masks, dtypes and options."""

import jax
import jax.numpy as jnp
import messages
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import same_bits

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError

OPTIONS = st.fixed_dictionaries(
    {
        "how": st.sampled_from(("dense", "sent", "known", "previous")),
        "compress": st.sampled_from((None, "zstd")),
        "nonzero": st.booleans(),
    }
)


def sent(model, how, **options):
    """The message, and what the receiver makes of it."""
    given_masks = {
        "dense": {},
        "sent": {"masks": model.masks},
        "known": {"masks": model.masks, "known": model.masks},
        "previous": {"masks": model.masks, "previous": model.previous},
    }[how]
    message = wire.encode(model.variables, **given_masks, **options)
    receiver = {k: v for k, v in given_masks.items() if k != "masks"}
    return message, wire.decode(message, **receiver)


@settings(max_examples=300)
@given(model=messages.models(), options=OPTIONS)
def test_float32_travels_bit_for_bit(model, options):
    _, decoded = sent(model, **options)
    assert same_bits(decoded.variables, model.variables)
    if options["how"] == "dense":
        assert decoded.masks is None
    else:
        assert same_bits(decoded.masks, model.masks)


def narrowed(array, values):
    """Float32 as the receiver should see it, by JAX's conversion."""
    if array.dtype != np.float32:
        return array
    dtype = jnp.dtype(values)
    largest = float(jnp.finfo(dtype).max)
    finite = np.clip(array, -largest, largest)
    kept = np.where(np.isfinite(array), finite, array)
    return np.asarray(kept).astype(dtype).astype(np.float32)


def leaves(tree):
    return jax.tree.leaves(tree)


# Float32 above all, which is what changes.
MIXED = [np.dtype("f4")] * 4 + [np.dtype(name) for name in ("f2", "f8", "i1", "i4")]


@settings(max_examples=150)
@given(
    model=messages.models([*MIXED, np.dtype(jnp.bfloat16)]),
    options=OPTIONS,
    values=st.sampled_from(("float16", "bfloat16")),
)
def test_sixteen_bits_round_to_the_nearest_and_stay_finite(model, options, values):
    _, decoded = sent(model, **options, values=values)
    with np.errstate(invalid="ignore", over="ignore"):
        pairs = zip(leaves(decoded.variables), leaves(model.variables), strict=True)
        for after, before in pairs:
            assert after.dtype == before.dtype
            # Compared as numbers where there are NaN, whose payload may be cut short.
            expected = narrowed(before, values)
            if before.dtype != np.float32:
                assert same_bits(after, expected)
            else:
                np.testing.assert_array_equal(after, expected)


@settings(max_examples=200)
@given(
    model=messages.models(MIXED).filter(messages.finite),
    options=OPTIONS,
    values=st.sampled_from(("int8", "int4")),
)
def test_integers_are_off_by_half_a_step_at_most(model, options, values):
    _, decoded = sent(model, **options, values=values)
    levels = {"int8": 127, "int4": 7}[values]
    pairs = zip(leaves(decoded.variables), leaves(model.variables), strict=True)
    for after, before in pairs:
        assert after.dtype == before.dtype
        if before.dtype != np.float32:
            assert same_bits(after, before)
            continue
        exact = before.astype(np.float64)
        largest = np.max(np.abs(exact), initial=0)
        # Half a step, and the rounding of a scale that is nearly zero.
        most = largest / levels * 0.5001 + 130 * 2.0**-149
        assert (np.abs(after - exact) <= most).all()


@pytest.mark.parametrize("values", ["int8", "int4"])
def test_integers_refuse_what_they_have_no_number_for(values):
    for number in (np.nan, np.inf, -np.inf):
        broken = {"w": np.array([1, number], np.float32)}
        with pytest.raises(InputError, match=r"'w' has a NaN or an infinity.*float16"):
            wire.encode(broken, values=values)
        with pytest.raises(InputError, match=r"'w' is not -[127]+ to [127]+ times its"):
            wire.encode(broken, values=values, scales={"w": np.float32(1)})


@settings(max_examples=150)
@given(
    size=st.integers(0, 40),
    levels=st.sampled_from((127, 7)),
    exponent=st.integers(-100, 100),
    options=OPTIONS,
    seed=st.integers(0, 2**32),
)
def test_multiples_of_a_scale_travel_exactly(size, levels, exponent, options, seed):
    """As compressed changes do: scales have 16 significant bits at most."""
    rng = np.random.default_rng(seed)
    scale = np.float32(rng.integers(1, 2**16) * 2.0**exponent)
    codes = rng.integers(-levels, levels + 1, size) * (rng.random(size) < 0.7)
    mask = rng.random(size) < 0.8
    numbers = np.where(mask, codes.astype(np.float32) * scale, np.float32(0))
    variables = {"w": numbers, "s": rng.normal(size=3).astype(np.float32)}
    ones = {"w": mask, "s": np.ones(3, bool)}
    model = messages.Model(
        variables, ones, {"w": rng.random(size) < 0.5, "s": ones["s"]}
    )
    values = "int8" if levels == 127 else "int4"
    _, decoded = sent(model, **options, values=values, scales={"w": scale})
    np.testing.assert_array_equal(decoded.variables["w"], numbers)
    assert same_bits(decoded.variables["s"], variables["s"])  # which has no scale


def test_zeros_that_are_left_out_make_messages_shorter():
    rng = np.random.default_rng(0)
    numbers = np.where(rng.random(10_000) < 0.1, np.float32(1.5), np.float32(0))
    masks = {"w": np.ones(10_000, bool)}
    few = wire.encode({"w": numbers}, masks, known=masks, nonzero=True)
    count = np.count_nonzero(numbers)
    assert 5 * count < len(few) < 5 * count + 300


def test_a_kept_zero_stays_kept_and_minus_zero_keeps_its_sign():
    variables = {"w": np.array([-0.0, 0.0, 0.0, 2.0], np.float32)}
    masks = {"w": np.array([True, True, False, True])}
    for options in ({}, {"known": masks}, {"previous": {"w": ~masks["w"]}}):
        message = wire.encode(variables, masks, **options)
        decoded = wire.decode(message, **options)
        assert same_bits(decoded.variables, variables)
        assert same_bits(decoded.masks, masks)


def test_arrays_of_jax_and_odd_memory_layouts_are_read():
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (jnp.asarray(numbers), numbers.T.copy().T, numbers.astype(">f4")):
        decoded = wire.decode(wire.encode({"w": array}))
        assert same_bits(decoded.variables["w"], numbers)


@settings(max_examples=100)
@given(model=messages.models())
def test_what_the_receiver_knows_makes_messages_no_longer(model):
    whole, _ = sent(model, "sent")
    known, _ = sent(model, "known")
    unchanged = messages.Model(model.variables, model.masks, model.masks)
    same, _ = sent(unchanged, "previous")
    digest = 40  # and 7 bytes that the container may add to a multiple of 8
    assert len(known) <= len(whole) + digest
    assert len(same) <= len(known) + 8


def test_of_bitmap_and_gaps_the_shorter_is_sent():
    """At one kept in 20 gaps take a byte each, at one in two a bitmap an eighth."""
    rng = np.random.default_rng(0)
    for density, most in ((0.001, 40), (0.05, 520), (0.5, 1250), (0.95, 520)):
        mask = rng.random(10_000) < density
        variables = {"w": mask.astype(np.float32)}
        masks = {"w": mask}
        positions = len(wire.encode(variables, masks)) - 4 * int(mask.sum())
        header = 300
        assert positions <= most + header
