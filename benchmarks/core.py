"""The core on one thread, from request bytes to reply bytes, under "200 contacts in 24 hours".

Beyond the caches a decision is a few cache misses. What one costs on this machine is measured
beside it, and so how many there are: the time that a decision takes in a large population above
what it takes in a small one, in misses.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from typing import ClassVar, Final

from benchmarks.workload import (
    DAILY_CONTACTS,
    ROOMY_CONTACTS,
    START_MS,
    Engine,
    Figure,
    Population,
    Timing,
    account_name,
    assign,
    commit_request,
    contact_name,
    fill_request,
    mixed_requests,
    timed,
)
from limiter import bounds, model
from limiter._wire_inspect import decode_repeatedly, encode_repeatedly

__all__ = ["Batch", "Decide", "Limits", "figures"]

POPULATIONS: Final = {
    "1,000 accounts": Population(1_000, 100),
    "100,000 accounts": Population(100_000, 100),
    "1,000,000 accounts": Population(1_000_000, 10),
}

# Requests decided for one measurement.
DECISION_COUNT: Final = 200_000

# After the accounts are full, and before anything leaves their windows.
NOW_MS: Final = START_MS + bounds.DAY_MS // 2


def filled(population: Population) -> Engine:
    """An engine with the policy and the population."""
    engine = Engine.make()
    assign(engine.store, [DAILY_CONTACTS], START_MS)
    engine.fill(population)
    return engine


def commit_all(engine: Engine, requests: list[bytes]) -> Timing:
    """Commits every request at one instant."""
    commit = engine.decider.commit
    return timed(lambda request: commit(request, NOW_MS), requests, lambda reply: reply[0])


def check_all(engine: Engine, requests: list[bytes]) -> Timing:
    """Checks every request at one instant."""
    check = engine.decider.check
    return timed(lambda request: check(request, NOW_MS), requests, lambda reply: reply)


class Decide:
    """Single decisions over populations that fit into the caches and such that do not."""

    params: ClassVar = [list(POPULATIONS)]
    param_names: ClassVar = ["population"]
    unit = "ns"
    timeout = 3600
    decision_count = DECISION_COUNT
    populations: ClassVar = POPULATIONS

    def setup(self, name: str) -> None:
        population = self.populations[name]
        self.engine = filled(population)
        self.requests = mixed_requests(population, self.decision_count)

    def track_commit(self, name: str) -> float:
        return commit_all(self.engine, self.requests).ns_per_item

    def track_check(self, name: str) -> float:
        return check_all(self.engine, self.requests).ns_per_item


class Limits:
    """One account under more and more limits, of every measure."""

    params: ClassVar = [[0, 1, 4, 16, 32]]
    param_names: ClassVar = ["limits"]
    unit = "ns"
    timeout = 600
    decision_count = 20_000

    def setup(self, limit_count: int) -> None:
        self.engine = Engine.make()
        if limit_count:
            assign(self.engine.store, many_limits(limit_count), START_MS)
        self.requests = [
            commit_request(account_name(0), contact_name(0, number % 5_000))
            for number in range(self.decision_count)
        ]

    def track_commit(self, limit_count: int) -> float:
        return commit_all(self.engine, self.requests).ns_per_item


def many_limits(count: int) -> list[model.Limit]:
    """Limits that never deny: contacts and messages in turn, in windows of their own."""
    measures = (model.Measure.CONTACTS, model.Measure.MESSAGES)
    pers: tuple[tuple[model.Dimension, ...], ...] = ((), (model.Dimension.CHANNEL,))
    return [
        model.Limit(
            f"limit-{number}",
            model.Cap(
                measures[number % 2],
                1_000_000,
                pers[number // 2 % 2],
                model.RollingWindow(bounds.HOUR_MS * (number + 1)),
            ),
        )
        for number in range(count)
    ]


class Batch:
    """Batches to one account, each to contacts that are new to it."""

    params: ClassVar = [[100, 1_000, 10_000]]
    param_names: ClassVar = ["recipients"]
    unit = "ns"
    timeout = 600
    recipient_count = 200_000

    def setup(self, size: int) -> None:
        self.engine = Engine.make()
        assign(self.engine.store, [ROOMY_CONTACTS], START_MS)
        self.requests = [
            fill_request(number, size) for number in range(self.recipient_count // size)
        ]

    def run(self, size: int) -> Timing:
        commit_batch = self.engine.decider.commit_batch
        return timed(
            lambda request: commit_batch(request, NOW_MS), self.requests, lambda reply: reply[0]
        )

    def track_per_recipient(self, size: int) -> float:
        return self.run(size).ns_per_item / size


def miss_ns(step_count: int = 100_000) -> float:
    """What one access to memory beyond the caches takes: a walk along a random cycle through 128
    MiB, less the same walk within the caches."""

    def walk(size: int) -> float:
        # One cycle with far jumps all along it. For powers of two the generator has full period.
        chain = array("I", bytes(4 * size))
        multiplier, increment = 1_664_525, 1_013_904_223
        at = 0
        visited = min(size, 4 * step_count)
        for _ in range(visited):
            following = (at * multiplier + increment) % size
            chain[at] = following
            at = following
        at = 0
        begun_ns = time.thread_time_ns()
        for _ in range(step_count):
            at = chain[at]
        return (time.thread_time_ns() - begun_ns) / step_count

    return max(0.1, walk(1 << 25) - walk(1 << 10))


def wire_ns(request: bytes, rounds: int = 200_000) -> float:
    """What decoding this CommitRequest and encoding its reply take of a decision."""
    reply = {
        "decision": {
            "outcome": 1,
            "reason": 1,
            "binding": -1,
            "results": [],
            "retry_ms": -1,
            "decide_ms": NOW_MS,
        },
        "view": 1,
        "position": 1 << 24,
        "sequence": 150,
        "replayed": False,
    }
    begun_ns = time.thread_time_ns()
    decode_repeatedly("CommitRequest", request, rounds)
    encode_repeatedly(reply, rounds)
    return (time.thread_time_ns() - begun_ns) / rounds


def call_ns(requests: list[bytes]) -> float:
    """What the loop around a decision takes, with a function that does nothing."""
    pair = (b"", True)
    return timed(lambda request: pair, requests, lambda reply: reply[0]).ns_per_item


def population_figures(scale: float) -> Iterator[Figure]:
    """Single decisions, by population."""
    access_ns = miss_ns()
    yield Figure("one cache miss", access_ns, "ns")
    small_ns = 0.0
    for full in POPULATIONS.values():
        population = Population(max(10, int(full.account_count * scale)), full.contact_count)
        title = f"{population.account_count:,} accounts x {population.contact_count}"
        engine = filled(population)
        requests = mixed_requests(population, max(100, int(DECISION_COUNT * scale)))
        timing = commit_all(engine, requests)
        around_ns = call_ns(requests) + wire_ns(requests[0], len(requests))
        core_ns = max(1.0, timing.ns_per_item - around_ns)
        small_ns = small_ns or core_ns
        yield Figure(
            f"commit, bytes to bytes, {title}", timing.ns_per_item, "ns", digest=timing.digest
        )
        yield Figure(f"of which the core, {title}", core_ns, "ns", 1_000.0)
        yield Figure(f"misses beyond the small one, {title}", (core_ns - small_ns) / access_ns, "")


def batch_figures(scale: float) -> Iterator[Figure]:
    """Batches, by size."""
    for size in Batch.params[0]:
        suite = Batch()
        suite.recipient_count = max(size, int(Batch.recipient_count * scale))
        suite.setup(size)
        timing = suite.run(size)
        name = f"batch of {size:,}, each recipient"
        yield Figure(name, timing.ns_per_item / size, "ns", digest=timing.digest)


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shrinks populations and runs."""
    yield from population_figures(scale)
    yield from batch_figures(scale)
