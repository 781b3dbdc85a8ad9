"""The options of ``fedsparsify train``; `checks` resolves and validates them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from fedsparsify_jax import data, models
from fedsparsify_jax.runner import defaults
from fedsparsify_jax.runner.methods import ALGORITHMS, takers

PARTITIONS = ("iid", "label-shards", "dirichlet", "quantity-skew", "value-skew")


def _choice(names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="|".join(names))


def _by_dataset(field: str, metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=defaults.hint(field))


def _optional(metavar: str, hint: str = "optional") -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"({hint})")


def _of(field: str, metavar: str) -> Any:
    """An option that some algorithms take; left to them unless it is given."""
    return _optional(metavar, f"of {', '.join(takers(field))}")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a federated model and write a run directory."""

    dataset: Annotated[str, _choice([*data.NAMES, "hf:OWNER/NAME"])] = "digits"
    """Data set. digits is embedded; npz is your own arrays; store is clients on disk;
    hf: any image set."""
    data_dir: Annotated[Path | None, _optional("PATH")] = None
    """Where the data set's files are, or your npz or store."""
    train_subset: Annotated[int | None, _optional("INT")] = None
    """Use only so many training examples, the same number of each class."""
    augmentation: Annotated[str, _choice(("on", "off"))] = "on"
    """Whether training images are cropped and flipped, where the data set does that."""
    model: Annotated[str | None, _by_dataset("model", "|".join(models.NAMES))] = None
    """Network."""
    algorithm: Annotated[str, _choice(ALGORITHMS)] = "fedsparsify-global"
    """Federated algorithm."""

    num_clients: Annotated[int | None, _by_dataset("num_clients", "INT")] = None
    """Clients in the federation."""
    participation: float = 1.0
    """Share of the clients that takes part in a round, above 0 and at most 1."""
    partition: Annotated[str, _choice(PARTITIONS)] = "iid"
    """How the training examples are divided among the clients."""
    classes_per_client: int = 2
    """Classes each client holds, for label-shards."""
    alpha: float = 0.5
    """Concentration for dirichlet and quantity-skew; smaller is more uneven."""
    client_data: Annotated[str | None, _by_dataset("client_data", "memory|disk")] = None
    """Where clients' data are kept: on the devices, or in files that the next cohort is
    read from while a round runs. Results are the same."""
    client_sizes: Annotated[str | None, _optional("INT,INT,...|skewed|uniform")] = None
    """Proportions of the clients' sizes, for iid and value-skew; skewed and uniform
    are those of the brain age experiments."""

    rounds: Annotated[int | None, _by_dataset("rounds", "INT")] = None
    """Federation rounds T; the final sparsity is reached in the last one."""
    local_epochs: int = 4
    """Passes over its data that a client makes in a round."""
    batch_size: Annotated[int | None, _by_dataset("batch_size", "INT")] = None
    """Examples in a client's batch."""
    learning_rate: Annotated[float | None, _by_dataset("learning_rate", "FLOAT")] = None
    """Learning rate of the clients' SGD."""
    momentum: Annotated[float | None, _by_dataset("momentum", "FLOAT")] = None
    """Momentum of the clients' SGD, at least 0 and below 1."""
    nesterov: Annotated[str | None, _by_dataset("nesterov", "on|off")] = None
    """Whether the momentum is Nesterov's."""
    optimizer_state: Annotated[str, _choice(("fresh", "kept"))] = "fresh"
    """Whether momentum starts at zero every round or is kept for each client."""

    final_sparsity: float = 0.9
    """Share of the parameters pruned in the end, at least 0 and below 1."""
    schedule: Annotated[
        str, _choice(("polynomial", "linear", "cosine", "multiplicative"))
    ] = "polynomial"
    """Form of the sparsity schedule; the paper's is polynomial."""
    exponent: float = 3.0
    """Exponent of the polynomial schedule; larger prunes earlier."""
    frequency: int = 1
    """Rounds between purges."""
    begin: int = 1
    """Round t0 after which purging starts."""
    initial_sparsity: float = 0.0
    """Sparsity in round t0."""
    purge_share: float = 0.05
    """Share of what remains that a purge removes, for the multiplicative schedule."""
    fine_tune_rounds: Annotated[int | None, _of("fine_tune_rounds", "INT")] = None
    """Rounds after the last purge that only tune."""
    fine_tune_epochs: Annotated[int | None, _of("fine_tune_epochs", "INT")] = None
    """Local epochs after a client's own purge."""
    scope: Annotated[str | None, _of("scope", "global|layer|er|erk|erk_feddst")] = None
    """What shares a threshold: the whole model, or each layer with its own budget."""
    prunable: Annotated[str, _choice(("all", "kernels"))] = "all"
    """Whether biases and norm parameters may be pruned too."""
    vote_rule: Annotated[str | None, _of("vote_rule", "authors|strict|none")] = None
    """Votes that keep a weight: floor(K/2), more than K/2, or no vote."""
    merge: Annotated[str | None, _of("merge", "NAME")] = None
    """How the server merges the clients' models."""

    mu: Annotated[float | None, _of("mu", "FLOAT")] = None
    """Weight of the proximal term."""
    anchor: Annotated[str | None, _of("anchor", "global|zero")] = None
    """What the proximal term pulls to; zero is the authors' defect, a weight decay."""
    server_optimizer: Annotated[
        str | None, _of("server_optimizer", "adam|yogi|momentum|sgd")
    ] = None
    """Optimizer of the server."""
    server_learning_rate: Annotated[
        float | None, _of("server_learning_rate", "FLOAT")
    ] = None
    """Its learning rate."""
    prune_at: Annotated[int | None, _of("prune_at", "INT")] = None
    """Round of the only purge."""
    source: Annotated[str | None, _of("source", "client|cohort")] = None
    """Whose data scores the weights: one client's batch, or the average of all."""
    freeze_zero_initialized: Annotated[
        str | None, _of("freeze_zero_initialized", "on|off")
    ] = None
    """The authors' defect: parameters that start at zero are never trained."""
    variant: Annotated[str | None, _of("variant", "published|authors")] = None
    """The published algorithm, or the FedSparsify authors' port."""
    pin_sparsity: Annotated[str, _optional("on|off", "of prunefl, default: on")] = "on"
    """Whether --final-sparsity is kept to; off lets the algorithm find its own."""
    interval: Annotated[int | None, _of("interval", "INT")] = None
    """Rounds between adjustments of the masks."""
    replace_share: Annotated[float | None, _of("replace_share", "FLOAT")] = None
    """Share of a layer's weights that the first adjustment replaces."""
    allocation: Annotated[str | None, _of("allocation", "erk|er|erk_feddst|layer")] = (
        None
    )
    """How layers share the sparsity."""

    cohort: Annotated[str, _choice(("auto", "vmap", "map"))] = "auto"
    """How a device runs its clients: all at once, or in chunks one after another;
    auto goes by the network and the device (docs/scaling.md)."""
    chunk_size: Annotated[int | None, _optional("INT", "default: by memory")] = None
    """Clients that a device trains at once, for the cohorts auto and map."""
    devices: Annotated[int | None, _optional("INT", "default: all")] = None
    """JAX devices of this process that clients are divided over; on CPU one a core."""
    sparse_training: Annotated[str, _choice(("off", "auto"))] = "off"
    """Whether clients may train a smaller form of a pruned network, with the same
    results up to rounding; auto goes over to one between rounds where that pays."""
    evaluate_every: int = 1
    """Rounds between evaluations on the test set; they run as one program."""
    coordinator: Annotated[str | None, _optional("HOST:PORT|auto")] = None
    """Address of process 0, where several processes run this command as one job; auto
    asks the cluster (SLURM, TPU pods, MPI, ...)."""
    num_processes: Annotated[int | None, _optional("INT")] = None
    """Processes of the job."""
    process_id: Annotated[int | None, _optional("INT")] = None
    """Which of them this one is, from 0."""
    seed: int = 0
    """Seed of the partition, the initial model and the training."""
    out: Annotated[Path | None, _optional("DIR", "default: a new one in runs/")] = None
    """Run directory to write."""
    resume: bool = False
    """Continue the run in --out, or start it when there is none."""
    checkpoint_every: int = 10
    """Rounds between checkpoints; the last round is always saved."""
    show_partition: bool = False
    """Print how many examples of each class every client holds."""
    logger: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="csv|tensorboard|wandb", help_behavior_hint="(optional)"),
    ] = ()
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
    "checkpoint_every",
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


def option(field: str) -> str:
    """``batch_size`` to ``--batch-size``."""
    return "--" + field.replace("_", "-")


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values, option by option."""
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in dataclasses.asdict(config).items()
    }
