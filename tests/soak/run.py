"""Days of mixed traffic on a real server and a real disk, with the time moved on by hand.

    python -m tests.soak.run [--days DAYS] [--scale SCALE] [--seed SEED]

prints what the server takes at the end of each day, and ends with 1 if something has grown in the
second half that must not. 130 days at scale 1, the default, are as many attempts as 30 a second
for 8 hours.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.integration.process import START_MS, ServerProcess
from tests.soak.readings import Reading, grown, head, line, read
from tests.soak.traffic import DAY_MS, QUARTERS, Traffic

__all__ = ["SETTINGS", "Plan", "soak"]

# How the server is started: little enough memory, and what is kept leaves early enough, that all of
# it is seen leaving. The journal goes back for its usual 32 days.
SETTINGS: Final[dict[str, Any]] = {
    "restrictions_retention_ms": 7 * DAY_MS,
    "memory_bytes_max": 1 << 20,
    "baseline_lag_events_max": 20_000,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How many days, of so many quarters of an hour with traffic each; how much of everything."""

    days: int
    scale: float
    seed: int
    quarters: int = QUARTERS


def soak(
    data_dir: Path, plan: Plan, tell: Callable[[str], None]
) -> tuple[list[Reading], Counter[str]]:
    """Plays all days; returns a reading of each, and what was counted in all."""
    readings: list[Reading] = []
    tell(head())
    with ServerProcess(data_dir, metrics_port="0", clock_start_ms=START_MS, **SETTINGS) as server:
        traffic = Traffic(server, random.Random(plan.seed), plan.scale, plan.quarters)
        traffic.set_up()
        for day in range(plan.days):
            before = traffic.counts.copy()
            traffic.day(day)
            readings.append(read(server, data_dir, traffic.counts - before))
            tell(line(day, readings[-1]))
    return readings, traffic.counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Days of mixed traffic on one server.")
    parser.add_argument("--days", type=int, default=130, help="simulated days (130)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything (1.0)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    plan = Plan(arguments.days, arguments.scale, arguments.seed)
    print(plan)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        readings, counts = soak(Path(folder) / "data", plan, partial(print, flush=True))
    passed_s = time.monotonic() - begun_s
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()))
    faults, judged = grown(readings)
    print(f"{plan.days} days in {passed_s:,.0f} s; looked at whether these grow: {judged}")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
