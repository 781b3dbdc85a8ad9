"""Merge: from the models of the clients to the model of the server."""

from fedsparsify_jax.aggregation.means import majority_vote_mean as majority_vote_mean
from fedsparsify_jax.aggregation.means import nonzero_mean as nonzero_mean
from fedsparsify_jax.aggregation.means import shares as shares
from fedsparsify_jax.aggregation.means import weighted_mean as weighted_mean
