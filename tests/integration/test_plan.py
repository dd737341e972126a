"""Plans over both transports, by both clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

import limiter
from limiter import bounds
from limiter.client.results import Reason
from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    account_pb2,
    attempt_pb2,
    plan_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration import transports
from tests.integration.clients import KINDS, Face
from tests.integration.inside import Inside, serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import HOUR_S, assign, cap, fault_of

pytestmark = transports.BOTH

START = datetime.fromtimestamp(START_MS / 1000, UTC)
DAY = timedelta(days=1)


@pytest.fixture
def server(transport: str, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as running:
        yield running


@pytest.fixture(params=KINDS)
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Face]:
    made: Any = KINDS[request.param]
    with made(server.address) as face:
        yield face


def plan_request(account: str, count: int, **fields: Any) -> plan_pb2.PlanRequest:
    return plan_pb2.PlanRequest(
        attempt=attempt_pb2.Attempt(account=account),
        recipients=[plan_pb2.PlanRecipient(contact=f"c{number}") for number in range(count)],
        **fields,
    )


def opening_hours(zone: str, fallback: str = "") -> policy_pb2.Limit:
    limit = policy_pb2.Limit(limit_id="hours", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    limit.hours.time_zone, limit.hours.fallback_time_zone = zone, fallback
    days = policy_pb2.DayOfWeek.values()[1:]
    limit.hours.ranges.add(days=days, start_minute=9 * 60, end_minute=17 * 60)
    return limit


class TestPlan:
    def test_a_thousand_under_200_a_day_take_five_days(
        self, server: ServerProcess, client: Face
    ) -> None:
        assign(server, "acme", cap(200))
        plan = client.plan("acme", [f"c{number}" for number in range(1_000)])
        assert plan.plan_time == START
        assert Counter(each.send_time - START for each in plan) == {
            number * DAY: 200 for number in range(5)
        }
        times = [each.send_time for each in plan]
        assert times == sorted(times)
        assert {each.reason for each in plan} == {Reason.WITHIN_LIMITS}
        assert client.usage("acme").limit_statuses[0].used_count == 0

    def test_what_was_sent_stands_in_the_way_and_holds_lapse(
        self, server: ServerProcess, client: Face
    ) -> None:
        assign(server, "acme", cap(2))
        client.commit("acme", contact="old")
        client.commit("acme", contact="held", hold_duration=timedelta(minutes=10))
        plan = client.plan("acme", ["old", "new", "newer"])
        assert [each.send_time - START for each in plan] == [
            timedelta(0),
            timedelta(minutes=10),
            DAY,
        ]

    def test_everybody_in_his_own_hours(self, server: ServerProcess, client: Face) -> None:
        assign(server, "acme", opening_hours("RECIPIENT", "UTC"), cap(1, HOUR_S))
        recipients = [
            limiter.Recipient(contact="nyc", contact_time_zone="America/New_York"),
            limiter.Recipient(contact="sydney", contact_time_zone="Australia/Sydney"),
            limiter.Recipient(contact="nowhere", reference="row 3"),
        ]
        plan = client.plan("acme", recipients)
        # It is 8 in UTC, 3 in New York and 19 in Sydney.
        assert [(each.send_time - START) / timedelta(hours=1) for each in plan] == [6, 14, 1]
        assert plan.sends[2].recipient.reference == "row 3"

    def test_a_spread_is_even(self, client: Face) -> None:
        plan = client.plan("none", ["a", "b", "c", "d"], spread_duration=timedelta(hours=8))
        hours = [(each.send_time - START) / timedelta(hours=1) for each in plan]
        assert hours == [0, 2, 4, 6]
        assert {each.reason for each in plan} == {Reason.NO_POLICY}

    def test_who_can_never_go_is_told_why(self, server: ServerProcess, client: Face) -> None:
        assign(server, "acme", cap(1, 60 * 86_400))
        plan = client.plan("acme", [f"c{number}" for number in range(8)], message_count=3)
        assert [each.send_time and (each.send_time - START).days for each in plan] == [
            *range(0, 400, 60),
            None,
        ]
        assert plan.sends[-1].reason is Reason.CONTACT_CAP
        limit = cap(2, measure=policy_pb2.MEASURE_MESSAGES, limit_id="small")
        never = client.plan("none", ["a"], message_count=3, inline_limits=[limit])
        assert never.sends[0].send_time is None
        assert never.sends[0].reason is Reason.MESSAGE_COUNT_OVER_MAX

    def test_who_has_opted_out_is_not_planned(self, server: ServerProcess, client: Face) -> None:
        assign(server, "acme", cap(1))
        server.policies.AddSuppressions(
            policy_service_pb2.AddSuppressionsRequest(
                parent="accounts/acme", suppressions=[account_pb2.Suppression(contact="b")]
            )
        )
        plan = client.plan("acme", ["a", "b", "c"])
        assert [each.send_time and (each.send_time - START).days for each in plan] == [0, None, 1]
        assert plan.sends[1].reason is Reason.OPTED_OUT

    def test_a_plan_is_sent_as_it_is(self, server: ServerProcess, client: Face) -> None:
        pause = policy_pb2.Limit(limit_id="pause", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
        pause.pause.after_count = 2
        pause.pause.duration.FromSeconds(900)
        assign(server, "acme", cap(5), pause, opening_hours("Europe/Berlin"))
        plan = client.plan("acme", [f"c{number % 9}" for number in range(14)])
        for each in sorted(plan, key=lambda each: each.send_time):
            request = test_clock_service_pb2.SetTestClockRequest()
            request.current_time.FromDatetime(each.send_time)
            server.test_clock.Set(request, timeout=30)
            assert client.commit("acme", contact=each.recipient.contact).allowed


class TestRefusals:
    def refused(self, server: ServerProcess, request: plan_pb2.PlanRequest) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            server.decisions.Plan(request, timeout=30)
        return fault_of(caught.value)

    def test_what_an_enforced_limit_needs_is_named(self, server: ServerProcess) -> None:
        assign(server, "acme", cap(1, measure=policy_pb2.MEASURE_ADDRESSES))
        request = plan_request("acme", 2)
        request.recipients[0].address = "+1"
        fault = self.refused(server, request)
        assert (fault.code, fault.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MISSING_FIELD")
        assert set(fault.fields) == {"recipients[1].address"}

    def test_what_no_request_is(self, server: ServerProcess) -> None:
        request = plan_request("acme", 1)
        request.recipients[0].contact_time_zone = "Mars/Olympus"
        assert set(self.refused(server, request).fields) == {"recipients[0].contact_time_zone"}
        request = plan_request("acme", 1)
        request.attempt.contact = "c"
        assert set(self.refused(server, request).fields) == {"attempt.contact"}
        assert set(self.refused(server, plan_request("acme", 0)).fields) == {"recipients"}
        limit = policy_pb2.Limit(limit_id="l")
        fault = self.refused(server, plan_request("acme", 1, inline_limits=[limit]))
        assert next(iter(fault.fields)).startswith("inline_limits[0]")

    def test_a_reply_that_no_message_can_hold(self, server: ServerProcess) -> None:
        request = plan_pb2.PlanRequest(attempt=attempt_pb2.Attempt(account="acme"))
        for number in range(100_000):
            request.recipients.add(contact=f"{number:06}", reference="r" * 25)
        assert request.ByteSize() < bounds.MESSAGE_BYTES_MAX
        assert "references" in self.refused(server, request).fields["recipients"]

    def test_a_knot_is_given_up(self, server: ServerProcess) -> None:
        limit = cap(1, 60, measure=policy_pb2.MEASURE_MESSAGES)
        limit.cap.per.append(attempt_pb2.DIMENSION_ADDRESS)
        request = plan_request("acme", 30_000, inline_limits=[limit])
        for recipient in request.recipients:
            recipient.address = "+1"
        fault = self.refused(server, request)
        assert (fault.code, fault.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "PLAN_TOO_LARGE",
        )


async def test_so_many_plans_at_once(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "data") as inside:
        request = plan_request("acme", 20_000)
        calls = [inside.decisions.Plan(request) for _ in range(bounds.PLANS_MAX + 2)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        faults = [fault_of(end) for end in ends if isinstance(end, grpc.RpcError)]
        assert len(faults) == 2
        assert {fault.code for fault in faults} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {fault.retry_ms for fault in faults} == {bounds.PLAN_RETRY_AFTER_MS}
        assert len((await inside.decisions.Plan(request)).results) == 20_000


async def test_who_goes_away_leaves_room(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "data") as inside:
        for _ in range(2 * bounds.PLANS_MAX):
            call = inside.decisions.Plan(plan_request("acme", 50_000))
            await asyncio.sleep(0.02)
            call.cancel()
            await asyncio.sleep(0.02)
        for _ in range(2_000):
            end = await end_of(inside, plan_request("acme", 3))
            if end is grpc.StatusCode.OK:
                return
            assert end is grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(0.01)
        pytest.fail("there is never room again")


async def end_of(inside: Inside, request: plan_pb2.PlanRequest) -> grpc.StatusCode:
    try:
        await inside.decisions.Plan(request)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_key_for_some_campaigns_plans_for_those(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "data", require_keys=True) as inside:
        operator = (tmp_path / "data" / "operator.key").read_text().strip()
        created = await inside.access.CreateApiKey(
            access_service_pb2.CreateApiKeyRequest(
                api_key_id="narrow",
                api_key=access_pb2.ApiKey(
                    role=access_pb2.ROLE_SENDER, accounts=["acme"], campaigns=["spring"]
                ),
            ),
            metadata=(("authorization", f"Bearer {operator}"),),
        )
        shown = (("authorization", f"Bearer {created.secret}"),)
        request = plan_request("acme", 3)
        request.attempt.campaign = "spring"
        assert len((await inside.decisions.Plan(request, metadata=shown)).results) == 3
        for account, campaign in (("acme", "autumn"), ("acme", ""), ("bolt", "spring")):
            request.attempt.account, request.attempt.campaign = account, campaign
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inside.decisions.Plan(request, metadata=shown)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
