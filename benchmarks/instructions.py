"""Instructions that the processor executes for one Commit in the core, from request to reply.

Unlike time they are the same on a busy machine, so that a regression shows anywhere. They are
counted by valgrind's callgrind in a process of its own, within the functions that decode a
CommitRequest and that answer it. `python -m benchmarks.instructions COUNT` is what is counted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from benchmarks import rivals
from benchmarks.journal import bench_folder
from benchmarks.workload import (
    START_MS,
    Engine,
    Figure,
    Population,
    account_name,
    assign,
    commit_request,
    contact_name,
)
from limiter import bounds, model

__all__ = ["Commit", "commit_repeatedly", "figures"]

ROOT: Final = Path(__file__).resolve().parent.parent

# Accounts that the commits go to in turn, so that a group's events and its tables are ordinary.
POPULATION: Final = Population(20, 20)

# What is counted, by Cython's names: one beside the other, never one inside the other.
COUNTED: Final = (
    "__pyx_f_7limiter_10_wire_read_7Decoder_commit",
    "__pyx_f_7limiter_4_hot_7Decider_answer_commit",
)

DAY: Final = model.RollingWindow(bounds.DAY_MS)
LIMITS: Final = (
    model.Limit("people", model.Cap(model.Measure.CONTACTS, 10**6, (), DAY)),
    model.Limit("messages", model.Cap(model.Measure.MESSAGES, 10**9, (), DAY)),
    model.Limit(
        "recipient", model.Cap(model.Measure.MESSAGES, 10**9, (model.Dimension.CONTACT,), DAY)
    ),
)


def commit_repeatedly(count: int) -> int:
    """Commits so many times under three limits; returns how many events that made."""
    engine = Engine.make()
    assign(engine.store, LIMITS, START_MS)
    engine.fill(POPULATION)
    now_ms = START_MS + bounds.DAY_MS // 2
    requests = [
        commit_request(account_name(account), contact_name(account, contact))
        for contact in range(POPULATION.contact_count)
        for account in range(POPULATION.account_count)
    ]
    for number in range(count):
        engine.decider.commit(requests[number % len(requests)], now_ms + number)
    group = engine.core.take_group()
    return 0 if group is None else group[2]


def instructions(count: int) -> int:
    """What so many commits execute. Raises Absent without valgrind, and RuntimeError when what is
    counted has another name now."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise rivals.Absent("valgrind is not installed (Debian: valgrind)")
    with bench_folder() as folder:
        counted = Path(folder) / "counted"
        subprocess.run(
            [
                valgrind,
                "--tool=callgrind",
                f"--callgrind-out-file={counted}",
                *(f"--toggle-collect={name}" for name in COUNTED),
                sys.executable,
                "-m",
                "benchmarks.instructions",
                str(count),
            ],
            cwd=ROOT,
            # The same hashes in every run, and so the same work.
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
                "PYTHONHASHSEED": "0",
            },
            capture_output=True,
            check=True,
        )
        total = re.search(r"^(?:summary|totals): (\d+)", counted.read_text(), re.MULTILINE)
    if total is None or int(total[1]) == 0:
        raise RuntimeError(f"callgrind counted nothing in {', '.join(COUNTED)}")
    return int(total[1])


class Commit:
    """Instructions for one Commit under three limits."""

    timeout = 600
    unit = "instructions"
    params: ClassVar = [[2_000]]
    param_names: ClassVar = ["commits"]

    def setup(self, count: int) -> None:
        if shutil.which("valgrind") is None:
            # What asv takes as "skip this one".
            raise NotImplementedError("valgrind is not installed")

    def track_instructions(self, count: int) -> float:
        return instructions(count) / count


def figures(scale: float) -> Iterator[Figure]:
    """The published figure, the same at every scale."""
    name = "instructions of a Commit, three limits"
    try:
        yield Figure(name, Commit().track_instructions(2_000), "instructions")
    except rivals.Absent as absent:
        yield Figure(name, 0.0, "instructions", missing=str(absent))


if __name__ == "__main__":
    print(commit_repeatedly(int(sys.argv[1])))
