"""An outsider: has the final model, and examples that may be members."""

from collections.abc import Callable

import numpy as np

from fedsparsify_jax.runner.audit.attacks import Network, phi
from fedsparsify_jax.runner.audit.finished import Finished
from fedsparsify_jax.runner.audit.members import Pool, others_like
from fedsparsify_jax.runner.audit.shadow_federations import ShadowFederations
from fedsparsify_jax.runner.audit.shadows import Trainer
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.types import Examples


def pool_of(run: Finished, seed: int) -> Pool:
    """Returns all clients' examples, and at most as many of the test set.

    Args:
      run: that is attacked.
      seed: of the draw from the test set.
    """
    dataset = run.federation.dataset
    rows, test = np.sort(np.concatenate(run.federation.parts)), dataset.test
    chosen = others_like(len(rows), len(test.y), seed)
    return Pool(dataset.train, rows, Examples(test.x[chosen], test.y[chosen]))


def network_of(run: Finished) -> Network:
    """Returns the final model as an attacker has it: from its file."""
    saved = run.model
    return Network(
        model=saved.model,
        variables=saved.variables,
        masks=saved.masks,
        dataset=run.federation.dataset,
    )


def trainer(
    run: Finished, pool: Pool, seed: int, number: int, at_once: int
) -> Callable[[Examples], Trainer]:
    """Builds what trains shadow runs and scores the examples that are attacked."""

    def of(examples: Examples) -> Trainer:
        return ShadowFederations(
            run,
            pool,
            seed,
            number,
            at_once,
            score=phi(run.federation.model, run.federation.dataset, examples),
            devices=devices.select(run.config.devices),
        )

    return of
