"""5. How often an agent may write to a customer who has not answered."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import commitment_pb2, decision_pb2, decision_service_pb2
from tests.products.account import DAY_S, HOUR_S, Account
from tests.products.table import ROWS

DESK = ROWS["3 active messages from one agent to one contact in 24 hours"]
ACTIVE = {"agent": "kim", "category": "active"}


@pytest.mark.shows(DESK.what)
def test_active_messages(account: Account) -> None:
    account.assign(DESK.limit())
    for second in range(3):
        account.at(second)
        assert account.goes(**ACTIVE)
        assert account.goes(agent="kim", category="reply")
    assert not account.goes(**ACTIVE)
    assert account.goes(agent="kim", category="reply")
    assert account.goes(agent="lee", category="active")
    assert account.goes("bob", **ACTIVE)
    account.at(DAY_S)
    assert account.goes(**ACTIVE)
    assert not account.goes(**ACTIVE)


@pytest.mark.shows("the agent sees a warning before the last one")
def test_a_warning(account: Account) -> None:
    account.assign(DESK.limit())
    left = []
    for _ in range(3):
        (status,) = account.check(**ACTIVE).limit_statuses
        left.append(status.remaining_count)
        assert account.goes(**ACTIVE)
    assert left == [2, 1, 0]


@pytest.mark.shows("the agent sees the reason")
def test_the_reason(account: Account) -> None:
    account.assign(DESK.limit())
    assert account.goes(message_count=3, **ACTIVE)
    decision = account.check(**ACTIVE)
    assert decision.outcome == decision_pb2.OUTCOME_DENIED
    assert decision.reason == decision_pb2.REASON_MESSAGE_CAP
    assert decision.binding_limit.limit_id == "told"
    assert (decision.binding_limit.used_count, decision.binding_limit.max_count) == (3, 3)


@pytest.mark.shows("the agent sees the remaining time")
def test_the_remaining_time(account: Account) -> None:
    account.assign(DESK.limit())
    assert account.goes(message_count=3, **ACTIVE)
    account.at(5 * HOUR_S)
    decision = account.check(**ACTIVE)
    waits = decision.retry_time.ToMilliseconds() - decision.decide_time.ToMilliseconds()
    assert waits == 19 * HOUR_S * 1_000


@pytest.mark.shows("two open windows cannot both take the last one")
def test_two_windows(account: Account) -> None:
    account.assign(DESK.limit())
    assert account.goes(message_count=2, **ACTIVE)
    hold = Duration(seconds=600)
    assert account.goes(hold_duration=hold, request_id="left", **ACTIVE)
    assert not account.goes(hold_duration=hold, **ACTIVE)
    decisions = account.server.decisions
    # The draft is closed: the other window may write, and sends what it has written.
    decisions.Cancel(commitment_pb2.CancelRequest(account=account.name, request_id="left"))
    assert account.goes(hold_duration=hold, request_id="right", **ACTIVE)
    decisions.Confirm(commitment_pb2.ConfirmRequest(account=account.name, request_id="right"))
    account.at(600)
    assert not account.goes(**ACTIVE)
    # A draft that is left open lapses.
    assert account.goes("bob", message_count=3, hold_duration=hold, **ACTIVE)
    account.at(1_200)
    assert account.goes("bob", **ACTIVE)


@pytest.mark.shows("what was written elsewhere is noted later")
def test_noted_later(account: Account) -> None:
    account.assign(DESK.limit())
    account.at(HOUR_S)
    response = account.commit(
        message_count=4,
        mode=decision_service_pb2.COMMIT_MODE_RECORD,
        event_time=Timestamp(seconds=account.noon_s),
        **ACTIVE,
    )
    assert response.decision.limit_statuses[0].exceeded
    decision = account.check(**ACTIVE)
    assert decision.outcome == decision_pb2.OUTCOME_DENIED
    assert account.after_noon(decision.retry_time) == DAY_S


@pytest.mark.shows("the count on the screen is always of now")
def test_the_count_on_the_screen(account: Account) -> None:
    account.assign(DESK.limit())
    template = account.attempt("ada", **ACTIVE)
    request = decision_service_pb2.WatchUsageRequest(attempt=template)
    watch = account.server.decisions.WatchUsage(request, timeout=60)
    assert next(watch).limit_statuses[0].used_count == 0
    assert account.goes(**ACTIVE)
    assert next(watch).limit_statuses[0].used_count == 1
    account.at(DAY_S)
    assert next(watch).limit_statuses[0].used_count == 0
    watch.cancel()
