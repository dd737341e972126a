"""Plans as the oracle makes them, one try after the other, and what must hold for the real ones.

At each instant the first in order that passes goes, and counts for all others; where nobody passes,
time moves on to the earliest instant at which anybody would. Nothing is remembered from one try to
the next, so that it can be believed.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from limiter.v1 import attempt_pb2, decision_pb2, plan_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.accounts import Later, Refused
from tests.model.driver import Driver, Fault
from tests.model.limits import (
    ADDRESS,
    CONTACT,
    ENFORCED,
    RETRY_REACH_MS,
    Standing,
    first_passing,
    set_time,
)
from tests.model.oracle import Oracle, require_contacts, tentative
from tests.model.pair import Pair, assert_same
from tests.model.properties import Story
from tests.model.strategies import VALUES, Dice
from tests.model.verdicts import ALLOWED, OPTED_OUT, Attempt, attempt_of, decide
from tests.model.windows import DAY_MS, HOUR_MS, MINUTE_MS


class NaivePlan:
    """One plan in the making, at the instant `at_ms`."""

    def __init__(self, oracle: Oracle, request: plan_pb2.PlanRequest, now_ms: int) -> None:
        self.oracle = oracle
        self.begin_ms = self.at_ms = now_ms
        self.spread_ms = request.spread_duration.ToMilliseconds()
        self.attempts = [whole(request.attempt, each) for each in request.recipients]
        require_contacts(self.attempts)
        self.assigned, self.limits = oracle._limits(self.attempts[0], request.inline_limits)
        self.no_policy = not self.assigned and not request.inline_limits
        self.later = Later()
        self.send_ms: list[int | None] = [None] * len(self.attempts)
        for number in range(len(self.attempts)):
            self.standings(number, now_ms)

    def standings(self, number: int, at_ms: int) -> list[Standing]:
        attempt, limits = self.attempts[number], self.limits
        return self.oracle.standings(attempt, limits, at_ms, self.later)

    def enforced(self, number: int) -> list[Standing]:
        return [
            each
            for each in self.standings(number, self.at_ms)
            if each.limit.enforcement == ENFORCED
        ]

    def floor_ms(self, number: int) -> int:
        """The n-th of N goes no earlier than n - 1 N-ths of the spread from now."""
        return self.begin_ms - (-self.spread_ms * number // len(self.attempts))

    def passing_ms(self, number: int) -> int | None:
        """When this one would pass, if nobody else went."""
        if self.oracle.has_opted_out(self.attempts[number]):
            return None
        from_ms = max(self.at_ms, self.floor_ms(number))
        passing = first_passing(self.enforced(number), from_ms, late=False)
        if passing is None or passing > self.begin_ms + RETRY_REACH_MS:
            return None
        return passing

    def make(self) -> None:
        left = list(range(len(self.attempts)))
        while left:
            ready = {number: self.passing_ms(number) for number in left}
            passing = [at_ms for at_ms in ready.values() if at_ms is not None]
            if not passing:
                return
            self.at_ms = min(passing)
            number = next(number for number in left if ready[number] == self.at_ms)
            self.send(number)
            left.remove(number)

    def send(self, number: int) -> None:
        self.send_ms[number] = self.at_ms
        self.later.messages.append(tentative(self.attempts[number], self.at_ms))

    def reason(self, number: int) -> decision_pb2.Reason.ValueType:
        """That of a check: of one that is planned then, else at the end of all that is planned."""
        if self.send_ms[number] is not None:
            if self.no_policy:
                return decision_pb2.REASON_NO_POLICY
            return decision_pb2.REASON_WITHIN_LIMITS
        if self.oracle.has_opted_out(self.attempts[number]):
            return OPTED_OUT
        end_ms = self.begin_ms + RETRY_REACH_MS
        decision = decide(self.standings(number, end_ms), end_ms, self.no_policy, late=False)
        assert decision.outcome != ALLOWED
        return decision.reason


def whole(template: attempt_pb2.Attempt, recipient: plan_pb2.PlanRecipient) -> Attempt:
    return attempt_of(
        template,
        service_pb2.Recipient(
            contact=recipient.contact,
            address=recipient.address,
            contact_time_zone=recipient.contact_time_zone,
        ),
    )


def naive_plan(oracle: Oracle, request: plan_pb2.PlanRequest, now_ms: int) -> plan_pb2.PlanResponse:
    """What the service ought to reply. Raises Refused."""
    plan = NaivePlan(oracle, request, now_ms)
    plan.make()
    response = plan_pb2.PlanResponse()
    for number, recipient in enumerate(request.recipients):
        result = response.results.add(reference=recipient.reference, reason=plan.reason(number))
        set_time(result.send_time, plan.send_ms[number])
    set_time(response.plan_time, now_ms)
    return response


# --------------------------------------------------------------------------- requests


@st.composite
def plan_requests(draw: st.DrawFn) -> plan_pb2.PlanRequest:
    """A plan with some recipients twice, all with an address or mostly without."""
    dice = Dice(draw)
    attempt = strategies.make_attempt(dice, whole=not dice.one_in(8))
    attempt.contact = attempt.address = attempt.contact_time_zone = ""
    pool = draw(strategies.pools())
    choices = [strategies.make_limit(dice, f"inline-{number}", pool) for number in range(2)]
    request = plan_pb2.PlanRequest(
        attempt=attempt, inline_limits=strategies.pick_inline(dice, choices)
    )
    if dice.one_in(4):
        request.spread_duration.FromMilliseconds(
            dice.pick((1, 7, 1_000, MINUTE_MS, HOUR_MS, DAY_MS, 30 * DAY_MS, 400 * DAY_MS))
        )
    strangers = tuple(f"stranger-{number}" for number in range(4))
    contacts = VALUES[CONTACT] if dice.one_in(2) else (*VALUES[CONTACT], *strangers)
    addresses = VALUES[ADDRESS] if dice.below(8) else ("", *VALUES[ADDRESS])
    for number in range(1 + dice.below(10)):
        request.recipients.add(
            contact=dice.pick(contacts),
            address=dice.pick(addresses),
            reference=f"row-{number}",
            contact_time_zone=strategies.pick_contact_zone(dice),
        )
    return request


@st.composite
def pasts(draw: st.DrawFn, story_of: st.SearchStrategy[Story]) -> Story:
    """A story some of whose commits are held, or recorded late."""
    story = draw(story_of)
    dice = Dice(draw)
    now_ms = story.start_ms
    for step in story.steps:
        now_ms += step.wait_ms
        if dice.one_in(3):
            strategies.set_terms(dice, step.request, now_ms)
    return story


# --------------------------------------------------------------------------- what must hold


def outcome(
    make: Callable[[], plan_pb2.PlanResponse],
) -> plan_pb2.PlanResponse | Refused | Fault:
    try:
        return make()
    except (Refused, Fault) as refused:
        return refused


def a_plan_is_the_naive_one(
    pair: Pair, request: plan_pb2.PlanRequest
) -> plan_pb2.PlanResponse | None:
    """No recipient could have gone earlier, those before him given; returns the plan, None when it
    is refused as it should be."""
    actual = outcome(lambda: pair.driver.plan(request))
    expected = outcome(lambda: naive_plan(pair.oracle, request, pair.now_ms))
    if isinstance(expected, Refused):
        assert isinstance(actual, Fault), f"{request}\nonly the oracle refuses: {expected}"
        assert (actual.code, actual.reason) == (expected.code, expected.reason)
        return None
    assert not isinstance(actual, Fault | Refused), f"{request}\n{actual}"
    assert not isinstance(expected, Fault)
    assert_same(actual, expected, request)
    return actual


def a_plan_can_be_sent_as_it_is(
    driver: Driver, request: plan_pb2.PlanRequest, plan: plan_pb2.PlanResponse
) -> None:
    """Committed at the planned instants everybody is allowed; one who has none is denied at the
    end."""
    planned = sorted(
        (result.send_time.ToMilliseconds(), number)
        for number, result in enumerate(plan.results)
        if result.HasField("send_time")
    )
    for at_ms, number in planned:
        driver.set_clock(at_ms)
        response = driver.commit(commit_of(request, number))
        assert response.decision.outcome == ALLOWED, f"{request.recipients[number]}\n{response}"
        assert response.decision.reason == plan.results[number].reason
    driver.set_clock(plan.plan_time.ToMilliseconds() + RETRY_REACH_MS)
    for number, result in enumerate(plan.results):
        if not result.HasField("send_time"):
            commit = commit_of(request, number)
            decision = driver.check(strategies.check_of(commit)).decision
            assert decision.outcome != ALLOWED
            assert decision.reason == result.reason


def commit_of(request: plan_pb2.PlanRequest, number: int) -> service_pb2.CommitRequest:
    """The commit that a plan has planned for one recipient."""
    attempt = attempt_pb2.Attempt()
    attempt.CopyFrom(request.attempt)
    recipient = request.recipients[number]
    attempt.contact, attempt.address = recipient.contact, recipient.address
    attempt.contact_time_zone = recipient.contact_time_zone
    return service_pb2.CommitRequest(attempt=attempt, inline_limits=request.inline_limits)


def a_plan_changes_nothing(pair: Pair, request: plan_pb2.PlanRequest) -> None:
    before = pair.all_usage()
    outcome(lambda: pair.driver.plan(request))
    assert pair.all_usage() == before
