"""Runs histories by hand: `python -m tests.simulation --seed N` repeats one and shows its trace."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from tests.simulation.history import Broken, run
from tests.simulation.schedule import SECOND_US


def main() -> int:
    """0 iff all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first history")
    parser.add_argument("--histories", type=int, default=1, help="how many")
    parser.add_argument("--trace", action="store_true", help="shows every step")
    options = parser.parse_args()
    # What the server would log is in the trace.
    logging.disable()
    begun_s = time.perf_counter()
    simulated_us = acknowledged = crashes = failures = steps = 0
    for seed in range(options.seed, options.seed + options.histories):
        try:
            story = run(seed, traced=options.trace)
        except Broken as broken:
            print(broken)
            return 1
        simulated_us += story.simulated_us
        acknowledged += story.acknowledged_count
        crashes += story.crash_count
        failures += story.failure_count
        steps += story.step_count
    took_s = time.perf_counter() - begun_s
    print(
        f"{options.histories} histories held in {took_s:.1f} s, {options.histories / took_s:.0f} a "
        f"second: {simulated_us / SECOND_US / 86_400:.1f} days, "
        f"{simulated_us / SECOND_US / took_s:,.0f} times as fast as real time; {steps} steps, "
        f"{acknowledged} commits acknowledged, {crashes} crashes, {failures} calls unanswered"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
