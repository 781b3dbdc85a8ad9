"""The engine: a method's hooks to ``FederatedAlgorithm(init, step)``.

``step`` is one whole federated round as a pure function: cohort sampling, gathering the
cohort's data and state, local training of all its clients, client-side pruning,
aggregation, server-side pruning, and what is reported.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import small_form as small_forms
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation import shares
from fedsparsify_jax.cohort import CohortMap, vmapped
from fedsparsify_jax.hooks import (
    Client,
    Context,
    Local,
    Method,
    Streamed,
    Upload,
    Uploads,
)
from fedsparsify_jax.local_training import (
    TrainFn,
    batch_loss,
    continued,
    local_training,
)
from fedsparsify_jax.metrics.communication import nonzero_bytes
from fedsparsify_jax.preconditions import check_clients, check_cohort
from fedsparsify_jax.sampling import client_keys, cohort_size, sample_cohort
from fedsparsify_jax.server_average import averaged
from fedsparsify_jax.small_form import SmallForm
from fedsparsify_jax.tasks import cross_entropy
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    ClientsState,
    FederatedAlgorithm,
    Key,
    LossFn,
    Masks,
    PyTree,
    RoundInfo,
    Scouts,
    State,
    Variables,
)


class EngineOptions(TypedDict, total=False):
    """Keyword arguments that every algorithm takes; `engine` documents them."""

    learning_rate: ArrayLike
    momentum: ArrayLike | None
    nesterov: bool
    optimizer: optax.GradientTransformation | None
    optimizer_state: str
    num_clients: int | None
    loss_fn: LossFn
    local_epochs: int
    batch_size: int
    participation: float
    cohort: CohortMap | None
    small_form: SmallForm | None
    server_ema: ArrayLike | None


def option(options: EngineOptions, name: str) -> Any:
    """An option of the engine as given, or else the engine's default.

    For methods whose own hooks need it too, such as the loss or the batch size.

    >>> option({"batch_size": 8}, "batch_size"), option({}, "batch_size")
    (8, 32)
    """
    default = inspect.signature(engine).parameters[name].default
    return options.get(name, default)


class _Task(NamedTuple):
    """What one client needs for a round; stacked ``[K, ...]`` for the cohort."""

    key: Key
    client: Client
    optimizer: PyTree
    share: jax.Array  # its weight in means


class _Keys(NamedTuple):
    """What a round's key is split into."""

    setup: Key
    cohort: Key
    local: Key
    server: Key

    @classmethod
    def of(cls, key: Key) -> "_Keys":
        return cls(*jax.random.split(key, 4))


class _Done(NamedTuple):
    """What one client's round leaves; stacked ``[K, ...]`` for the cohort."""

    upload: Upload
    state: ClientsState
    loss: jax.Array
    bytes_up: jax.Array


def _optimizer(
    learning_rate: ArrayLike, momentum: ArrayLike | None, nesterov: bool
) -> optax.GradientTransformation:
    # A momentum of exactly 0 would only carry a useless buffer.
    if isinstance(momentum, int | float) and momentum == 0:
        momentum = None
    return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)


def engine(
    apply_fn: ApplyFn,
    method: Method,
    *,
    learning_rate: ArrayLike = 0.02,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    optimizer: optax.GradientTransformation | None = None,
    optimizer_state: str = "fresh",
    num_clients: int | None = None,
    loss_fn: LossFn = cross_entropy,
    local_epochs: int = 4,
    batch_size: int = 32,
    participation: float = 1.0,
    cohort: CohortMap | None = None,
    small_form: SmallForm | None = None,
    server_ema: ArrayLike | None = None,
) -> FederatedAlgorithm:
    """Turns a method into an algorithm.

    ``learning_rate``, ``momentum``, ``server_ema`` may be traced; the rest is static.

    Args:
      apply_fn: the model's forward pass.
      method: the hooks.
      learning_rate: of the clients' SGD.
      momentum: of the clients' SGD; None or 0 for none.
      nesterov: whether the momentum is Nesterov's.
      optimizer: any Optax transformation, in place of that SGD.
      optimizer_state: ``"fresh"`` starts every client with a new state every round;
        ``"kept"`` keeps a state for each of the N clients, as the authors' long-lived
        Keras models do. The same thing for SGD without momentum.
      num_clients: N; needed for whatever is kept for each client.
      loss_fn: outputs and targets of a batch to one loss an example.
      local_epochs: E, passes over its data that a client makes in a round.
      batch_size: B.
      participation: share of the clients that takes part in a round, drawn without
        replacement; ``floor(participation * N)`` clients.
      cohort: how the cohort's clients are run, see `cohort`; all at once by default.
      small_form: a smaller form of the model that clients train on where the round's
        masks fit it, with the same results, see `sparse_training`.
      server_ema: decay of an average model to evaluate, see `server_average`.

    Returns:
      The algorithm. Its ``init`` raises ``ValueError`` if the variables have no
      ``params`` collection or ``num_clients`` is missing where it is needed.

    Raises:
      small_form.UnsuitableError: if the method needs full shapes in local training.
    """
    if optimizer_state not in ("fresh", "kept"):
        raise ValueError(f"unknown optimizer_state {optimizer_state!r}: fresh or kept")
    if num_clients is not None:
        cohort_size(num_clients, participation)  # complain early
    keep_optimizer = optimizer_state == "kept"
    transform = optimizer or _optimizer(learning_rate, momentum, nesterov)
    more_epochs = method.fine_tune_epochs
    if more_epochs < 0:
        raise ValueError(f"fine_tune_epochs is {more_epochs}: it must be at least 0")

    def training(epochs: int, apply_fn: ApplyFn = apply_fn) -> TrainFn:
        loss = batch_loss(apply_fn, loss_fn)
        return local_training(
            loss, transform, method, epochs=epochs, batch_size=batch_size
        )

    train = training(local_epochs)
    fine_tune = training(more_epochs) if more_epochs else None
    run_cohort = cohort or vmapped()

    def new_optimizer(variables: Variables) -> PyTree:
        return transform.init({"params": variables["params"]})

    if small_form is not None:
        small_forms.check(
            method,
            optimizer=optimizer is not None,
            keeps_optimizer=keep_optimizer,
            fine_tunes=fine_tune is not None,
        )
        train = small_forms.small_or_full(
            train, small_form, method, partial(training, local_epochs), new_optimizer
        )
        run_cohort = small_forms.indexed(run_cohort, small_form)

    def init(key: Key, variables: Variables) -> State:
        del key
        if "params" not in variables:
            raise ValueError(
                'variables must be a dict of collections such as {"params": ...}; '
                f"got the keys {sorted(variables)}"
            )
        variables = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), variables)
        masks = mask_algebra.ones_like(variables)
        kept = ClientsState(
            new_optimizer(variables) if keep_optimizer else (),
            method.client_state(variables, masks),
        )
        if jax.tree.leaves(kept):
            if num_clients is None:
                raise ValueError("num_clients is needed to keep state for every client")
            kept = trees.repeat(kept, num_clients)
        server = method.server_state(variables, masks)
        return State(variables, masks, jnp.int32(0), kept, server)

    def client_round(context: Context, task: _Task) -> _Done:
        train_key, prune_key, upload_key, *tune_key = jax.random.split(
            task.key, 3 if fine_tune is None else 4
        )
        variables, masks = method.receive(context, task.client)
        state = task.optimizer if keep_optimizer else new_optimizer(variables)
        trained = train(train_key, variables, masks, state, task.client.data, context)
        local = Local(trained.variables, masks, trained.memory)
        masks = method.client_prune(prune_key, local, context, task.client)
        trained = trained._replace(variables=method.project(masks, trained.variables))
        if fine_tune is not None:
            tuned = fine_tune(
                tune_key[0],
                trained.variables,
                masks,
                trained.optimizer,
                task.client.data,
                context,
                trained.memory,
            )
            trained = continued(trained, tuned, (local_epochs, more_epochs))
        local = Local(trained.variables, masks, trained.memory)
        upload, extra = method.upload(upload_key, local, context, task.client)
        kept = ClientsState(trained.optimizer if keep_optimizer else (), extra)
        return _Done(upload, kept, trained.loss, nonzero_bytes(upload.variables))

    def add_up(
        context: Context, tasks: _Task, done: _Done, present: jax.Array
    ) -> tuple[PyTree, _Done]:
        assert isinstance(method.aggregate, Streamed)
        weights = jnp.where(present, tasks.share, 0.0)
        uploads = Uploads(*done.upload, weights, tasks.client.id)
        nothing = Upload({}, {})  # so that no model is stacked
        return method.aggregate.sums(uploads, context), done._replace(upload=nothing)

    def scouts_of(key: Key, count: jax.Array) -> jax.Array:
        if method.setup is None:
            return jnp.zeros(0, jnp.int32)
        if method.scouts is None:
            raise ValueError(
                "this method looks at the data of all clients before round 1 (it has "
                "Method.setup without Method.scouts): only step can run it"
            )
        setup_key = _Keys.of(jax.random.clone(key)).setup
        return method.scouts(setup_key, count).astype(jnp.int32)

    def opening(key: Key, state: State, meet: Callable[[Key], Scouts]) -> Context:
        """The round's context, after the method's setup if it is the first round."""
        t = state.round + 1
        target = jnp.asarray(method.schedule(t), jnp.float32)
        context = Context(
            t, target, state.variables, state.masks, state.server, state.clients.extra
        )
        if method.setup is None:
            return context
        setup, impl = method.setup, jax.random.key_impl(key)
        # The key enters as plain numbers: under vmap the branches become a select
        # between copies of it, which JAX's reuse checker takes for a second use.
        bits = jax.random.key_data(key)

        def first() -> tuple[Variables, Masks]:
            ids, data = meet(jax.random.wrap_key_data(bits, impl=impl))
            own = jax.random.wrap_key_data(bits, impl=impl)
            return setup(own, context._replace(scouts=ids), data)

        variables, masks = jax.lax.cond(
            t == 1, first, lambda: (context.variables, context.masks)
        )
        return context._replace(variables=variables, masks=masks)

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        check_clients(clients, state, num_clients)
        keys = _Keys.of(key)

        def meet(key: Key) -> Scouts:
            if method.scouts is None:
                return Scouts(jnp.arange(len(clients.count)), clients)
            ids = method.scouts(key, clients.count).astype(jnp.int32)
            return Scouts(ids, trees.take(clients, ids))

        context = opening(keys.setup, state, meet)
        total = clients.count.shape[0]
        size = cohort_size(total, participation)
        chosen = sample_cohort(keys.cohort, total, size)
        everyone = size == total
        data = clients if everyone else trees.take(clients, chosen)
        return the_round(keys, state, context, chosen, data, everyone)

    def choose(key: Key, total: int) -> jax.Array:
        if num_clients not in (None, total):
            raise ValueError(f"num_clients is {num_clients}, asked for {total} clients")
        size = cohort_size(total, participation)
        return sample_cohort(_Keys.of(jax.random.clone(key)).cohort, total, size)

    def play(
        key: Key,
        state: State,
        cohort: jax.Array,
        data: ClientData,
        scouts: Scouts | None = None,
    ) -> tuple[State, RoundInfo]:
        check_cohort(cohort, data)
        if method.setup is not None and scouts is None:
            raise ValueError(
                "this method may look at clients' data before round 1: give play the "
                "scouts, whose ids algorithm.scouts chooses"
            )
        keys = _Keys.of(key)

        def meet(key: Key) -> Scouts:
            del key
            assert scouts is not None
            return scouts

        context = opening(keys.setup, state, meet)
        return the_round(keys, state, context, cohort, data, everyone=False)

    def the_round(
        keys: _Keys,
        state: State,
        context: Context,
        chosen: jax.Array,
        data: ClientData,
        everyone: bool,
    ) -> tuple[State, RoundInfo]:
        """The round of the chosen clients; ``everyone`` if they are all, in order."""
        mine = state.clients if everyone else trees.take(state.clients, chosen)
        tasks = _Task(
            client_keys(keys.local, chosen),
            Client(chosen, data, mine.extra),
            mine.optimizer,
            shares(data.count),
        )
        weights = data.count.astype(jnp.float32)
        done: _Done
        if isinstance(method.aggregate, Streamed):
            sums, done = run_cohort(client_round, context, tasks, add_up)
            uploads = Uploads({}, {}, (), weights, chosen)
            variables, masks = method.aggregate.merge(sums, context)
        else:
            done = run_cohort(client_round, context, tasks)
            uploads = Uploads(*done.upload, weights, chosen)
            variables, masks = method.aggregate(uploads, context)
        variables, masks, server = method.server_update(
            keys.server, variables, masks, uploads, context
        )
        kept = done.state if everyone else trees.put(state.clients, chosen, done.state)
        new = State(variables, masks, context.round, kept, server)
        down = nonzero_bytes(method.download(variables, masks, context))
        seen = jnp.maximum(jnp.sum(weights), 1.0)
        info = RoundInfo(
            round=context.round,
            loss=jnp.sum(weights * done.loss) / seen,
            target_sparsity=context.sparsity,
            sparsity=mask_algebra.sparsity(masks, method.prunable),
            kept=mask_algebra.kept(masks),
            bytes_up=done.bytes_up,
            bytes_down=jnp.broadcast_to(down, chosen.shape),
            cohort=chosen,
        )
        return new, info

    algorithm = FederatedAlgorithm(
        init, step, method.model, method.finish, choose, play, scouts_of
    )
    return algorithm if server_ema is None else averaged(algorithm, server_ema)
