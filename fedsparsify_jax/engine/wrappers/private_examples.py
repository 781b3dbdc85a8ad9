"""Example-level differential privacy around a method: DP-SGD in clients' training.

`privacy.private_steps` gives every step a clipped and noised gradient. Whatever follows
from it is post-processing, so that methods are free in what they send, merge and purge:
clients' masks by magnitude, votes, sums of gradients over the steps, medians. Here the
method's hooks get clients whose examples cannot be read, and what would look at them
all the same is refused: first masks by saliencies, growth by dense gradients, tickets
by accuracy.

Numbers of examples are public under the neighbours of this mechanism, which agree in
them: merges weigh by them, and the divisors of steps depend on them.
"""

import math
from typing import Any

import jax

from fedsparsify_jax.engine.options import Options
from fedsparsify_jax.engine.wrappers.private import check_numbers
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Client, Context, Local, Method, Upload, no_clients
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy, Hidden
from fedsparsify_jax.types import Key, Masks, PyTree, Variables


def hiding_examples(o: Options, method: Method) -> Method:
    """Returns the method whose hooks cannot read examples, if the options ask for that.

    Args:
      o: the options; ``privacy`` may be a `privacy.private_steps.ExamplePrivacy`.
      method: any. Its ``objective`` is looked after in the steps themselves.

    Returns:
      The method. Its rounds raise `InputError` where a hook reads examples, when they
      are traced.

    Raises:
      InputError: for options out of range or that do not go together, first masks from
        clients' data, or growth by gradients of pruned weights.
    """
    if not isinstance(o.privacy, ExamplePrivacy):
        return method
    _check(o, method)
    _check_passes(o, method, o.privacy)
    plain = Method(aggregate=method.aggregate)

    def client_prune(key: Key, local: Local, context: Context, client: Client) -> Masks:
        client = _hidden(client, "its choice of clients' masks looks")
        return method.client_prune(key, local, context, client)

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        client = _hidden(client, "what its clients send looks")
        return method.upload.send(key, local, context, client)

    def receive(context: Context, client: Client) -> tuple[Variables, Masks]:
        return method.receive(context, _hidden(client, _START))

    def received_bytes(context: Context, client: Client) -> jax.Array:
        assert method.received_bytes is not None
        return method.received_bytes(context, _hidden(client, _START))

    wrapped: dict[str, Any] = {
        "client_prune": client_prune,
        "receive": receive,
        "received_bytes": received_bytes,
    }
    changed = {
        name: hook
        for name, hook in wrapped.items()
        if getattr(method, name) is not getattr(plain, name)
    }
    if method.upload.send is not plain.upload.send:
        changed["upload"] = method.upload._replace(send=send)
    return method._replace(**changed)


_START = "what its clients start from looks"


def _hidden(client: Client, reader: str) -> Client:
    """Returns the client with its number of examples alone."""
    data = client.data
    x: Any = Hidden(data.x, reader)
    y: Any = Hidden(data.y, reader)
    return client._replace(data=data._replace(x=x, y=y))


def _check(o: Options, method: Method) -> None:
    assert isinstance(o.privacy, ExamplePrivacy)
    check_numbers(o.privacy._replace(passes=None))
    reason = None
    if method.setup is not None and method.setup.clients is not no_clients:
        reason = "its first masks come from clients' data"
    plain = Method(aggregate=method.aggregate).gradient
    if method.grows and method.gradient is not plain:
        reason = "it grows weights by gradients, and those of pruned weights are zero"
    if reason is not None:
        raise InputError(
            f"privacy of examples does not go with this method: {reason}; fedavg, "
            "fedsparsify-global and fedsparsify-local are among those that it goes with"
        )
    if o.gradient_point in ("fresh", "sam"):
        raise InputError(
            f"privacy of examples does not go with gradient_point {o.gradient_point}, "
            "whose steps take two gradients: noise is accounted for one"
        )
    if o.local_steps is not None:
        raise InputError(
            "privacy of examples does not go with local_steps: how often an example is "
            "used would depend on the size of its client; use local_epochs"
        )


def _check_passes(o: Options, method: Method, privacy: ExamplePrivacy) -> None:
    """Refuses training that uses an example more often than is accounted for."""
    passes = math.ceil(o.local_epochs) + method.fine_tune_epochs
    if privacy.passes is not None and passes > privacy.passes:
        raise InputError(
            f"privacy of examples counts {privacy.passes} passes over them in a round: "
            f"this method makes {passes}"
        )
