"""Options whose values are texts of some form."""

from fedsparsify_jax import data
from fedsparsify_jax.data.sources.hub import PREFIX
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options import fault_options
from fedsparsify_jax.runner.options.schema import Choice, Grammar


def data_set(name: str) -> str:
    """The known spelling of a data set's name; of the hub's, they are as they are.

    Raises:
      InputError: if there is no such data set.

    >>> data_set("Fashion-MNIST"), data_set("hf:owner/name")
    ('fashion_mnist', 'hf:owner/name')
    """
    if name.startswith(PREFIX):
        data.parse_hub_name(name)
        return name
    return Choice(data.NAMES).canonical("dataset", name, "data set")


def client_sizes(text: str) -> list[int]:
    """Proportions of client sizes from ``--client-sizes``.

    Raises:
      InputError: if it is no list of them.

    >>> client_sizes("3,2,1")
    [3, 2, 1]
    """
    if text in data.BRAIN_AGE_SIZES:
        return list(data.BRAIN_AGE_SIZES[text])
    words = text.split(",")
    sizes = [int(word) for word in words if word.isdecimal() and len(word) < 10]
    if len(sizes) < len(words) or min(sizes) < 1:
        raise InputError(
            f"--client-sizes is {shown(text)}: expected whole numbers such as 30,20,10 "
            f"of at least 1, or one of {', '.join(data.BRAIN_AGE_SIZES)}"
        )
    return sizes


def _sizes(text: str) -> str:
    client_sizes(text)
    return text


def _faults(text: str) -> str:
    fault_options.parse(text)
    return text


DATA_SET = Grammar(data_set, "|".join([*data.NAMES, "hf:OWNER/NAME"]))
CLIENT_SIZES = Grammar(_sizes, "INT,INT,...|skewed|uniform")
FAULTS = Grammar(_faults, "dropout=P,straggle=P:SHARE,nan=P")
