"""The engine: a method's hooks to ``FederatedAlgorithm(init, step)``.

``step`` is one whole federated round as a pure function: cohort sampling, gathering the
cohort's data and state, local training of all its clients, client-side pruning,
aggregation, server-side pruning, and what is reported.
"""

import inspect
from functools import partial
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.means import shares
from fedsparsify_jax.aggregation.robust import check_norm, clipped
from fedsparsify_jax.client_map import CohortMap, vmapped
from fedsparsify_jax.engine.preconditions import check_clients, check_cohort
from fedsparsify_jax.engine.records import Done, Keys, Task, opening, sgd
from fedsparsify_jax.engine.sampling import client_keys, cohort_size, sample_cohort
from fedsparsify_jax.engine.wrappers import faults as failures
from fedsparsify_jax.engine.wrappers.attacks import Attack
from fedsparsify_jax.engine.wrappers.ema import averaged
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.method import (
    Client,
    Context,
    Local,
    Method,
    Streamed,
    Upload,
    Uploads,
)
from fedsparsify_jax.metrics.communication import nonzero_bytes
from fedsparsify_jax.training.compact import wrapper as small_forms
from fedsparsify_jax.training.compact.wrapper import SmallForm
from fedsparsify_jax.training.local import (
    TrainFn,
    batch_loss,
    continued,
    local_training,
)
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    ClientsState,
    FederatedAlgorithm,
    Key,
    LossFn,
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
    faults: Faults | None
    attack: Attack | None
    clip_norm: ArrayLike | None
    server_ema: ArrayLike | None


def option(options: EngineOptions, name: str) -> Any:
    """An option of the engine as given, or else the engine's default.

    For methods whose own hooks need it too, such as the loss or the batch size.

    >>> option({"batch_size": 8}, "batch_size"), option({}, "batch_size")
    (8, 32)
    """
    default = inspect.signature(engine).parameters[name].default
    return options.get(name, default)


def _count(which: jax.Array) -> jax.Array:
    return jnp.sum(which, dtype=jnp.int32)


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
    faults: Faults | None = None,
    attack: Attack | None = None,
    clip_norm: ArrayLike | None = None,
    server_ema: ArrayLike | None = None,
) -> FederatedAlgorithm:
    """Turns a method into an algorithm.

    ``learning_rate``, ``momentum``, ``clip_norm``, ``server_ema`` and the numbers of
    ``faults`` and ``attack`` may be traced; everything else is static.

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
      faults: how often clients drop out, straggle or send broken numbers; never by
        default. Broken uploads are left out in any case, see `faults`.
      attack: what hostile clients do, see `attacks`.
      clip_norm: the largest norm of a client's update; longer ones are scaled down
        before the merge, see `robust_merges.clipped`.
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
    transform = optimizer or sgd(learning_rate, momentum, nesterov)
    if faults is not None:
        failures.check(faults)
    check_norm(clip_norm)
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

    def client_round(context: Context, task: Task) -> Done:
        train_key, prune_key, upload_key, *tune_key = jax.random.split(
            task.key, 3 if fine_tune is None else 4
        )
        client, struck = task.client, task.struck
        effort = None if struck is None else struck.effort
        if attack is not None:
            client = attack.data(client)
        start, before = method.receive(context, client)
        state = task.optimizer if keep_optimizer else new_optimizer(start)
        trained = train(
            train_key, start, before, state, client.data, context, effort=effort
        )
        local = Local(trained.variables, before, trained.memory)
        masks = method.client_prune(prune_key, local, context, client)
        trained = trained._replace(variables=method.project(masks, trained.variables))
        if fine_tune is not None:
            tuned = fine_tune(
                tune_key[0],
                trained.variables,
                masks,
                trained.optimizer,
                client.data,
                context,
                trained.memory,
                effort,
            )
            trained = continued(trained, tuned, (local_epochs, more_epochs))
        local = Local(trained.variables, masks, trained.memory)
        upload, extra = method.upload(upload_key, local, context, client)
        if attack is not None:
            upload = attack.upload(upload, start, before, context, client)
        bytes_up = nonzero_bytes(upload.variables)
        if struck is not None:
            upload = failures.spoiled(upload, struck.garbage)
        if clip_norm is not None:
            cut = clipped(upload.variables, upload.masks, start, clip_norm)
            upload = upload._replace(variables=cut)
        sound = failures.sound((upload.variables, upload.extra))
        kept = ClientsState(trained.optimizer if keep_optimizer else (), extra)
        return Done(upload, kept, trained.loss, bytes_up, sound)

    def add_up(
        context: Context, tasks: Task, done: Done, present: jax.Array
    ) -> tuple[PyTree, Done]:
        assert isinstance(method.aggregate, Streamed)
        weights = jnp.where(present & done.sound, tasks.share, 0.0)
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
        setup_key = Keys.of(jax.random.clone(key)).setup
        return method.scouts(setup_key, count).astype(jnp.int32)

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        check_clients(clients, state, num_clients)
        keys = Keys.of(key)

        def meet(key: Key) -> Scouts:
            if method.scouts is None:
                return Scouts(jnp.arange(len(clients.count)), clients)
            ids = method.scouts(key, clients.count).astype(jnp.int32)
            return Scouts(ids, trees.take(clients, ids))

        context = opening(method, keys.setup, state, meet)
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
        return sample_cohort(Keys.of(jax.random.clone(key)).cohort, total, size)

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
        keys = Keys.of(key)

        def meet(key: Key) -> Scouts:
            del key
            assert scouts is not None
            return scouts

        context = opening(method, keys.setup, state, meet)
        return the_round(keys, state, context, cohort, data, everyone=False)

    def the_round(
        keys: Keys,
        state: State,
        context: Context,
        chosen: jax.Array,
        data: ClientData,
        everyone: bool,
    ) -> tuple[State, RoundInfo]:
        """The round of the chosen clients; ``everyone`` if they are all, in order."""
        mine = state.clients if everyone else trees.take(state.clients, chosen)
        weights, struck = data.count.astype(jnp.float32), None
        here = jnp.ones(chosen.shape, bool)
        if faults is not None:
            struck = failures.strike(faults, keys.faults, context.round, chosen)
            here = ~struck.dropped
            weights = jnp.where(here, weights, 0.0)
        tasks = Task(
            client_keys(keys.local, chosen),
            Client(chosen, data, mine.extra),
            mine.optimizer,
            shares(weights),
            struck,
        )
        done: Done
        if isinstance(method.aggregate, Streamed):
            sums, done = run_cohort(client_round, context, tasks, add_up)
            weights = jnp.where(done.sound, weights, 0.0)
            uploads = Uploads({}, {}, (), weights, chosen)
            variables, masks = method.aggregate.merge(sums, context)
        else:
            done = run_cohort(client_round, context, tasks)
            weights = jnp.where(done.sound, weights, 0.0)
            uploads = Uploads(*done.upload, weights, chosen)
            variables, masks = method.aggregate(uploads, context)
        variables, masks, server = method.server_update(
            keys.server, variables, masks, uploads, context
        )
        seen = jnp.maximum(jnp.sum(weights), 1.0)
        loss = jnp.sum(weights * jnp.where(weights > 0, done.loss, 0.0)) / seen
        # Without a client to merge, nothing is: not even the server purges.
        some = jnp.any(weights > 0)
        variables, masks, server = trees.where(
            some,
            (variables, masks, server),
            (context.variables, context.masks, context.server),
        )
        own = failures.where_some(here & done.sound & some, done.state, mine)
        kept = own if everyone else trees.put(state.clients, chosen, own)
        new = State(variables, masks, context.round, kept, server)
        down = nonzero_bytes(method.download(variables, masks, context))
        slow = here & False if struck is None else struck.slow
        info = RoundInfo(
            round=context.round,
            loss=jnp.where(some, loss, jnp.nan),
            target_sparsity=context.sparsity,
            sparsity=mask_algebra.sparsity(masks, method.prunable),
            kept=mask_algebra.kept(masks),
            bytes_up=jnp.where(here, done.bytes_up, jnp.uint32(0)),
            bytes_down=jnp.broadcast_to(down, chosen.shape),
            cohort=chosen,
            merged=_count(weights > 0),
            dropped=_count(~here),
            stragglers=_count(slow),
            rejected=_count(here & ~done.sound),
        )
        return new, info

    algorithm = FederatedAlgorithm(
        init, step, method.model, method.finish, choose, play, scouts_of
    )
    return algorithm if server_ema is None else averaged(algorithm, server_ema)
