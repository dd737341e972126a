"""What the restrictions log costs: Commits of a server with one beside those of one without.

Two servers run at once and are asked in turn, so that a disturbance of the machine meets both; the
figures are medians over rounds of the ratio within one round. Asked is for what is allowed, where
the log has nothing to do; for what is denied, over and over to the same people; and, the worst that
can come, for denials of somebody new each time, which the log cannot all keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Final

from benchmarks.journal import bench_folder
from benchmarks.speed import assign_three_limits
from benchmarks.workload import Figure
from limiter import load
from limiter.load_server import own_server

__all__ = ["Restrictions", "figures"]

ROUNDS: Final = 5

# The scale below which a run only shows that it runs.
SMOKE: Final = 0.1

# A load and whether the policy lets it pass.
LOADS: Final[dict[str, tuple[bool, dict[str, Any]]]] = {
    "allowed": (True, {"accounts": 10_000, "contacts": 100}),
    "denied, the same people": (False, {"accounts": 100, "contacts": 100}),
    "denied, new people": (False, {"accounts": 100_000, "contacts": 10_000}),
}


def run(address: str, settings: dict[str, Any], scale: float) -> load.Measurement:
    """One load. Raises RuntimeError if any call of it failed but for what the journal refuses: a
    flood of denials, for which nobody waits, may be more than it takes."""
    if scale < SMOKE:
        settings = {**settings, "accounts": 100}
    plan = load.Plan(
        distribution="uniform",
        duration_s=max(0.3, 4.0 * scale),
        warmup_s=0.5 * scale,
        **settings,
    )
    measured = load.run(plan, address, lambda progress: None)
    if measured.failures.keys() - {"RESOURCE_EXHAUSTED"}:
        raise RuntimeError(f"calls of the load failed: {measured.failures}")
    return measured


def ratios(scale: float) -> dict[str, list[tuple[float, float]]]:
    """By load, one pair a round: decisions a second and processor time of a decision, of the server
    with a log over the one without."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADS}
    with ExitStack() as stack:
        addresses = []
        for flags in ((), ("--restrictions-retention", "0")):
            folder = Path(stack.enter_context(bench_folder()))
            addresses.append(stack.enter_context(own_server(folder, *flags)))
        for number in range(1 if scale < SMOKE else ROUNDS):
            for name, (allow, settings) in LOADS.items():
                measured = {}
                # Whoever comes first finds another machine than whoever comes second.
                for address in addresses if number % 2 else reversed(addresses):
                    assign_three_limits(address, None if allow else 0)
                    measured[address] = run(address, settings, scale)
                kept, without = (measured[address] for address in addresses)
                found[name].append(
                    (
                        kept.decisions_per_s / without.decisions_per_s,
                        (kept.server_us_per_decision or 0.0)
                        / (without.server_us_per_decision or 1.0),
                    )
                )
    return found


class Restrictions:
    """Commits a second with the log over those without, by load."""

    params: ClassVar = [list(LOADS)]
    param_names: ClassVar = ["load"]
    unit = "x"
    timeout = 3600

    def setup_cache(self) -> dict[str, list[tuple[float, float]]]:
        return ratios(1.0)

    def track_rate(self, found: dict[str, list[tuple[float, float]]], name: str) -> float:
        return median(rate for rate, _ in found[name])


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shortens the runs."""
    for name, pairs in ratios(scale).items():
        rates, times = zip(*pairs, strict=True)
        yield Figure(f"Commits/s with the log / without, {name}", median(rates), "x", 0.9, False)
        yield Figure(f"server time with the log / without, {name}", median(times), "x")
