"""Options in words, for the help of the command line."""

from fedsparsify_jax.runner.options import defaults
from fedsparsify_jax.runner.options.registry import takers
from fedsparsify_jax.runner.options.rules import Rule
from fedsparsify_jax.runner.options.schema import BY_DATASET, Option

_WIDEST = 32  # letters of a metavar


def metavar(option: Option) -> str:
    """Returns what stands for an option's value; ``NAME`` for a long list of names."""
    text = option.metavar or ""
    return text if len(text) <= _WIDEST else "NAME"


def help_text(option: Option) -> str:
    """Returns an option's help; its names, range and default are in brackets.

    >>> from fedsparsify_jax.runner.options.config import TrainConfig
    >>> from fedsparsify_jax.runner.options.schema import read
    >>> help_text(read(TrainConfig)["mu"])
    'Weight of the proximal term. (at least 0; of fedprox, feddst)'
    """
    names = option.metavar or ""
    facts = [names.replace("|", ", ")] if len(names) > _WIDEST else []
    facts += [rule.range for rule in option.rules if isinstance(rule, Rule)]
    facts += [_default(option)]
    text = "; ".join(filter(None, facts))
    return f"{option.help} ({text})" if text else option.help


def _default(option: Option) -> str:
    if option.shown.hint is not None:
        return option.shown.hint
    if BY_DATASET in option.traits:
        return defaults.hint(option.field)
    if option.keyword is not None and option.optional:
        return f"of {', '.join(takers(option.field))}"
    if option.kind is bool:
        return ""
    if option.default in (None, ()):
        return "optional"
    several = option.default if isinstance(option.default, tuple) else [option.default]
    return f"default: {' '.join(map(str, several))}"
