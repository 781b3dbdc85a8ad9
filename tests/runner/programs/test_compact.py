"""When a run goes over to a smaller form, and when it says that it will not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.runner.programs import compact

MLP = models.build("mlp", input_shape=(300,), num_classes=10, hidden=(128,))


def chooser(model=MLP, build=algorithms.fedsparsify_global, shape=(300,), **changes):
    def with_form(form):
        return build(model.apply, small_form=form)

    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    options = {"client_steps": 1e4, "platform": "cpu"} | changes
    return compact.sparse_training(with_form, model, variables, x, **options)


def masks_of(density, seed=0):
    """Nested random masks: the same seed keeps less of the same."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(MLP.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.random(leaf.shape) < density, shapes)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"build": algorithms.fedprox}, "hook 'objective'"),
        ({"platform": "gpu"}, "not for gpu"),
        (
            {
                "model": models.build("resnet56", input_shape=(8, 8), num_classes=2),
                "shape": (8, 8),
            },
            "which layer feeds which",
        ),
    ],
)
def test_what_has_no_small_form_says_why(changes, note):
    chosen = chooser(**changes)
    assert note in chosen.note
    assert not chosen.look(masks_of(0.01), rounds_left=1000)
    assert chosen.form is None


def test_forms_follow_the_masks_and_are_few():
    chosen = chooser()
    full = chosen.algorithm
    densities = np.geomspace(1.0, 0.002, 40)
    changed = [chosen.look(masks_of(d), rounds_left=10**6) for d in densities]
    assert not changed[0]  # nothing is pruned yet
    assert 2 <= sum(changed) < compact.MOST_PROGRAMS
    assert chosen.algorithm is not full
    assert bool(chosen.form.index(masks_of(densities[-1])).fits)
    first, last = chosen.form.plan.lists[0], chosen.form.plan.units[1]
    assert first is not None or last is not None


def test_a_form_that_cannot_pay_any_more_is_not_compiled():
    assert not chooser().look(masks_of(0.01), rounds_left=1)
    chosen = chooser()
    assert chosen.look(masks_of(0.01), rounds_left=10**6)
    assert not chosen.look(masks_of(0.0095), rounds_left=10**6)


def test_no_more_forms_than_allowed():
    chosen = chooser()
    chosen._forms = compact.MOST_PROGRAMS
    assert not chosen.look(masks_of(0.01), rounds_left=10**6)
