"""Aliases, records and callables shared by the whole library.

Shape letters, used in every docstring:

* ``N``: clients in the federation,
* ``K``: clients in the cohort of one round,
* ``M``: examples of the largest client, the length others are padded to,
* ``B``: examples in a batch,
* ``C``: classes,
* ``T``: rounds; ``t`` is the round in progress, counted from 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
from jax.typing import ArrayLike

Key = jax.Array
"""A typed PRNG key (``jax.random.key``). A function that takes one consumes it."""

PyTree = Any
Variables = dict[str, Any]
"""Nested dict of collections, ``{"params": ..., "batch_stats": ...}``."""
Masks = dict[str, Any]
"""Bool tree with exactly the structure of the variables; True means kept."""
Scores = dict[str, Any]
"""Float tree with the structure of the variables; the largest are kept."""

Schedule = Callable[[ArrayLike], ArrayLike]
"""Round ``t`` to target sparsity in [0, 1)."""
LossFn = Callable[[jax.Array, jax.Array], jax.Array]
"""Outputs ``[B, ...]`` and targets ``[B, ...]`` to one loss an example ``[B]``."""
Prunable = Callable[[str], bool]
"""Path of a leaf, such as ``"params/Dense_0/bias"``, to whether it may be pruned."""

Scope = Literal["global", "layer", "er", "erk", "erk_feddst"]
"""Parameters that share a threshold: the whole model, or layers by their budgets."""
Criterion = Literal["magnitude", "movement", "taylor", "fisher"]
"""Importance by which weights are purged: |w|, -g w, |g w| or g^2 w^2."""
Allocation = Literal["erk", "er", "erk_feddst", "layer"]
"""Rule by which layers share the sparsity."""
VoteRule = Literal["authors", "strict", "none"]
"""Votes that keep a weight: floor(K/2), more than K/2, or no vote."""
CohortSampling = Literal["fixed", "poisson", "representative"]
"""Clients of a round: so many, or each with a probability, independently."""
PrivacyUnit = Literal["client", "example"]
"""What differential privacy hides: a client with all its examples, or one example."""
OptimizerState = Literal["fresh", "kept"]
"""Optimizer state of a client: new in every round, or kept."""
Penalties = Literal["local", "averaged", "closed-form", "frozen"]
"""Whose lambda HALO trains: each client's, all clients', none but a formula, none."""
LocalOptimizer = Literal["sgd", "lars"]
"""Optimizers of the clients that have a name."""
GradientPoint = Literal["none", "past", "fresh", "noise", "sam"]
"""Point to take gradients at: the weights, or one beside them."""
PowerpropAverage = Literal["theta", "weights"]
"""What the server merges under Powerpropagation: roots of weights, or weights."""
TrainingLoss = Literal["supervised", "contrastive"]
"""Loss of the labels, or of two views of each example, without them."""
Anchor = Literal["global", "zero"]
"""Target of the proximal term: the global model, or zero as a weight decay."""
ServerOptimizer = Literal["adam", "yogi", "adagrad", "momentum", "sgd"]
"""Optimizer of the server in FedOpt."""
Source = Literal["client", "cohort"]
"""Data that score weights: one client's batch, or the average of the cohort."""
Variant = Literal["published", "authors"]
"""An algorithm as published, or as a code of its authors or of FedSparsify's has it."""
FirstMasks = Literal["magnitude", "random"]
"""Weights that the first masks keep: the largest, or random ones."""
Growth = Literal["gradient", "random", "momentum"]
"""What pruned weights are chosen by to be kept again: RigL, SET, SNFS."""
AdjustedBy = Literal["server", "client"]
"""Who adjusts masks: the server after the merge, or clients between their epochs."""
StageTwo = Literal["spdst", "jmwst"]
"""Rounds of FLASH: under one mask, or under masks that clients move."""
PruneUpload = Literal["weights", "update"]
"""What clients of SparsyFed prune: their weights, or how these have changed."""
Decay = Literal["cosine", "constant"]
"""Course of a share over the rounds."""
WireValues = Literal["float32", "float16", "bfloat16"]
"""Dtype in which float32 numbers travel between clients and server."""
UploadCompression = Literal["none", "topk", "int8", "int4"]
"""Form of what clients upload: their model, or its change in few or coarse numbers."""
Precision = Literal["float32", "bf16"]
"""What a model computes in, around float32 parameters."""


class ApplyFn(Protocol):
    """A model's forward pass.

    Args of a call:
      variables: the model's variables.
      x: raw inputs ``[B, ...]`` in the data source's dtype.
      train: whether this is a training step (dropout, batch statistics).
      key: randomness of the step; None outside training.
      valid: bool ``[B]``, False for padding; statistics must leave those out.

    Returns:
      The outputs ``[B, ...]`` and the collections the pass changed (``{}`` if none).
    """

    def __call__(
        self,
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]: ...


class Examples(NamedTuple):
    """A labelled set, for instance the central test set."""

    x: Any  # [n, ...] in the source's dtype
    y: Any  # [n] int32 (or float targets)


class ClientData(NamedTuple):
    """The examples of many clients, padded to the largest.

    The same record without its leading axis is the data of one client.
    """

    x: jax.Array  # [N, M, ...] in the source's dtype
    y: jax.Array  # [N, M]
    sizes: jax.Array  # [N] int32: real ones of the M


class ClientRows(NamedTuple):
    """Rows of a set of examples that are every client's, filled up to the longest."""

    rows: Any  # [N, m] int32
    sizes: Any  # [N] int32: real ones of the m


class ClientsState(NamedTuple):
    """The state that clients keep between rounds; leaves have a leading ``[N]``."""

    optimizer: PyTree = ()  # optimizer states, () when made fresh every round
    extra: PyTree = ()  # a method's own, () when it keeps nothing


class State(NamedTuple):
    """Everything the next round needs; structure, shapes and dtypes never change."""

    variables: Variables  # the global model
    masks: Masks  # which of its parameters are kept
    round: jax.Array  # int32 scalar: completed rounds
    clients: ClientsState = ClientsState()
    server: PyTree = ()  # a method's own state on the server


class RoundMessages(NamedTuple):
    """All that is sent in a round."""

    variables: Variables  # the model that every client of the cohort gets
    masks: Masks  # its masks
    uploads: Variables  # [K, ...] the models that come back
    upload_masks: Masks  # [K, ...] theirs
    extra_up: jax.Array  # [K] uint32: bytes of what else a client sends
    arrived: jax.Array  # [K] bool: False for clients that drop out
    # [K, ...] `compressors.Change` that is sent in place of parameters; () if none is
    changes: Any = ()


class RoundInfo(NamedTuple):
    """The report of a round, which the next one does not need."""

    round: jax.Array  # int32 scalar: t
    # float32 scalar: training loss, mean over the merged clients' examples; NaN if none
    loss: jax.Array
    target_sparsity: jax.Array  # float32 scalar: the schedule's s_t
    sparsity: jax.Array  # float32 scalar: pruned share of the prunable parameters
    kept: dict[str, jax.Array]  # path of a leaf -> int32 kept entries
    # [K] uint32: messages by and to each client, non-zeros x 32 bit; kept x 32 bit of
    # methods whose masks travel, and what else they send in the round
    bytes_up: jax.Array
    bytes_down: jax.Array
    cohort: jax.Array  # [K] int32: who took part; -1 for an empty place
    # int32 scalars: numbers of clients of the cohort, see `engine.wrappers.faults`
    merged: jax.Array  # uploads that were merged; if 0, the model stayed as it was
    dropped: jax.Array  # clients that sent nothing
    stragglers: jax.Array  # clients that made fewer steps, and sent the result
    rejected: jax.Array  # uploads with a NaN or an infinity, or such a loss
    # [P] uint32: messages by and to each client that was looked at before round 1: the
    # model, and a score for every parameter; 0 in all other rounds
    setup_up: jax.Array
    setup_down: jax.Array
    messages: RoundMessages | tuple[()] = ()  # (), unless they are asked for


class Cohort(NamedTuple):
    """The clients of a round, gathered by the caller."""

    ids: jax.Array | None  # [K] int32, distinct; None for all N clients, in order
    data: ClientData  # [K, M, ...], in that order
    # bool [K]: who takes part, of a Poisson sample; the others fill its places
    joined: jax.Array | None = None


class RunFn(Protocol):
    """A round of a cohort that the caller gathered.

    Args of a call:
      key: the round's, the same as for ``sample``.
      state: as for ``step``.
      cohort: the clients of the round and their data.
      setup_clients: those whose data the method looks at before round 1, chosen by the
        key of round 1; the same in every round. May be left out if there are none.
    """

    def __call__(
        self,
        key: Key,
        state: State,
        cohort: Cohort,
        setup_clients: Cohort | None = None,
    ) -> tuple[State, RoundInfo]: ...


class Cohorts(NamedTuple):
    """A round in parts, for client data that are not on the device as a whole.

    Attributes:
      sample: ``(key, N) -> ids [K]``: the clients that ``step`` with this key samples
        out of N, an int. Does not consume the key, which ``run`` needs as well. Raises
        ``ValueError`` where the labels of all N clients decide.
      run: ``step`` after sampling and gathering, with the same results to the bit.
      setup_clients: ``(key, sizes [N]) -> ids [P]``: the clients whose data the method
        looks at before round 1; ``key`` is that of round 1, not consumed.
    """

    sample: Callable[[Key, int], jax.Array]
    run: RunFn
    setup_clients: Callable[[Key, jax.Array], jax.Array]


class Halves(NamedTuple):
    """A round in two halves, for clients that are on machines of their own.

    Every function may be jitted. Contexts and results are the records of `method` and
    `engine.records`; ``key`` is the round's in all of them, and is not consumed.

    Attributes:
      open: ``(key, state, nobody) -> context``: the round as clients are told of it.
        ``nobody`` has the data of no clients, ``[0, M, ...]``, for their shapes.
      client: ``(key, context, number, data, kept) -> result``: one client's part. Its
        data have no leading axis, and ``kept`` is the ``result.state`` of the last
        round that merged its upload.
      merge: ``(key, state, context, ids [K], sizes [K], arrived [K], results [K, ...])
        -> (state, info)``: the server's part. Results of clients from whom nothing
        arrived may be anything of the right shape.
      keep: ``variables -> kept``: what a client keeps before its first round.
    """

    open: Callable[[Key, State, ClientData], PyTree]
    client: Callable[[Key, PyTree, jax.Array, ClientData, ClientsState], PyTree]
    merge: Callable[..., tuple[State, RoundInfo]]
    keep: Callable[[Variables], ClientsState]


InitFn = Callable[[Key, Variables], State]
StepFn = Callable[[Key, State, ClientData], tuple[State, RoundInfo]]


def _global_model(state: State) -> Variables:
    return state.variables


def nothing_more(key: Key, state: State, clients: ClientData) -> State:
    """Leaves the state as it is: the ``finish`` of most algorithms."""
    del key, clients
    return state


def no_variants(state: State) -> dict[str, Variables]:
    """Returns no further models: the ``variants`` of most algorithms."""
    del state
    return {}


class FederatedAlgorithm(NamedTuple):
    """A federated training algorithm as pure functions.

    Attributes:
      init: ``(key, variables) -> state``. Copies ``variables``, so that a donated
        state never takes the caller's arrays with it.
      step: ``(key, state, clients) -> (state, info)``: one whole round, jittable.
      model: ``state -> variables``: the model to evaluate and take away. It differs
        from ``state.variables`` for methods that train another parametrisation.
      finish: ``(key, state, clients) -> state``: post-training, once after the last
        round; does nothing by default.
      cohorts: the parts that ``step`` is made of; None in algorithms that offer
        ``step`` alone.
      evaluated: ``state -> (apply_fn, variables)``: what to evaluate between rounds,
        where that is not the model and its forward pass, but a part of it, say.
      client_model: ``(state, number of a client) -> variables``: the model that this
        client uses, in personalised algorithms; None where all use ``model``.
      variants: ``state -> {name: variables}``: all models that can be taken away, for
        methods that train several at once; none by default.
      halves: the round for clients on other machines; None where these cannot work
        apart, because the method looks at their data before round 1, say.
    """

    init: InitFn
    step: StepFn
    model: Callable[[State], Variables] = _global_model
    finish: Callable[[Key, State, ClientData], State] = nothing_more
    cohorts: Cohorts | None = None
    evaluated: Callable[[State], tuple[ApplyFn, Variables]] | None = None
    client_model: Callable[[State, jax.Array], Variables] | None = None
    variants: Callable[[State], dict[str, Variables]] = no_variants
    halves: Halves | None = None
