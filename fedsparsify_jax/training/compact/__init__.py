"""Sparsity that pays while clients train: compact forms of pruned networks.

A `CompactForm` holds what is left of a network: the units that can still matter, and
of dense layers with few survivors only those, in index lists. Clients train it in place
of the full network (``compact_form=`` of every algorithm, see `wrapper`); merging,
purging and reporting see full shapes, and the results are those of the full form up to
the rounding of sums.

Sizes are static and go by concrete masks, so a form is chosen between rounds:

>>> import jax
>>> from fedsparsify_jax import algorithms, models
>>> from fedsparsify_jax.models.adapters.layers import layers_of
>>> model = models.build("mlp", input_shape=(8, 8), num_classes=10, hidden=(16,))
>>> variables = model.init(jax.random.key(0))
>>> x = jax.ShapeDtypeStruct((1, 8, 8), "uint8")
>>> stages = stages_of(layers_of(model.apply, variables, x))
>>> algorithm = algorithms.fedsparsify_global(model.apply)
>>> state = algorithm.init(jax.random.key(1), variables)
>>> form = CompactForm(model.apply, stages, plan_for(stages, state.masks))
>>> algorithm = algorithms.fedsparsify_global(model.apply, compact_form=form)

Masks that do not fit the form are trained in full, so a form never changes a result.
"""

from fedsparsify_jax.training.compact.form import CompactForm as CompactForm
from fedsparsify_jax.training.compact.form import Lists as Lists
from fedsparsify_jax.training.compact.form import Plan as Plan
from fedsparsify_jax.training.compact.form import full_plan as full_plan
from fedsparsify_jax.training.compact.plan import next_form as next_form
from fedsparsify_jax.training.compact.plan import plan_for as plan_for
from fedsparsify_jax.training.compact.plan import step_cost as step_cost
from fedsparsify_jax.training.compact.structure import Stage as Stage
from fedsparsify_jax.training.compact.structure import stages_of as stages_of

__all__ = [
    "CompactForm",
    "Lists",
    "Plan",
    "Stage",
    "full_plan",
    "next_form",
    "plan_for",
    "stages_of",
    "step_cost",
]
