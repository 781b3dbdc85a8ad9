"""Choice, between rounds, of the compact form that clients train (--sparse-training).

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
    full_plan,
    next_form,
    stages_of,
    step_cost,
)
from fedsparsify_jax.training.compact.wrapper import Form, UnsuitableError
from fedsparsify_jax.types import FederatedAlgorithm, Masks

MOST_PROGRAMS = 6
"""Forms of a run, the full one included: each is a compilation."""
FEWER = 0.9
"""Share of what was kept at the last choice that may be kept for another one."""
COMPILATION = 4.0
"""Seconds that another form must save in what is left of the run."""


class CompactTraining:
    """Chooses the form of the model that clients train on.

    Args of the constructor:
      build: a compact form, or None, to the algorithm that trains on it.
      model: what is trained.
      x: raw examples ``[n, ...]``, or their shape and dtype.
      client_steps: steps of 32 examples that a device makes in a round.
      platform: of the devices.

    Attributes:
      algorithm: what runs the next rounds.
      form: the compact form of it, None for the full one.
      note: why there will be no compact form, for people; "" if there may be.
    """

    def __init__(
        self,
        build: Callable[[Form | None], FederatedAlgorithm],
        model: Model,
        x: Any,
        *,
        client_steps: float,
        platform: str,
    ):
        self.algorithm = build(None)
        self.form: CompactForm | None = None
        self.note = ""
        self._build, self._model, self._client_steps = build, model, client_steps
        self._forms = 1
        self._kept: int | None = None
        variables = jax.eval_shape(model.init, jax.random.key(0))
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        layers = layers_of(model.apply, variables, one) if model.sequential else None
        self._stages = stages_of(layers) if layers else ()
        if not self._stages:
            self.note = "the model does not say which layer feeds which"
        elif platform != "cpu":
            self.note = f"costs are measured for CPUs, not for {platform}"
        else:
            try:
                build(CompactForm(model.apply, self._stages, full_plan(self._stages)))
            except UnsuitableError as error:
                self.note = str(error)

    def update(self, masks: Masks, rounds_left: int) -> bool:
        """Changes to another form if that pays.

        Args:
          masks: concrete ones, those of the next round.
          rounds_left: of the run.

        Returns:
          Whether the form has changed.
        """
        if self.note or self._forms >= MOST_PROGRAMS:
            return False
        # Not before enough has been pruned since the last choice.
        masks = jax.device_get(masks)
        kept = sum(int(np.count_nonzero(mask)) for mask in jax.tree.leaves(masks))
        if self._kept is not None and kept > FEWER * self._kept:
            return False
        self._kept = kept
        form = next_form(self._model.apply, self._stages, masks, self.form)
        if form is None:
            return False
        # What it saves in the rest of the run must exceed its compilation.
        before = step_cost(self._stages, masks, self.form.plan if self.form else None)
        saved = before - step_cost(self._stages, masks, form.plan)
        if saved * 1e-9 * self._client_steps * rounds_left < COMPILATION:
            return False
        self.algorithm, self.form = self._build(form), form
        self._forms += 1
        return True
