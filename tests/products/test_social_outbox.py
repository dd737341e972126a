"""2. An outbox with a goal for the day and a queue that stops and restarts by itself."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from limiter.v1 import (
    account_pb2,
    decision_pb2,
    decision_service_pb2,
    plan_pb2,
    policy_service_pb2,
)
from tests.products.account import DAY_S, HOUR_S, Account
from tests.products.table import ROWS, Row

QUEUE = ROWS["a queue's maximum in any 24 hours; what goes by hand counts, but is never stopped"]
SINCE_MIDNIGHT = ROWS["the same since midnight, where the account is at home"]


def queue(maximum: int, row: Row = QUEUE) -> Any:
    """The queue's limit in the window of a row, with a maximum of its own."""
    return QUEUE.limit(cap={**row.fields["cap"], "maxCount": maximum})


def at_home(account: Account, time_zone: str) -> None:
    account.server.policies.UpdateAccount(
        policy_service_pb2.UpdateAccountRequest(
            account=account_pb2.Account(name=account.parent, time_zone=time_zone),
            update_mask=FieldMask(paths=["time_zone"]),
        )
    )


@pytest.mark.shows("a daily goal since local midnight over all teams, which never blocks")
def test_a_goal_of_the_day(account: Account, row: Row) -> None:
    account.assign(row.limit())
    for team, count in (("red", 70), ("blue", 50), ("red", 30)):
        assert account.goes(team=team, message_count=count)
    (status,) = account.usage()
    assert (status.used_count, status.max_count) == (150, 120)
    assert status.enforcement == row.limit().enforcement
    # Midnight in Berlin is 23:00 UTC in winter and 22:00 in summer.
    midnight_s = account.after_noon(status.reset_time)
    assert midnight_s in {11 * HOUR_S, 10 * HOUR_S}
    account.at(midnight_s - 0.001)
    assert account.usage()[0].used_count == 150
    account.at(midnight_s)
    assert account.usage()[0].used_count == 0


@pytest.mark.shows(QUEUE.what)
def test_a_queue(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes(source="manual", message_count=30)
    account.at(1)
    assert account.goes(source="queue", message_count=20)
    assert not account.goes(source="queue")
    assert account.goes(source="manual", message_count=25)
    account.at(DAY_S)
    assert account.goes(source="queue", message_count=5)
    assert not account.goes(source="queue")


@pytest.mark.shows(SINCE_MIDNIGHT.what)
def test_a_queue_since_midnight(account: Account, row: Row) -> None:
    at_home(account, "America/New_York")
    account.assign(queue(2, row))
    assert account.goes(source="queue", message_count=2)
    denied = account.commit(source="queue").decision
    # Midnight in New York is 5:00 UTC in winter and 4:00 in summer.
    assert account.after_noon(denied.retry_time) in {17 * HOUR_S, 16 * HOUR_S}
    account.wait_until(denied.retry_time.ToMilliseconds() / 1_000)
    assert account.goes(source="queue")


@pytest.mark.shows("switching between the two loses no count")
def test_switching_between_the_two(account: Account) -> None:
    policy = account.assign(queue(3))
    account.at(9 * HOUR_S)
    assert account.goes(source="manual", message_count=2)
    account.at(13 * HOUR_S)
    assert account.goes(source="manual")
    assert not account.goes(source="queue")
    # Since midnight UTC one message has gone, in 24 hours three.
    account.change(policy, queue(3, SINCE_MIDNIGHT))
    assert [status.used_count for status in account.usage(source="queue")] == [1]
    assert account.goes(source="queue")
    account.change(policy, queue(4))
    assert [status.used_count for status in account.usage(source="queue")] == [4]
    assert not account.goes(source="queue")


@pytest.mark.shows("a maximum for each team")
def test_a_maximum_for_each_team(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes(team="red", message_count=20)
    assert not account.goes(team="red")
    assert account.goes(team="blue", message_count=20)


@pytest.mark.shows("message frequency: a gap between messages")
def test_a_gap(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes()
    account.at(89.999)
    assert not account.goes()
    account.at(90)
    assert account.goes()


@pytest.mark.shows("breaks")
def test_breaks(account: Account, row: Row) -> None:
    account.assign(row.limit())
    for number in range(20):
        account.at(60 * number)
        assert account.goes()
    denied = account.commit().decision
    assert denied.reason == decision_pb2.REASON_PAUSE
    assert account.after_noon(denied.retry_time) == 19 * 60 + 900
    account.at(19 * 60 + 900)
    assert account.goes()


@pytest.mark.shows("working hours, past midnight too")
def test_working_hours(account: Account, row: Row) -> None:
    account.assign(row.limit())
    denied = account.commit().decision
    assert denied.reason == decision_pb2.REASON_HOURS
    opens_s = account.after_noon(denied.retry_time)
    # 20:00 in Berlin is 19:00 UTC in winter and 18:00 in summer.
    assert opens_s in {7 * HOUR_S, 6 * HOUR_S}
    for after_s, is_open in ((0, True), (6 * HOUR_S - 1, True), (6 * HOUR_S, False)):
        account.at(opens_s + after_s)
        assert account.goes() == is_open


@pytest.mark.shows("working hours where the reader lives")
def test_working_hours_of_the_reader(account: Account, row: Row) -> None:
    account.assign(row.limit())
    # Monday noon UTC is the afternoon in Berlin, and night in Tokyo and Los Angeles.
    assert account.goes()
    assert account.goes(contact_time_zone="Europe/London")
    assert not account.goes(contact_time_zone="Asia/Tokyo")
    denied = account.commit(contact_time_zone="America/Phoenix").decision
    assert account.after_noon(denied.retry_time) == 4 * HOUR_S


@pytest.mark.shows("it stops when it is full, and knows until when, all limits together")
def test_it_knows_until_when(account: Account) -> None:
    gap = ROWS["message frequency: a gap between messages"].limit(limitId="gap")
    hours = ROWS["working hours, past midnight too"].limit(limitId="hours")
    account.assign(queue(2), gap, hours)
    # At 1:59 in Berlin the queue is full, and its hours end before it has room again.
    opens_s = account.after_noon(account.check(source="queue").retry_time)
    account.at(opens_s + 6 * HOUR_S - 120)
    assert account.goes(source="queue")
    account.at(opens_s + 6 * HOUR_S - 20)
    assert account.goes(source="queue")
    denied = account.commit(source="queue").decision
    reopens_s = opens_s + 7 * DAY_S
    assert account.after_noon(denied.retry_time) - reopens_s in {0, HOUR_S, -HOUR_S}


@pytest.mark.shows("it restarts by itself at that instant")
def test_it_restarts_by_itself(account: Account) -> None:
    account.assign(queue(1))
    assert account.goes(source="queue")
    request = decision_service_pb2.WatchUsageRequest(attempt=account.attempt(source="queue"))
    watch = account.server.decisions.WatchUsage(request, timeout=60)
    stopped = next(watch)
    assert not stopped.allowed
    assert account.after_noon(stopped.retry_time) == DAY_S
    account.at(DAY_S - 0.001)
    account.at(DAY_S)
    restarted = next(message for message in watch if message.allowed)
    assert account.after_noon(restarted.time) == DAY_S
    assert account.goes(source="queue")
    watch.cancel()


@pytest.mark.shows("a new account warms up")
def test_a_new_account_warms_up(account: Account, row: Row) -> None:
    cap = row.fields["cap"]
    monday = date(1970, 1, 1) + timedelta(seconds=account.noon_s)
    # The dates of the row, moved to the days of this test.
    cap["ramp"]["dailyStep"]["startDate"] = monday.isoformat()
    account.assign(row.limit(cap=cap))
    for day, maximum in enumerate((5, 15, 25, 35, 45, 50, 50)):
        account.at(day * DAY_S)
        assert account.goes(message_count=maximum)
        assert not account.goes()


@pytest.mark.shows("an uploaded list is spread over the days")
def test_an_uploaded_list(account: Account) -> None:
    account.assign(ROWS["200 people in any 24 hours, to the millisecond"].limit())
    recipients = [plan_pb2.PlanRecipient(contact=f"person-{number}") for number in range(1_000)]
    request = plan_pb2.PlanRequest(attempt=account.attempt(), recipients=recipients)
    plan = account.server.decisions.Plan(request, timeout=60)
    days = [account.after_noon(result.send_time) / DAY_S for result in plan.results]
    assert days == [number // 200 for number in range(1_000)]
    request.spread_duration.FromSeconds(10 * DAY_S)
    spread = account.server.decisions.Plan(request, timeout=60)
    seconds = [account.after_noon(result.send_time) for result in spread.results]
    assert seconds == [pytest.approx(864 * number, abs=0.001) for number in range(1_000)]
    assert account.usage()[0].used_count == 0
