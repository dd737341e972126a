"""What the commands of the benchmarks have in common: options, parts in turn, what is printed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["measure", "options_of", "show"]

Row = TypeVar("Row")


def options_of(
    arguments: Sequence[str] | None, name: str, purpose: str, parts: Sequence[str], part: str
) -> argparse.Namespace:
    """The options of a command: `scale`, `json`, and `only` which of its parts; `part` says in the
    help what one is."""
    parser = argparse.ArgumentParser(prog=name, description=purpose.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size")
    parser.add_argument("--only", action="append", choices=sorted(parts), help=part)
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error("--scale must be above 0 and at most 1")
    options.only = options.only or list(parts)
    return options


def measure(
    sources: Mapping[str, Callable[[float], Iterator[Row]]],
    names: Sequence[str],
    scale: float,
    title_of: Callable[[Row], str],
    console: Console,
) -> dict[str, list[Row]]:
    """Runs the named parts one after the other; the console shows how far it is."""
    measured: dict[str, list[Row]] = {}
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for name in names:
            task = progress.add_task(name, total=None)
            measured[name] = []
            for row in sources[name](scale):
                measured[name].append(row)
                progress.update(task, description=f"{name}: {title_of(row)}")
            progress.remove_task(task)
    return measured


def show(
    measured: Mapping[str, Sequence[Any]],
    machine: str,
    table: Table | None,
    *,
    parts: str,
    width: int,
) -> None:
    """Prints a table, as wide as the terminal or as told where there is none; without one JSON, in
    which all parts together are called `parts`."""
    if table is None:
        plain = {name: [asdict(each) for each in rows] for name, rows in measured.items()}
        print(json.dumps({"machine": machine, parts: plain}, indent=2))
    else:
        # A file or a pipe has no width of its own.
        Console(width=None if sys.stdout.isatty() else width).print(table)
