"""How the service bears many accounts and contacts, in one table: `python -m benchmarks.scale`.

Populations are one account of 10,000,000 contacts, 1,000,000 accounts of ten and 100,000 of 200.
`--only memory` runs one part, `--scale 0.01` shrinks all of them (a smoke test, whose numbers mean
little), `--json` prints them for programs. A ratio of 1 or more means that the target is met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import command, scale_serving
from benchmarks.report import columns_of, machine
from benchmarks.scale_journal import journal_bytes
from benchmarks.scale_memory import POPULATIONS, Fields, footprint, scaled
from benchmarks.workload import Figure, Population

__all__ = ["PARTS", "Row", "main", "measure", "tabulate"]

# Bytes of memory for a contact, at most: where accounts hold ten, and where they are larger.
SMALL_BYTES: Final = 100.0
LARGE_BYTES: Final = 48.0
SMALL_CONTACTS: Final = 10

# What a contact of the many accounts takes, and how much of their state may stay in memory.
CONTACT_BYTES: Final = 80
BUDGET_SHARE: Final = 0.1

JOURNAL_BYTES: Final = 96.0
RESTART_S: Final = 3.0
SLOWER: Final = 1.3
BUDGET_SLOWER: Final = 5.0
IMAGES_SLOWER: Final = 3.0

# Turns of what is compared, and the scale below which a run only shows that it runs.
ROUNDS: Final = 3
SMOKE: Final = 0.1

FEW_ACCOUNTS: Final = 1_000
MANY: Final = POPULATIONS[1]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, and the same with what the third product names and keeps about recipients."""

    figure: Figure
    beside: Figure | None = None


def title_of(population: Population) -> str:
    """The population in words."""
    accounts = "account" if population.account_count == 1 else "accounts"
    return f"{population.account_count:,} {accounts} x {population.contact_count:,}"


def memory_rows(scale: float) -> Iterator[Row]:
    """Bytes of memory for each contact in its window, its share of its account included."""
    for full in POPULATIONS:
        population = scaled(full, scale)
        people = footprint(population, "people")
        recipients = footprint(population, "recipients")
        target = SMALL_BYTES if population.contact_count <= SMALL_CONTACTS else LARGE_BYTES
        title = title_of(population)
        yield Row(
            Figure(f"memory a contact, {title}", people.given_bytes, "bytes", target),
            Figure("", recipients.given_bytes, "bytes"),
        )
        yield Row(
            Figure(f"the process grew by, {title}", people.resident_bytes, "bytes"),
            Figure("", recipients.resident_bytes, "bytes"),
        )


def journal_rows(scale: float) -> Iterator[Row]:
    """Bytes of the journal for each commit without a request_id."""
    population = scaled(Population(100_000, 10), scale)
    name = "journal a commit, without request_id"
    yield Row(
        Figure(name, journal_bytes(population, Fields(is_full=False)), "bytes", JOURNAL_BYTES),
        Figure("", journal_bytes(population, Fields(is_full=True)), "bytes"),
    )


def restart_rows(scale: float) -> Iterator[Row]:
    """How soon a server that was killed decides again."""
    population = scaled(MANY, scale)
    found = scale_serving.restart(population)
    title = title_of(population)
    yield Row(Figure(f"kill -9 to first decision, {title}", found.decided_s, "s", RESTART_S))
    yield Row(Figure("the server's processor time until then", found.cpu_s, "s"))


def account_rows(scale: float) -> Iterator[Row]:
    """What a unary Commit costs end to end with few accounts and with many."""
    few, many = FEW_ACCOUNTS, max(10 * FEW_ACCOUNTS, int(MANY.account_count * scale))
    duration_s = max(0.3, 3.0 * scale)
    rounds = ROUNDS if scale >= SMOKE else 1
    found = scale_serving.compare_accounts(few, many, duration_s, rounds)
    for name, values, unit in (
        (f"server's time of a commit, {few:,} accounts", found.few_us, "us"),
        (f"server's time of a commit, {many:,} accounts", found.many_us, "us"),
        (f"commits a second, {few:,} accounts", found.few_rates, "/s"),
        (f"commits a second, {many:,} accounts", found.many_rates, "/s"),
    ):
        yield Row(Figure(name, median(values), unit))
    yield Row(Figure(f"the same time, {many:,} / {few:,}", found.time_ratio, "x", SLOWER))
    yield Row(Figure(f"the same rate, {few:,} / {many:,}", found.rate_ratio, "x", SLOWER))
    yield Row(Figure("disk a commit, under that load", found.journal_bytes, "bytes", JOURNAL_BYTES))


def budget_rows(scale: float) -> Iterator[Row]:
    """How much slower it is where a tenth of the state fits into memory."""
    population = scaled(MANY, scale)
    budget = int(population.pair_count * CONTACT_BYTES * BUDGET_SHARE)
    rounds = ROUNDS if scale >= SMOKE else 1
    found = scale_serving.compare_budget(population, budget, max(0.5, 10.0 * scale), rounds)
    yield Row(Figure("commits a second, all in memory", median(found.full_rates), "/s"))
    yield Row(Figure("commits a second, a tenth of it", median(found.small_rates), "/s"))
    name = f"the same rate, all / a tenth, {title_of(population)}"
    yield Row(Figure(name, found.slower, "x", BUDGET_SLOWER))


def image_rows(scale: float) -> Iterator[Row]:
    """How much later commits are answered while images are written."""
    few = max(2, int(FEW_ACCOUNTS * scale / 10))
    many = max(10 * FEW_ACCOUNTS, int(MANY.account_count * scale / 10))
    rounds = ROUNDS if scale >= SMOKE else 1
    found = scale_serving.compare_images(few, many, max(0.5, 5.0 * scale), rounds)
    yield Row(Figure("p99 while images are written", median(found.writing_ms), "ms"))
    yield Row(Figure("p99 while none are", median(found.quiet_ms), "ms"))
    name = f"the same, written / not, at {found.rate:,.0f}/s"
    yield Row(Figure(name, found.slower, "x", IMAGES_SLOWER))


PARTS: Final[dict[str, Callable[[float], Iterator[Row]]]] = {
    "memory": memory_rows,
    "journal": journal_rows,
    "restart": restart_rows,
    "accounts": account_rows,
    "budget": budget_rows,
    "images": image_rows,
}


def measure(names: Sequence[str], scale: float, console: Console) -> dict[str, list[Row]]:
    """Runs the named parts one after the other."""
    return command.measure(PARTS, names, scale, lambda row: row.figure.name, console)


def tabulate(measured: dict[str, list[Row]], title: str) -> Table:
    """All rows in one table."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    for heading in ("measured", "target", "ratio", "third product"):
        table.add_column(heading, justify="right")
    for rows in measured.values():
        table.add_section()
        for row in rows:
            *columns, note = columns_of(row.figure)
            beside = columns_of(row.beside)[0] if row.beside is not None else note
            table.add_row(row.figure.name, *columns, beside)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; 0 even where a target is missed, which the table shows."""
    options = command.options_of(
        arguments, "python -m benchmarks.scale", __doc__ or "", list(PARTS), "one part"
    )
    measured = measure(options.only, options.scale, Console(stderr=True))
    about = machine()
    table = None if options.json else tabulate(measured, about)
    command.show(measured, about, table, parts="parts", width=140)
    return 0


if __name__ == "__main__":
    sys.exit(main())
