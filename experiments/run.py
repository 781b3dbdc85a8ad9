"""``python -m experiments.run TABLE``: run a table, collect it, write what it says.

    python -m experiments.run --list
    python -m experiments.run fashion_mnist --preset smoke
    python -m experiments.run fashion_mnist --only snip grasp final_sparsity=0.9
    python -m experiments.run fashion_mnist --collect DIR...
    python -m experiments.run --render

The same command started again goes on with what is not finished.
"""

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from experiments.lib import collecting, rendering, running
from experiments.lib.registry import TABLES
from experiments.lib.results import RESULTS, Results, path_of
from experiments.lib.table import restrict
from fedsparsify_jax.errors import InputError, unknown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run", description="Reproduce a table of the paper."
    )
    add = parser.add_argument
    add("table", nargs="?", metavar="TABLE", help="see --list")
    add("--preset", default="paper", help="its size: smoke, short or paper (default)")
    add("--only", nargs="+", default=[], metavar="ROW", help="rows, or option=value")
    add("--data-dir", type=Path, metavar="PATH", help="where the data set is")
    add("--runs", type=Path, metavar="DIR", default=running.HERE / "runs")
    add("--results", type=Path, metavar="DIR", default=RESULTS)
    add(
        "--collect",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="train nothing; take finished runs from the table's directory and these",
    )
    add("--missing", action="store_true", help="train only what has no result yet")
    add("--render", action="store_true", help="only write tables and pages anew")
    add("--list", action="store_true", help="what there is")
    return parser


def _table(options: argparse.Namespace, console: Console) -> None:
    name, preset = options.table, options.preset
    if name not in TABLES:
        raise unknown("table", name, list(TABLES))
    table, _ = TABLES[name]
    part = restrict(table, preset, options.only)
    if options.missing and options.collect is not None:
        raise InputError("--missing trains and --collect does not: choose one of them")
    sources = [running.directory(table, preset, options.runs)]
    if options.collect is None:
        finished: Collection[str] = ()
        if options.missing:
            finished = Results(part, preset, options.results).identities
        running.run(part, preset, console, options.runs, options.data_dir, finished)
    else:
        sources = [*options.collect, *sources]
        for source in options.collect:
            if not source.is_dir():
                raise InputError(f"--collect {source}: there is no such directory")
    path = path_of(name, preset, options.results)
    count = collecting.collect(table, preset, sources, path)
    console.print(f"\n{count} of {len(table.cells(preset))} cells in {path}")
    if count:
        files = rendering.table_files(name, preset, options.results)
        rendering.write(files)
        page = options.results / f"{name}-{preset}.md"
        console.print(f"{page} and {len(files) - 1} figures beside it")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0; 2 for bad input, after one line on standard error; 130 when
      interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        if options.list:
            for table, _ in TABLES.values():
                console.print(running.describe(table) + "\n")
        elif options.table is not None:
            _table(options, console)
        elif options.render:
            # Results elsewhere are no matter of this repository's pages.
            committed = options.results.resolve() == RESULTS
            pages = rendering.PAGES if committed else ()
            rendering.write(rendering.everything(options.results, pages))
        else:
            parser.print_help()
    except InputError as error:
        print(f"experiments.run: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("experiments.run: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
