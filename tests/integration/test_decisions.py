"""The story of a client: policies, commits up to a limit, denials, batches, streams, restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.v1 import (
    attempt_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration import transports
from tests.integration.inside import Inside, serving
from tests.integration.process import START_MS
from tests.integration.requests import DAY_S, HOUR_S, cap, commit_request, fault_of

pytestmark = transports.BOTH

ALLOWED = decision_pb2.OUTCOME_ALLOWED
DENIED = decision_pb2.OUTCOME_DENIED


async def assign(inside: Inside, account: str, *limits: policy_pb2.Limit) -> None:
    """Gives the account a policy of its own, or changes the one it has, in one revision."""
    name = f"accounts/{account}/policies/own"
    assignment = policy_pb2.Assignment(name=f"accounts/{account}/assignments/own", policy=name)
    assignment.scope.account = account
    await inside.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(
            policies=[policy_pb2.Policy(name=name, limits=limits)], assignments=[assignment]
        )
    )


async def move(inside: Inside, instant_ms: int) -> None:
    request = test_clock_service_pb2.SetTestClockRequest()
    request.current_time.FromMilliseconds(instant_ms)
    await inside.test_clock.Set(request)


async def commit(
    inside: Inside, account: str, contact: str = "", **fields: Any
) -> decision_service_pb2.CommitResponse:
    return await inside.decisions.Commit(commit_request(account, contact, **fields))


async def usage(inside: Inside, account: str, **fields: Any) -> list[decision_pb2.LimitStatus]:
    attempt = attempt_pb2.Attempt(account=account, **fields)
    request = decision_service_pb2.GetUsageRequest(attempt=attempt)
    return list((await inside.decisions.GetUsage(request)).limit_statuses)


def batch_request(
    account: str, contacts: list[str], **fields: Any
) -> decision_service_pb2.CommitBatchRequest:
    request = decision_service_pb2.CommitBatchRequest(**fields)
    request.attempt.account = account
    for contact in contacts:
        request.recipients.add(contact=contact, reference=f"ref-{contact}")
    return request


async def test_a_cap_is_exact_and_a_denial_says_when(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign(inside, "a", cap(3, HOUR_S))
        for number in range(3):
            await move(inside, START_MS + number * 1_000)
            reply = await commit(inside, "a", f"c{number}")
            assert reply.decision.outcome == ALLOWED
            assert reply.account_sequence == number + 1
            assert reply.commit_id
            (limit,) = reply.decision.limit_statuses
            assert (limit.used_count, limit.remaining_count) == (number + 1, 2 - number)
            assert limit.policy == "accounts/a/policies/own"
        denied = (await commit(inside, "a", "c3")).decision
        assert denied.outcome == DENIED
        assert denied.reason == decision_pb2.REASON_CONTACT_CAP
        assert denied.binding_limit.limit_id == "cap"
        assert (denied.binding_limit.max_count, denied.binding_limit.used_count) == (3, 3)
        assert denied.binding_limit.exceeded
        retry_ms = denied.retry_time.ToMilliseconds()
        assert retry_ms == START_MS + HOUR_S * 1_000
        # Somebody who is inside already is free.
        assert (await commit(inside, "a", "c1")).decision.outcome == ALLOWED
        await move(inside, retry_ms - 1)
        assert (await commit(inside, "a", "c3")).decision.outcome == DENIED
        await move(inside, retry_ms)
        assert (await commit(inside, "a", "c3")).decision.outcome == ALLOWED
        assert (await commit(inside, "b", "c3")).decision.reason == decision_pb2.REASON_NO_POLICY


async def test_check_changes_nothing_and_says_what_commit_would(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(inside, "a", cap(1))
        for contact in ("c0", "c1"):
            request = commit_request("a", contact)
            check = decision_service_pb2.CheckRequest(attempt=request.attempt)
            first = (await inside.decisions.Check(check)).decision
            assert (await inside.decisions.Check(check)).decision == first
            assert (await inside.decisions.Commit(request)).decision == first


async def test_all_limits_count_or_none_does(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(
            inside,
            "a",
            cap(2, DAY_S, limit_id="contacts"),
            cap(
                2,
                HOUR_S,
                limit_id="per-contact",
                measure=policy_pb2.MEASURE_MESSAGES,
                per=(attempt_pb2.DIMENSION_CONTACT,),
            ),
        )
        assert (await commit(inside, "a", "c0", message_count=2)).decision.outcome == ALLOWED
        denied = (await commit(inside, "a", "c0")).decision
        assert denied.outcome == DENIED
        assert denied.binding_limit.limit_id == "per-contact"
        assert denied.reason == decision_pb2.REASON_MESSAGE_CAP
        counts = {each.limit_id: each.used_count for each in await usage(inside, "a", contact="c0")}
        assert counts == {"contacts": 1, "per-contact": 2}
        too_large = (await commit(inside, "a", "c1", message_count=3)).decision
        assert too_large.reason == decision_pb2.REASON_MESSAGE_COUNT_OVER_MAX
        assert not too_large.HasField("retry_time")
        counts = {each.limit_id: each.used_count for each in await usage(inside, "a", contact="c1")}
        assert counts == {"contacts": 1, "per-contact": 0}


async def test_a_missing_field_never_gets_around_a_limit(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(inside, "a", cap(5, limit_id="reach", per=(attempt_pb2.DIMENSION_CHANNEL,)))
        with pytest.raises(grpc.RpcError) as caught:
            await commit(inside, "a", "c0")
        fault = fault_of(caught.value)
        assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
        assert fault.reason == "MISSING_FIELD"
        assert set(fault.fields) == {"attempt.channel"}
        assert "reach" in fault.message
        assert "accounts/a/policies/own" in fault.message


async def test_a_swap_of_policies_keeps_the_count(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(inside, "a", cap(2))
        for contact in ("c0", "c1"):
            assert (await commit(inside, "a", contact)).decision.outcome == ALLOWED
        await assign(inside, "a", cap(1, limit_id="tighter"))
        denied = (await commit(inside, "a", "c2")).decision
        assert denied.outcome == DENIED
        assert (denied.binding_limit.used_count, denied.binding_limit.max_count) == (2, 1)
        await assign(inside, "a", cap(3, limit_id="wider"))
        assert (await commit(inside, "a", "c2")).decision.outcome == ALLOWED
        assert (await commit(inside, "a", "c3")).decision.outcome == DENIED


async def test_inline_limits_apply_on_top(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(inside, "a", cap(10))
        inline = [
            cap(
                1,
                measure=policy_pb2.MEASURE_MESSAGES,
                per=(attempt_pb2.DIMENSION_CAMPAIGN,),
                limit_id="daily",
            )
        ]
        first = await commit(inside, "a", "c0", campaign="spring", inline_limits=inline)
        assert first.decision.outcome == ALLOWED
        denied = await commit(inside, "a", "c1", campaign="spring", inline_limits=inline)
        assert denied.decision.outcome == DENIED
        assert denied.decision.binding_limit.policy == ""
        assert denied.decision.binding_limit.limit_id == "daily"
        other = await commit(inside, "a", "c1", campaign="autumn", inline_limits=inline)
        assert other.decision.outcome == ALLOWED


async def test_require_policy_denies_where_there_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", require_policy=True) as inside:
        denied = await commit(inside, "a", "c0")
        assert denied.decision.outcome == DENIED
        assert denied.decision.reason == decision_pb2.REASON_POLICY_REQUIRED
        await assign(inside, "a")
        assert (await commit(inside, "a", "c0")).decision.outcome == ALLOWED


class TestBatch:
    async def test_a_partial_batch_goes_as_far_as_it_can(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(3))
            contacts = ["c0", "c1", "c0", "c2", "c3", "c1"]
            reply = await inside.decisions.CommitBatch(batch_request("a", contacts))
            assert [each.decision.outcome for each in reply.results] == [
                ALLOWED,
                ALLOWED,
                ALLOWED,
                ALLOWED,
                DENIED,
                ALLOWED,
            ]
            assert [each.reference for each in reply.results] == [f"ref-{c}" for c in contacts]
            assert (reply.accepted_count, reply.denied_count) == (5, 1)
            sequences = [each.account_sequence for each in reply.results]
            assert sequences == [1, 2, 3, 4, 0, 5]
            ids = [each.commit_id for each in reply.results]
            assert len(set(ids)) == 6
            assert ids[4] == ""
            assert (await usage(inside, "a"))[0].used_count == 3

    async def test_all_or_nothing_counts_nothing_when_one_is_denied(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(3))
            whole = decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
            request = batch_request("a", ["c0", "c1", "c2", "c3"], atomicity=whole)
            reply = await inside.decisions.CommitBatch(request)
            reasons = [each.decision.reason for each in reply.results]
            assert reasons == [decision_pb2.REASON_BATCH_REJECTED] * 3 + [
                decision_pb2.REASON_CONTACT_CAP
            ]
            assert (reply.accepted_count, reply.denied_count) == (0, 4)
            assert (await usage(inside, "a"))[0].used_count == 0
            request = batch_request("a", ["c0", "c1", "c2"], atomicity=whole)
            assert (await inside.decisions.CommitBatch(request)).accepted_count == 3

    async def test_a_reply_that_may_not_fit_a_message_is_refused_before_it_counts(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path / "data") as inside:
            limits = [cap(100_000, limit_id=f"limit-{number}") for number in range(8)]
            await assign(inside, "a", *limits)
            contacts = [f"c{number}" for number in range(5_000)]
            request = batch_request("a", contacts, view=decision_pb2.VIEW_FULL)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inside.decisions.CommitBatch(request)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "ask for VIEW_BASIC or send fewer at once" in str(caught.value.details())
            assert {each.used_count for each in await usage(inside, "a")} == {0}
            request.view = decision_pb2.VIEW_BASIC
            assert (await inside.decisions.CommitBatch(request)).accepted_count == 5_000

    async def test_duplicates_are_left_out_on_demand(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(5))
            request = batch_request("a", ["c0", "c1", "c0"], exclude_duplicates=True)
            reply = await inside.decisions.CommitBatch(request)
            assert [each.duplicate for each in reply.results] == [False, False, True]
            assert not reply.results[2].HasField("decision")
            assert (reply.accepted_count, reply.duplicate_count) == (2, 1)

    async def test_a_check_of_a_batch_changes_nothing(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(2))
            commit_it = batch_request("a", ["c0", "c1", "c2"])
            check = decision_service_pb2.CheckBatchRequest(
                attempt=commit_it.attempt, recipients=commit_it.recipients
            )
            first = await inside.decisions.CheckBatch(check)
            assert (first.accepted_count, first.denied_count) == (2, 1)
            assert await inside.decisions.CheckBatch(check) == first
            reply = await inside.decisions.CommitBatch(commit_it)
            assert [each.decision for each in reply.results] == [
                each.decision for each in first.results
            ]

    async def test_the_largest_batch_is_decided(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(9_000))
            request = batch_request("a", [f"c{number}" for number in range(10_000)])
            reply = await inside.decisions.CommitBatch(request)
            assert (reply.accepted_count, reply.denied_count) == (9_000, 1_000)


class TestStream:
    async def test_replies_come_in_order_up_to_the_limit(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(40))
            stream = inside.decisions.CommitStream()
            for number in range(60):
                await stream.write(commit_request("a", f"c{number}"))
            await stream.done_writing()
            replies = [reply async for reply in stream]
            assert [each.decision.outcome for each in replies] == [ALLOWED] * 40 + [DENIED] * 20
            assert [each.account_sequence for each in replies[:40]] == list(range(1, 41))

    async def test_a_bad_message_ends_it_and_keeps_what_was_acknowledged(
        self, tmp_path: Path
    ) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(40))
            stream: Any = inside.decisions.CommitStream()
            for request in (
                commit_request("a", "c0"),
                commit_request("a", "c1"),
                commit_request("", "c2"),
                commit_request("a", "c3"),
            ):
                await stream.write(request)
            for _ in range(2):
                reply = await stream.read()
                assert reply.decision.outcome == ALLOWED
            with pytest.raises(grpc.RpcError) as caught:
                await stream.read()
            fault = fault_of(caught.value)
            assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
            assert set(fault.fields) == {"attempt.account"}
            assert (await usage(inside, "a"))[0].used_count == 2


class TestRequestIds:
    async def test_a_repeat_counts_once_across_restarts(self, tmp_path: Path) -> None:
        requests = [commit_request("a", f"c{number}", request_id=f"r{number}") for number in (1, 2)]
        async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
            measure = policy_pb2.MEASURE_MESSAGES
            await assign(inside, "a", cap(2, measure=measure))
            first = [await inside.decisions.Commit(request) for request in requests]
            await move(inside, START_MS + 60_000)
            for request, original in zip(requests, first, strict=True):
                self.same(await inside.decisions.Commit(request), original)
            assert (await commit(inside, "a", "c3", request_id="r3")).decision.outcome == DENIED
        async with serving(tmp_path / "data") as inside:
            for request, original in zip(requests, first, strict=True):
                self.same(await inside.decisions.Commit(request), original)
            assert (await usage(inside, "a"))[0].used_count == 2
            # A denial is not remembered: the same id may try again.
            await move(inside, START_MS + DAY_S * 1_000)
            again = await commit(inside, "a", "c3", request_id="r3")
            assert (again.decision.outcome, again.replayed) == (ALLOWED, False)

    def same(
        self,
        repeat: decision_service_pb2.CommitResponse,
        original: decision_service_pb2.CommitResponse,
    ) -> None:
        assert repeat.replayed
        assert not original.replayed
        assert repeat.commit_id == original.commit_id
        assert repeat.account_sequence == original.account_sequence
        assert repeat.decision.outcome == original.decision.outcome == ALLOWED
        assert repeat.decision.decide_time == original.decision.decide_time

    async def test_another_payload_is_refused(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(5))
            await commit(inside, "a", "c1", request_id="r")
            for change in ({"contact": "c2"}, {"channel": "sms"}, {"message_count": 2}):
                fields: dict[str, Any] = {"contact": "c1", "request_id": "r", **change}
                with pytest.raises(grpc.RpcError) as caught:
                    await commit(inside, "a", **fields)
                fault = fault_of(caught.value)
                assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
                assert fault.reason == "REQUEST_ID_REUSED"
            # The view is no part of the payload, and another account has its own ids.
            basic = await commit(inside, "a", "c1", request_id="r", view=decision_pb2.VIEW_BASIC)
            assert basic.replayed
            assert not (await commit(inside, "b", "c2", request_id="r")).replayed

    async def test_a_repeat_of_a_batch_counts_once_across_restarts(self, tmp_path: Path) -> None:
        request = batch_request("a", ["c0", "c1", "c2"], request_id="batch")
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(2))
            first = await inside.decisions.CommitBatch(request)
            assert (first.accepted_count, first.denied_count) == (2, 1)
        async with serving(tmp_path / "data") as inside:
            again = await inside.decisions.CommitBatch(request)
            assert [each.commit_id for each in again.results] == [
                each.commit_id for each in first.results
            ]
            assert [each.replayed for each in again.results] == [True, True, False]
            assert (await usage(inside, "a"))[0].used_count == 2
            other = batch_request("a", ["c0", "c2", "c1"], request_id="batch")
            with pytest.raises(grpc.RpcError) as caught:
                await inside.decisions.CommitBatch(other)
            assert fault_of(caught.value).reason == "REQUEST_ID_REUSED"

    async def test_a_repeat_of_one_in_flight_waits_for_the_same_group(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "data") as inside:
            await assign(inside, "a", cap(100))
            request = commit_request("a", "c1", request_id="r")
            calls = [inside.decisions.Commit(request) for _ in range(20)]
            replies = [await call for call in calls]
            assert len({each.commit_id for each in replies}) == 1
            assert sorted(each.replayed for each in replies) == [False] + [True] * 19


async def test_policies_survive_restarts_and_are_one_revision(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await assign(inside, "a", cap(1))
        listed = await inside.policies.ListPolicies(
            policy_service_pb2.ListPoliciesRequest(parent="accounts/-")
        )
        await commit(inside, "a", "c0")
        with pytest.raises(grpc.RpcError) as caught:
            await inside.policies.DeletePolicy(
                policy_service_pb2.DeletePolicyRequest(name="accounts/a/policies/own")
            )
        fault = fault_of(caught.value)
        assert fault.code is grpc.StatusCode.FAILED_PRECONDITION
        assert fault.reason == "POLICY_ASSIGNED"
    async with serving(tmp_path / "data") as inside:
        assert listed == await inside.policies.ListPolicies(
            policy_service_pb2.ListPoliciesRequest(parent="accounts/-")
        )
        assert (await commit(inside, "a", "c1")).decision.outcome == DENIED
