"""Simulations: attempts a second that are tried, and rows of a trace a second that are read.

What is read and what is tried is measured apart: rows are made ready first, then tried. The whole,
from a file to the response, is what `limiter simulate` takes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar, Final

from benchmarks.workload import START_MS, Figure, Population, account_name, contact_name, digest_of
from limiter import bounds, model, zones
from limiter._simulation import Simulation
from limiter._trace import TraceReader, TraceRows
from limiter.service import conversion
from limiter.simulation import PolicySet, simulate_trace
from limiter.trace import TraceFile
from limiter.v1 import policy_pb2, simulation_pb2

__all__ = ["Simulate", "figures"]

ATTEMPT_COUNT: Final = 1_000_000
SPAN_MS: Final = 40 * bounds.DAY_MS
POPULATIONS: Final = {
    "1,000 accounts": Population(1_000, 100),
    "100,000 accounts": Population(100_000, 100),
}

_DAY: Final = model.RollingWindow(bounds.DAY_MS)

# The three limits of the CollegeMsg example.
LIMITS: Final = (
    model.Limit("people", model.Cap(model.Measure.CONTACTS, 50, (), _DAY)),
    model.Limit(
        "recipient", model.Cap(model.Measure.MESSAGES, 3, (model.Dimension.CONTACT,), _DAY)
    ),
    model.Limit("hard-limit", model.Cap(model.Measure.CONTACTS, 200, (), _DAY)),
)


def policies() -> PolicySet:
    """One policy, for everybody."""
    limits = [conversion.limit_to_message(limit) for limit in LIMITS]
    return PolicySet([policy_pb2.Policy(name="policies/benchmark", limits=limits)])


def trace(population: Population, count: int) -> bytes:
    """A trace of so many attempts at regular intervals, in the order of time."""
    random = Random(20_270_115)
    lines = ["account,contact,time"]
    for number in range(count):
        account = random.randrange(population.account_count)
        contact = contact_name(account, random.randrange(population.contact_count))
        time_ms = START_MS + number * SPAN_MS // count
        lines.append(f"{account_name(account)},{contact},{time_ms // 1000}.{time_ms % 1000:03}")
    return ("\n".join(lines) + "\n").encode()


def digest(found: simulation_pb2.SimulatePolicyResponse) -> str:
    """A short digest of what was found."""
    return digest_of([found.SerializeToString(deterministic=True)])


def read_per_s(text: bytes, count: int) -> tuple[float, TraceRows]:
    """Rows a second that are read of a trace, on this thread, and the rows."""
    reader, rows = TraceReader(zones.zone), TraceRows(count + 1)
    start = reader.begin(text, False)
    begun_ns = time.thread_time_ns()
    reader.read(text, start, True, rows)
    took_ns = time.thread_time_ns() - begun_ns
    if len(rows) != count:
        raise AssertionError("the trace has another number of rows")
    return count * 1e9 / took_ns, rows


def tried_per_s(rows: TraceRows) -> float:
    """Attempts a second that the core tries, on this thread."""
    core, _ = policies().core()
    simulation = Simulation(core, bounds.INSTANT_MS_MIN, bounds.INSTANT_MS_MAX + 1)
    begun_ns = time.thread_time_ns()
    simulation.try_rows(rows)
    took_ns = time.thread_time_ns() - begun_ns
    if simulation.attempt_count != len(rows):
        raise AssertionError("not every row was tried")
    return len(rows) * 1e9 / took_ns


def whole_per_s(text: bytes, count: int) -> tuple[float, str]:
    """Attempts a second from a file to the response, and the response's digest."""
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as folder:
        path = Path(folder) / "trace.csv"
        path.write_bytes(text)
        begun_ns = time.thread_time_ns()
        found = simulate_trace(policies(), TraceFile(str(path)))
        took_ns = time.thread_time_ns() - begun_ns
    return count * 1e9 / took_ns, digest(found)


class Simulate:
    """The parts of a simulation, by population."""

    params: ClassVar = [list(POPULATIONS)]
    param_names: ClassVar = ["population"]
    unit = "attempts/s"
    timeout = 600
    attempt_count = ATTEMPT_COUNT
    populations: ClassVar = POPULATIONS

    def setup(self, name: str) -> None:
        self.text = trace(self.populations[name], self.attempt_count)

    def track_read(self, name: str) -> float:
        return read_per_s(self.text, self.attempt_count)[0]

    def track_try(self, name: str) -> float:
        return tried_per_s(read_per_s(self.text, self.attempt_count)[1])

    def track_whole(self, name: str) -> float:
        return whole_per_s(self.text, self.attempt_count)[0]


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shrinks populations and runs."""
    count = max(100, int(ATTEMPT_COUNT * scale))
    for full in POPULATIONS.values():
        population = Population(max(10, int(full.account_count * scale)), full.contact_count)
        title = f"{population.account_count:,} accounts x {population.contact_count}"
        text = trace(population, count)
        read, rows = read_per_s(text, count)
        yield Figure(f"trace read, {title}", read, "rows/s")
        tried = tried_per_s(rows)
        yield Figure(f"tried by the core, {title}", tried, "attempts/s", 1_000_000.0, at_most=False)
        whole, found = whole_per_s(text, count)
        yield Figure(f"from a file to the answer, {title}", whole, "attempts/s", digest=found)
