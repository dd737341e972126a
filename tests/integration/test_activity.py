"""GetActivity over both transports: what was decided of late, and which limits are nearly full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.v1 import activity_pb2, attempt_pb2, decision_pb2, decision_service_pb2, policy_pb2
from tests.integration import transports
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request
from tests.integration.test_commitments import set_clock

pytestmark = transports.BOTH

MESSAGES = policy_pb2.MEASURE_MESSAGES
CAMPAIGN = attempt_pb2.DIMENSION_CAMPAIGN
CONTACT = attempt_pb2.DIMENSION_CONTACT


@pytest.fixture
def server(tmp_path: Path, transport: str) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as running:
        yield running


def activity(server: ServerProcess, **fields: Any) -> activity_pb2.GetActivityResponse:
    request = activity_pb2.GetActivityRequest(**fields)
    response: activity_pb2.GetActivityResponse = server.decisions.GetActivity(request)
    return response


def test_decisions_are_counted_by_second_and_by_reason(server: ServerProcess) -> None:
    assign(server, "a", cap(2, 60, measure=MESSAGES))
    for contact in "bcd":
        server.decisions.Commit(commit_request("a", contact))
    for account in "ab":
        attempt = attempt_pb2.Attempt(account=account, contact="e")
        server.decisions.Check(decision_service_pb2.CheckRequest(attempt=attempt))
    # The second that is under way is not told yet.
    assert not activity(server).seconds
    set_clock(server, START_MS + 1_000)
    told = activity(server)
    assert told.time.ToMilliseconds() == START_MS + 1_000
    (second,) = told.seconds
    assert second.start_time.ToMilliseconds() == START_MS
    assert (second.allowed_commit_count, second.denied_commit_count) == (2, 1)
    assert (second.allowed_check_count, second.denied_check_count) == (1, 1)
    assert {(each.commit, each.reason): each.count for each in told.decision_counts} == {
        (True, decision_pb2.REASON_WITHIN_LIMITS): 2,
        (True, decision_pb2.REASON_MESSAGE_CAP): 1,
        (False, decision_pb2.REASON_MESSAGE_CAP): 1,
        (False, decision_pb2.REASON_NO_POLICY): 1,
    }


def test_accounts_come_in_the_order_of_what_they_asked(server: ServerProcess) -> None:
    for number in range(5):
        for _ in range(number + 1):
            server.decisions.Commit(commit_request(f"a{number}", "c"))
    told = activity(server, account_count=2)
    assert [(each.account, each.allowed_count) for each in told.accounts] == [("a4", 5), ("a3", 4)]
    one = activity(server, account="a1")
    assert [each.account for each in one.accounts] == ["a1"]
    # Who asks about one account learns nothing of all.
    assert not one.decision_counts
    set_clock(server, START_MS + 90_000)
    assert not activity(server).accounts


def test_a_limit_is_told_with_the_fields_that_it_hangs_on(server: ServerProcess) -> None:
    limits = (
        cap(4, 60, measure=MESSAGES, per=(CAMPAIGN,), limit_id="campaign"),
        cap(1, 60, measure=MESSAGES, per=(CONTACT,), limit_id="person"),
        cap(1_000, 60, measure=MESSAGES, limit_id="all"),
    )
    assign(server, "a", *limits)
    for number in range(6):
        campaign = "spring" if number < 5 else "autumn"
        more = {"campaign": campaign, "agent": f"agent-{number}"}
        server.decisions.Commit(commit_request("a", f"c{number}", **more))
    (found,) = activity(server).nearly_full_limits
    # Which agent it was makes no difference.
    assert found.attempt == attempt_pb2.Attempt(account="a", campaign="spring")
    assert found.limit_status.limit_id == "campaign"
    assert (found.limit_status.used_count, found.limit_status.max_count) == (4, 4)
    assert not activity(server, account="b").nearly_full_limits
    # Where it stands is asked when it is told.
    set_clock(server, START_MS + 60_000)
    assert not activity(server).nearly_full_limits


def test_numbers_have_bounds(server: ServerProcess) -> None:
    for fields in ({"account_count": 101}, {"limit_count": -1}, {"account": "a b"}):
        with pytest.raises(grpc.RpcError) as caught:
            activity(server, **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
