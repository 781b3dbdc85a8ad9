"""Options of some algorithms alone, which are keywords of their builders."""

import dataclasses
from typing import Annotated

from fedsparsify_jax.runner.options.grammars import LEVELS, PATTERN, WIDTHS
from fedsparsify_jax.runner.options.rules import (
    BELOW_ONE,
    SHARE,
    Switch,
    above,
    at_least,
    between,
    from_up,
)
from fedsparsify_jax.runner.options.schema import (
    ABSENT_AT_ZERO,
    CHANGEABLE,
    TRACED,
    WITH_COMMAS,
    Heading,
    Keyword,
    Shown,
)
from fedsparsify_jax.types import (
    AdjustedBy,
    Allocation,
    Anchor,
    Criterion,
    Decay,
    FirstMasks,
    Growth,
    Penalties,
    PruneUpload,
    ServerOptimizer,
    Source,
    StageTwo,
    TrainingLoss,
    Variant,
)


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """A part of `config.TrainConfig`."""

    mu: Annotated[
        float | None,
        Heading("Options of some algorithms"),
        from_up(0),
        Keyword(),
        TRACED,
        ABSENT_AT_ZERO,
        CHANGEABLE,
    ] = None
    """Weight of the proximal term."""
    anchor: Annotated[Anchor | None, Keyword()] = None
    """What the proximal term pulls to; zero is the authors' defect, a weight decay."""
    server_optimizer: Annotated[ServerOptimizer | None, Keyword()] = None
    """Optimizer of the server."""
    server_learning_rate: Annotated[
        float | None, above(0), Keyword(), TRACED, CHANGEABLE
    ] = None
    """Its learning rate."""
    criterion: Annotated[Criterion | None, Keyword()] = None
    """Importance by which weights are purged; those of gradients ask clients for it."""
    pattern: Annotated[str | None, PATTERN, Keyword()] = None
    """What is pruned: single weights, all but N of every M inputs, or channels."""
    prune_at: Annotated[int | None, at_least(1), Keyword("at"), TRACED] = None
    """Round of the only purge."""
    source: Annotated[Source | None, Keyword()] = None
    """Whose data scores the weights: one client's batch, or the average of all."""
    temperature: Annotated[float | None, above(0), Keyword(), TRACED] = None
    """Divisor of the logits while weights are scored, or of a teacher's."""
    examples_per_class: Annotated[int | None, at_least(1), Keyword()] = None
    """Examples of each class that score the weights, in place of a batch."""
    freeze_zero_initialized: Annotated[Switch | None, Keyword()] = None
    """The authors' defect: parameters that start at zero are never trained."""
    variant: Annotated[Variant | None, Keyword()] = None
    """The algorithm as published, or with the timing of its authors' code."""
    pin_sparsity: Annotated[Switch, Shown(hint="of prunefl; default: on")] = "on"
    """Whether --final-sparsity is kept to; off lets the algorithm find its own."""
    interval: Annotated[int | None, at_least(1), Keyword(), CHANGEABLE] = None
    """Rounds between adjustments of the masks."""
    replace_share: Annotated[
        float | None, between(0, 1), Keyword("alpha"), TRACED, CHANGEABLE
    ] = None
    """Share of a layer's weights that the first adjustment replaces."""
    decay: Annotated[Decay | None, Keyword()] = None
    """Course of that share over the rounds."""
    adjust_until: Annotated[int | None, at_least(1), Keyword(), TRACED, CHANGEABLE] = (
        None
    )
    """Round in which adjustments end; the share falls until then. Default: half of the
    rounds, of rigl 3/4, of fedtiny and fedrts 3/5."""
    adjust_after: Annotated[int | None, at_least(0), Keyword()] = None
    """Local epochs before a client adjusts its masks; default: half of them."""
    first_masks: Annotated[FirstMasks | None, Keyword()] = None
    """Weights that the masks of round 1 keep."""
    allocation: Annotated[Allocation | None, Keyword()] = None
    """How layers share the sparsity."""
    candidates: Annotated[int | None, at_least(1), Keyword()] = None
    """First masks of which clients choose one by their losses; 1 for no choice."""
    blocks: Annotated[int | None, at_least(1), Keyword()] = None
    """Blocks of layers that adjustments take in turn; 1 for all layers at once."""
    individual_share: Annotated[float | None, between(0, 1), Keyword(), TRACED] = None
    """Share of the clients' choices in what is learnt of a weight; the other part is
    the merged model's."""
    evidence: Annotated[float | None, from_up(0), Keyword(), TRACED] = None
    """What a round adds to what is known of a weight, which starts at 1."""
    growth: Annotated[Growth | None, Keyword()] = None
    """What weights grow by: gradients (RigL), a draw (SET), or momentum (SNFS)."""
    growth_momentum: Annotated[float | None, BELOW_ONE, Keyword(), TRACED] = None
    """Momentum of the gradients that weights grow by."""
    adjusted_by: Annotated[AdjustedBy | None, Keyword()] = None
    """Who drops and grows weights."""
    stage_two: Annotated[StageTwo | None, Keyword()] = None
    """Whether all rounds have one mask, or clients move it."""
    setup_share: Annotated[float | None, SHARE, Keyword()] = None
    """Share of the clients that train before round 1."""
    setup_epochs: Annotated[int | None, at_least(2), Keyword()] = None
    """Epochs that these make."""
    prune_upload: Annotated[PruneUpload | None, Keyword()] = None
    """What clients prune before they send it: weights, or their change."""
    penalties: Annotated[Penalties | None, Keyword()] = None
    """Whose strengths of the lasso are trained: each client's, all clients', none but
    those of a formula, or none."""
    xi: Annotated[float | None, from_up(0), Keyword(), TRACED] = None
    """Weight of the lasso; of feddip, what the weight of its norms grows to."""
    psi: Annotated[float | None, above(0), Keyword(), TRACED] = None
    """Weight of the pull that makes the lasso stronger."""
    penalty_rate: Annotated[float | None, from_up(0), Keyword(), TRACED] = None
    """Rate at which its strengths are trained; 0 leaves all of them at 1."""
    pruned_decay: Annotated[float | None, from_up(0), Keyword(), TRACED] = None
    """Decay of the weights that are pruned, which train all the same; 2e-4 is
    SR-STE."""
    stages: Annotated[
        int | None, at_least(1), Keyword(), Shown(hint="default: one a block")
    ] = None
    """Stages in which the network grows, the last one of the whole network."""
    warmup_rounds: Annotated[int | None, at_least(0), Keyword()] = None
    """Rounds at the start of every later stage that train only what is new."""

    widths: Annotated[str | None, WIDTHS, Keyword(), WITH_COMMAS] = None
    """Shares of each layer's units that clients train, in turn by their numbers."""
    accuracy_threshold: Annotated[
        float | None, between(0, 1), Keyword(), TRACED, CHANGEABLE
    ] = None
    """Accuracy on its own examples above which a client purges."""
    prune_rate: Annotated[float | None, BELOW_ONE, Keyword(), TRACED, CHANGEABLE] = None
    """Share of what a layer keeps that a client's purge removes."""
    neighbours: Annotated[int | None, at_least(1), Keyword(), CHANGEABLE] = None
    """Other clients whose models a client averages with its own in a round."""
    mask_classes: Annotated[Switch | None, Keyword()] = None
    """Whether clients train without the classes that they have no example of."""
    calibration_examples: Annotated[int | None, at_least(1), Keyword()] = None
    """Examples, drawn from all clients, for what comes after the last round."""
    generations: Annotated[int | None, at_least(0), Keyword()] = None
    """Generations of the search for the sparsities of layers; 0 for equal ones."""
    post_epochs: Annotated[int | None, at_least(0), Keyword()] = None
    """Epochs over those examples."""
    levels: Annotated[str | None, LEVELS, Keyword(), WITH_COMMAS] = None
    """Sparsities of the models to train at once; the last is the schedule's end."""
    slow_start: Annotated[int | None, at_least(0), Keyword(), TRACED] = None
    """Rounds that train the densest of them alone; default: half of all."""
    loss: Annotated[TrainingLoss | None, Keyword()] = None
    """What they learn from: labels, or two views of each example, without labels; a
    linear classifier of their features, fitted at the end, is then evaluated."""
    similarity_temperature: Annotated[
        float | None, above(0), Keyword(), TRACED, CHANGEABLE
    ] = None
    """Divisor of the views' similarities."""
