"""The options of ``fedsparsify train``, a field each: see `schema`.

Those of base classes, which have files of their own, come last in the help.

`resolve` has the rules about several options.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from fedsparsify_jax import models
from fedsparsify_jax.aggregation import merges
from fedsparsify_jax.aggregation.merges import WITHSTANDING
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.engine.wrappers.attacks import NAMES as ATTACKS
from fedsparsify_jax.runner.options.client_steps import ClientSteps
from fedsparsify_jax.runner.options.grammars import (
    CLIENT_SIZES,
    DATA_SET,
    EPOCHS,
    FAULTS,
)
from fedsparsify_jax.runner.options.method_options import MethodOptions
from fedsparsify_jax.runner.options.model_options import ModelOptions
from fedsparsify_jax.runner.options.past import Past
from fedsparsify_jax.runner.options.privacy_options import PrivacyOptions
from fedsparsify_jax.runner.options.rules import (
    BELOW_ONE,
    HALF,
    SHARE,
    Choice,
    Switch,
    above,
    at_least,
    between,
    from_up,
)
from fedsparsify_jax.runner.options.schema import (
    ABSENT_AT_ZERO,
    BY_DATASET,
    CHANGEABLE,
    NEUTRAL,
    OF_ONE_START,
    ONE_VALUE,
    TRACED,
    TRAIN_ONLY,
    WITH_COMMAS,
    Heading,
    Keyword,
    Shown,
)
from fedsparsify_jax.runner.options.tables import Tables
from fedsparsify_jax.types import (
    OptimizerState,
    PowerpropAverage,
    Scope,
    UploadCompression,
    VoteRule,
    WireValues,
)

PARTITIONS = (
    "iid",
    "label-shards",
    "dirichlet",
    "quantity-skew",
    "value-skew",
    "natural",
)

NATURAL = "natural"
"""The partition that columns of the data name the clients of."""

STORED = "stored"
"""The partition of the data set ``store``, which comes with its clients."""

Logger = Literal["csv", "tensorboard", "wandb"]


@dataclasses.dataclass(frozen=True)
class TrainConfig(
    ModelOptions, MethodOptions, ClientSteps, Tables, Past, PrivacyOptions
):
    """Train a federated model and write a run directory.

    Without options: FedSparsify-Global on the embedded digits, 10 clients,
    90 % sparsity. The paper's FashionMNIST federation:
    --dataset fashion_mnist. Again what a run did: --config runs/ONE/config.json.
    """

    dataset: Annotated[str, Heading("Data and model"), DATA_SET] = "digits"
    """Data set. digits is embedded; npz is your own arrays, table your own parquet, CSV
    or JSON lines; store is clients on disk; hf: any of the hub."""
    data_dir: Annotated[Path | None, CHANGEABLE, WITH_COMMAS] = None
    """Where the data set's files are, or your npz, table or store."""
    train_subset: Annotated[int | None, at_least(1)] = None
    """Use only so many training examples, the same number of each class."""
    validation_fraction: Annotated[float, BELOW_ONE] = 0.0
    """Share of the training examples, the same of each class, that no client gets: a
    validation set to make choices on, evaluated as the test set is."""
    augmentation: Switch = "on"
    """Whether training images are cropped and flipped, where the data set does that."""
    model: Annotated[str | None, Choice(models.NAMES), BY_DATASET] = None
    """Network."""
    algorithm: Annotated[str, Choice(tuple(ALGORITHMS))] = "fedsparsify-global"
    """Federated algorithm."""

    num_clients: Annotated[
        int | None, Heading("Clients"), at_least(1), Keyword(), BY_DATASET
    ] = None
    """Clients in the federation."""
    participation: Annotated[float, SHARE, Keyword(), CHANGEABLE] = 1.0
    """Share of the clients that takes part in a round."""
    partition: Annotated[str, Choice(PARTITIONS, (STORED,))] = "iid"
    """How the training examples are divided among the clients; natural: by
    --client-column."""
    classes_per_client: Annotated[int, at_least(1)] = 2
    """Classes each client holds, for label-shards."""
    alpha: Annotated[float, above(0)] = 0.5
    """Concentration for dirichlet and quantity-skew; smaller is more uneven."""
    client_data: Annotated[Literal["memory", "disk"] | None, BY_DATASET, TRAIN_ONLY] = (
        None
    )
    """Where clients' data are kept: on the devices, or in files that the next cohort is
    read from while a round runs. Results are the same."""
    client_sizes: Annotated[str | None, CLIENT_SIZES, WITH_COMMAS] = None
    """Proportions of the clients' sizes, for iid and value-skew; the names are those of
    the brain age experiments."""

    rounds: Annotated[
        int | None, Heading("Training"), at_least(1), Keyword(), BY_DATASET, CHANGEABLE
    ] = None
    """Federation rounds T; the final sparsity is reached in the last one."""
    local_epochs: Annotated[float, above(0), EPOCHS, Keyword(), CHANGEABLE] = 4
    """Passes over its data that a client makes in a round; 0.5 is half of the steps of
    one."""
    local_steps: Annotated[
        int | None,
        at_least(1),
        Keyword(),
        Shown(hint="default: by the epochs"),
        CHANGEABLE,
    ] = None
    """Steps of every client in a round, in place of epochs."""
    batch_size: Annotated[
        int | None, at_least(1), Keyword(), BY_DATASET, CHANGEABLE
    ] = None
    """Examples in a client's batch."""
    learning_rate: Annotated[
        float | None, above(0), Keyword(), BY_DATASET, TRACED, CHANGEABLE
    ] = None
    """Learning rate of the clients' SGD."""
    momentum: Annotated[
        float | None, BELOW_ONE, Keyword(), BY_DATASET, TRACED, ABSENT_AT_ZERO
    ] = None
    """Momentum of the clients' SGD."""
    nesterov: Annotated[Switch | None, Keyword(), BY_DATASET] = None
    """Whether the momentum is Nesterov's."""
    optimizer_state: Annotated[OptimizerState, Keyword()] = "fresh"
    """Whether momentum starts at zero every round or is kept for each client."""

    final_sparsity: Annotated[
        float, Heading("Sparsity"), BELOW_ONE, Keyword(), TRACED, CHANGEABLE
    ] = 0.9
    """Share of the parameters pruned in the end."""
    schedule: Annotated[
        Literal["polynomial", "linear", "cosine", "multiplicative"], CHANGEABLE
    ] = "polynomial"
    """Form of the sparsity schedule; the paper's is polynomial."""
    exponent: Annotated[float, above(0), Keyword(), TRACED, CHANGEABLE] = 3.0
    """Exponent of the polynomial schedule; larger prunes earlier."""
    frequency: Annotated[int, at_least(1), Keyword("every"), CHANGEABLE] = 1
    """Rounds between purges."""
    begin: Annotated[int, at_least(0), Keyword(), TRACED, CHANGEABLE] = 1
    """Round t0 after which purging starts."""
    initial_sparsity: Annotated[
        float | None, BELOW_ONE, Keyword(), BY_DATASET, TRACED, CHANGEABLE
    ] = None
    """Sparsity in round t0."""
    server_ema: Annotated[
        float | None,
        BELOW_ONE,
        Keyword(),
        Shown(metavar="DECAY", hint="default: off"),
        TRACED,
    ] = None
    """Evaluate and save a moving average of the global model with this decay; training
    and the bytes sent stay as they are. Every algorithm takes it."""
    server_lookahead: Annotated[
        float | None,
        BELOW_ONE,
        Keyword(),
        Shown(metavar="SHARE", hint="default: off"),
        TRACED,
    ] = None
    """Let clients start beyond the model, by this share of its last move (FedACG): it
    trains faster, for no byte more. Best with cohorts that are alike: IID clients, or
    --cohort-sampling representative."""
    powerprop: Annotated[
        float | None,
        from_up(1),
        Keyword(),
        Shown(metavar="ALPHA", hint="default: off"),
        TRACED,
    ] = None
    """Powerpropagation: clients train theta, and weights are sign(theta) |theta|^ALPHA.
    For every algorithm that does not grow weights at zero."""
    powerprop_average: Annotated[PowerpropAverage, Keyword()] = "theta"
    """Whether the server then merges theta or weights."""
    purge_share: Annotated[float, BELOW_ONE, TRACED, CHANGEABLE] = 0.05
    """Share of what remains that a purge removes, for the multiplicative schedule."""
    fine_tune_rounds: Annotated[int | None, at_least(0), Keyword(), CHANGEABLE] = None
    """Rounds after the last purge that only tune."""
    fine_tune_epochs: Annotated[int | None, at_least(0), Keyword(), CHANGEABLE] = None
    """Local epochs after a client's own purge."""
    scope: Annotated[Scope | None, Keyword()] = None
    """What shares a threshold: the whole model, or each layer with its own budget."""
    prunable: Annotated[Literal["all", "kernels"] | None, BY_DATASET] = None
    """Whether biases and norm parameters may be pruned too."""
    spare: Annotated[str | None, Shown(metavar="NAME,..."), WITH_COMMAS] = None
    """Layers that are not pruned, such as Dense_0; first and last are names too."""
    vote_rule: Annotated[VoteRule | None, Keyword()] = None
    """Votes that keep a weight: floor(K/2), more than K/2, or no vote."""
    merge: Annotated[str | None, Choice(tuple(merges.NAMES)), Keyword()] = None
    """How the server merges the clients' models."""

    assumed_attackers: Annotated[
        float | None,
        HALF,
        Shown(hint=f"of {', '.join(WITHSTANDING)}; default: 0.3"),
        TRACED,
    ] = None
    """Share of a round's clients that the merge is to withstand."""
    clip_norm: Annotated[
        float | None, above(0), Keyword(), Shown(hint="default: no limit"), TRACED
    ] = None
    """Largest norm of a client's update; longer ones are scaled down before the
    merge."""

    faults: Annotated[
        str | None,
        Heading("Faults and attacks"),
        FAULTS,
        Shown(hint="default: none"),
        WITH_COMMAS,
    ] = None
    """Failures to inject: the probability that a client drops out of a round, makes
    only a share of its steps, or sends NaN; @5 or @5-9 behind one names its rounds."""
    attack: Annotated[
        str | None, Choice(tuple(ATTACKS)), Shown(hint="default: none")
    ] = None
    """What hostile clients do, to test defences against."""
    attackers: Annotated[
        float | None, between(0, 1), Shown(hint="with --attack"), TRACED
    ] = None
    """Share of all clients that are hostile."""
    attack_scale: Annotated[
        float | None,
        above(0),
        Shown(hint="default: 4 for sign-flip, 10 for scaling"),
        TRACED,
    ] = None
    """Factor by which a forged update is larger than an honest one."""

    wire_values: Annotated[WireValues, Heading("Messages"), Keyword()] = "float32"
    """What models travel as between clients and server, who go on with the rounded
    numbers."""
    upload_compression: Annotated[UploadCompression, Keyword()] = "none"
    """What clients upload in place of their model: the largest entries of its change,
    or all of them rounded at random to 8 or 4 bits."""
    topk_fraction: Annotated[
        float | None,
        SHARE,
        Keyword(),
        Shown(hint="of topk; default: 0.1"),
        TRACED,
        CHANGEABLE,
    ] = None
    """Share of the kept entries whose change a client uploads."""
    error_feedback: Annotated[
        Switch | None, Keyword(), Shown(hint="default: on for topk")
    ] = None
    """Whether clients keep what compression leaves out and add it to their next change,
    which takes the memory of a model for every client of the federation."""
    measure_bytes: Annotated[bool, TRAIN_ONLY] = False
    """Encode every message of every round and report the bytes, beside the formula's.
    Keeps a model for each client of a round in memory."""
    wire_compression: Annotated[Literal["none", "zstd"], TRAIN_ONLY] = "none"
    """Compression of the messages that are measured; zstd needs the extra deploy."""

    encrypted: Annotated[bool, TRAIN_ONLY] = False
    """Encrypt uploads (CKKS): the server adds what it cannot read. For methods whose
    server needs the mean of the models alone, and the extra encrypted."""

    # Those that are neutral change the order of sums, so the results to some 1e-5.
    cohort: Annotated[Literal["auto", "vmap", "map"], Heading("Running"), NEUTRAL] = (
        "auto"
    )
    """How a device runs its clients: all at once, or in chunks one after another; auto
    goes by the network and the device (docs/scaling.md)."""
    chunk_size: Annotated[
        int | None, at_least(1), Shown(hint="default: by memory"), NEUTRAL
    ] = None
    """Clients that a device trains at once, for the cohorts auto and map."""
    devices: Annotated[
        int | None, at_least(1), Shown(hint="default: all"), ONE_VALUE
    ] = None
    """JAX devices of this process that clients are divided over; on CPU one a core."""
    sparse_training: Annotated[Literal["off", "auto"], TRAIN_ONLY] = "off"
    """Whether clients may train a smaller form of a pruned network, with the same
    results up to rounding; auto goes over to one between rounds where that pays."""
    evaluate_every: Annotated[int, at_least(1), CHANGEABLE] = 1
    """Rounds between evaluations on the test set; they run as one program."""
    client_evaluation: Annotated[Switch | None, CHANGEABLE] = None
    """Whether each client's model is evaluated too, on up to 500 test examples in the
    proportions of its classes; on by itself for personalised algorithms."""
    coordinator: Annotated[
        str | None, Shown(metavar="HOST:PORT|auto"), TRAIN_ONLY, OF_ONE_START
    ] = None
    """Address of process 0, where several processes run this command as one job; auto
    asks the cluster (SLURM, TPU pods, MPI, ...)."""
    num_processes: Annotated[int | None, at_least(1), TRAIN_ONLY, OF_ONE_START] = None
    """Processes of the job."""
    process_id: Annotated[int | None, at_least(0), TRAIN_ONLY, OF_ONE_START] = None
    """Which of them this one is, from 0."""
    seed: Annotated[int, at_least(0, below=2**32)] = 0
    """Seed of the partition, the initial model and the training."""

    out: Annotated[
        Path | None,
        Heading("Files and display"),
        Shown(metavar="DIR", hint="default: a new one in runs/"),
        ONE_VALUE,
        OF_ONE_START,
    ] = None
    """Run directory to write."""
    resume: Annotated[bool, TRAIN_ONLY, OF_ONE_START] = False
    """Continue the run in --out, or start it when there is none."""
    allow_changes: Annotated[bool, TRAIN_ONLY, OF_ONE_START] = False
    """Let a resumed run change options that its state fits, such as --rounds."""
    checkpoint_every: Annotated[int, at_least(1), TRAIN_ONLY] = 10
    """Rounds between checkpoints; the last round is always saved."""
    keep_last: Annotated[int, at_least(1), TRAIN_ONLY] = 2
    """How many of the latest checkpoints stay."""
    keep_best: Annotated[int, at_least(0), TRAIN_ONLY] = 0
    """How many of the best checkpoints stay besides: best on the validation set, or on
    the test set if there is none."""
    show_partition: Annotated[bool, TRAIN_ONLY] = False
    """Print how many examples of each class every client holds."""
    logger: Annotated[tuple[Logger, ...], TRAIN_ONLY] = ()
    """Where to write the rounds besides metrics.jsonl; several may be named."""
    compilation_cache: Annotated[
        str | None,
        Shown(hint="default: in the user's cache directory", metavar="DIR|off"),
        ONE_VALUE,
    ] = None
    """Where compiled programs are kept for the next run."""
    verbose: Annotated[bool, TRAIN_ONLY] = False
    """Also print devices, versions, and how often the round was traced and compiled."""
