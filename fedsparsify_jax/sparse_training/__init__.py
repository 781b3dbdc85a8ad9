"""Sparsity that pays while clients train: `small_form`s of masked networks."""

from fedsparsify_jax.sparse_training.form import CompactForm as CompactForm
from fedsparsify_jax.sparse_training.form import Lists as Lists
from fedsparsify_jax.sparse_training.form import Plan as Plan
from fedsparsify_jax.sparse_training.structure import Stage as Stage
from fedsparsify_jax.sparse_training.structure import stages_of as stages_of

__all__ = ["CompactForm", "Lists", "Plan", "Stage", "stages_of"]
