"""What a server takes, read at the end of each day, and whether it grows.

What flows in: a running server. What flows out: a reading a day, lines of a table, and what has
grown that must not.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integration.process import ServerProcess
from tests.integration.test_metrics import page_of
from tests.unit.test_observation import samples

__all__ = ["COLUMNS", "FLAT", "Flat", "Reading", "grown", "head", "line", "read"]

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is read: how it is called, and of how many of its units a cell tells."""

    name: str
    title: str
    unit: int = 1


COLUMNS: Final = (
    Column("allowed", "allowed"),
    Column("denied", "denied"),
    Column("memory_bytes", "memory MiB", _MIB),
    Column("private_bytes", "private MiB", _MIB),
    Column("journal_bytes", "journal MiB", _MIB),
    Column("disk_bytes", "folder MiB", _MIB),
    Column("accounts", "accounts"),
    Column("names", "names"),
    Column("request_ids", "request ids"),
    Column("held", "held"),
    Column("undone", "undone"),
)

# What was read on one day, by column.
Reading = dict[str, float]


@dataclass(frozen=True, slots=True)
class Flat:
    """A column that must not grow once `settles_days` have passed: in the last quarter of a run it
    is on average no more than `ratio` times what it was in the quarter before, and `slack`."""

    name: str
    settles_days: int
    ratio: float
    slack: float = 0


# Everything that must be flat, and from when on: request ids are kept for a day, the journal for
# its horizon, what was undone for as long as it can be asked about. Names are not among it: those
# of accounts and campaigns that come no more are kept.
FLAT: Final = (
    Flat("request_ids", 1, 1.2, slack=1_000),
    Flat("held", 1, 1.5, slack=10),
    Flat("accounts", 62, 1.2, slack=20),
    Flat("undone", 62, 1.1),
    Flat("private_bytes", 62, 1.05, slack=_MIB),
    Flat("journal_bytes", 62, 1.1),
    Flat("disk_bytes", 62, 1.1),
)


def read(server: ServerProcess, data_dir: Path, counts: Counter[str]) -> Reading:
    """What the server takes now; `counts` are those of this day alone."""
    told = samples(page_of(server))
    memory = _memory(server.process.pid)
    return {
        "allowed": counts["allowed"],
        "denied": counts["denied"],
        "memory_bytes": memory["VmRSS"],
        # Without the pages of files, which are not the process's own.
        "private_bytes": memory["RssAnon"],
        "journal_bytes": told["limiter_journal_bytes"],
        "disk_bytes": sum(each.stat().st_blocks * 512 for each in data_dir.rglob("*")),
        "accounts": told["limiter_accounts"],
        "names": told["limiter_names"],
        "request_ids": told["limiter_request_ids"],
        "held": told["limiter_held_commits"],
        "undone": told["limiter_undone_commits"],
    }


def _memory(pid: int) -> dict[str, int]:
    """What the kernel says that a process takes, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = (each.partition(":") for each in lines if each.endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, _, value in fields}


def grown(readings: Sequence[Reading], flat: Sequence[Flat] = FLAT) -> tuple[list[str], list[str]]:
    """What has grown that must not, in words, and which columns were looked at: those that have
    settled in the first half."""
    half, quarter = len(readings) // 2, len(readings) // 4
    faults: list[str] = []
    judged: list[str] = []
    for each in flat:
        if quarter == 0 or each.settles_days > half:
            continue
        judged.append(each.name)
        before, after = (
            statistics.fmean(reading[each.name] for reading in part)
            for part in (readings[-2 * quarter : -quarter], readings[-quarter:])
        )
        most = before * each.ratio + each.slack
        if after > most:
            faults.append(
                f"{each.name} grows: {before:,.0f} on average in the third quarter of the "
                f"{len(readings)} days, {after:,.0f} in the last, which may be {most:,.0f} at most"
            )
    return faults, judged


def head() -> str:
    """The first line of the table."""
    return "  ".join(["day", *(f"{column.title:>11}" for column in COLUMNS)])


def line(day: int, reading: Reading) -> str:
    """A day's line."""
    cells = [f"{day + 1:>3}"]
    for column in COLUMNS:
        value = reading[column.name] / column.unit
        cells.append(f"{value:>11,.1f}" if column.unit > 1 else f"{value:>11,.0f}")
    return "  ".join(cells)
