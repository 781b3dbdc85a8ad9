"""Sparsity that pays while clients train: `small_form`s of masked networks."""

from fedsparsify_jax.sparse_training.form import CompactForm as CompactForm
from fedsparsify_jax.sparse_training.form import Lists as Lists
from fedsparsify_jax.sparse_training.form import Plan as Plan
from fedsparsify_jax.sparse_training.form import full_plan as full_plan
from fedsparsify_jax.sparse_training.plan import next_form as next_form
from fedsparsify_jax.sparse_training.plan import plan_for as plan_for
from fedsparsify_jax.sparse_training.plan import step_cost as step_cost
from fedsparsify_jax.sparse_training.structure import Stage as Stage
from fedsparsify_jax.sparse_training.structure import stages_of as stages_of

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
