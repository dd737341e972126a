"""kill -9 at random moments under load: nothing acknowledged is lost, nothing counts twice.

LIMITER_CRASH_ROUNDS says how often the server is killed under load (default 3). The draws follow
LIMITER_CRASH_SEED, which a run prints; where in the server a kill falls follows the machine.

Many rounds go in two lanes, which are tests of their own and can run side by side, and in stages,
each with a new folder and a new ledger, so that a start has not ever more to read back.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.crash.crashes import Crashes, told
from tests.disk.shim import Control, compile_shim, environment
from tests.integration.forking import Nursery

ROUNDS: Final = int(os.environ.get("LIMITER_CRASH_ROUNDS", "3"))

_LANES: Final = 2 if ROUNDS >= 10 else 1
_STAGE_ROUNDS: Final = 50


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * ROUNDS)
@pytest.mark.parametrize("lane", range(_LANES))
async def test_kills_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, lane: int, tell: Callable[[str], None]
) -> None:
    seed = int(os.environ.get("LIMITER_CRASH_SEED") or random.SystemRandom().randrange(2**32))
    print(f"LIMITER_CRASH_SEED={seed}")
    root, control_path = tmp_path / "root", tmp_path / "control"
    root.mkdir()
    control = Control(control_path)
    disk = environment(compile_shim(tmp_path), root, control=control_path)
    dice = random.Random(f"{seed}:{lane}")
    counts: Counter[str] = Counter()
    rounds = (ROUNDS + lane) // _LANES
    with Nursery(disk) as nursery:
        for first in range(0, rounds, _STAGE_ROUNDS):
            stage = Crashes(root, dice.randrange(2**32), nursery, control)
            await stage.run(min(_STAGE_ROUNDS, rounds - first))
            counts += stage.counts
            shutil.rmtree(root / "data")
    tell(f"{rounds} kills under load, LIMITER_CRASH_SEED={seed}: {told(counts)}")
    # The kills were felt: attempts were under way, and in the long run some of them had been
    # counted and some had not.
    found = counts["unknown at a kill that had been counted"]
    fresh = counts["unknown at a kill that had not"]
    assert found + fresh > 0
    assert rounds < 50 or min(found, fresh) > 0
