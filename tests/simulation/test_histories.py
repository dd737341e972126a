"""Random histories of a server whose disk, clocks and clients do what they can; see `history`.

LIMITER_HISTORIES says how many (default 60). A history that breaks is printed with all its steps
and with what repeats it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.history import run

ROOT: Final = Path(__file__).resolve().parents[2]
HISTORIES: Final = int(os.environ.get("LIMITER_HISTORIES", "60"))

# So many parts are told of, and shared among the workers.
PARTS: Final = min(HISTORIES, 20)

# Another run of the tests begins at another history, unless it is told at which one.
SEEDS_A_RUN: Final = 1 << 32
FIRST: Final = os.environ.get("LIMITER_FIRST_HISTORY", "")


@pytest.mark.timeout(0)  # each history has an end of its own
@pytest.mark.parametrize("part", range(PARTS))
def test_histories(request: pytest.FixtureRequest, part: int) -> None:
    first = int(FIRST) if FIRST else request.config.option.hypothesis_seed * SEEDS_A_RUN
    stories = [run(first + number) for number in range(part, HISTORIES, PARTS)]
    assert all(story.step_count for story in stories)


def test_histories_are_eventful() -> None:
    """Acknowledgements, crashes and failures, not just silence."""
    stories = [run(seed) for seed in range(20)]
    assert sum(story.acknowledged_count for story in stories) > 100
    assert sum(story.crash_count for story in stories) > 30
    assert sum(story.failure_count for story in stories) > 100


def test_a_seed_is_one_history() -> None:
    """The same steps, whatever the interpreter hashes texts with."""
    program = "from tests.simulation.history import run; print(run(11, traced=True))"
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert told == {f"{run(11, traced=True)}\n"}


def test_histories_differ() -> None:
    assert len({run(seed, traced=True).trace_hash for seed in range(4)}) == 4
