"""Cases that random tests reach too seldom, each by hand; the oracle says what is right.

A `Pair` compares every reply, so most of them only have to go there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import CoreDriver
from tests.model.pair import Pair
from tests.model.strategies import assignment_of, check_batch_of, check_of, rolling_window
from tests.model.verdicts import ALLOWED, DENIED
from tests.model.windows import DAY_MS, HOUR_MS, MINUTE_MS, instant_of

START_MS = instant_of(2024, 5, 6, 12)
CONTACTS = policy_pb2.MEASURE_CONTACTS
MESSAGES = policy_pb2.MEASURE_MESSAGES
CONTACT = attempt_pb2.DIMENSION_CONTACT
CATEGORY = attempt_pb2.DIMENSION_CATEGORY
ALL_OR_NOTHING = service_pb2.ATOMICITY_ALL_OR_NOTHING


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(CoreDriver(START_MS), START_MS)
    yield pair
    pair.all_usage()
    pair.driver.close()


def cap(
    limit_id: str,
    max_count: int,
    duration_ms: int = DAY_MS,
    measure: policy_pb2.Measure.ValueType = MESSAGES,
    per: Sequence[attempt_pb2.Dimension.ValueType] = (),
) -> policy_pb2.Limit:
    return policy_pb2.Limit(
        limit_id=limit_id,
        cap=policy_pb2.Cap(
            measure=measure, max_count=max_count, per=per, window=rolling_window(duration_ms)
        ),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )


def policy(name: str, *limits: policy_pb2.Limit) -> policy_pb2.Policy:
    return policy_pb2.Policy(name=f"policies/{name}", limits=limits)


def assign_everywhere(pair: Pair, *limits: policy_pb2.Limit) -> None:
    only = policy("only", *limits)
    pair.apply([only], [assignment_of("everything", only.name)])


def commit(
    contact: str = "ana",
    request_id: str = "",
    inline: Sequence[policy_pb2.Limit] = (),
    **fields: str,
) -> service_pb2.CommitRequest:
    attempt = attempt_pb2.Attempt(account="acme", contact=contact)
    for name, value in fields.items():
        setattr(attempt, name, value)
    return service_pb2.CommitRequest(attempt=attempt, request_id=request_id, inline_limits=inline)


def batch(
    *contacts: str, request_id: str = "", whole: bool = False, message_count: int = 1
) -> service_pb2.CommitBatchRequest:
    return service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="acme", message_count=message_count),
        recipients=[service_pb2.Recipient(contact=contact) for contact in contacts],
        request_id=request_id,
        atomicity=ALL_OR_NOTHING if whole else service_pb2.ATOMICITY_PARTIAL,
        view=decision_pb2.VIEW_FULL,
    )


def outcome(response: service_pb2.CommitResponse | None) -> int:
    assert response is not None
    return response.decision.outcome


# --------------------------------------------------------------------------- restarts


def test_the_first_event_of_an_account_may_be_a_denial(pair: Pair) -> None:
    assign_everywhere(pair, cap("none", 0))
    assert outcome(pair.commit(commit(channel="sms", agent="kim"))) == DENIED
    assert outcome(pair.commit(commit(channel="email", team="north"))) == DENIED
    pair.restart()
    assert outcome(pair.commit(commit(channel="sms"))) == DENIED


def test_a_rejected_batch_may_bring_the_first_names(pair: Pair) -> None:
    assign_everywhere(pair, cap("one", 1))
    request = batch("ana", "ben", whole=True)
    request.attempt.channel, request.attempt.source = "sms", "queue"
    pair.commit_batch(request)
    pair.commit(commit(campaign="spring"))
    pair.restart()
    pair.commit_batch(request)


def inline_cap(number: int, duration_ms: int = HOUR_MS) -> policy_pb2.Limit:
    """One of many inline limits, each of its own kind."""
    return cap("inline", 50, duration_ms + number)


def test_a_commit_refused_for_lack_of_room_leaves_nothing_behind(pair: Pair) -> None:
    assign_everywhere(pair)
    for number in range(16):
        assert outcome(pair.commit(commit(inline=[inline_cap(number)]))) == ALLOWED
    refused = commit(inline=[inline_cap(16)], channel="sms", agent="kim")
    assert pair.commit(refused) is None
    assert outcome(pair.commit(commit(team="north", channel="sms"))) == ALLOWED
    pair.restart()
    assert pair.commit(refused) is None


def test_an_idle_inline_kind_makes_room_after_a_restart_as_before(pair: Pair) -> None:
    assign_everywhere(pair)
    for number in range(16):
        duration_ms = MINUTE_MS if number == 3 else HOUR_MS
        assert outcome(pair.commit(commit(inline=[inline_cap(number, duration_ms)]))) == ALLOWED
    pair.advance(2 * MINUTE_MS)
    # Counted by all sixteen kinds, but no use of any.
    assert outcome(pair.commit(commit())) == ALLOWED
    pair.restart()
    assert outcome(pair.commit(commit(inline=[inline_cap(16)]))) == ALLOWED


def test_a_kind_that_was_dropped_comes_back_whether_or_not_anybody_looked(pair: Pair) -> None:
    """Dropped and brought back while nothing was sent: a check in between makes no difference."""
    only, open_policy = policy("only", cap("few", 2, HOUR_MS)), policy("open")
    all_policies = [only, open_policy]
    limited = [assignment_of("everything", only.name)]
    unlimited = [assignment_of("everything", open_policy.name)]
    pair.apply(all_policies, limited)
    pair.apply(all_policies, unlimited)
    pair.advance(HOUR_MS - 1)
    pair.commit(commit())
    pair.advance(1)
    # One revision drops the kind, the next one brings it back.
    pair.apply([*all_policies, policy("other")], unlimited)
    pair.apply(all_policies, limited)
    pair.check(check_of(commit()))
    pair.restart()
    pair.check(check_of(commit()))


# --------------------------------------------------------------------------- request ids


def test_a_batch_is_refused_as_a_whole_when_its_id_is_half_forgotten(pair: Pair) -> None:
    """The head of a batch is a day old and forgotten, the id of one late recipient is not."""
    assign_everywhere(pair, cap("one", 1, HOUR_MS))
    request = batch("ana", "ben", request_id="batch")
    pair.commit_batch(request)
    pair.advance(HOUR_MS)
    pair.commit_batch(request)
    pair.advance(DAY_MS - HOUR_MS)
    other = batch("cleo", "dora", request_id="batch")
    assert pair.commit_batch(other) is None
    pair.advance(HOUR_MS)
    assert pair.commit_batch(other) is not None


def test_a_request_id_is_free_again_after_a_day(pair: Pair) -> None:
    assign_everywhere(pair, cap("many", 9))
    pair.commit(commit(request_id="id"))
    pair.advance(DAY_MS - 1)
    again = pair.commit(commit(request_id="id"))
    assert again is not None
    assert again.replayed
    assert pair.commit(commit("ben", request_id="id")) is None
    pair.advance(1)
    pair.restart()
    fresh = pair.commit(commit("ben", request_id="id"))
    assert fresh is not None
    assert not fresh.replayed


def test_a_repeat_is_answered_although_a_field_is_needed_by_now(pair: Pair) -> None:
    """What was allowed stays allowed; whoever sent it only wants to know."""
    assign_everywhere(pair, cap("few", 3))
    pair.commit(commit(request_id="id"))
    assign_everywhere(pair, cap("few", 3, per=[attempt_pb2.DIMENSION_AGENT]))
    again = pair.commit(commit(request_id="id"))
    assert again is not None
    assert again.replayed


def test_a_repeated_batch_is_answered_although_a_field_is_needed_by_now(pair: Pair) -> None:
    """Neither a repeat nor a duplicate is decided, so no field is asked of it."""
    assign_everywhere(pair, cap("few", 3))
    request = batch("ana", "ben", "ana", request_id="batch")
    request.exclude_duplicates = True
    pair.commit_batch(request)
    assign_everywhere(pair, cap("few", 3, measure=policy_pb2.MEASURE_ADDRESSES))
    again = pair.commit_batch(request)
    assert again is not None
    assert [result.replayed for result in again.results] == [True, True, False]


def test_an_id_that_is_reused_is_named_before_a_missing_field(pair: Pair) -> None:
    assign_everywhere(pair, cap("few", 3))
    pair.commit(commit(request_id="id", address="+1"))
    assign_everywhere(pair, cap("few", 3, measure=policy_pb2.MEASURE_ADDRESSES))
    request = batch("ana", "ana")
    request.recipients[1].request_id = "id"
    assert pair.commit_batch(request) is None


def test_a_repeat_shows_its_inline_limits_and_an_unlimited_policy_as_before(pair: Pair) -> None:
    assign_everywhere(pair)
    pair.commit(commit(request_id="id-1"))
    pair.commit(commit(request_id="id-1"))
    inline = [cap("inline", 2)]
    pair.commit(commit(request_id="id-2", inline=inline))
    pair.commit(commit(request_id="id-2", inline=inline))


def test_a_denial_is_not_remembered(pair: Pair) -> None:
    assign_everywhere(pair, cap("one", 1, HOUR_MS))
    pair.commit(commit("ana"))
    assert outcome(pair.commit(commit("ben", request_id="id"))) == DENIED
    pair.advance(HOUR_MS)
    assert outcome(pair.commit(commit("cleo", request_id="id"))) == ALLOWED


# --------------------------------------------------------------------------- batches


def test_a_rejected_batch_shows_empty_counters_as_empty(pair: Pair) -> None:
    assign_everywhere(pair, cap("each", 1, HOUR_MS, per=[CONTACT]), cap("three", 3))
    pair.commit_batch(batch("ana", "ben", "ana", whole=True))
    pair.advance(2 * HOUR_MS)
    pair.commit_batch(batch("ana", "ben", "cleo", "dora", whole=True))


def test_a_rejected_batch_of_many_new_keys(pair: Pair) -> None:
    """So many that tables of counters grow while the batch is tried."""
    assign_everywhere(pair, cap("each", 2, HOUR_MS, per=[CONTACT]), cap("hundred", 100))
    contacts = [f"contact-{number}" for number in range(101)]
    pair.commit_batch(batch(*contacts, whole=True))
    pair.check_batch(check_batch_of(batch(*contacts, whole=True)))
    pair.commit_batch(batch(*contacts[:100], whole=True))


def test_a_whole_batch_passes_when_a_limit_has_room_that_does_not_count_it(pair: Pair) -> None:
    """Manual messages wait for the queue's, but the counter counts only the queue's."""
    limit = cap("queue", 1, HOUR_MS)
    limit.applies_to.SetInParent()
    limit.counts.conditions.add(dimension=attempt_pb2.DIMENSION_SOURCE, values=["queue"])
    assign_everywhere(pair, limit)
    pair.commit(commit(source="queue"))
    pair.advance(MINUTE_MS)
    request = batch("ana", "ben", whole=True)
    request.attempt.source = "manual"
    pair.commit_batch(request)
    pair.advance(59 * MINUTE_MS)
    pair.commit_batch(request)


def test_a_whole_batch_to_known_contacts_passes_over_a_lowered_maximum(pair: Pair) -> None:
    """Those inside go free although more are inside than may be; what denies is another limit."""
    people = cap("people", 3, DAY_MS, CONTACTS)
    assign_everywhere(pair, people, cap("messages", 3, HOUR_MS))
    pair.commit_batch(batch("ana", "ben", "cleo"))
    people.cap.max_count = 1
    assign_everywhere(pair, people, cap("messages", 3, HOUR_MS))
    pair.advance(MINUTE_MS)
    pair.commit_batch(batch("ana", "ben", whole=True))


def test_a_whole_batch_that_no_limit_could_ever_hold(pair: Pair) -> None:
    assign_everywhere(pair, cap("two", 2, HOUR_MS))
    pair.commit_batch(batch("ana", "ben", "cleo", whole=True))
    pair.commit_batch(batch("ana", "ben", whole=True, message_count=2))


# --------------------------------------------------------------------------- limits


def test_someone_inside_passes_until_he_leaves_and_must_wait_then(pair: Pair) -> None:
    """The earliest instant at which all pass is not the latest of those at which each does."""
    people = cap("people", 3, HOUR_MS, CONTACTS)
    assign_everywhere(pair, people)
    for contact in ("ana", "ben", "cleo"):
        pair.commit(commit(contact))
        pair.advance(10 * MINUTE_MS)
    people.cap.max_count = 1
    assign_everywhere(pair, people, cap("messages", 0))
    pair.commit(commit("ana"))
    for count, minutes in ((1, 5), (2, 45), (3, 65), (3, 90)):
        messages = cap("messages", count, minutes * MINUTE_MS)
        assign_everywhere(pair, people, messages)
        pair.commit(commit("ana"))
        pair.commit(commit("dora"))


def test_a_narrower_assignment_of_the_widest_policy_replaces_the_one_between(pair: Pair) -> None:
    wide, strict = policy("wide", cap("wide", 5)), policy("strict", cap("strict", 1))
    pair.apply(
        [wide, strict],
        [
            assignment_of("everything", wide.name),
            assignment_of("acme", strict.name),
            assignment_of("shop", wide.name),
        ],
    )
    response = pair.check(check_of(commit(resource="shop")))
    assert response is not None
    assert [status.policy for status in response.decision.limit_statuses] == [wide.name]


def test_an_unlimited_policy_lifts_a_wider_one_and_still_counts(pair: Pair) -> None:
    strict, open_policy = policy("strict", cap("strict", 2)), policy("open")
    pair.apply(
        [strict, open_policy],
        [
            assignment_of("acme", strict.name),
            assignment_of("spring", open_policy.name),
        ],
    )
    for _ in range(3):
        assert outcome(pair.commit(commit(campaign="spring"))) == ALLOWED
    assert outcome(pair.commit(commit())) == DENIED


def test_leaving_a_field_out_never_gets_around_a_limit(pair: Pair) -> None:
    limit = cap("marketing", 1)
    limit.applies_to.conditions.add(dimension=CATEGORY, values=["marketing"])
    assign_everywhere(pair, limit)
    assert outcome(pair.commit(commit(category="marketing"))) == ALLOWED
    assert outcome(pair.commit(commit(category="marketing"))) == DENIED
    assert outcome(pair.commit(commit(category="transactional"))) == ALLOWED
    assert pair.commit(commit()) is None
    limit.enforcement = policy_pb2.ENFORCEMENT_GOAL
    assign_everywhere(pair, limit)
    assert outcome(pair.commit(commit())) == ALLOWED


def test_transactional_messages_pass_and_do_not_count(pair: Pair) -> None:
    limit = cap("two", 2, per=[CONTACT])
    limit.applies_to.conditions.add(dimension=CATEGORY, values=["transactional"], negate=True)
    assign_everywhere(pair, limit)
    for category in ("transactional", "marketing", "transactional", "other"):
        assert outcome(pair.commit(commit(category=category))) == ALLOWED
    assert outcome(pair.commit(commit(category="marketing"))) == DENIED
    assert outcome(pair.commit(commit(category="transactional"))) == ALLOWED


def test_the_queue_stops_and_manual_messages_count(pair: Pair) -> None:
    limit = cap("queue", 2)
    limit.applies_to.conditions.add(dimension=attempt_pb2.DIMENSION_SOURCE, values=["queue"])
    limit.counts.SetInParent()
    assign_everywhere(pair, limit)
    for source in ("manual", "manual", "manual"):
        assert outcome(pair.commit(commit(source=source))) == ALLOWED
    assert outcome(pair.commit(commit(source="queue"))) == DENIED


def test_a_window_of_one_millisecond(pair: Pair) -> None:
    assign_everywhere(pair, cap("one", 1, 1))
    assert outcome(pair.commit(commit())) == ALLOWED
    assert outcome(pair.commit(commit())) == DENIED
    pair.advance(1)
    assert outcome(pair.commit(commit())) == ALLOWED


# --------------------------------------------------------------------------- kinds that are new


def since_midnight(limit_id: str, max_count: int, zone: str) -> policy_pb2.Limit:
    limit = cap(limit_id, max_count)
    limit.cap.window.CopyFrom(
        policy_pb2.Window(
            calendar=policy_pb2.Calendar(unit=policy_pb2.CALENDAR_UNIT_DAY, time_zone=zone, count=1)
        )
    )
    return limit


def test_a_day_may_turn_from_rolling_to_since_midnight_and_back_at_every_instant(
    pair: Pair,
) -> None:
    days = [
        cap("a-day", 6),
        since_midnight("a-day", 6, "Europe/Berlin"),
        cap("a-day", 6, measure=CONTACTS),
        since_midnight("a-day", 6, "America/New_York"),
    ]
    found = []
    for hour in range(60):
        assign_everywhere(pair, days[hour % 4 if hour > 20 else 0])
        answer = pair.commit(commit("ana" if hour % 3 else f"c{hour}"))
        found.append(outcome(answer))
        pair.advance(HOUR_MS)
        if hour % 7 == 0:
            pair.restart()
    assert {ALLOWED, DENIED} <= set(found[24:])


def test_an_inline_limit_counts_what_went_before_it_was_first_given(pair: Pair) -> None:
    assign_everywhere(pair)
    for contact in ("ana", "ben", "cleo"):
        pair.commit(commit(contact, campaign="spring"))
    limit = cap("campaign-a-day", 4, per=[attempt_pb2.DIMENSION_CAMPAIGN])
    pair.check(check_of(commit("dora", campaign="spring", inline=[limit])))
    assert outcome(pair.commit(commit("dora", campaign="spring", inline=[limit]))) == ALLOWED
    for _ in range(3):
        assert outcome(pair.commit(commit("eve", campaign="spring", inline=[limit]))) == DENIED
    other = cap("hour", 2, HOUR_MS)
    assert outcome(pair.commit(commit("eve", campaign="fall", inline=[other]))) == DENIED
    pair.restart()
    assert outcome(pair.commit(commit("eve", campaign="fall", inline=[other]))) == DENIED
    assert outcome(pair.commit(commit("eve", campaign="fall", inline=[limit]))) == ALLOWED


def test_what_is_lent_to_many_inline_limits_in_turn_is_right_each_time(pair: Pair) -> None:
    """More different ones than are kept at once, none of which ever lets anything go."""
    assign_everywhere(pair)
    first = pair.commit(commit("ana"))
    pair.commit(commit("ben"))
    assert first is not None
    for number in range(40):
        limit = cap("inline", 1, HOUR_MS + number)
        assert outcome(pair.commit(commit("cleo", inline=[limit]))) == DENIED
        if number == 20:
            pair.cancel("acme", commit_id=first.commit_id)
    pair.restart()
    assert outcome(pair.commit(commit("cleo", inline=[cap("inline", 2)]))) == ALLOWED


def test_a_new_pause_finds_a_run_that_is_longer_than_it_lasts(pair: Pair) -> None:
    assign_everywhere(pair)
    for _ in range(30):
        pair.commit(commit("ana"))
        pair.advance(10 * MINUTE_MS)
    pause = policy_pb2.Limit(
        limit_id="break",
        pause=policy_pb2.Pause(after_count=25, per=[CONTACT]),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )
    pause.pause.duration.FromMilliseconds(11 * MINUTE_MS)
    assign_everywhere(pair, pause)
    assert outcome(pair.commit(commit("ana"))) == DENIED
    assert outcome(pair.commit(commit("ben"))) == ALLOWED


def test_a_new_pause_knows_what_went_at_one_instant(pair: Pair) -> None:
    """Of it a hold lapses, and the rest stays."""
    pair.commit(commit("ana"))
    held = commit("ana")
    held.attempt.message_count = 7
    held.hold_duration.FromMilliseconds(999)
    pair.commit(held)
    inline = policy_pb2.Limit(
        limit_id="break",
        pause=policy_pb2.Pause(after_count=5),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )
    inline.pause.duration.FromMilliseconds(MINUTE_MS)
    request = commit("ben", inline=[inline])
    assert outcome(pair.commit(request)) == DENIED
    pair.advance(999)
    assert outcome(pair.commit(request)) == ALLOWED


def test_a_new_kind_leaves_out_what_was_undone_and_takes_in_what_was_recorded(pair: Pair) -> None:
    assign_everywhere(pair)
    answers = [pair.commit(commit(contact)) for contact in ("ana", "ben", "ana", "cleo")]
    late = commit("dora")
    late.mode = service_pb2.COMMIT_MODE_RECORD
    late.event_time.FromMilliseconds(pair.now_ms - 3 * HOUR_MS)
    pair.commit(late)
    held = commit("eve")
    held.hold_duration.FromMilliseconds(MINUTE_MS)
    pair.commit(held)
    assert answers[2] is not None
    pair.cancel("acme", commit_id=answers[2].commit_id)
    assign_everywhere(pair, cap("people", 5, measure=CONTACTS), cap("all", 5))
    pair.all_usage()
    assert answers[0] is not None
    # Undone after it was counted from the past.
    pair.cancel("acme", commit_id=answers[0].commit_id)
    pair.all_usage()
    pair.advance(MINUTE_MS)
    pair.restart()
    pair.all_usage()


def test_a_hold_that_lapses_takes_nobody_whom_the_batch_has_just_counted(pair: Pair) -> None:
    inline = cap("inline", 2, 14 * DAY_MS, CONTACTS)
    held = commit("ben")
    held.hold_duration.FromMilliseconds(1)
    pair.commit(held)
    pair.commit(commit("cleo"))
    batch = service_pb2.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account="acme"), inline_limits=[inline]
    )
    for contact in ("ben", "ana"):
        batch.recipients.add(contact=contact)
    # Without the batch ben would leave with his hold; with it he stays for two weeks.
    pair.check_batch(check_batch_of(batch))
    pair.commit_batch(batch)
