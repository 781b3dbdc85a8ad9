"""Privacy: attacks that measure it, and a mechanism that promises it.

`docs/privacy.md` has the definitions, the threat models and what is not promised.
"""

from fedsparsify_jax.privacy.accounting import Sampling as Sampling
from fedsparsify_jax.privacy.accounting import dp_sgd as dp_sgd
from fedsparsify_jax.privacy.accounting import epsilon as epsilon
from fedsparsify_jax.privacy.accounting import epsilons as epsilons
from fedsparsify_jax.privacy.accounting import fixed as fixed
from fedsparsify_jax.privacy.accounting import noise_multiplier as noise_multiplier
from fedsparsify_jax.privacy.accounting import poisson as poisson
from fedsparsify_jax.privacy.accounting import shuffled as shuffled
from fedsparsify_jax.privacy.attacks import by_features as by_features
from fedsparsify_jax.privacy.attacks import by_loss as by_loss
from fedsparsify_jax.privacy.curves import Summary as Summary
from fedsparsify_jax.privacy.curves import summarize as summarize
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy as ExamplePrivacy
