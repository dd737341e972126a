"""A journal that cannot be written: what clients see, and how the server comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from limiter import errors, server
from limiter.journal import SequenceConflict
from limiter.store import LmdbJournal
from limiter.v1 import decision_service_pb2, policy_pb2, policy_service_pb2, test_clock_service_pb2
from tests.integration import transports
from tests.integration.inside import Inside, serving
from tests.integration.process import START_MS
from tests.integration.requests import Fault, cap, commit_request, fault_of

pytestmark = transports.BOTH

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Disk:
    """Makes appends fail from now on, before or after they have been written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fault: Exception | None = None
        self.written_anyway = False
        append, check_writable = LmdbJournal.append, LmdbJournal.check_writable

        def failing_append(journal: LmdbJournal, shard: int, sequence: int, record: bytes) -> None:
            if self.fault is not None and not self.written_anyway:
                raise self.fault
            append(journal, shard, sequence, record)
            if self.fault is not None:
                raise self.fault

        def failing_check(journal: LmdbJournal) -> None:
            if self.fault is not None:
                raise self.fault
            check_writable(journal)

        monkeypatch.setattr(LmdbJournal, "append", failing_append)
        monkeypatch.setattr(LmdbJournal, "check_writable", failing_check)
        monkeypatch.setattr(server, "_MEND_DELAY_S", 0.05)
        monkeypatch.setattr(server, "_MEND_DELAY_S_MAX", 0.05)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def full() -> errors.Unavailable:
    return errors.Unavailable("JOURNAL_UNAVAILABLE", "No space left on device")


async def fault(call: Any) -> Fault:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return fault_of(caught.value)


async def health(inside: Inside) -> int:
    stub: Any = health_pb2_grpc.HealthStub(inside.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


async def until(inside: Inside, status: int) -> None:
    """Returns once the server has that health."""
    async with asyncio.timeout(30):
        while await health(inside) != status:  # noqa: ASYNC110 - a poll is what clients do
            await asyncio.sleep(0.01)


async def assign_to_all(inside: Inside, *limits: policy_pb2.Limit) -> None:
    await inside.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(
            policies=[policy_pb2.Policy(name="policies/p", limits=limits)],
            assignments=[policy_pb2.Assignment(name="assignments/p", policy="policies/p")],
        )
    )


async def used(inside: Inside, account: str) -> int:
    request = decision_service_pb2.GetUsageRequest()
    request.attempt.account = account
    (limit,) = (await inside.decisions.GetUsage(request)).limit_statuses
    return limit.used_count


@pytest.mark.parametrize("written_anyway", [False, True])
async def test_the_server_goes_out_of_service_and_comes_back_with_what_is_on_disk(
    tmp_path: Path, disk: Disk, written_anyway: bool
) -> None:
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign_to_all(inside, cap(100))
        for number in range(5):
            await inside.decisions.Commit(
                commit_request("a", f"c{number}", request_id=f"r{number}")
            )
        instant = test_clock_service_pb2.SetTestClockRequest()
        instant.current_time.FromMilliseconds(START_MS + 5_000)
        await inside.test_clock.Set(instant)

        disk.fault, disk.written_anyway = full(), written_anyway
        unknown = commit_request("a", "unknown", request_id="r-unknown")
        seen = await fault(inside.decisions.Commit(unknown))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "JOURNAL_UNAVAILABLE")
        assert "No space left" in seen.message
        assert "request_id" in seen.message
        await until(inside, NOT_SERVING)
        check = decision_service_pb2.CheckRequest(attempt=unknown.attempt)
        for call in (
            inside.decisions.Commit(commit_request("a", "other")),
            inside.decisions.Check(check),
            inside.policies.GetPolicy(policy_service_pb2.GetPolicyRequest(name="policies/p")),
        ):
            assert (await fault(call)).code is grpc.StatusCode.UNAVAILABLE
        stream = inside.decisions.CommitStream()
        await stream.write(unknown)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert fault_of(caught.value).reason == "JOURNAL_UNAVAILABLE"
        await asyncio.sleep(0.2)
        assert await health(inside) == NOT_SERVING

        disk.fault = None
        await until(inside, SERVING)
        assert await used(inside, "a") == 5 + written_anyway
        reply = await inside.decisions.Commit(unknown)
        assert reply.replayed == written_anyway
        # The clock outlives the state.
        assert reply.decision.decide_time.ToMilliseconds() == START_MS + 5_000
        assert await used(inside, "a") == 6
        for number in range(5):
            repeat = commit_request("a", f"c{number}", request_id=f"r{number}")
            assert (await inside.decisions.Commit(repeat)).replayed
        policy = await inside.policies.GetPolicy(
            policy_service_pb2.GetPolicyRequest(name="policies/p")
        )
        assert policy.limits[0].cap.max_count == 100
    async with serving(tmp_path / "data") as inside:
        assert await used(inside, "a") == 6


async def test_many_waiters_learn_it_at_once(tmp_path: Path, disk: Disk) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign_to_all(inside, cap(1_000))
        disk.fault = full()
        calls = [inside.decisions.Commit(commit_request("a", f"c{number}")) for number in range(50)]
        for each in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(each, grpc.aio.AioRpcError)
            assert each.code() is grpc.StatusCode.UNAVAILABLE
        disk.fault = None
        await until(inside, SERVING)
        assert await used(inside, "a") == 0


async def test_who_lost_the_journal_to_another_stays_out(tmp_path: Path, disk: Disk) -> None:
    async with serving(tmp_path / "data") as inside:
        disk.fault = SequenceConflict(0, 1, 7)
        assert (
            "another process"
            in (await fault(inside.decisions.Commit(commit_request("a", "c")))).message
        )
        disk.fault = None
        await until(inside, NOT_SERVING)
        await asyncio.sleep(0.3)
        assert await health(inside) == NOT_SERVING


async def test_it_stops_while_it_is_out_of_service(tmp_path: Path, disk: Disk) -> None:
    async with serving(tmp_path / "data") as inside:
        disk.fault = full()
        await fault(inside.decisions.Commit(commit_request("a", "c")))
        await until(inside, NOT_SERVING)
    disk.fault = None
    async with serving(tmp_path / "data") as inside:
        await inside.decisions.Commit(commit_request("a", "c"))


async def test_a_full_quota_is_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", journal_bytes_max=3_000_000) as inside:

        async def fill() -> None:
            for number in range(10_000):
                request = decision_service_pb2.CommitBatchRequest()
                request.attempt.account = "a"
                for index in range(1_000):
                    request.recipients.add(contact=f"c{number}-{index}")
                await inside.decisions.CommitBatch(request)

        seen = await fault(fill())
        assert seen.code is grpc.StatusCode.UNAVAILABLE
        assert "quota of 3000000 bytes" in seen.message
        await until(inside, NOT_SERVING)
