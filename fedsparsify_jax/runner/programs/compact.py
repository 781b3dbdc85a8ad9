"""Choice, between rounds, of the compact form that clients train (--sparse-training).

The choice goes by the masks, by the schedule and by costs that were measured once,
never by the clock of the run, so that the same command makes the same choices.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.models import Model
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import (
    CompactForm,
    Plan,
    full_plan,
    next_form,
    plan_for,
    stages_of,
    step_cost,
)
from fedsparsify_jax.training.compact.timing import change_now, foreseen
from fedsparsify_jax.training.compact.wrapper import Form, UnsuitableError
from fedsparsify_jax.types import FederatedAlgorithm, Masks, Variables

MOST_PROGRAMS = 6
"""Forms of a run, the full one included: each is a compilation."""
FEWER = 0.95
"""Share of what was kept at the last choice that may be kept for another one."""
COMPILATION = 4.0
"""Seconds that another form takes to be compiled, which it must save."""
CONVOLUTION = 5.0
"""Seconds that it takes more for every convolution."""
BACKWARD = 3.0
"""How often as long a step takes as a forward pass alone."""
GAIN = 0.95
"""Share of the present cost of a step that another form may have at most."""


class CompactTraining:
    """Chooses the form of the model that clients train on.

    Args of the constructor:
      build: a compact form, or None, to the algorithm that trains on it.
      model: what is trained.
      x: raw examples ``[n, ...]``, or their shape and dtype.
      client_steps: steps of 32 examples that a device makes in a round.
      tests: batches of 32 examples that a device evaluates in a round, on average.
      platform: of the devices.
      rounds: of the run.
      sparsity: round to the sparsity after it, to foresee later masks; None if it is
        not known.

    Attributes:
      algorithm: what runs the next rounds.
      form: the compact form of it, None for the full one.
      evaluation: the form that the model is evaluated in: as `form`, but dense, for
        lists gain nothing over large batches; None where it would gain little.
      changes: the rounds after which there was another form, with the share of a
        step's cost that it has.
      note: why there will be no compact form, for people; "" if there may be.
    """

    def __init__(
        self,
        build: Callable[[Form | None], FederatedAlgorithm],
        model: Model,
        x: Any,
        *,
        client_steps: float,
        tests: float = 0.0,
        platform: str,
        rounds: int,
        sparsity: Callable[[int], float] | None = None,
    ):
        self.algorithm = build(None)
        self.changes: list[tuple[int, float]] = []
        self._rounds, self._sparsity = rounds, sparsity
        self.form: CompactForm | None = None
        self.evaluation: CompactForm | None = None
        self._tests = tests
        self.note = ""
        self._build, self._model, self._client_steps = build, model, client_steps
        self._kept: int | None = None
        variables = jax.eval_shape(model.init, jax.random.key(0))
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        layers = layers_of(model.apply, variables, one) if model.sequential else None
        self._stages = stages_of(layers) if layers else ()
        convolutions = sum(stage.kind == "Conv" for stage in self._stages)
        self._compilation = COMPILATION + CONVOLUTION * convolutions
        if not self._stages:
            self.note = "the model does not say which layer feeds which"
        elif platform != "cpu":
            self.note = f"costs are measured for CPUs, not for {platform}"
        else:
            try:
                build(CompactForm(model.apply, self._stages, full_plan(self._stages)))
            except UnsuitableError as error:
                self.note = str(error)

    def update(self, variables: Variables, masks: Masks, completed: int) -> bool:
        """Changes to another form if that pays.

        Args:
          variables: the model of the next round, concrete.
          masks: its masks.
          completed: rounds of the run.

        Returns:
          Whether the form has changed.
        """
        if self.note or len(self.changes) + 1 >= MOST_PROGRAMS:
            return False
        # Not before enough has been pruned since the last choice.
        variables, masks = jax.device_get((variables, masks))
        kept = sum(int(np.count_nonzero(mask)) for mask in jax.tree.leaves(masks))
        if self._kept is not None and kept > FEWER * self._kept:
            return False
        self._kept = kept
        form = next_form(self._model.apply, self._stages, masks, self.form, gain=GAIN)
        if form is None or not self._pays(variables, masks, completed):
            return False
        self.algorithm, self.form = self._build(form), form
        self.evaluation = self._to_evaluate(form, masks, completed)
        full, small = self._cost(masks), self._cost(masks, form.plan)
        self.changes.append((completed, small / full))
        return True

    def summary(self) -> dict[str, Any]:
        """Returns the forms of the run so far, and an estimate of what they save.

        ``forms`` has the first round of every form with the cost of a client's step,
        as a share of the full one's; ``work_saved`` is the share of all rounds' steps.
        """
        ends = [*(completed for completed, _ in self.changes[1:]), self._rounds]
        saved = sum(
            (1 - share) * (end - start)
            for (start, share), end in zip(self.changes, ends, strict=False)
        )
        return {
            "forms": [
                {"from_round": completed + 1, "step_cost": round(share, 3)}
                for completed, share in self.changes
            ],
            "work_saved": round(saved / max(self._rounds, 1), 4),
        }

    def _cost(self, masks: Masks, plan: Plan | None = None) -> float:
        """Returns the seconds that a round's steps take."""
        return step_cost(self._stages, masks, plan) * 1e-9 * self._client_steps

    def _to_evaluate(
        self, form: CompactForm, masks: Masks, completed: int
    ) -> CompactForm | None:
        """Returns the form to evaluate in, if that is worth its compilation."""
        plan = form.plan._replace(lists=(None,) * len(self._stages))
        costs = [step_cost(self._stages, masks, p) for p in (None, plan)]
        passes = self._tests * (self._rounds - completed) / BACKWARD
        if (costs[0] - costs[1]) * 1e-9 * passes < self._compilation / BACKWARD:
            return None
        return CompactForm(form.apply_fn, form.stages, plan)

    def _pays(self, variables: Variables, masks: Masks, completed: int) -> bool:
        """Returns whether to compile the form for these masks, or to wait."""
        paid = self._cost(masks, self.form.plan if self.form else None)
        every, spans = [masks], [self._rounds - completed]
        if self._sparsity is not None:
            every, spans = foreseen(
                variables, masks, self._sparsity, completed, self._rounds
            )
        costs = [self._cost(kept, plan_for(self._stages, kept)) for kept in every]
        return change_now(paid, costs, spans, self._compilation)
