"""The power goes at any moment: the store opens again and lacks nothing that was acknowledged.

LIMITER_POWER_STATES says how many states of the disk are looked at (default 300).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from limiter.journal import FIRST_SEQUENCE
from tests.disk.power import Disk, State
from tests.disk.shim import FAST_FOLDER, Kind, Operation, compile_shim, environment, read_log
from tests.disk.story import check

ROOT: Final = Path(__file__).resolve().parents[2]
STATES: Final = int(os.environ.get("LIMITER_POWER_STATES", "300"))

# Each recording tells another story; so many states are looked at of one.
STATES_OF_A_STORY_MAX: Final = 20_000


def recorded(folder: Path, seed: int) -> list[Operation]:
    """The operations of a story."""
    shim = compile_shim(folder)
    log = folder / f"log-{seed}"
    with tempfile.TemporaryDirectory(dir=FAST_FOLDER) as root:
        subprocess.run(
            [sys.executable, "-m", "tests.disk.program", "record", root, str(log), str(seed)],
            check=True,
            cwd=ROOT,
            env=environment(shim, Path(root), log=log),
        )
    return list(read_log(log))


def look_at(state: State, seed: int, durable: int, begun: int) -> None:
    with tempfile.TemporaryDirectory(dir=FAST_FOLDER) as name:
        state.write_to(Path(name))
        check(Path(name) / "data", seed, durable, begun)


@pytest.mark.slow
@pytest.mark.timeout(60 + STATES)
def test_whatever_is_lost_nothing_acknowledged_is(
    tmp_path: Path, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_at = parted = 0
    while looked_at < STATES:
        seed = rng.randrange(1 << 31)
        print(f"story {seed}")
        operations = recorded(tmp_path, seed)
        # Every prefix, or an even sample of them; of each the extremes, and parts of what is open.
        wanted = min(STATES - looked_at, STATES_OF_A_STORY_MAX)
        disk, durable = Disk(), FIRST_SEQUENCE - 1
        share = wanted / len(operations)
        due = 0.0
        for operation in operations:
            if operation.kind is Kind.MARK:
                durable = operation.offset
            else:
                disk.arrive(operation)
            due += share
            count, due = int(due), due - int(due)
            if count == 0:
                continue
            extremes = [disk.nothing_more(), disk.everything()]
            parts = list(disk.states(rng, max(count - 2, 1)))
            for state in (extremes + parts)[:count] if count > 1 else parts:
                look_at(state, seed, durable, durable + 1)
                looked_at += 1
                parted += state not in extremes
    assert looked_at >= STATES * 0.9
    assert parted > looked_at / 10
    with capsys.disabled():
        print(f"\n{looked_at} states of a disk after a loss of power, {parted} of them in parts")


def test_a_store_that_does_not_sync_would_be_found(tmp_path: Path, rng: random.Random) -> None:
    """The same, with syncs that the disk does not get: something acknowledged is missing."""
    seed = rng.randrange(1 << 31)
    disk, durable = Disk(), FIRST_SEQUENCE - 1
    for operation in recorded(tmp_path, seed):
        if operation.kind is Kind.MARK:
            durable = operation.offset
        elif operation.kind is not Kind.SYNC or not operation.name.endswith(".mdb"):
            disk.arrive(operation)
    with pytest.raises(BaseException, match=r"durable|corrupt|damaged|missing|MDB_|journal"):
        look_at(disk.nothing_more(), seed, durable, durable + 1)
