"""Undoing at sizes where message counters sum: late by one bucket at most, never early.

The oracle of tests/model covers every rule where counters are exact; here a counter with far more
messages than it keeps one by one is held against the plain list of what still counts.
"""

from __future__ import annotations

import random

import pytest

from limiter import bounds, errors, zones
from limiter._calendar import Window
from limiter._commitments import Commitments
from limiter._core import Core
from limiter._hot import Decider
from limiter._kinds import Binding, Kind, Plan, Rule
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.unit.memory_journal import MemoryHistory
from tests.unit.test_counters import CONTACTS, MESSAGES, START_MS, make_decider, usage

CommitRequest = decision_service_pb2.CommitRequest


def send(
    decider: Decider, request: CommitRequest, now_ms: int
) -> decision_service_pb2.CommitResponse:
    reply, _ = decider.commit(request.SerializeToString(), now_ms)
    return decision_service_pb2.CommitResponse.FromString(reply)


def message(contact: str, count: int = 1) -> CommitRequest:
    attempt = attempt_pb2.Attempt(account="a", contact=contact, message_count=count)
    return CommitRequest(attempt=attempt)


def position_of(response: decision_service_pb2.CommitResponse) -> int:
    return int(response.commit_id[4:], 16)


def with_history(core: Core) -> MemoryHistory:
    history = MemoryHistory(core)
    core.recall_from(history)
    return history


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_late_by_one_bucket_at_most_and_never_early(seed: int) -> None:
    chance = random.Random(seed)
    duration_ms = chance.choice([86_400_000, 3_600_000])
    bucket_ms = -(-duration_ms // bounds.EXACT_INSTANTS)
    core, decider = make_decider(MESSAGES, 1_000_000, Window.rolling(duration_ms))
    history = with_history(core)
    commitments = Commitments(core)
    counted: dict[int, tuple[int, int]] = {}
    now_ms = START_MS
    for step in range(6_000):
        now_ms += chance.randrange(duration_ms // 2_500)
        request = message(f"c{step % 50}", chance.choice([1, 1, 3]))
        at_ms = now_ms
        if chance.random() < 0.2:
            at_ms -= chance.randrange(duration_ms)
            request.mode = decision_service_pb2.COMMIT_MODE_RECORD
            request.event_time.FromMilliseconds(at_ms)
        counted[position_of(send(decider, request, now_ms))] = (
            at_ms,
            request.attempt.message_count,
        )
        if chance.random() < 0.3:
            position = chance.choice(list(counted)[-2_500:])
            assert commitments.cancel("a", position, now_ms) is not None
            del counted[position]
        if step % 40 == 0:
            history.take()
            used = usage(decider, now_ms).used_count
            exact = sum(n for at, n in counted.values() if at > now_ms - duration_ms)
            late = sum(n for at, n in counted.values() if at > now_ms - duration_ms - bucket_ms)
            assert exact <= used <= late, step
    for position in counted:
        commitments.cancel("a", position, now_ms)
    assert usage(decider, now_ms + bucket_ms).used_count == 0


@pytest.mark.parametrize("is_too_long", [False, True])
def test_a_walk_that_is_too_long_leaves_the_member_where_it_is(is_too_long: bool) -> None:
    """A contact is written to twice by one channel, and then by another as often as one undo reads
    events, or more often: where the cancelled one of the two leads back to is found or not."""
    day_ms = bounds.DAY_MS
    channel = attempt_pb2.DIMENSION_CHANNEL
    kind = Kind(b"kind", CONTACTS, (channel,), Window.rolling(day_ms), ())
    plan = Plan([Rule("policies/p", "limit", kind, 10, 1, ())], True)
    binding = Binding([(kind, 0)], [], [], lambda resource, campaign: plan)
    core = Core(bytes(32), lambda account: binding, lambda definition: kind)
    decider = Decider(core, lambda raw, zone: pytest.fail("no inline limits"), zones.zone)
    with_history(core)
    request = message("a")
    request.attempt.channel = "sms"
    send(decider, request, START_MS)
    position = position_of(send(decider, request, START_MS + 1_000))
    request.attempt.channel = "email"
    for _ in range(bounds.UNDO_WALK_EVENTS_MAX - (0 if is_too_long else 2)):
        send(decider, request, START_MS + 2_000)
    assert Commitments(core).cancel("a", position, START_MS + 3_000) is not None
    template = attempt_pb2.Attempt(account="a", channel="sms")
    asked = decision_service_pb2.GetUsageRequest(attempt=template).SerializeToString()
    reply = decider.get_usage(asked, START_MS + 3_000)
    status = decision_service_pb2.GetUsageResponse.FromString(reply).limit_statuses[0]
    left_ms = status.reset_time.ToMilliseconds()
    assert left_ms == START_MS + day_ms + (1_000 if is_too_long else 0)


def test_what_anybody_may_make_up_is_no_commit() -> None:
    core, decider = make_decider(MESSAGES, 10, Window.rolling(86_400_000))
    history = with_history(core)
    commitments = Commitments(core)
    position = position_of(send(decider, message("a"), START_MS))
    for _ in range(2):
        for wrong in (1, position + 1, position - 1, position + (1 << 24), 1 << 62, 2**64 - 1):
            assert commitments.cancel("a", wrong, START_MS) is None
            assert commitments.confirm("a", wrong, START_MS) is None
        assert commitments.cancel("b", position, START_MS) is None
        history.take()
    # The names before it are events as well, but no commits.
    assert commitments.cancel("a", 1 << 24, START_MS) is None
    assert commitments.cancel("a", position, START_MS + bounds.EVENT_AGE_MS_MAX) is None
    found = commitments.cancel("a", position, START_MS + bounds.EVENT_AGE_MS_MAX - 1)
    assert found is not None


def test_an_account_holds_only_so_many() -> None:
    core, decider = make_decider(MESSAGES, 1_000_000, Window.rolling(86_400_000))
    with_history(core)
    request = message("a")
    request.hold_duration.FromSeconds(60)
    for step in range(bounds.ACCOUNT_HOLDS_MAX):
        send(decider, request, START_MS + step % 2)
    with pytest.raises(errors.ResourceExhausted) as caught:
        send(decider, request, START_MS + 1)
    assert caught.value.reason == "TOO_MANY_HOLDS"
    assert usage(decider, START_MS + 1).used_count == bounds.ACCOUNT_HOLDS_MAX
    assert send(decider, message("a"), START_MS + 1).commit_id
    # All lapse; then there is room again.
    assert usage(decider, START_MS + 60_001).used_count == 1
    assert send(decider, request, START_MS + 60_001).commit_id
