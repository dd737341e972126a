"""Counters that grow: past what a message counter keeps exactly, and past the sparse form of a
distinct one, and back."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import CoreDriver
from tests.model.effort import examples
from tests.model.limits import EXACT_ENTRIES
from tests.model.pair import Pair
from tests.model.strategies import (
    Dice,
    calendar_window,
    check_batch_of,
    check_of,
    rolling_window,
    single,
    starts,
)
from tests.model.verdicts import DENIED
from tests.model.windows import DAY, DAY_MS, HOUR, HOUR_MS

MESSAGES = policy_pb2.MEASURE_MESSAGES
CONTACTS = policy_pb2.MEASURE_CONTACTS
ADDRESSES = policy_pb2.MEASURE_ADDRESSES

# Where a distinct counter changes its form.
SPARSE_MAX = 256


def cap(
    limit_id: str,
    measure: policy_pb2.Measure.ValueType,
    max_count: int,
    window: policy_pb2.Window,
    per: Sequence[attempt_pb2.Dimension.ValueType] = (),
) -> policy_pb2.Limit:
    return policy_pb2.Limit(
        limit_id=limit_id,
        cap=policy_pb2.Cap(measure=measure, max_count=max_count, per=per, window=window),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )


def commit(contact: str, message_count: int = 1) -> service_pb2.CommitRequest:
    """An attempt to a contact who has one address."""
    attempt = attempt_pb2.Attempt(
        account="acme", contact=contact, address=f"+{contact}", message_count=message_count
    )
    return service_pb2.CommitRequest(attempt=attempt)


def make_window(dice: Dice) -> policy_pb2.Window:
    return dice.pick(
        (
            rolling_window(DAY_MS),
            rolling_window(HOUR_MS),
            rolling_window(7_000),
            rolling_window(62 * DAY_MS - 1),
            calendar_window(DAY, "Europe/Berlin"),
            calendar_window(HOUR, "Australia/Lord_Howe", 25),
        )
    )


def look_around(
    pair: Pair, requests: Sequence[service_pb2.CommitRequest], dice: Dice, rounds: int
) -> None:
    """Asks now, and then wherever something leaves a window or almost does; sends now and then."""
    for _ in range(rounds):
        request = dice.pick(requests)
        response = pair.check(check_of(request))
        assert response is not None
        decision = response.decision
        if decision.outcome == DENIED and decision.HasField("retry_time") and dice.one_in(2):
            assert_promise(pair, check_of(request), decision.retry_time.ToMilliseconds())
        if dice.one_in(2):
            pair.commit(dice.pick(requests))
        if dice.one_in(4):
            pair.restart()
        changes = pair.changes_ahead()
        if changes and dice.below(4):
            edge = dice.pick(changes) + dice.pick((0, -1, 1))
            pair.advance_to(max(pair.now_ms, edge))
        else:
            pair.advance(dice.pick((1, 1_000, HOUR_MS)))


def assert_promise(pair: Pair, check: service_pb2.CheckRequest, retry_ms: int) -> None:
    """The service itself keeps to the retry_time that it gave."""
    assert isinstance(pair.driver, CoreDriver)
    copy = pair.driver.fork()
    copy.set_clock(retry_ms - 1)
    assert copy.check(check).decision.outcome == DENIED
    copy.set_clock(retry_ms)
    assert copy.check(check).decision.outcome == decision_pb2.OUTCOME_ALLOWED


@examples(6)
@given(starts(), st.data())
def test_message_caps_around_what_is_kept_exactly(start_ms: int, data: st.DataObject) -> None:
    """Up to 1,440 they are exact whatever the traffic, beyond that late by one bucket at most."""
    dice = Dice(data.draw)
    max_count = EXACT_ENTRIES + dice.pick((-1, 0, 1, 60, 700, 1_500))
    sent_count = max_count - dice.pick((0, 1, 3, 400))
    gap_ms = dice.pick((1, 3, 17, 997, 60_000))
    window = make_window(dice)
    pair = Pair(CoreDriver(start_ms), start_ms)
    large = cap("large", MESSAGES, max_count, window)
    # The same counter, read by a limit that is small and exceeded.
    goal = cap("goal", MESSAGES, 1_000, window)
    goal.enforcement = policy_pb2.ENFORCEMENT_GOAL
    world = single([large, goal])
    pair.apply(world.policies, world.assignments)
    pair.preload(
        (start_ms + number * gap_ms, commit(f"contact-{number % 7}"))
        for number in range(sent_count)
    )
    look_around(pair, [commit("ana"), commit("ana", 2), commit("ben", 5)], dice, 8)
    lowered = single([cap("small", MESSAGES, dice.pick((1_440, 1_000, 1)), window)])
    pair.apply(lowered.policies, lowered.assignments)
    look_around(pair, [commit("ana"), commit("ana", 2)], dice, 3)
    pair.driver.close()


def test_one_reading_allows_what_the_other_denies() -> None:
    """Just as the oldest message leaves, two more fit if it has left and do not if it lingers."""
    start_ms, window_ms, max_count = 504_901_799_999, 7_000, 1_500
    pair = Pair(CoreDriver(start_ms), start_ms)
    world = single([cap("large", MESSAGES, max_count, rolling_window(window_ms))])
    pair.apply(world.policies, world.assignments)
    pair.preload((start_ms + number, commit("ben")) for number in range(max_count - 1))
    pair.advance_to(start_ms + window_ms)
    assert pair.commit(commit("ana", 2)) is not None
    pair.driver.close()


def test_usage_between_the_readings_has_no_room_and_is_not_exceeded() -> None:
    """Read exactly five more would fit; read late there is too much already; the service is between
    the two."""
    start_ms, gap_ms, max_count = 504_901_799_990, 3, 1_500
    pair = Pair(CoreDriver(start_ms), start_ms)
    world = single([cap("large", MESSAGES, max_count, rolling_window(HOUR_MS))])
    pair.apply(world.policies, world.assignments)
    pair.preload((start_ms + number * gap_ms, commit("ana")) for number in range(max_count - 3))
    pair.advance_to(start_ms + HOUR_MS + 19)
    five = commit("ben", 5)
    assert pair.commit(five) is not None
    status = pair.get_usage(five.attempt).limit_statuses[0]
    assert (status.reason, status.exceeded) == (decision_pb2.REASON_MESSAGE_CAP, False)
    pair.driver.close()


@examples(10)
@given(starts(), st.data())
def test_distinct_caps_around_the_change_of_form(start_ms: int, data: st.DataObject) -> None:
    """Exact to the millisecond at every size: growing, repeating, and shrinking again."""
    dice = Dice(data.draw)
    measure = dice.pick((CONTACTS, ADDRESSES))
    window = make_window(dice)
    max_count = SPARSE_MAX + dice.pick((-200, -1, 0, 1, 44, 300))
    pair = Pair(CoreDriver(start_ms), start_ms)
    world = single([cap("people", measure, max_count, window)])
    pair.apply(world.policies, world.assignments)
    gap_ms = dice.pick((0, 1, 17, 997, 60_000))
    # Everybody once, some of them again later: they leave in another order than they came.
    again = dice.pick((0, 5, 100))
    people = list(range(max_count)) + [dice.below(max_count) for _ in range(again)]
    pair.preload(
        (start_ms + number * gap_ms, commit(f"contact-{person}"))
        for number, person in enumerate(people)
    )
    strangers = [commit(f"stranger-{number}") for number in range(6)]
    known = [commit(f"contact-{number}") for number in range(0, max_count, 40)]
    look_around(pair, strangers + known, dice, 12)
    pair.driver.close()


@examples(5)
@given(starts(), st.data())
def test_large_batches_around_both_changes(start_ms: int, data: st.DataObject) -> None:
    """Batches that cross from one form into the other, whole or in part, counted or taken back."""
    dice = Dice(data.draw)
    window = make_window(dice)
    pair = Pair(CoreDriver(start_ms), start_ms)
    world = single(
        [
            cap("people", CONTACTS, SPARSE_MAX + dice.pick((-1, 0, 1, 100)), window),
            cap("messages", MESSAGES, dice.pick((100, 300, 700)), window),
            cap("each", MESSAGES, 2, window, [attempt_pb2.DIMENSION_CONTACT]),
        ]
    )
    pair.apply(world.policies, world.assignments)
    for _ in range(3):
        first, count = dice.below(300), dice.pick((3, 60, 270))
        batch = service_pb2.CommitBatchRequest(
            attempt=attempt_pb2.Attempt(account="acme"),
            recipients=[
                service_pb2.Recipient(contact=f"contact-{number}", address=f"+{number}")
                for number in range(first, first + count)
            ],
            atomicity=dice.pick(service_pb2.Atomicity.values()),
        )
        if dice.one_in(2):
            pair.check_batch(check_batch_of(batch))
        pair.commit_batch(batch)
        if dice.one_in(3):
            pair.restart()
        look_around(pair, [commit("contact-1"), commit("stranger")], dice, 2)
    pair.driver.close()


@examples(10)
@given(starts(), st.data())
def test_distinct_caps_stay_exact_under_undos_and_records(
    start_ms: int, data: st.DataObject
) -> None:
    """Cancels in any order and records of the past, in a counter of either form."""
    dice = Dice(data.draw)
    window = make_window(dice)
    pair = Pair(CoreDriver(start_ms), start_ms)
    measure = dice.pick((CONTACTS, ADDRESSES))
    max_count = SPARSE_MAX + dice.pick((-200, 1, 100))
    world = single([cap("people", measure, max_count, window)])
    pair.apply(world.policies, world.assignments)
    gap_ms = dice.pick((0, 1, 997, 60_000))
    people = list(range(max_count)) + [dice.below(max_count) for _ in range(100)]
    pair.preload(
        (start_ms + number * gap_ms, commit(f"contact-{person}"))
        for number, person in enumerate(people)
    )
    ids = list(pair.commit_ids.values())
    for _ in range(40):
        way = dice.below(4)
        if way <= 1:
            pair.cancel("acme", commit_id=dice.pick(ids))
        elif way == 2:
            record = commit(f"contact-{dice.below(2 * max_count)}")
            record.mode = service_pb2.COMMIT_MODE_RECORD
            record.event_time.FromMilliseconds(
                max(0, pair.now_ms - dice.pick((1, 998, 50_000, HOUR_MS, DAY_MS)))
            )
            response = pair.commit(record)
            assert response is not None
            ids.append(response.commit_id)
        else:
            held = commit(f"contact-{dice.below(2 * max_count)}")
            held.hold_duration.FromMilliseconds(dice.pick((1, 1_000, 60_000)))
            pair.commit(held)
    look_around(pair, [commit("stranger"), commit("contact-1"), commit("contact-2")], dice, 6)
    pair.driver.close()
