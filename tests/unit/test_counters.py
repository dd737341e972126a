"""The counters at sizes where their large forms are at work, against plain dictionaries and lists.

The oracle of tests/model covers every rule on small traffic; here one rule is driven far: distinct
sets that grow past the sparse form and shrink back, ring buckets that are swept, tentative batches
that are taken back, message rings that spill into sums.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from limiter import bounds, zones
from limiter._calendar import Window, Zone
from limiter._core import Core
from limiter._hot import Decider
from limiter._kinds import Binding, Kind, Plan, Rule
from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2

START_MS = 1_700_000_000_000
MESSAGES, CONTACTS = 1, 2
ENFORCED = 1


def make_decider(measure: int, max_count: int, window: Window) -> tuple[Core, Decider]:
    """A core with one limit for every account."""
    kind = Kind(b"kind", measure, (), window, ())
    plan = Plan([Rule("policies/p", "limit", kind, max_count, ENFORCED, ())], True)
    binding = Binding([(kind, 0)], [], [], lambda resource, campaign: plan)
    core = Core(bytes(32), lambda account: binding, lambda definition: kind)
    return core, Decider(core, lambda raw, zone: pytest.fail("no inline limits here"), zones.zone)


def commit(
    decider: Decider, contact: str, now_ms: int, message_count: int = 1
) -> decision_pb2.Decision:
    attempt = attempt_pb2.Attempt(account="a", contact=contact, message_count=message_count)
    request = decision_service_pb2.CommitRequest(attempt=attempt)
    reply, _ = decider.commit(request.SerializeToString(), now_ms)
    return decision_service_pb2.CommitResponse.FromString(reply).decision


def usage(decider: Decider, now_ms: int) -> decision_pb2.LimitStatus:
    request = decision_service_pb2.GetUsageRequest(attempt=attempt_pb2.Attempt(account="a"))
    reply = decider.get_usage(request.SerializeToString(), now_ms)
    return decision_service_pb2.GetUsageResponse.FromString(reply).limit_statuses[0]


@dataclass
class NaivePeople:
    """Who was last written to when, and who is inside a rolling window."""

    duration_ms: int
    latest_ms: dict[str, int] = field(default_factory=dict)

    def inside(self, now_ms: int) -> dict[str, int]:
        return {
            contact: at_ms
            for contact, at_ms in self.latest_ms.items()
            if at_ms > now_ms - self.duration_ms
        }


@pytest.mark.parametrize("seed", range(4))
def test_distinct_sets_of_every_size_agree_with_a_dictionary(seed: int) -> None:
    chance = random.Random(seed)
    duration_ms = chance.choice([1_000, 60_000, 86_400_000])
    max_count = chance.choice([300, 700, 1_500])
    naive = NaivePeople(duration_ms)
    core, decider = make_decider(CONTACTS, max_count, Window.rolling(duration_ms))
    now_ms = START_MS
    # Phases of different haste let the set grow past the sparse form and shrink back.
    for _phase in range(6):
        step_ms = chance.choice(
            [0, 1, duration_ms // 5_000 + 1, duration_ms // 200, duration_ms // 20]
        )
        people = chance.choice([50, 400, 3_000])
        for number in range(500):
            now_ms += chance.randint(0, step_ms)
            contact = f"c{chance.randrange(people)}"
            before = naive.inside(now_ms)
            fits = contact in before or len(before) < max_count
            decision = commit(decider, contact, now_ms)
            assert (decision.outcome == decision_pb2.OUTCOME_ALLOWED) == fits
            if fits:
                naive.latest_ms[contact] = now_ms
            else:
                exit_ms = sorted(before.values())[len(before) - max_count] + duration_ms
                assert decision.retry_time.ToMilliseconds() == exit_ms
            if number % 5:
                continue
            inside = naive.inside(now_ms)
            status = decision.limit_statuses[0]
            assert status.used_count == len(inside)
            assert status.reset_time.ToMilliseconds() == min(inside.values()) + duration_ms
        check_batch_leaves_no_trace(decider, chance, now_ms)
        now_ms += chance.choice([0, duration_ms // 2, duration_ms])
        inside = naive.inside(now_ms)
        status = usage(decider, now_ms)
        assert status.used_count == len(inside)
        if inside:
            assert status.reset_time.ToMilliseconds() == min(inside.values()) + duration_ms
    core.take_group()


def check_batch_leaves_no_trace(decider: Decider, chance: random.Random, now_ms: int) -> None:
    """Many CheckBatches, old and new people mixed; the usage is the same before and after."""
    before = usage(decider, now_ms)
    for _ in range(20):
        request = decision_service_pb2.CheckBatchRequest(
            attempt=attempt_pb2.Attempt(account="a"),
            recipients=[
                decision_service_pb2.Recipient(contact=f"c{chance.randrange(4_000)}")
                for _ in range(chance.choice([1, 10, 300]))
            ],
            atomicity=chance.choice(
                [
                    decision_service_pb2.ATOMICITY_PARTIAL,
                    decision_service_pb2.ATOMICITY_ALL_OR_NOTHING,
                ]
            ),
        )
        decider.check_batch(request.SerializeToString(), now_ms)
    assert usage(decider, now_ms) == before


@pytest.mark.parametrize("seed", range(4))
def test_message_rings_agree_with_a_list_within_one_bucket(seed: int) -> None:
    chance = random.Random(seed)
    duration_ms = chance.choice([5_000, 3_600_000])
    max_count = chance.choice([100, bounds.EXACT_INSTANTS, 4_000])
    bucket_ms = -(-duration_ms // bounds.EXACT_INSTANTS)
    _, decider = make_decider(MESSAGES, max_count, Window.rolling(duration_ms))
    # What is inside, and what has left at most one bucket ago: oldest first, with its sum.
    inside: deque[tuple[int, int]] = deque()
    leaving: deque[tuple[int, int]] = deque()
    used = late = 0
    now_ms = START_MS
    for _ in range(5_000):
        now_ms += chance.randint(0, 2 * duration_ms // 3_000)
        count = chance.choice([1, 1, 1, 3])
        while inside and inside[0][0] <= now_ms - duration_ms:
            used -= inside[0][1]
            late += inside[0][1]
            leaving.append(inside.popleft())
        while leaving and leaving[0][0] <= now_ms - duration_ms - bucket_ms:
            late -= leaving.popleft()[1]
        allowed = commit(decider, "c", now_ms, count).outcome == decision_pb2.OUTCOME_ALLOWED
        if max_count <= bounds.EXACT_INSTANTS:
            assert allowed == (used + count <= max_count)
        elif allowed:
            assert used + count <= max_count
        else:
            assert used + late + count > max_count
        if allowed:
            inside.append((now_ms, count))
            used += count


def test_a_denied_flood_finds_its_retry_time_from_the_edge() -> None:
    duration_ms = 86_400_000
    _, decider = make_decider(CONTACTS, 1_000, Window.rolling(duration_ms))
    for number in range(1_000):
        commit(decider, f"c{number}", START_MS + number)
    for number in range(2_000):
        decision = commit(decider, f"new{number}", START_MS + 5_000 + number)
        assert decision.retry_time.ToMilliseconds() == START_MS + duration_ms
    # To the millisecond: the first member leaves, and exactly one new one fits.
    assert commit(decider, "x", START_MS + duration_ms - 1).outcome == decision_pb2.OUTCOME_DENIED
    assert commit(decider, "x", START_MS + duration_ms).outcome == decision_pb2.OUTCOME_ALLOWED
    assert commit(decider, "y", START_MS + duration_ms).outcome == decision_pb2.OUTCOME_DENIED


def test_a_day_of_calendar_people_leaves_as_a_whole() -> None:
    zone_window = Window.calendar(2, utc(), 2)
    _, decider = make_decider(CONTACTS, 600, zone_window)
    day_ms = 86_400_000
    midnight_ms = START_MS - START_MS % day_ms
    for number in range(400):
        commit(decider, f"c{number}", midnight_ms + number)
    for number in range(200):
        commit(decider, f"d{number}", midnight_ms + day_ms + number)
    denied = commit(decider, "x", midnight_ms + day_ms + 500)
    assert denied.outcome == decision_pb2.OUTCOME_DENIED
    assert denied.retry_time.ToMilliseconds() == midnight_ms + 2 * day_ms
    assert usage(decider, midnight_ms + 2 * day_ms).used_count == 200
    assert usage(decider, midnight_ms + 3 * day_ms).used_count == 0


def utc() -> Zone:

    return Zone("UTC", [], [0])
