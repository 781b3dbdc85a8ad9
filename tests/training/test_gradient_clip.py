"""Gradients of a bounded length: rounds of NumPy, under masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import DATA, START, W, build, round_keys, run_rounds, weights

from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.method import Method

RATE, MOMENTUM = 0.1, 0.5
MEAN = Method(aggregate("mean"))


def two_steps(target, kept, clip):
    """A client's two steps on 0.5 |w - target|^2, and how many were shortened."""
    w, v, shortened = W * kept, np.zeros(2), 0
    for _ in range(2):
        g = w - target
        length = np.linalg.norm(g * kept)
        shortened += length > clip
        v = MOMENTUM * v + g * min(1, clip / length)
        w = (w - RATE * v) * kept
    return w, shortened


@pytest.mark.parametrize("clip", [0.5, 6.0, 100.0])
@pytest.mark.parametrize("kept", [(True, True), (True, False)])
def test_steps_are_clipped_by_the_norm_of_what_is_kept(kept, clip):
    kept = np.array(kept)
    options = {"learning_rate": RATE, "momentum": MOMENTUM, "local_epochs": 2}
    algorithm = build(MEAN, **options, gradient_clip=clip)
    state = algorithm.init(jax.random.key(0), START)
    state = state._replace(masks={"params": {"w": jnp.asarray(kept)}})
    states, _ = run_rounds(jax.jit(algorithm.step), state, DATA, round_keys(1))
    clients = [two_steps(target, kept, clip) for target in (1.0, 3.0)]
    shortened = sum(count for _, count in clients)
    # A clip of 6 is for the pruned entry's gradient, if that counted.
    assert (shortened > 0) == (clip < (100 if kept.all() else 6))
    sizes = np.asarray(DATA.sizes)
    expected = np.average([w for w, _ in clients], axis=0, weights=sizes)
    np.testing.assert_allclose(weights(states[1]) * kept, expected, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("inf")])
def test_a_norm_out_of_range_is_refused(clip):
    with pytest.raises(ValueError, match=r"gradient_clip is .*: it must be above 0"):
        build(MEAN, gradient_clip=clip)
