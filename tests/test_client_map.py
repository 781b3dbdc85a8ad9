"""Cohort strategies and sampling on things that can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import client_map
from fedsparsify_jax.engine import sampling


def work(shared, client):
    key, x = client
    return {"sum": shared + x.sum(), "noise": jax.random.normal(key)}


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_all_strategies_give_the_same(size, chunk):
    mesh = client_map.device_mesh(jax.devices()[:2])
    strategies = [
        client_map.chunked(chunk),
        client_map.chunked(chunk, client_map.chunked(1)),
        client_map.sharded(mesh),
        client_map.sharded(mesh, inner=client_map.chunked(chunk)),
    ]
    x = jnp.arange(3.0 * size).reshape(size, 3)

    def play(strategy):
        keys = jax.random.split(jax.random.key(0), size)
        return jax.jit(lambda k, x: strategy(work, 10.0, (k, x))[1])(keys, x)

    expected = play(client_map.vmapped())
    assert expected["sum"].tolist() == (10 + np.asarray(x).sum(axis=1)).tolist()
    for strategy in strategies:
        found = play(strategy)
        np.testing.assert_allclose(found["sum"], expected["sum"])
        np.testing.assert_allclose(found["noise"], expected["noise"], rtol=1e-6)


def add_up(shared, stacked, results, present):
    """Sums, and a count of the present, kept beside each client's own number."""
    sums = {
        "sum": jnp.sum(jnp.where(present, results["sum"], 0.0)) + 0 * shared,
        "present": jnp.sum(present, dtype=jnp.int32),
    }
    return sums, {"noise": results["noise"], "first": stacked[1][:, 0]}


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_sums_are_over_everybody_once(size, chunk):
    mesh = client_map.device_mesh(jax.devices()[:2])
    strategies = [
        client_map.vmapped(),
        client_map.chunked(chunk),
        client_map.chunked(chunk, client_map.chunked(1)),
        client_map.sharded(mesh),
        client_map.sharded(mesh, inner=client_map.chunked(chunk)),
    ]
    x = jnp.arange(3.0 * size).reshape(size, 3)
    keys = jax.random.split(jax.random.key(0), size)
    noise = np.array([jax.random.normal(jax.random.clone(key)) for key in keys])
    for strategy in strategies:
        sums, kept = jax.jit(lambda k, x, s=strategy: s(work, 10.0, (k, x), add_up))(
            jax.random.clone(keys), x
        )
        assert int(sums["present"]) == size
        assert float(sums["sum"]) == 10 * size + float(x.sum())
        np.testing.assert_array_equal(kept["first"], x[:, 0])
        np.testing.assert_allclose(kept["noise"], noise, rtol=1e-6)


def test_results_without_entries_are_stacked_too():
    def nothing(shared, x):
        return jnp.zeros((0, 2)), x

    _, (empty, x) = client_map.chunked(2)(nothing, (), jnp.arange(5))
    assert empty.shape == (5, 0, 2) and x.tolist() == [0, 1, 2, 3, 4]


def test_bad_strategies_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        client_map.chunked(0)
    mesh = jax.make_mesh((1,), ("batch",), (jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match="axis named 'clients'"):
        client_map.sharded(mesh)


def test_sampling_is_without_replacement_and_even():
    draw = jax.vmap(lambda key: sampling.sample_cohort(key, 10, 3))
    cohorts = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    assert all(len(set(row)) == 3 and list(row) == sorted(row) for row in cohorts)
    counts = np.bincount(cohorts.ravel(), minlength=10)
    # 600 expected; the standard deviation of each is about 20
    assert counts.min() > 500
    assert counts.max() < 700


@pytest.mark.parametrize(
    ("clients", "participation", "size"),
    [(100, 0.1, 10), (10, 1.0, 10), (100, 0.29, 29), (3, 0.34, 1), (7, 0.5, 3)],
)
def test_cohort_size_is_the_floor(clients, participation, size):
    assert sampling.cohort_size(clients, participation) == size


@pytest.mark.parametrize("participation", [0.0, -0.5, 1.01, float("nan")])
def test_a_participation_out_of_range_is_refused(participation):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        sampling.cohort_size(10, participation)


def test_client_keys_follow_the_client_not_its_place():
    keys = sampling.client_keys(jax.random.key(0), jnp.array([4, 7]))
    swapped = sampling.client_keys(jax.random.key(0), jnp.array([7, 4]))
    data = [np.asarray(jax.random.key_data(k)) for k in (keys, swapped)]
    np.testing.assert_array_equal(data[0], data[1][::-1])
    assert not np.array_equal(data[0][0], data[0][1])
