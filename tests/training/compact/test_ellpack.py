"""Index lists against the dense product."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.training.compact import ellpack


def masked_kernel(seed, inputs, outputs, density):
    rng = np.random.default_rng(seed)
    mask = rng.random((inputs, outputs)) < density
    return jnp.asarray(mask), jnp.asarray(rng.normal(size=mask.shape) * mask)


@hypothesis.settings(max_examples=12)  # each compiles its own shapes
@hypothesis.given(
    seed=st.integers(0, 99),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.3, 1.0]),
    slots=st.integers(1, 4),
    spare=st.integers(0, 2),
)
def test_product_and_way_back(seed, inputs, outputs, density, slots, spare):
    mask, kernel = masked_kernel(seed, inputs, outputs, density)
    rows = int(ellpack.rows_needed(mask, slots)) + spare
    x = jnp.asarray(np.random.default_rng(seed + 1).normal(size=(inputs, 3)))

    @jax.jit
    def there_and_back(mask, kernel, x):
        lists = ellpack.index_lists(mask, rows, slots)
        values = ellpack.pack(lists, kernel)
        product = ellpack.matmul(lists, values, x, outputs)
        return lists.valid, product, ellpack.unpack(lists, values + 1, kernel)

    valid, product, back = there_and_back(mask, kernel, x)
    assert int(valid.sum()) == int(mask.sum())
    expected = np.asarray(kernel).T @ np.asarray(x)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(back, jnp.where(mask, kernel + 1, kernel))


def test_gradients_are_those_of_the_dense_layer():
    mask, kernel = masked_kernel(0, 7, 4, 0.5)
    lists = ellpack.index_lists(mask, rows=8, slots=2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 3)))

    def sparse(values, x):
        return jnp.sum(jnp.sin(ellpack.matmul(lists, values, x, 4)))

    def dense(kernel, x):
        return jnp.sum(jnp.sin(kernel.T @ x))

    found = jax.grad(sparse, (0, 1))(ellpack.pack(lists, kernel), x)
    expected = jax.grad(dense, (0, 1))(kernel, x)
    np.testing.assert_allclose(
        jnp.where(lists.valid, found[0], 0),
        ellpack.pack(lists, expected[0]),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)


def test_rows_needed_counts_every_output():
    mask, _ = masked_kernel(0, 9, 3, 1.0)
    assert (
        int(ellpack.rows_needed(mask, 4)) == 9
    )  # three rows for each of three outputs
