"""The options of ``fedsparsify train``.

An option is one field: type, values that are allowed (`schema`), default and help.
`checks` has the rules about several options.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from fedsparsify_jax import models
from fedsparsify_jax.aggregation import merges
from fedsparsify_jax.aggregation.merges import WITHSTANDING
from fedsparsify_jax.engine.wrappers.attacks import NAMES as ATTACKS
from fedsparsify_jax.runner.display import loggers
from fedsparsify_jax.runner.options import defaults, schema
from fedsparsify_jax.runner.options.grammars import CLIENT_SIZES, DATA_SET, FAULTS
from fedsparsify_jax.runner.options.registry import ALGORITHMS, takers
from fedsparsify_jax.runner.options.schema import (
    BELOW_ONE,
    HALF,
    SHARE,
    above,
    at_least,
    between,
    from_up,
)

PARTITIONS = ("iid", "label-shards", "dirichlet", "quantity-skew", "value-skew")

STORED = "stored"
"""The partition of the data set ``store``, which comes with its clients."""
_SWITCH = ("on", "off")


def _choice(names: Iterable[str], unlisted: tuple[str, ...] = ()) -> schema.Choice:
    return schema.Choice(tuple(names), unlisted)


def _by_dataset(field: str) -> Any:
    return tyro.conf.arg(help_behavior_hint=defaults.hint(field))


def _optional(metavar: str | None = None, hint: str = "optional") -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"({hint})")


def _of(field: str, metavar: str | None = None) -> Any:
    """An option that some algorithms take; left to them unless it is given."""
    return _optional(metavar, f"of {', '.join(takers(field))}")


def _shown(cls: type) -> type:
    """Tells the command line what stands for an option's value in the help."""
    for field, hint in cls.__annotations__.items():
        metavar = tyro.conf.arg(metavar=schema.read(cls)[field].metavar)
        extras = getattr(hint, "__metadata__", ())
        bare = hint.__origin__ if extras else hint
        # What a field says itself comes later, and wins.
        cls.__annotations__[field] = Annotated[(bare, metavar, *extras)]
    return cls


@_shown
@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a federated model and write a run directory."""

    dataset: Annotated[str, DATA_SET] = "digits"
    """Data set. digits is embedded; npz is your own arrays; store is clients on disk;
    hf: any image set."""
    data_dir: Annotated[Path | None, _optional()] = None
    """Where the data set's files are, or your npz or store."""
    train_subset: Annotated[int | None, at_least(1), _optional()] = None
    """Use only so many training examples, the same number of each class."""
    validation_fraction: Annotated[float, BELOW_ONE] = 0.0
    """Share of the training examples, the same of each class, that no client gets: a
    validation set to make choices on, evaluated as the test set is."""
    augmentation: Annotated[str, _choice(_SWITCH)] = "on"
    """Whether training images are cropped and flipped, where the data set does that."""
    model: Annotated[str | None, _choice(models.NAMES), _by_dataset("model")] = None
    """Network."""
    algorithm: Annotated[str, _choice(ALGORITHMS)] = "fedsparsify-global"
    """Federated algorithm."""

    num_clients: Annotated[int | None, at_least(1), _by_dataset("num_clients")] = None
    """Clients in the federation."""
    participation: Annotated[float, SHARE] = 1.0
    """Share of the clients that takes part in a round, above 0 and at most 1."""
    partition: Annotated[str, _choice(PARTITIONS, (STORED,))] = "iid"
    """How the training examples are divided among the clients."""
    classes_per_client: Annotated[int, at_least(1)] = 2
    """Classes each client holds, for label-shards."""
    alpha: Annotated[float, above(0)] = 0.5
    """Concentration for dirichlet and quantity-skew; smaller is more uneven."""
    client_data: Annotated[
        str | None, _choice(("memory", "disk")), _by_dataset("client_data")
    ] = None
    """Where clients' data are kept: on the devices, or in files that the next cohort is
    read from while a round runs. Results are the same."""
    client_sizes: Annotated[str | None, CLIENT_SIZES, _optional()] = None
    """Proportions of the clients' sizes, for iid and value-skew; skewed and uniform
    are those of the brain age experiments."""

    rounds: Annotated[int | None, at_least(1), _by_dataset("rounds")] = None
    """Federation rounds T; the final sparsity is reached in the last one."""
    local_epochs: Annotated[int, at_least(1)] = 4
    """Passes over its data that a client makes in a round."""
    batch_size: Annotated[int | None, at_least(1), _by_dataset("batch_size")] = None
    """Examples in a client's batch."""
    learning_rate: Annotated[float | None, above(0), _by_dataset("learning_rate")] = (
        None
    )
    """Learning rate of the clients' SGD."""
    momentum: Annotated[float | None, BELOW_ONE, _by_dataset("momentum")] = None
    """Momentum of the clients' SGD, at least 0 and below 1."""
    nesterov: Annotated[str | None, _choice(_SWITCH), _by_dataset("nesterov")] = None
    """Whether the momentum is Nesterov's."""
    optimizer_state: Annotated[str, _choice(("fresh", "kept"))] = "fresh"
    """Whether momentum starts at zero every round or is kept for each client."""

    final_sparsity: Annotated[float, BELOW_ONE] = 0.9
    """Share of the parameters pruned in the end, at least 0 and below 1."""
    schedule: Annotated[
        str, _choice(("polynomial", "linear", "cosine", "multiplicative"))
    ] = "polynomial"
    """Form of the sparsity schedule; the paper's is polynomial."""
    exponent: Annotated[float, above(0)] = 3.0
    """Exponent of the polynomial schedule; larger prunes earlier."""
    frequency: Annotated[int, at_least(1)] = 1
    """Rounds between purges."""
    begin: Annotated[int, at_least(0)] = 1
    """Round t0 after which purging starts."""
    initial_sparsity: Annotated[float, BELOW_ONE] = 0.0
    """Sparsity in round t0."""
    server_ema: Annotated[
        float | None, BELOW_ONE, _optional("DECAY", "default: off")
    ] = None
    """Evaluate and save a moving average of the global model with this decay, below 1;
    training and the bytes sent stay as they are. Every algorithm takes it."""
    purge_share: Annotated[float, BELOW_ONE] = 0.05
    """Share of what remains that a purge removes, for the multiplicative schedule."""
    fine_tune_rounds: Annotated[int | None, at_least(0), _of("fine_tune_rounds")] = None
    """Rounds after the last purge that only tune."""
    fine_tune_epochs: Annotated[int | None, at_least(0), _of("fine_tune_epochs")] = None
    """Local epochs after a client's own purge."""
    scope: Annotated[
        str | None,
        _choice(("global", "layer", "er", "erk", "erk_feddst")),
        _of("scope"),
    ] = None
    """What shares a threshold: the whole model, or each layer with its own budget."""
    prunable: Annotated[str, _choice(("all", "kernels"))] = "all"
    """Whether biases and norm parameters may be pruned too."""
    vote_rule: Annotated[str | None, _choice(merges.VOTE_RULES), _of("vote_rule")] = (
        None
    )
    """Votes that keep a weight: floor(K/2), more than K/2, or no vote."""
    merge: Annotated[str | None, _choice(merges.NAMES), _of("merge", "NAME")] = None
    """How the server merges the clients' models."""

    assumed_attackers: Annotated[
        float | None,
        HALF,
        _optional(hint=f"of {', '.join(WITHSTANDING)}, default: 0.3"),
    ] = None
    """Share of a round's clients that the merge is to withstand, below one half."""
    clip_norm: Annotated[
        float | None, above(0), _optional(hint="default: no limit")
    ] = None
    """Largest norm of a client's update; longer ones are scaled down before the
    merge."""

    mu: Annotated[float | None, from_up(0), _of("mu")] = None
    """Weight of the proximal term."""
    anchor: Annotated[str | None, _choice(("global", "zero")), _of("anchor")] = None
    """What the proximal term pulls to; zero is the authors' defect, a weight decay."""
    server_optimizer: Annotated[
        str | None,
        _choice(("adam", "yogi", "momentum", "sgd")),
        _of("server_optimizer"),
    ] = None
    """Optimizer of the server."""
    server_learning_rate: Annotated[
        float | None, above(0), _of("server_learning_rate")
    ] = None
    """Its learning rate."""
    prune_at: Annotated[int | None, at_least(1), _of("prune_at")] = None
    """Round of the only purge."""
    source: Annotated[str | None, _choice(("client", "cohort")), _of("source")] = None
    """Whose data scores the weights: one client's batch, or the average of all."""
    freeze_zero_initialized: Annotated[
        str | None, _choice(_SWITCH), _of("freeze_zero_initialized")
    ] = None
    """The authors' defect: parameters that start at zero are never trained."""
    variant: Annotated[
        str | None, _choice(("published", "authors")), _of("variant")
    ] = None
    """The published algorithm, or the FedSparsify authors' port."""
    pin_sparsity: Annotated[
        str, _choice(_SWITCH), _optional(hint="of prunefl, default: on")
    ] = "on"
    """Whether --final-sparsity is kept to; off lets the algorithm find its own."""
    interval: Annotated[int | None, at_least(1), _of("interval")] = None
    """Rounds between adjustments of the masks."""
    replace_share: Annotated[float | None, between(0, 1), _of("replace_share")] = None
    """Share of a layer's weights that the first adjustment replaces."""
    allocation: Annotated[
        str | None, _choice(("erk", "er", "erk_feddst", "layer")), _of("allocation")
    ] = None
    """How layers share the sparsity."""

    faults: Annotated[str | None, FAULTS, _optional(hint="default: none")] = None
    """Failures to inject: the probability that a client drops out of a round, makes
    only a share of its steps, or sends NaN; @5 or @5-9 behind one names its rounds."""
    attack: Annotated[str | None, _choice(ATTACKS), _optional(hint="default: none")] = (
        None
    )
    """What hostile clients do, to test defences against."""
    attackers: Annotated[
        float | None, between(0, 1), _optional(hint="with --attack")
    ] = None
    """Share of all clients that are hostile."""
    attack_scale: Annotated[
        float | None,
        above(0),
        _optional(hint="default: 4 for sign-flip, 10 for scaling"),
    ] = None
    """Factor by which a forged update is larger than an honest one."""

    cohort: Annotated[str, _choice(("auto", "vmap", "map"))] = "auto"
    """How a device runs its clients: all at once, or in chunks one after another;
    auto goes by the network and the device (docs/scaling.md)."""
    chunk_size: Annotated[
        int | None, at_least(1), _optional(hint="default: by memory")
    ] = None
    """Clients that a device trains at once, for the cohorts auto and map."""
    devices: Annotated[int | None, at_least(1), _optional(hint="default: all")] = None
    """JAX devices of this process that clients are divided over; on CPU one a core."""
    sparse_training: Annotated[str, _choice(("off", "auto"))] = "off"
    """Whether clients may train a smaller form of a pruned network, with the same
    results up to rounding; auto goes over to one between rounds where that pays."""
    evaluate_every: Annotated[int, at_least(1)] = 1
    """Rounds between evaluations on the test set; they run as one program."""
    coordinator: Annotated[str | None, _optional("HOST:PORT|auto")] = None
    """Address of process 0, where several processes run this command as one job; auto
    asks the cluster (SLURM, TPU pods, MPI, ...)."""
    num_processes: Annotated[int | None, at_least(1), _optional()] = None
    """Processes of the job."""
    process_id: Annotated[int | None, at_least(0), _optional()] = None
    """Which of them this one is, from 0."""
    seed: Annotated[int, at_least(0, below=2**32)] = 0
    """Seed of the partition, the initial model and the training."""
    out: Annotated[Path | None, _optional("DIR", "default: a new one in runs/")] = None
    """Run directory to write."""
    resume: bool = False
    """Continue the run in --out, or start it when there is none."""
    allow_changes: bool = False
    """Let a resumed run change options that its state fits, such as --rounds."""
    checkpoint_every: Annotated[int, at_least(1)] = 10
    """Rounds between checkpoints; the last round is always saved."""
    keep_last: Annotated[int, at_least(1)] = 2
    """How many of the latest checkpoints stay."""
    keep_best: Annotated[int, at_least(0)] = 0
    """How many of the best checkpoints stay besides: best on the validation set, or on
    the test set if there is none."""
    show_partition: bool = False
    """Print how many examples of each class every client holds."""
    logger: Annotated[tuple[str, ...], _choice(loggers.LOGGERS), _optional()] = ()
    """Where to write the rounds besides metrics.jsonl; several may be named."""
    compilation_cache: Annotated[
        str | None, _optional("DIR|off", "default: in the user's cache directory")
    ] = None
    """Where compiled programs are kept for the next run."""
    verbose: bool = False
    """Also print devices, versions, and how often the round was traced and compiled."""


# Options that do not change what is computed: free to differ on resume.
NOT_COMPARED = (
    "out",
    "resume",
    "allow_changes",
    "checkpoint_every",
    "keep_last",
    "keep_best",
    "show_partition",
    "verbose",
    "logger",
    "compilation_cache",
    "client_data",
    # These change the order of sums, so the results to some 1e-5.
    "cohort",
    "chunk_size",
    "devices",
    "coordinator",
    "num_processes",
    "process_id",
    "sparse_training",
)


option = schema.flag
"""``batch_size`` to ``--batch-size``."""


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values, option by option."""
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in dataclasses.asdict(config).items()
    }
