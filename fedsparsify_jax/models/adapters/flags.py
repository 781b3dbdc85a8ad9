"""The arguments by which a network learns whether it trains, under their own names.

Networks name them differently: ``train=True`` is ``deterministic=False`` elsewhere. A
signature usually says the name; where it has ``**kwargs`` alone, the network is tried.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError, counted

IN_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Names of the flag and their values in training; in evaluation it is the other one."""

_KEYWORDS = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)

_INPUTS = {1: "its inputs (x)", 2: "its inputs (params, x)"}
_STARRED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Accepted(NamedTuple):
    """Keyword arguments that a forward pass takes beside its inputs."""

    names: frozenset[str]
    more: bool = False  # whether it has ``**kwargs`` too

    def values(self, train: bool, **others: Any) -> dict[str, Any]:
        """Selects the flags of a mode, and of the other arguments, those it takes.

        >>> Accepted(frozenset({"deterministic", "valid"})).values(True, valid=None)
        {'deterministic': False, 'valid': None}
        """
        values = in_mode(IN_TRAINING, train) | others
        return {name: value for name, value in values.items() if name in self.names}


def in_mode(names: Collection[str], train: bool) -> dict[str, bool]:
    """Returns the values of flags in training or in evaluation.

    >>> in_mode(["train", "deterministic"], False)
    {'train': False, 'deterministic': True}
    """
    return {name: IN_TRAINING[name] == train for name in names}


def arranged(
    call: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Moves keyword arguments to positions where possible.

    ``nn.remat`` and ``nn.jit`` know static arguments, as flags have to be, by position.

    >>> arranged(lambda x, train, *, valid: x, 1, valid=None, train=True)
    ((1, True), {'valid': None})
    """
    bound = inspect.signature(call).bind_partial(*args, **kwargs)
    return bound.args, bound.kwargs


def named_flags(call: Callable[..., Any], *others: str) -> frozenset[str]:
    """Returns the flags, and other names, among the keyword arguments of a function.

    >>> named_flags(lambda x, training, size: x, "size") == {"training", "size"}
    True
    """
    return frozenset(
        parameter.name
        for parameter in _parameters(call)
        if parameter.kind in _KEYWORDS and parameter.name in (*IN_TRAINING, *others)
    )


def accepted_flags(
    call: Callable[..., Any],
    owner: str,
    *,
    inputs: int = 1,
    others: Collection[str] = ("valid",),
) -> Accepted:
    """Reads from a signature which flags and other arguments a forward pass takes.

    Args:
      call: the forward pass.
      owner: its name, for messages.
      inputs: positional arguments that come first.
      others: names beside the flags that it may take.

    Raises:
      InputError: if it takes no inputs, or needs an argument of another name.

    Example:
      >>> accepted_flags(lambda x, training=False, size=3: x, "module Net").names
      frozenset({'training'})
      >>> accepted_flags(lambda x, size: x, "module Net")
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: module Net needs the argument 'size' beside \
its inputs (x): give it a default value; by name it gets only valid and whether it \
trains (train, training, is_training, deterministic, use_running_average)
    """
    parameters = _parameters(call)
    kinds = [parameter.kind for parameter in parameters]
    positional = [k for k in kinds if k < inspect.Parameter.VAR_POSITIONAL]
    if len(positional) < inputs and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise InputError(
            f"{owner} takes {counted(len(positional), 'positional argument')}: it is "
            f"called with {_INPUTS[inputs]}"
        )
    names = named_flags(call, *others)
    for parameter in parameters[min(len(positional), inputs) :]:
        if (
            parameter.default is parameter.empty
            and parameter.kind not in _STARRED
            and parameter.name not in names
        ):
            raise InputError(
                f"{owner} needs the argument {parameter.name!r} beside "
                f"{_INPUTS[inputs]}: give it a default value; by name it gets only "
                f"{', '.join(others)} and whether it trains ({', '.join(IN_TRAINING)})"
            )
    return Accepted(names, inspect.Parameter.VAR_KEYWORD in kinds)


def tried_flags(
    run: Callable[[Mapping[str, Any]], Any],
    accepted: Accepted,
    owner: str,
    **others: Any,
) -> Accepted:
    """Finds out which flags a forward pass with ``**kwargs`` hands on.

    Args:
      run: runs the forward pass with keyword arguments, in evaluation mode; best
        without computing anything.
      accepted: what its signature names.
      owner: its name, for messages.
      **others: arguments beside the flags, to be tried afterwards.

    Raises:
      InputError: if it fails with and without flags.

    Example:
      >>> def inner(x, deterministic):
      ...     return x
      >>> outer = lambda x, **kwargs: inner(x, **kwargs)
      >>> named = accepted_flags(outer, "module Net")
      >>> tried_flags(lambda flags: outer(0, **flags), named, "module Net").names
      frozenset({'deterministic'})
    """
    if not accepted.more:
        return accepted

    def error_with(names: Collection[str]) -> Exception | None:
        names = accepted.names | frozenset(names)
        try:
            run(Accepted(names).values(False, **others))
        except Exception as error:  # whatever the network's own code raises
            return error
        return None

    unnamed = [name for name in IN_TRAINING if name not in accepted.names]
    errors = {name: error_with([name]) for name in unnamed}
    single = [name for name, error in errors.items() if error is None]
    # Two of the names may be needed at once; a refusal names the argument.
    together = [n for n, e in errors.items() if f"argument '{n}'" not in str(e)]
    for names in (together, single, single[:1], []):
        error = error_with(names)
        if error is None:
            break
    else:
        raise InputError(
            f"{owner} takes any arguments (**kwargs) and fails whichever of "
            f"{', '.join(unnamed)} it gets: {error}"
        ) from error
    extra = [name for name in others if error_with([*names, name]) is None]
    return Accepted(accepted.names | {*names, *extra})


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        # A function written in C: inputs in any number, and nothing else.
        return [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)]
