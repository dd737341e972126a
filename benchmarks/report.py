"""Runs the benchmarks on this machine and prints one table: `python -m benchmarks.report`.

`--scale 0.01` shrinks populations and runs (a smoke test, whose numbers mean little), `--only core`
runs one of them. A ratio of 1 or more means that the target is met.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import (
    command,
    core,
    end_to_end,
    instructions,
    journal,
    policy,
    restrictions,
    simulation,
    speed,
    wire,
)
from benchmarks.workload import Figure

__all__ = ["main", "measure", "tabulate"]

SUITES: Final[dict[str, Callable[[float], Iterator[Figure]]]] = {
    "wire": wire.figures,
    "core": core.figures,
    "policy": policy.figures,
    "simulation": simulation.figures,
    "journal": journal.figures,
    "instructions": instructions.figures,
    "end_to_end": end_to_end.figures,
    "speed": speed.figures,
    "restrictions": restrictions.figures,
}


def machine() -> str:
    """What the numbers were measured on. The rate of SHA-256 tells how fast its processor is."""
    block = bytes(1 << 20)
    begun_s = time.perf_counter()
    for _ in range(50):
        hashlib.sha256(block).digest()
    rate = 50 / (time.perf_counter() - begun_s)
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, load {load:.1f}, SHA-256 at"
        f" {rate:,.0f} MiB/s, Python {platform.python_version()}"
    )


def measure(names: Sequence[str], scale: float, console: Console) -> dict[str, list[Figure]]:
    """Runs the named suites one after the other."""
    return command.measure(SUITES, names, scale, lambda figure: figure.name, console)


def tabulate(measured: dict[str, list[Figure]], title: str) -> Table:
    """All figures in one table."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for heading in ("measured", "target", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("replies")
    for name, figures in measured.items():
        table.add_section()
        table.add_row(f"[bold]{name}[/bold]")
        for figure in figures:
            table.add_row(figure.name, *columns_of(figure))
    return table


def columns_of(figure: Figure) -> tuple[str, str, str, str]:
    """Measured, target, ratio and digest, as text."""
    if figure.missing:
        return "not measured", "", "", figure.missing
    measured = f"{number(figure.value)} {figure.unit}".strip()
    if figure.target is None or figure.ratio is None:
        return measured, "", "", figure.digest
    side = "≤" if figure.at_most else "≥"
    target = f"{side} {number(figure.target)} {figure.unit}".strip()
    colour = "green" if figure.ratio >= 1 else "red"
    return measured, target, f"[{colour}]{figure.ratio:.2f}[/{colour}]", figure.digest


def number(value: float) -> str:
    """Three significant digits or more, with separators."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; 0 even where a target is missed, which the table shows."""
    options = command.options_of(
        arguments, "python -m benchmarks.report", __doc__ or "", list(SUITES), "one suite"
    )
    measured = measure(options.only, options.scale, Console(stderr=True))
    about = machine()
    table = None if options.json else tabulate(measured, about)
    command.show(measured, about, table, parts="figures", width=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
