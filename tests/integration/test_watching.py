"""WatchUsage over both transports: what is told, when, and how it ends.

The clock stands until it is moved, and whatever is told comes of a call: no test waits for time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter import bounds, server
from limiter.store import LmdbJournal
from limiter.v1 import (
    attempt_pb2,
    commitment_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration import transports
from tests.integration.access_requests import bearer
from tests.integration.inside import Inside, serving
from tests.integration.process import START_MS
from tests.integration.requests import cap, commit_request

pytestmark = transports.BOTH

MESSAGES = policy_pb2.MEASURE_MESSAGES
CONTACT = attempt_pb2.DIMENSION_CONTACT
MINUTE_MS = 60_000
Change = decision_service_pb2.WatchUsageResponse


class Watched:
    """One stream of changes."""

    def __init__(self, inside: Inside, account: str = "a", **template: Any) -> None:
        attempt = attempt_pb2.Attempt(account=account, **template)
        self.inside = inside
        self.template = attempt
        self.call: Any = inside.decisions.WatchUsage(
            decision_service_pb2.WatchUsageRequest(attempt=attempt)
        )

    async def next(self) -> Change:
        """The next message."""
        change: Change = await asyncio.wait_for(self.call.read(), 30)
        assert isinstance(change, Change), change
        return change

    async def is_let_in(self) -> bool:
        """Whether there is room for it."""
        try:
            await self.next()
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
        return True

    async def until_used(self, count: int) -> Change:
        """The message by which the first limit stands at so much; it says what GetUsage says."""
        while True:
            change = await self.next()
            if change.limit_statuses[0].used_count == count:
                request = decision_service_pb2.GetUsageRequest(attempt=self.template)
                usage = await self.inside.decisions.GetUsage(request)
                assert change.limit_statuses == usage.limit_statuses
                return change

    async def status(self) -> grpc.StatusCode:
        """What it ends with."""
        try:
            while True:
                await self.next()
        except grpc.aio.AioRpcError as error:
            return error.code()


async def assign(inside: Inside, *limits: policy_pb2.Limit, account: str = "a") -> None:
    """These limits, and no others, hold for the account."""
    policy = policy_pb2.Policy(name=f"accounts/{account}/policies/own", limits=limits)
    assignment = policy_pb2.Assignment(
        name=f"accounts/{account}/assignments/own",
        policy=policy.name,
        scope=policy_pb2.Scope(account=account),
    )
    await inside.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(policies=[policy], assignments=[assignment])
    )


async def set_clock(inside: Inside, now_ms: int) -> None:
    request = test_clock_service_pb2.SetTestClockRequest()
    request.current_time.FromMilliseconds(now_ms)
    await inside.test_clock.Set(request)


async def commit(inside: Inside, contact: str, **fields: Any) -> Any:
    return await inside.decisions.Commit(commit_request("a", contact, **fields))


async def ending_of(call: Awaitable[Any]) -> grpc.StatusCode:
    """What a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"clock_start_ms": START_MS}


async def test_it_is_told_at_once_and_whenever_it_changes(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(2, 60, measure=MESSAGES))
        watched = Watched(inside)
        first = await watched.until_used(0)
        assert first.allowed
        assert first.time.ToMilliseconds() == START_MS
        for contact in "bcd":
            await commit(inside, contact)
        full = await watched.until_used(2)
        assert not full.allowed
        assert full.retry_time.ToMilliseconds() == START_MS + MINUTE_MS
        # One millisecond early nothing may go, and nothing is told.
        await set_clock(inside, START_MS + MINUTE_MS - 1)
        await set_clock(inside, START_MS + MINUTE_MS)
        empty = await watched.next()
        assert empty.allowed
        assert not empty.HasField("retry_time")
        assert empty.time.ToMilliseconds() == START_MS + MINUTE_MS
        assert empty.limit_statuses[0].used_count == 0


async def test_quick_changes_are_one_message(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(1_000, 60, measure=MESSAGES))
        watched = Watched(inside)
        await watched.until_used(0)
        recipients = [decision_service_pb2.Recipient(contact=f"c{n}") for n in range(500)]
        await inside.decisions.CommitBatch(
            decision_service_pb2.CommitBatchRequest(
                attempt=attempt_pb2.Attempt(account="a"), recipients=recipients
            )
        )
        assert (await watched.next()).limit_statuses[0].used_count == 500


async def test_the_account_of_somebody_else_tells_nothing(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(9, 60, measure=MESSAGES))
        watched, other = Watched(inside), Watched(inside, "b")
        await watched.until_used(0)
        # Nobody has heard of it, and it has no policy.
        assert (await other.next()).allowed
        await commit(inside, "c")
        await watched.until_used(1)
        # The next thing that it hears of is its own.
        await assign(inside, cap(9, 60, measure=MESSAGES), account="b")
        assert (await other.next()).limit_statuses[0].used_count == 0


async def test_somebody_new_is_meant_where_the_template_names_nobody(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        limits = cap(1, 60, limit_id="people"), cap(1, 60, measure=MESSAGES, per=(CONTACT,))
        await assign(inside, *limits)
        anybody, known = Watched(inside), Watched(inside, contact="known")
        assert (await anybody.next()).allowed
        assert (await known.next()).allowed
        await commit(inside, "known")
        change = await anybody.next()
        assert not change.allowed
        # What is kept for each contact is not told of nobody.
        assert change.limit_statuses[1].max_count == 1
        assert change.limit_statuses[1].used_count == 0
        assert not (await known.next()).allowed


async def test_a_limit_that_lacks_another_field_does_not_deny(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        agent = attempt_pb2.DIMENSION_AGENT
        await assign(inside, cap(0, 60, measure=MESSAGES, per=(agent,)))
        assert (await Watched(inside).next()).allowed
        assert not (await Watched(inside, agent="kim").next()).allowed


async def test_a_hold_lapses_by_itself_and_is_journalled(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(1, 3_600, measure=MESSAGES))
        watched = Watched(inside)
        await watched.until_used(0)
        held = commit_request("a", "b")
        held.hold_duration.FromSeconds(60)
        made = await inside.decisions.Commit(held)
        full = await watched.until_used(1)
        assert full.retry_time.ToMilliseconds() == START_MS + MINUTE_MS
        await set_clock(inside, START_MS + MINUTE_MS)
        assert (await watched.until_used(0)).allowed
        # Without a call of the account: the server is started anew and knows it.
    later = {"clock_start_ms": START_MS + MINUTE_MS}
    async with serving(tmp_path / "data", **later) as inside:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inside.decisions.Confirm(
                commitment_pb2.ConfirmRequest(account="a", commit_id=made.commit_id)
            )
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_burst_of_lapses_is_told_in_the_end(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(10_000, 3_600, measure=MESSAGES))
        watched = Watched(inside)
        await watched.until_used(0)
        for number in range(300):
            held = commit_request("a", f"c{number}")
            held.hold_duration.FromMilliseconds(MINUTE_MS - number % 7)
            await inside.decisions.Commit(held)
        await watched.until_used(300)
        await set_clock(inside, START_MS + MINUTE_MS)
        await watched.until_used(0)


async def test_cancels_and_confirmations_are_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(1, 3_600, measure=MESSAGES))
        watched = Watched(inside)
        await watched.until_used(0)
        held = commit_request("a", "b")
        held.hold_duration.FromSeconds(60)
        made = await inside.decisions.Commit(held)
        await watched.until_used(1)
        await inside.decisions.Confirm(
            commitment_pb2.ConfirmRequest(account="a", commit_id=made.commit_id)
        )
        confirmed = await watched.until_used(1)
        assert confirmed.retry_time.ToMilliseconds() == START_MS + 60 * MINUTE_MS
        await inside.decisions.Cancel(
            commitment_pb2.CancelRequest(account="a", commit_id=made.commit_id)
        )
        assert (await watched.until_used(0)).allowed


async def test_hours_open_and_close_without_a_call(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    # START_MS is a Friday, eight in the morning.
    hours = policy_pb2.Limit(limit_id="hours", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    hours.hours.time_zone = "UTC"
    friday = policy_pb2.DAY_OF_WEEK_FRIDAY
    hours.hours.ranges.add(days=[friday], start_minute=9 * 60, end_minute=10 * 60)
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, hours)
        watched = Watched(inside)
        closed = await watched.next()
        assert not closed.allowed
        assert closed.retry_time.ToMilliseconds() == START_MS + 60 * MINUTE_MS
        await set_clock(inside, START_MS + 60 * MINUTE_MS)
        assert (await watched.next()).allowed
        await set_clock(inside, START_MS + 120 * MINUTE_MS)
        assert not (await watched.next()).allowed


async def test_a_change_of_policies_is_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(1, 60, measure=MESSAGES))
        watched = Watched(inside)
        assert (await watched.next()).limit_statuses[0].max_count == 1
        await assign(inside, cap(5, 60, measure=MESSAGES))
        assert (await watched.next()).limit_statuses[0].max_count == 5


async def test_watchers_see_the_recovered_state(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MEND_DELAY_S", 0.05)
    append = LmdbJournal.append

    def fail(journal: LmdbJournal, shard: int, sequence: int, record: bytes) -> None:
        monkeypatch.setattr(LmdbJournal, "append", append)
        raise OSError(28, "No space left on device")

    async with serving(tmp_path / "data", **settings) as inside:
        await assign(inside, cap(5, 60, measure=MESSAGES))
        watched = Watched(inside)
        await commit(inside, "b")
        await watched.until_used(1)
        monkeypatch.setattr(LmdbJournal, "append", fail)
        with pytest.raises(grpc.aio.AioRpcError):
            await commit(inside, "c")
        # What was not written did not happen; then it goes on.
        while await ending_of(commit(inside, "d")) is grpc.StatusCode.UNAVAILABLE:
            pass
        await watched.until_used(2)


async def test_keys_are_looked_up_anew_in_the_recovered_state(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MEND_DELAY_S", 0.05)
    append = LmdbJournal.append

    def fail(journal: LmdbJournal, shard: int, sequence: int, record: bytes) -> None:
        monkeypatch.setattr(LmdbJournal, "append", append)
        raise OSError(28, "No space left on device")

    async with serving(tmp_path / "data", require_keys=True, **settings) as inside:
        shown = bearer((tmp_path / "data" / "operator.key").read_text().strip())
        call: Any = inside.decisions.WatchUsage(
            decision_service_pb2.WatchUsageRequest(attempt=attempt_pb2.Attempt(account="a")),
            metadata=shown,
        )
        assert (await asyncio.wait_for(call.read(), 30)).allowed
        stream: Any = inside.decisions.CommitStream(metadata=shown)
        await stream.write(commit_request("a", "b"))
        assert (await stream.read()).commit_id
        monkeypatch.setattr(LmdbJournal, "append", fail)
        lost = inside.decisions.Commit(commit_request("a", "c"), metadata=shown)
        assert await ending_of(lost) is grpc.StatusCode.UNAVAILABLE
        # The stream has lost what it stood on, and may be opened again.
        assert await ending_of(stream.read()) is grpc.StatusCode.UNAVAILABLE
        policy = policy_pb2.Policy(name="policies/p", limits=[cap(5, 60, measure=MESSAGES)])
        assignment = policy_pb2.Assignment(name="assignments/p", policy=policy.name)
        change = policy_service_pb2.ApplyPoliciesRequest(
            policies=[policy], assignments=[assignment]
        )
        while (
            await ending_of(inside.policies.ApplyPolicies(change, metadata=shown))
            is grpc.StatusCode.UNAVAILABLE
        ):
            pass
        told = await asyncio.wait_for(call.read(), 30)
        assert told.limit_statuses[0].max_count == 5


async def test_it_ends_when_the_server_stops(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        watched = Watched(inside)
        await watched.next()
        stopping = asyncio.create_task(inside.server.stop())
        assert await watched.status() is grpc.StatusCode.UNAVAILABLE
        await stopping


async def test_what_is_no_template_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with serving(tmp_path / "data", **settings) as inside:
        assert await Watched(inside, "").status() is grpc.StatusCode.INVALID_ARGUMENT
        zone = Watched(inside, contact_time_zone="Nowhere")
        assert await zone.status() is grpc.StatusCode.INVALID_ARGUMENT


async def test_there_are_only_so_many_watchers(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "CONNECTION_WATCHERS_MAX", 2)
    async with serving(tmp_path / "data", **settings) as inside:
        some = [Watched(inside) for _ in range(2)]
        for each in some:
            await each.next()
        assert await Watched(inside).status() is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Who goes makes room.
        some[0].call.cancel()
        while not await Watched(inside).is_let_in():
            pass
        monkeypatch.setattr(bounds, "WATCHERS_MAX", 2)
        monkeypatch.setattr(bounds, "CONNECTION_WATCHERS_MAX", 9)
        assert await Watched(inside).status() is grpc.StatusCode.RESOURCE_EXHAUSTED
