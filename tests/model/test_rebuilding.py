"""Counters of new kinds that are filled step by step, while calls go on.

What is counted in the end must be what the oracle counts, however the steps and the calls fall;
what holds meanwhile are the limits of before.
"""

from __future__ import annotations

import random

import pytest

from limiter.v1 import attempt_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import CoreDriver, Fault
from tests.model.pair import Pair
from tests.model.strategies import assignment_of, check_of
from tests.model.test_examples import (
    CONTACT,
    CONTACTS,
    START_MS,
    assign_everywhere,
    cap,
    commit,
    outcome,
    policy,
    since_midnight,
)
from tests.model.verdicts import ALLOWED, DENIED
from tests.model.windows import DAY_MS, HOUR_MS, MINUTE_MS

MANY = 1_000_000


class SlowDriver(CoreDriver):
    """A core that reads nothing while a call waits, and fills no counter before it is told to."""

    def _start(self) -> None:
        super()._start()
        self._core.rebuild.limit_at_once(0)

    def _rebuild(self) -> None:
        pass

    def step(self, events: int = 1) -> bool:
        return self._core.rebuild.some(events)

    def is_rebuilding(self) -> bool:
        return self._core.rebuild.is_under_way("acme", AnyKind())


class AnyKind:
    def __contains__(self, definition: object) -> bool:
        return True


def slow_pair() -> tuple[Pair, SlowDriver]:
    driver = SlowDriver(START_MS)
    return Pair(driver, START_MS), driver


def pause(per: list[attempt_pb2.Dimension.ValueType], duration_ms: int) -> policy_pb2.Limit:
    limit = policy_pb2.Limit(
        limit_id="pause",
        pause=policy_pb2.Pause(after_count=1_440, per=per),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )
    limit.pause.duration.FromMilliseconds(duration_ms)
    return limit


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_between_the_steps_each_commit_counts_once(seed: int) -> None:
    chance = random.Random(seed)
    pair, driver = slow_pair()
    assign_everywhere(pair)
    ids: list[str] = []

    def happen() -> None:
        what = chance.randrange(10)
        contact = f"c{chance.randrange(6)}"
        request = commit(contact, agent=f"a{chance.randrange(2)}")
        request.attempt.address = f"+{chance.randrange(5)}"
        request.attempt.message_count = chance.randrange(1, 4)
        if what == 0 and ids:
            pair.cancel("acme", commit_id=chance.choice(ids))
            return
        if what == 1:
            request.mode = service_pb2.COMMIT_MODE_RECORD
            request.event_time.FromMilliseconds(pair.now_ms - chance.randrange(2 * HOUR_MS))
        elif what == 2:
            request.hold_duration.FromMilliseconds(chance.randrange(1, HOUR_MS))
        # Not compared, for the statuses are those of other limits meanwhile.
        answer = driver.commit(request)
        expected = pair.oracle.commit(request, pair.now_ms)
        assert answer.decision.outcome == expected.decision.outcome == ALLOWED
        assert answer.account_sequence == expected.account_sequence
        pair.commit_ids["acme", answer.account_sequence] = answer.commit_id
        ids.append(answer.commit_id)
        pair.advance(chance.choice([0, 1, MINUTE_MS, 20 * MINUTE_MS]))

    for _ in range(80):
        happen()
    limits = [
        cap("messages", MANY, 5 * HOUR_MS),
        cap("people", MANY, 4 * HOUR_MS, CONTACTS, [attempt_pb2.DIMENSION_AGENT]),
        cap("addresses", MANY, 9 * HOUR_MS, policy_pb2.MEASURE_ADDRESSES),
        cap("each", MANY, 6 * HOUR_MS, per=[CONTACT]),
        since_midnight("day", MANY, "Asia/Kathmandu"),
        pause([], 25 * MINUTE_MS),
        pause([CONTACT], 40 * MINUTE_MS),
    ]
    limits[-1].limit_id = "pause-each"
    first = chance.randrange(len(limits))
    assign_everywhere(pair, limits[first])
    steps = 0
    while driver.is_rebuilding() or steps < 3:
        if chance.random() < 0.4:
            happen()
        if steps == 5:
            assign_everywhere(pair, *limits)
        driver.step(chance.randrange(1, 6))
        steps += 1
    assign_everywhere(pair, *limits)
    while driver.step():
        pass
    assert not driver.is_rebuilding()
    for _ in range(5):
        pair.all_usage()
        happen()
    pair.restart()


def test_until_its_counter_is_filled_the_limit_that_a_new_one_replaces_binds() -> None:
    pair, driver = slow_pair()
    assign_everywhere(pair, cap("a-day", 3), cap("stays", 50))
    for contact in ("ana", "ben"):
        pair.commit(commit(contact))
    pair.advance(DAY_MS - HOUR_MS)
    driver.apply(
        [policy("only", since_midnight("a-day", 9, "UTC"), cap("stays", 40))],
        [assignment_of("everything", "policies/only")],
    )

    def told() -> dict[str, tuple[int, int]]:
        response = driver.check(check_of(commit("cleo")))
        return {
            each.limit_id: (each.used_count, each.max_count)
            for each in response.decision.limit_statuses
        }

    # A limit whose counter is there binds at once, in the place of the one of before.
    assert told() == {"a-day": (3, 3), "stays": (3, 40)}
    assert driver.is_rebuilding()
    assert driver.commit(commit("cleo")).decision.outcome == ALLOWED
    assert driver.commit(commit("dora")).decision.outcome == DENIED
    # Nobody else has anything to wait for.
    other = commit("dora")
    other.attempt.account = "other"
    assert {each.max_count for each in driver.commit(other).decision.limit_statuses} == {9, 40}
    while driver.step():
        pass
    assert not driver.is_rebuilding()
    assert told() == {"a-day": (2, 9), "stays": (4, 40)}
    driver.restart()
    assert told() == {"a-day": (2, 9), "stays": (4, 40)}


def test_a_restart_in_the_middle_finishes_what_was_under_way() -> None:
    pair, driver = slow_pair()
    assign_everywhere(pair, cap("old", 100))
    for number in range(20):
        pair.commit(commit(f"c{number}"))
    assign_everywhere(pair, cap("new", 20, measure=CONTACTS))
    driver.step(4)
    assert driver.is_rebuilding()
    pair.driver.restart()
    assert not driver.is_rebuilding()
    assert outcome(pair.commit(commit("dora"))) == DENIED
    pair.all_usage()


def test_many_changes_in_one_filling_end_in_the_last_one() -> None:
    pair, driver = slow_pair()
    assign_everywhere(pair, cap("first", 4))
    for _ in range(3):
        pair.commit(commit())
    for number in range(40):
        driver.apply(
            [policy("only", cap("next", 9, HOUR_MS + number))],
            [assignment_of("everything", "policies/only")],
        )
        found = driver.check(check_of(commit())).decision.limit_statuses
        assert [each.limit_id for each in found] == ["first"]
    while driver.step():
        pass
    found = driver.check(check_of(commit())).decision.limit_statuses
    assert [(each.limit_id, each.used_count) for each in found] == [("next", 4)]


def test_an_inline_limit_that_would_take_long_says_when_to_come_back() -> None:
    pair, driver = slow_pair()
    assign_everywhere(pair)
    for _ in range(3):
        pair.commit(commit())
    request = commit(inline=[cap("inline", 3)])
    with pytest.raises(Fault) as caught:
        driver.commit(request)
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "KIND_REBUILDING")
    assert driver.commit(commit()).decision.outcome == ALLOWED
    while driver.step():
        pass
    assert driver.commit(request).decision.outcome == DENIED
