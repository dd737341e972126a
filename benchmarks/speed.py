"""How fast the whole service is, beside other servers on the same machine in the same minutes.

Each round measures everything once, in turn, and what is compared is compared within its round, so
that a disturbance of the machine meets both; the figures are medians over the rounds. All commits
are durable: their replies leave after fsync. Three limits decide every attempt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc
from google.protobuf import json_format

from benchmarks import echo, rivals
from benchmarks.end_to_end import CONCURRENCY, Runs, drive, running
from benchmarks.journal import bench_folder
from benchmarks.workload import Figure, commit_request
from limiter import load
from limiter.load_server import own_server
from limiter.v1 import (
    attempt_pb2,
    decision_service_pb2,
    decision_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
)

__all__ = ["figures"]

ROUNDS: Final = 5
ACCOUNTS: Final = 100_000

# The scale below which a run only shows that it runs.
SMOKE: Final = 0.1
SERVICE: Final = "/limiter.v1.DecisionService"

# People of an account, its messages, messages to one person. Nobody reaches them: what is measured
# is what is allowed, and so waits for the disk.
CAPS: Final[dict[str, dict[str, Any]]] = {
    "people": {"measure": "MEASURE_CONTACTS", "maxCount": 10**6},
    "messages": {"measure": "MEASURE_MESSAGES", "maxCount": 10**9},
    "recipient": {"measure": "MEASURE_MESSAGES", "maxCount": 10**9, "per": ["DIMENSION_CONTACT"]},
}

# The account and the contact of h2load, which sends one message over and over.
H2LOAD_ACCOUNT: Final = "account-0000001"
H2LOAD_CONTACT: Final = "contact-0000001"


@dataclass(frozen=True, slots=True)
class Rounds:
    """What was measured, by name, one value a round; and what was not, with the reason."""

    values: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def measure(self, name: str, take: Callable[[], float]) -> float | None:
        """Notes one value; None where a program for it is absent."""
        try:
            value = take()
        except rivals.Absent as absent:
            self.missing[name] = str(absent)
            return None
        self.values.setdefault(name, []).append(value)
        return value

    def figure(
        self,
        label: str,
        name: str,
        unit: str,
        target: float | None = None,
        *,
        over: str | None = None,
        at_most: bool = False,
    ) -> Figure:
        """The median of what was measured, or of its ratio to `over` in the same round."""
        for each in (name, over):
            if each is not None and each in self.missing:
                return Figure(label, 0.0, unit, missing=self.missing[each])
        values = self.values[name]
        if over is not None:
            values = [a / b for a, b in zip(values, self.values[over], strict=True)]
        return Figure(label, median(values), unit, target, at_most)


def assign_three_limits(address: str, max_count: int | None = None) -> None:
    """One policy of three limits on everything, with a maximum other than their own if wanted."""
    limits = [
        {
            "limitId": limit_id,
            "cap": {
                **cap,
                "maxCount": cap["maxCount"] if max_count is None else max_count,
                "window": {"rolling": "86400s"},
            },
            "enforcement": "ENFORCEMENT_ENFORCED",
        }
        for limit_id, cap in CAPS.items()
    ]
    request = json_format.ParseDict(
        {
            "policies": [{"name": "policies/three", "limits": limits}],
            "assignments": [{"name": "assignments/all", "policy": "policies/three"}],
        },
        policy_service_pb2.ApplyPoliciesRequest(),
    )
    with grpc.insecure_channel(address) as channel:
        policy_service_pb2_grpc.PolicyServiceStub(channel).ApplyPolicies(request, timeout=30)


def counted(address: str) -> int:
    """Messages that the account of h2load has sent."""
    attempt = attempt_pb2.Attempt(account=H2LOAD_ACCOUNT, contact=H2LOAD_CONTACT)
    with grpc.insecure_channel(address) as channel:
        reply = decision_service_pb2_grpc.DecisionServiceStub(channel).GetUsage(
            decision_service_pb2.GetUsageRequest(attempt=attempt), timeout=30
        )
    return next(each.used_count for each in reply.limit_statuses if each.limit_id == "messages")


class Measured:
    """One server of ours, and the ways in which it is asked."""

    def __init__(self, address: str, scale: float) -> None:
        self._address = address
        self._scale = scale
        self.message = commit_request(H2LOAD_ACCOUNT, H2LOAD_CONTACT)

    def count(self, full: int) -> int:
        """So many calls, at this scale."""
        return max(512, int(full * self._scale))

    def h2load(self, method: str) -> float:
        """Calls a second; of Commits every one has to be counted."""
        before = counted(self._address) if method == "Commit" else 0
        count = self.count(200_000)
        rate = rivals.h2load(f"http://{self._address}{SERVICE}/{method}", count, self.message)
        if method == "Commit" and counted(self._address) != before + count:
            raise RuntimeError("h2load's commits were not all counted")
        return rate

    def run(self, **changes: Any) -> load.Measurement:
        """A load of `limiter bench`. Raises RuntimeError if any call of it failed."""
        settings = {
            "accounts": ACCOUNTS if self._scale >= SMOKE else self.count(ACCOUNTS),
            "distribution": "uniform",
            "duration_s": max(0.3, 3.0 * self._scale),
            "warmup_s": 0.5 * self._scale,
            **changes,
        }
        measured = load.run(load.Plan(**settings), self._address, lambda progress: None)
        if measured.failures or measured.denied:
            raise RuntimeError(f"the load was not all allowed: {measured}")
        return measured

    def rate(self, **changes: Any) -> float:
        """Decisions a second of a load."""
        return self.run(**changes).decisions_per_s


def one_round(rounds: Rounds, ours: Measured, targets: dict[str, Any]) -> None:
    """Everything once."""
    take = rounds.measure
    echo_url = f"http://{targets['echo']}{echo.METHOD}"
    take("echo, h2load", lambda: rivals.h2load(echo_url, ours.count(15_000), b""))
    if targets["redis"] is None:
        rounds.missing["redis"] = targets["redis absent"]
    else:
        increments = ours.count(150_000)
        take("redis", lambda: rivals.redis_increments(targets["redis"], increments))
    if targets["nghttpd"] is None:
        rounds.missing["nghttpd"] = targets["nghttpd absent"]
    else:
        take("nghttpd", lambda: rivals.h2load(targets["nghttpd"], ours.count(200_000)))
    take("commit, h2load", lambda: ours.h2load("Commit"))
    take("check, h2load", lambda: ours.h2load("Check"))
    commit = ours.run()
    take("commit", lambda: commit.decisions_per_s)
    take("server us", lambda: commit.server_us_per_decision or 0.0)
    take("commit, ids", lambda: ours.rate(request_ids=True))
    take("check", lambda: ours.rate(check_share=1.0))
    take("batch", lambda: ours.rate(mode="batch", connections=4, streams=1))
    stream = {"mode": "stream", "connections": 4, "streams": 2, "depth": 512}
    take("stream", lambda: ours.rate(**stream))
    take("stream, few", lambda: ours.rate(**stream, accounts=100))
    take("half p99", lambda: ours.run(rate=commit.decisions_per_s / 2).quantiles_ms[99.0])
    one = {"connections": 1, "streams": 1, "accounts": 1_000}
    take("syncs", lambda: rivals.syncs_per_s(max(0.2, ours.count(1_000) / 1_000)))
    take("one commit", lambda: ours.rate(**one))
    take("one check", lambda: ours.rate(**one, check_share=1.0))


async def echo_by_python(rounds: Rounds, count: int, repeats: int) -> None:
    """The empty echo as a grpc.aio client sees it, which costs as much as the server."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(
            running("-m", "benchmarks.echo", method=echo.METHOD)
        )
        for _ in range(repeats):
            runs = Runs()
            await drive(target, [b""] * count, CONCURRENCY, runs)
            rounds.values.setdefault("echo", []).append(runs.rates[0])


def measure(scale: float) -> Rounds:
    """All rounds, shorter ones below full scale, and a single one for a smoke test."""
    rounds = Rounds()
    repeats = 1 if scale < SMOKE else ROUNDS
    with ExitStack() as stack:
        targets: dict[str, Any] = {"redis": None, "nghttpd": None}
        for name, serving in (("redis", rivals.redis_server), ("nghttpd", rivals.nghttpd)):
            try:
                targets[name] = stack.enter_context(serving())
            except rivals.Absent as absent:
                targets[f"{name} absent"] = str(absent)
        targets["echo"] = stack.enter_context(echo.serving())
        folder = Path(stack.enter_context(bench_folder()))
        address = stack.enter_context(own_server(folder))
        assign_three_limits(address)
        ours = Measured(address, scale)
        for _ in range(repeats):
            one_round(rounds, ours, targets)
        asyncio.run(echo_by_python(rounds, ours.count(10_000), repeats))
    return rounds


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shortens the runs."""
    figure = measure(scale).figure
    yield figure("empty grpc.aio echo, grpc.aio client", "echo", "calls/s")
    yield figure("empty grpc.aio echo, h2load", "echo, h2load", "calls/s")
    yield figure("Redis INCR, 50 clients", "redis", "calls/s")
    yield figure("nghttpd, 5-byte file, h2load", "nghttpd", "calls/s")
    for label, name in (("h2load", "commit, h2load"), ("bench", "commit")):
        yield figure(f"durable Commit, {label}", name, "calls/s")
        yield figure(f"Commit ({label}) / echo, grpc.aio client", name, "x", 25.0, over="echo")
        yield figure(f"Commit ({label}) / echo, h2load", name, "x", 25.0, over="echo, h2load")
        yield figure(f"Commit ({label}) / Redis INCR", name, "x", 1.5, over="redis")
        yield figure(f"Commit ({label}) / nghttpd", name, "x", 0.4, over="nghttpd")
    yield figure("server time of a Commit", "server us", "us")
    yield figure("Commit with request_ids / without", "commit, ids", "x", 0.8, over="commit")
    yield figure("Check / Commit (bench)", "check", "x", 1.2, over="commit")
    yield figure("Check / Commit (h2load)", "check, h2load", "x", 1.2, over="commit, h2load")
    yield figure("CommitBatch of 1,000", "batch", "decisions/s", 1e6)
    yield figure("CommitStream", "stream", "decisions/s", 1e6)
    yield figure("CommitStream, 100 accounts", "stream, few", "decisions/s", 1e6)
    yield figure("p99 at half the peak rate", "half p99", "ms", 5.0, at_most=True)
    yield figure("4 KiB written and synced, alone", "syncs", "syncs/s")
    yield figure("one sequential client, Commit", "one commit", "calls/s", 1_500.0)
    yield figure("one sequential client, Commit / syncs", "one commit", "x", over="syncs")
    yield figure("one sequential client, Check", "one check", "calls/s", 8_000.0)
