"""Options of tables: their columns, the clients that these name, and a test set."""

import dataclasses
from typing import Annotated

from fedsparsify_jax.data.sources.sequences import VOCABULARY, Unit
from fedsparsify_jax.data.splits import SplitBy
from fedsparsify_jax.runner.options.rules import Rule, at_least
from fedsparsify_jax.runner.options.schema import WITH_COMMAS, Heading, Shown


@dataclasses.dataclass(frozen=True)
class Tables:
    """A part of `config.TrainConfig`."""

    client_column: Annotated[
        str | None,
        Heading("Tables and natural clients"),
        Shown(metavar="NAME,...", hint="default: none"),
        WITH_COMMAS,
    ] = None
    """Column that names an example's client, for --partition natural, which it implies;
    several name one together. For table, hf: sets, npz (arrays NAME_train, NAME_test)
    and brain_age (site)."""
    label_column: Annotated[
        str | None, Shown(hint="default: the ClassLabel column, or label")
    ] = None
    """Column of what is learnt, for table and hf: sets: names or whole numbers are
    classes."""
    input_columns: Annotated[
        str | None,
        Shown(metavar="NAME,...", hint="default: the images, or all numbers"),
        WITH_COMMAS,
    ] = None
    """Columns of the inputs, for table and hf: sets: one of images, one of text (letter
    by letter), or some of numbers."""
    min_client_examples: Annotated[int | None, at_least(1)] = None
    """Leave out natural clients with fewer training examples."""
    max_clients: Annotated[int | None, at_least(1)] = None
    """Draw so many of the natural clients, by the seed."""
    split_by: Annotated[SplitBy | None, Shown(hint="default: the source's")] = None
    """How to make a test set of a table that has none: of the examples of some clients,
    or of some examples of every client (without clients, of every class)."""
    test_fraction: Annotated[
        float, Rule(lambda value: 0 < value < 1, "above 0 and below 1")
    ] = 0.2
    """Share of the clients or examples that is then for testing."""
    next_token: Annotated[Unit | None, Shown(hint="default: learn the labels")] = None
    """Learn every next character or word of a column of texts, for table and hf: sets
    with the models lstm and transformer. Words are divided by white space."""
    window: Annotated[
        int | None, at_least(1, below=2**16), Shown(hint="default: 80, 20 words")
    ] = None
    """Tokens that are seen before the next one."""
    vocabulary: Annotated[
        int | None, at_least(1, below=2**24), Shown(hint=f"default: {VOCABULARY:,}")
    ] = None
    """Tokens with numbers of their own: the most frequent of the training texts."""
