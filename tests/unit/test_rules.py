"""Each rule in a story of its own, on the core by itself; tests/model has them all at random."""

from __future__ import annotations

from google.protobuf import text_format

from limiter.v1 import attempt_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import CoreDriver
from tests.model.strategies import single
from tests.model.windows import instant_of

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED

# A Monday.
NOON_MS = instant_of(2025, 3, 3, 12)

DAY_CAP = """cap {
  measure: MEASURE_MESSAGES
  max_count: 1
  window { rolling { seconds: 86400 } }
}"""


def limit(rule: str, limit_id: str = "rule", enforcement: str = "ENFORCED") -> policy_pb2.Limit:
    """A limit with this rule, in protobuf's text format."""
    text = f'limit_id: "{limit_id}" enforcement: ENFORCEMENT_{enforcement} {rule}'
    return text_format.Parse(text, policy_pb2.Limit())


class Story:
    """One service under these limits for everything, and an account that sends."""

    def __init__(self, *limits: policy_pb2.Limit, now_ms: int = NOON_MS) -> None:
        self.driver = CoreDriver(now_ms)
        world = single(limits)
        self.driver.apply(world.policies, world.assignments)

    def commit(self, at_ms: int | None = None, **fields: object) -> decision_pb2.Decision:
        """What is decided about an attempt to ana, at `at_ms` if that is given."""
        if at_ms is not None:
            self.driver.set_clock(at_ms)
        attempt = attempt_pb2.Attempt(account="acme", contact="ana")
        attempt.MergeFrom(attempt_pb2.Attempt(**fields))  # type: ignore[arg-type]
        return self.driver.commit(service_pb2.CommitRequest(attempt=attempt)).decision


# --- SHADOW ---------------------------------------------------------------------------------------


def test_a_shadow_limit_never_denies_and_shows_what_it_would_have_denied() -> None:
    story = Story(limit(DAY_CAP, enforcement="SHADOW"))
    assert not story.commit().limit_statuses[0].exceeded
    second = story.commit()
    assert second.outcome == ALLOWED
    (status,) = second.limit_statuses
    assert status.exceeded
    assert status.reason == decision_pb2.REASON_MESSAGE_CAP
    assert status.used_count == 2
    assert not second.HasField("binding_limit")
    assert not second.HasField("retry_time")


# --- Ramps ----------------------------------------------------------------------------------------


def ramped(ramp: str, max_count: int = 5) -> policy_pb2.Limit:
    """At most so many messages in any hour, up along a ramp."""
    return limit(f"""cap {{
      measure: MEASURE_MESSAGES
      max_count: {max_count}
      window {{ rolling {{ seconds: 3600 }} }}
      ramp {{ {ramp} }}
    }}""")


BERLIN_DAILY = """
    time_zone: "Europe/Berlin"
    daily_step { start_date: "2025-03-29" start_count: 1 step_count: 2 }
"""


def test_a_maximum_grows_with_the_days_of_its_zone_up_to_the_caps_own() -> None:
    story = Story(ramped(BERLIN_DAILY), now_ms=NOON_MS)
    # The clocks in Berlin are put forward on the 30th, a Sunday.
    for at_ms, max_count in (
        (NOON_MS, 1),
        (instant_of(2025, 3, 29, 22, 59), 1),
        (instant_of(2025, 3, 29, 23), 3),
        (instant_of(2025, 3, 30, 21, 59), 3),
        (instant_of(2025, 3, 30, 22), 5),
        (instant_of(2025, 9, 1), 5),
    ):
        assert story.commit(at_ms).limit_statuses[0].max_count == max_count


def test_a_ramp_lets_an_attempt_go_once_it_has_grown_enough() -> None:
    story = Story(ramped(BERLIN_DAILY))
    decision = story.commit(message_count=4)
    assert decision.outcome == DENIED
    assert decision.reason == decision_pb2.REASON_MESSAGE_CAP
    retry_ms = decision.retry_time.ToMilliseconds()
    assert retry_ms == instant_of(2025, 3, 30, 22)
    assert story.commit(retry_ms - 1, message_count=4).outcome == DENIED
    assert story.commit(retry_ms, message_count=4).outcome == ALLOWED


def test_what_is_larger_than_a_ramp_will_ever_allow_never_passes() -> None:
    story = Story(ramped(BERLIN_DAILY))
    decision = story.commit(message_count=6)
    assert decision.reason == decision_pb2.REASON_MESSAGE_COUNT_OVER_MAX
    assert not decision.HasField("retry_time")


def test_tiers_hold_from_their_dates_and_nothing_goes_before_the_first() -> None:
    tiers = """tiers {
      tiers { start_date: "2025-03-04" max_count: 2 }
      tiers { start_date: "2025-03-06" max_count: 1 }
      tiers { start_date: "2025-03-07" max_count: 9 }
    }"""
    story = Story(ramped(tiers))
    decision = story.commit()
    assert decision.outcome == DENIED
    assert decision.binding_limit.max_count == 0
    assert decision.retry_time.ToMilliseconds() == instant_of(2025, 3, 4)
    assert story.commit(instant_of(2025, 3, 4), message_count=2).outcome == ALLOWED
    falls = story.commit(instant_of(2025, 3, 6), message_count=2)
    assert falls.outcome == DENIED
    assert falls.retry_time.ToMilliseconds() == instant_of(2025, 3, 7)
    assert story.commit(instant_of(2025, 3, 8), message_count=5).outcome == ALLOWED


# --- Hours ----------------------------------------------------------------------------------------

OFFICE = """hours {
  time_zone: "RECIPIENT"
  fallback_time_zone: "Europe/Berlin"
  ranges { days: [MONDAY, TUESDAY, FRIDAY] start_minute: 540 end_minute: 1020 }
}""".replace("MONDAY, TUESDAY, FRIDAY", "1, 2, 5")


def test_messages_go_inside_the_hours_only() -> None:
    story = Story(limit(OFFICE))
    # 17:00 in Berlin is 16:00 in UTC.
    open_yet = story.commit(instant_of(2025, 3, 3, 16) - 1)
    assert open_yet.outcome == ALLOWED
    (status,) = open_yet.limit_statuses
    assert (status.used_count, status.max_count, status.remaining_count) == (0, 0, 0)
    assert not status.exceeded
    closed = story.commit(instant_of(2025, 3, 3, 16))
    assert closed.outcome == DENIED
    assert closed.reason == decision_pb2.REASON_HOURS
    assert closed.binding_limit.exceeded
    assert closed.retry_time.ToMilliseconds() == instant_of(2025, 3, 4, 8)


def test_the_hours_are_those_of_the_contact_who_says_where_it_lives() -> None:
    story = Story(limit(OFFICE), now_ms=instant_of(2025, 3, 3, 18))
    assert story.commit(contact_time_zone="America/New_York").outcome == ALLOWED
    there = story.commit(contact_time_zone="Asia/Kathmandu")
    assert there.outcome == DENIED
    # 09:00 there is 03:15 in UTC.
    assert there.retry_time.ToMilliseconds() == instant_of(2025, 3, 4, 3, 15)


def test_an_hour_that_is_skipped_is_not_open_and_one_that_comes_twice_is_open_twice() -> None:
    night = """hours {
      time_zone: "Europe/Berlin"
      ranges { days: 7 start_minute: 125 end_minute: 150 }
    }"""
    # The clocks are put forward on 2025-03-30, over this very range.
    story = Story(limit(night), now_ms=instant_of(2025, 3, 29, 12))
    assert story.commit().retry_time.ToMilliseconds() == instant_of(2025, 4, 6, 0, 5)
    # They are put back on 2025-10-26, so that 02:05 is at 00:05 and at 01:05.
    for opening_ms in (instant_of(2025, 10, 26, 0, 5), instant_of(2025, 10, 26, 1, 5)):
        before = story.commit(opening_ms - 60_000)
        assert before.retry_time.ToMilliseconds() == opening_ms
        assert story.commit(opening_ms).outcome == ALLOWED


def test_a_range_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    night = "hours { ranges { days: 7 start_minute: 1320 end_minute: 120 } }"
    story = Story(limit(night), now_ms=instant_of(2025, 3, 2, 1))
    # Sunday at 01:00 belongs to Saturday's night; Monday at 01:59 to Sunday's.
    assert story.commit().retry_time.ToMilliseconds() == instant_of(2025, 3, 2, 22)
    assert story.commit(instant_of(2025, 3, 3, 2) - 1).outcome == ALLOWED
    assert story.commit(instant_of(2025, 3, 3, 2)).outcome == DENIED


def test_a_batch_goes_by_the_zone_of_each_recipient() -> None:
    story = Story(limit(OFFICE), now_ms=instant_of(2025, 3, 3, 18))
    batch = service_pb2.CommitBatchRequest(attempt=attempt_pb2.Attempt(account="acme"))
    batch.recipients.add(contact="ana", contact_time_zone="America/New_York")
    batch.recipients.add(contact="ben")
    batch.recipients.add(contact="cleo", contact_time_zone="America/Los_Angeles")
    found = [each.decision.outcome for each in story.driver.commit_batch(batch).results]
    assert found == [ALLOWED, DENIED, ALLOWED]


# --- Pauses ---------------------------------------------------------------------------------------

BREAK = "pause { after_count: 3 duration { seconds: 60 } }"
MINUTE_MS = 60_000


def test_after_so_many_messages_in_a_row_the_next_waits_for_the_break() -> None:
    story = Story(limit(BREAK))
    for second in (0, 50, 100):
        assert story.commit(NOON_MS + second * 1000).outcome == ALLOWED
    denied = story.commit(NOON_MS + 130_000)
    assert denied.reason == decision_pb2.REASON_PAUSE
    assert denied.retry_time.ToMilliseconds() == NOON_MS + 160_000
    (status,) = denied.limit_statuses
    assert (status.used_count, status.max_count, status.remaining_count) == (3, 3, 0)
    # A denied attempt does not make the break longer.
    after = story.commit(NOON_MS + 160_000)
    assert after.outcome == ALLOWED
    assert after.limit_statuses[0].used_count == 1
    assert after.limit_statuses[0].reset_time.ToMilliseconds() == NOON_MS + 220_000


def test_a_gap_as_long_as_the_break_begins_a_new_run() -> None:
    story = Story(limit(BREAK))
    for minute in range(9):
        decision = story.commit(NOON_MS + minute * MINUTE_MS)
        assert decision.outcome == ALLOWED
        assert decision.limit_statuses[0].used_count == 1


def test_several_messages_go_whole_or_wait_for_the_break() -> None:
    story = Story(limit(BREAK))
    assert story.commit(message_count=2).outcome == ALLOWED
    denied = story.commit(message_count=2)
    assert denied.retry_time.ToMilliseconds() == NOON_MS + MINUTE_MS
    never = story.commit(message_count=4)
    assert never.reason == decision_pb2.REASON_MESSAGE_COUNT_OVER_MAX
    assert not never.HasField("retry_time")
    assert story.commit().outcome == ALLOWED


def test_a_pause_counts_for_each_value_of_per() -> None:
    story = Story(limit(BREAK.replace("}", "} per: [6]", 1)))
    for _ in range(3):
        assert story.commit(agent="kim").outcome == ALLOWED
    assert story.commit(agent="kim").outcome == DENIED
    assert story.commit(agent="lee").outcome == ALLOWED


def test_a_run_beyond_what_is_kept_one_by_one_is_still_told() -> None:
    """Taken back attempts of a batch leave a run of more than 1,440 instants as it was."""
    story = Story(limit(BREAK.replace("3", "1440"), enforcement="GOAL"))
    for number in range(1_500):
        story.commit(NOON_MS + number)
    batch = service_pb2.CheckBatchRequest(attempt=attempt_pb2.Attempt(account="acme"))
    for contact in ("ana", "ben", "cleo"):
        batch.recipients.add(contact=contact)
    story.driver.set_clock(NOON_MS + 1_600)
    assert story.driver.check_batch(batch).accepted_count == 3
    (status,) = story.commit(NOON_MS + 1_600).limit_statuses
    assert status.used_count == 1_501
    assert status.exceeded


def test_working_hours_breaks_and_a_gap_pass_together() -> None:
    """The retry_time is that of all of them: after the break it is too late for today."""
    hours = "hours { ranges { days: [1, 2] start_minute: 540 end_minute: 722 } }"
    gap = DAY_CAP.replace("86400", "10")
    story = Story(limit(hours, "hours"), limit(BREAK, "break"), limit(gap, "gap"))
    for second in (0, 20, 70):
        assert story.commit(NOON_MS + second * 1000).outcome == ALLOWED
    denied = story.commit(NOON_MS + 75_000)
    # The break ends at 12:02:10, the hours at 12:02.
    assert denied.reason == decision_pb2.REASON_PAUSE
    assert denied.retry_time.ToMilliseconds() == instant_of(2025, 3, 4, 9)
