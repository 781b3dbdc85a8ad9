"""Between rounds: which form of the model the clients train next (--sparse-training).

The choice goes by the masks and by costs that were measured once, never by the clock of
the run, so that the same command makes the same choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.models import Model
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import (
    CompactForm,
    Stage,
    full_plan,
    next_form,
    stages_of,
    step_cost,
)
from fedsparsify_jax.training.compact.wrapper import SmallForm, UnsuitableError
from fedsparsify_jax.types import FederatedAlgorithm, Masks, Variables

MOST_PROGRAMS = 6
"""Forms of a run, the full one included: each is a compilation."""
FEWER = 0.9
"""Share of what was kept at the last look that may be kept for another one."""
COMPILATION = 4.0
"""Seconds that another form must save in what is left of the run."""


class SparseTraining:
    """Chooses the form that clients train on.

    Attributes:
      algorithm: what plays the next rounds.
      form: the small form of it, None for the full one.
      note: why there will be no small form, for people; "" if there may be.
    """

    def __init__(
        self,
        build: Callable[[SmallForm | None], FederatedAlgorithm],
        stages: tuple[Stage, ...],
        model: Model,
        client_steps: float,
        note: str = "",
    ):
        self.algorithm = build(None)
        self.form: CompactForm | None = None
        self.note = note
        self._build, self._stages, self._model = build, stages, model
        self._client_steps, self._forms = client_steps, 1
        self._seen: int | None = None

    def look(self, masks: Masks, rounds_left: int) -> bool:
        """Goes over to another form if that pays; says whether it did.

        Args:
          masks: concrete ones, those of the next round.
          rounds_left: of the run.
        """
        if self.note or self._forms >= MOST_PROGRAMS:
            return False
        masks = jax.device_get(masks)
        kept = sum(int(np.count_nonzero(mask)) for mask in jax.tree.leaves(masks))
        if self._seen is not None and kept > FEWER * self._seen:
            return False
        self._seen = kept
        found = next_form(self._model.apply, self._stages, masks, self.form)
        if found is None:
            return False
        before = step_cost(self._stages, masks, self.form.plan if self.form else None)
        saved = before - step_cost(self._stages, masks, found.plan)
        if saved * 1e-9 * self._client_steps * rounds_left < COMPILATION:
            return False
        self.algorithm, self.form = self._build(found), found
        self._forms += 1
        return True


def sparse_training(
    build: Callable[[SmallForm | None], FederatedAlgorithm],
    model: Model,
    variables: Variables,
    x: Any,
    *,
    client_steps: float,
    platform: str,
) -> SparseTraining:
    """What chooses the form in a run.

    Args:
      build: a small form, or None, to the algorithm that trains on it.
      model: what is trained.
      variables: its variables, or their shapes.
      x: one raw example ``[1, ...]``, or its shape and dtype.
      client_steps: steps of 32 examples that a device makes in a round.
      platform: of the devices.
    """
    stages: tuple[Stage, ...] = ()
    if model.sequential:
        stages = stages_of(layers_of(model.apply, variables, x))
    note = ""
    if not stages:
        note = "the model does not say which layer feeds which"
    elif platform != "cpu":
        note = f"costs are measured for CPUs, not for {platform}"
    else:
        try:
            build(CompactForm(model.apply, stages, full_plan(stages)))
        except UnsuitableError as error:
            note = str(error)
    return SparseTraining(build, stages, model, client_steps, note)
