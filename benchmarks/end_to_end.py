"""End to end: durable calls through grpc.aio, beside an empty grpc.aio echo in the same run.

Servers are processes of their own; this process is the client of all of them. The runs of echo and
commit take turns, so that a disturbance of the machine meets both. Beside the rate, which the
client may limit, stands the processor time that the server takes for a call.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import ClassVar, Final

import grpc
import psutil
import uvloop

from benchmarks import echo
from benchmarks.journal import bench_folder
from benchmarks.workload import (
    DAILY_CONTACTS,
    ROOMY_CONTACTS,
    Engine,
    Figure,
    Group,
    Population,
    account_name,
    assign,
    fill_request,
    mixed_requests,
)
from limiter import bounds
from limiter.journal import encode_group
from limiter.service.decision import SERVICE
from limiter.store import DataFolder
from limiter.v1 import decision_pb2, decision_service_pb2

__all__ = ["Batches", "Commits", "figures"]

ROOT: Final = Path(__file__).resolve().parent.parent
COMMIT: Final = f"/{SERVICE.full_name}/Commit"
COMMIT_BATCH: Final = f"/{SERVICE.full_name}/CommitBatch"

# Calls under way at once.
CONCURRENCY: Final = 100
BATCH_CONCURRENCY: Final = 4
BATCH_SIZE: Final = 1_000

# The first of the accounts that whole batches go to.
BULK_ACCOUNT: Final = 9_000_000

# How long a server may take to recover its state and answer.
PATIENCE_S: Final = 900

Call = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Runs:
    """What several runs against one server took: calls a second, server time a call, latencies."""

    rates: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def latency_ms(self, share: float) -> float:
        """The latency that this share of the calls does not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Target:
    """A running server and one of its methods."""

    process: psutil.Process
    call: Call


def prepare_folder(
    folder: Path,
    population: Population,
    bulk_count: int,
    request_of: Callable[[int, int], bytes] = fill_request,
) -> None:
    """Writes the data folder of a server that has served these accounts for an hour, by the batches
    of `request_of`, and has as many more accounts for batches."""
    data = DataFolder(folder)
    journal, digest_key = data.open()
    engine = Engine.make(digest_key)
    checksum = 0

    def keep(group: Group | None) -> None:
        nonlocal checksum
        if group is not None:
            number, events, count = group
            record, checksum = encode_group(0, number, count, events, checksum)
            journal.append(0, number, record)

    start_ms = time.time_ns() // 1_000_000 - 2 * bounds.HOUR_MS
    assign(engine.store, [DAILY_CONTACTS], start_ms)
    bulk_accounts = [account_name(BULK_ACCOUNT + number) for number in range(bulk_count)]
    assign(engine.store, [ROOMY_CONTACTS], start_ms, "bulk", bulk_accounts)
    engine.fill(population, keep, start_ms, bounds.HOUR_MS, request_of)
    journal.close()
    data.close()


@asynccontextmanager
async def running(*arguments: str, method: str) -> AsyncIterator[Target]:
    """Starts a server in a process; ends it with SIGTERM and expects exit code 0."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    with tempfile.TemporaryFile("w+") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=environment,
        )
        assert process.stdout is not None
        try:
            ready = await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
            if b" serving on " not in ready:
                log.seek(0)
                raise RuntimeError(f"{arguments} did not start: {log.read()}")
            options = (("grpc.max_receive_message_length", -1),)
            async with grpc.aio.insecure_channel(ready.split()[-1].decode(), options) as channel:
                call: Call = channel.unary_unary(method)  # type: ignore[assignment]
                yield Target(psutil.Process(process.pid), call)
        finally:
            if process.returncode is None:
                process.terminate()
            code = await process.wait()
        if code != 0:
            log.seek(0)
            raise RuntimeError(f"{arguments} ended with {code}: {log.read()}")


def limiter_server(folder: Path) -> tuple[str, ...]:
    """The arguments that serve a data folder on any free port."""
    return ("-m", "limiter.cli", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder))


async def drive(
    target: Target, requests: Sequence[bytes], concurrency: int, runs: Runs
) -> list[bytes]:
    """Sends all requests, so many at once, and notes what that took; returns the replies."""
    waiting = iter(requests)
    replies: list[bytes] = []
    latencies_ns: list[int] = []

    async def work() -> None:
        for request in waiting:
            sent_ns = time.perf_counter_ns()
            replies.append(await target.call(request))
            latencies_ns.append(time.perf_counter_ns() - sent_ns)

    used = target.process.cpu_times()
    begun_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    took_s = time.perf_counter() - begun_s
    now_used = target.process.cpu_times()
    used_s = now_used.user + now_used.system - used.user - used.system
    runs.rates.append(len(requests) / took_s)
    runs.server_us.append(used_s * 1_000_000 / len(requests))
    runs.latencies_ms.extend(each / 1_000_000 for each in latencies_ns)
    return replies


def expect_allowed(replies: Sequence[bytes]) -> None:
    """Raises unless every Commit was allowed, and so waited for the disk."""
    for reply in replies:
        response = decision_service_pb2.CommitResponse.FromString(reply)
        if response.decision.outcome != decision_pb2.OUTCOME_ALLOWED or not response.commit_id:
            raise RuntimeError(f"a commit of the benchmark was not allowed: {response}")


async def compare_commits(
    account_counts: Sequence[int], call_count: int, rounds: int
) -> tuple[Runs, list[Runs]]:
    """Echoes and commits in turns: `call_count` of each a round. One limiter for each number of
    accounts. The first round is for warming up and not noted."""
    async with AsyncExitStack() as stack:
        echo_target = await stack.enter_async_context(
            running("-m", "benchmarks.echo", method=echo.METHOD)
        )
        targets: list[Target] = []
        for account_count in account_counts:
            folder = Path(stack.enter_context(bench_folder())) / "data"
            await asyncio.to_thread(prepare_folder, folder, Population(account_count, 1), 0)
            targets.append(
                await stack.enter_async_context(running(*limiter_server(folder), method=COMMIT))
            )
        # At most 100 contacts of an account are addressed: all of them are allowed.
        requests = [
            mixed_requests(Population(account_count, 50), call_count * (rounds + 1))
            for account_count in account_counts
        ]
        echoes, commits = Runs(), [Runs() for _ in account_counts]
        for number in range(rounds + 1):
            warm = number == 0
            part = slice(number * call_count, (number + 1) * call_count)
            await drive(echo_target, requests[0][part], CONCURRENCY, Runs() if warm else echoes)
            for target, own, runs in zip(targets, requests, commits, strict=True):
                expect_allowed(
                    await drive(target, own[part], CONCURRENCY, Runs() if warm else runs)
                )
        return echoes, commits


async def drive_batches(batch_count: int) -> float:
    """Durable decisions a second in batches of 1,000, each to contacts that are new."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(bench_folder())) / "data"
        prepare_folder(folder, Population(1, 1), batch_count)
        target = await stack.enter_async_context(
            running(*limiter_server(folder), method=COMMIT_BATCH)
        )
        requests = [fill_request(BULK_ACCOUNT + each, BATCH_SIZE) for each in range(batch_count)]
        runs = Runs()
        warm_count = max(1, batch_count // 10)
        await drive(target, requests[:warm_count], BATCH_CONCURRENCY, Runs())
        replies = await drive(target, requests[warm_count:], BATCH_CONCURRENCY, runs)
        for reply in replies:
            response = decision_service_pb2.CommitBatchResponse.FromString(reply)
            if response.accepted_count != BATCH_SIZE:
                raise RuntimeError(f"only {response.accepted_count} of {BATCH_SIZE} were allowed")
        return runs.rates[0] * BATCH_SIZE


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median ratio of what was measured in the same round."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


class Commits:
    """Durable commits with 100 calls under way, by the number of accounts."""

    params: ClassVar = [[1_000, 1_000_000]]
    param_names: ClassVar = ["accounts"]
    timeout = 3600
    call_count = 5_000
    rounds = 5

    def setup(self, account_count: int) -> None:
        # Both numbers come from the same runs.
        compared = compare_commits([account_count], self.call_count, self.rounds)
        self.echoes, (self.commits,) = uvloop.run(compared)

    def track_commits_per_s(self, account_count: int) -> float:
        return median(self.commits.rates)

    def track_share_of_echo(self, account_count: int) -> float:
        return paired(self.commits.rates, self.echoes.rates)


class Batches:
    """Durable batches of 1,000 recipients, four under way."""

    timeout = 3600
    batch_count = 200
    unit = "decisions/s"

    def track_decisions_per_s(self) -> float:
        return uvloop.run(drive_batches(self.batch_count))


def figures(scale: float) -> Iterator[Figure]:
    """The published figures; `scale` shrinks the number of accounts and shortens the runs."""
    few, many = (max(10, int(count * scale)) for count in Commits.params[0])
    calls = max(50, int(Commits.call_count * scale))
    rounds = Commits.rounds if scale >= 1 else 2
    echoes, (small, large) = uvloop.run(compare_commits([few, many], calls, rounds))
    yield Figure("echo", median(echoes.rates), "calls/s")
    yield Figure("server time of an echo", median(echoes.server_us), "us")
    for count, runs in ((few, small), (many, large)):
        yield Figure(f"durable commit, {count:,} accounts", median(runs.rates), "calls/s")
        yield Figure(f"server time of a commit, {count:,}", median(runs.server_us), "us")
        yield Figure(f"latency p50, {count:,} accounts", runs.latency_ms(0.5), "ms")
        yield Figure(f"latency p99, {count:,} accounts", runs.latency_ms(0.99), "ms")
    share = paired(small.rates, echoes.rates)
    yield Figure(f"commit / echo, {few:,} accounts", share, "x", 0.70, at_most=False)
    slower = paired(small.rates, large.rates)
    yield Figure(f"commit at {few:,} / at {many:,} accounts", slower, "x", 1.3)
    batches = uvloop.run(drive_batches(max(4, int(Batches.batch_count * scale))))
    yield Figure("CommitBatch of 1,000", batches, "decisions/s", 300_000.0, at_most=False)
