"""Purge: from scores and a sparsity to masks."""

from fedsparsify_jax.pruning.patterns import channels as channels
from fedsparsify_jax.pruning.patterns import n_of_m as n_of_m
from fedsparsify_jax.pruning.patterns import selector as selector
from fedsparsify_jax.pruning.regrowth import drop_and_grow as drop_and_grow
from fedsparsify_jax.pruning.regrowth import replaced_share as replaced_share
from fedsparsify_jax.pruning.selection import SCOPES as SCOPES
from fedsparsify_jax.pruning.selection import drop_share as drop_share
from fedsparsify_jax.pruning.selection import keep_counts as keep_counts
from fedsparsify_jax.pruning.selection import leaf_counts as leaf_counts
from fedsparsify_jax.pruning.selection import magnitude as magnitude
from fedsparsify_jax.pruning.selection import prune as prune
from fedsparsify_jax.pruning.selection import share_counts as share_counts
