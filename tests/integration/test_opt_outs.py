"""Accounts' own zones and allowed categories, and who has opted out, over both transports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from limiter.v1 import account_pb2, attempt_pb2, commitment_pb2, decision_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as decisions
from limiter.v1 import policy_service_pb2 as pb2
from tests.integration import transports
from tests.integration.access_requests import bearer
from tests.integration.inside import Inside, serving
from tests.integration.test_access import keyed

pytestmark = transports.BOTH

ALLOWED, DENIED = decision_pb2.OUTCOME_ALLOWED, decision_pb2.OUTCOME_DENIED
OPTED_OUT = decision_pb2.REASON_OPTED_OUT
NEVER_MIND = decision_pb2.REASON_NO_POLICY


def attempt(contact: str, **fields: Any) -> attempt_pb2.Attempt:
    return attempt_pb2.Attempt(account="shop", contact=contact, **fields)


async def opt_out(inside: Inside, *contacts: str, addresses: tuple[str, ...] = ()) -> int:
    people = [account_pb2.Suppression(contact=contact) for contact in contacts]
    people += [account_pb2.Suppression(address=address) for address in addresses]
    request = pb2.AddSuppressionsRequest(parent="accounts/shop", suppressions=people)
    return (await inside.policies.AddSuppressions(request)).added_count


async def opt_in(inside: Inside, contact: str) -> int:
    people = [account_pb2.Suppression(contact=contact)]
    request = pb2.RemoveSuppressionsRequest(parent="accounts/shop", suppressions=people)
    return (await inside.policies.RemoveSuppressions(request)).removed_count


async def commit(inside: Inside, to: attempt_pb2.Attempt, **more: Any) -> decisions.CommitResponse:
    return await inside.decisions.Commit(decisions.CommitRequest(attempt=to, **more))


async def check(inside: Inside, to: attempt_pb2.Attempt) -> decision_pb2.Decision:
    return (await inside.decisions.Check(decisions.CheckRequest(attempt=to))).decision


async def set_account(inside: Inside, **fields: Any) -> account_pb2.Account:
    account = account_pb2.Account(name="accounts/shop", **fields)
    mask = FieldMask(paths=list(fields))
    request = pb2.UpdateAccountRequest(account=account, update_mask=mask)
    return await inside.policies.UpdateAccount(request)


async def test_who_has_opted_out_is_denied_across_restarts(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        assert await opt_out(inside, "ada", addresses=("+49",)) == 2
        assert await opt_out(inside, "ada") == 0
        for denied in (attempt("ada"), attempt("bob", address="+49")):
            decision = (await commit(inside, denied)).decision
            assert (decision.outcome, decision.reason) == (DENIED, OPTED_OUT)
            assert not decision.HasField("binding_limit")
            assert not decision.HasField("retry_time")
            assert await check(inside, denied) == decision
        # Another account, another person, and a contact that is called like an address.
        for to in (
            attempt_pb2.Attempt(account="other", contact="ada"),
            attempt("bob"),
            attempt("+49"),
        ):
            assert (await commit(inside, to)).decision.reason == NEVER_MIND
    async with serving(tmp_path / "data") as inside:
        assert (await check(inside, attempt("ada"))).reason == OPTED_OUT
        listed = await inside.policies.ListSuppressions(
            pb2.ListSuppressionsRequest(parent="accounts/shop", page_size=1)
        )
        assert [each.contact for each in listed.suppressions] == ["ada"]
        assert listed.suppressions[0].HasField("create_time")
        rest = await inside.policies.ListSuppressions(
            pb2.ListSuppressionsRequest(
                parent="accounts/shop", page_token=listed.next_page_token, page_size=1
            )
        )
        assert [each.address for each in rest.suppressions] == ["+49"]
        assert not rest.next_page_token
        assert await opt_in(inside, "ada") == 1
        assert (await commit(inside, attempt("ada"))).decision.outcome == ALLOWED
    on_disk = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*.mdb"))
    assert b"ada" not in on_disk


async def test_allowed_categories_go_all_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await opt_out(inside, "ada")
        changed = await set_account(inside, allowed_categories=["invoices"])
        assert list(changed.allowed_categories) == ["invoices"]
        assert (await check(inside, attempt("ada", category="invoices"))).outcome == ALLOWED
        for category in ("", "news"):
            assert (await check(inside, attempt("ada", category=category))).reason == OPTED_OUT
        await set_account(inside, allowed_categories=[])
        assert (await check(inside, attempt("ada", category="invoices"))).reason == OPTED_OUT


async def test_a_hold_is_confirmed_and_what_went_out_is_recorded(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        request = decisions.CommitRequest(attempt=attempt("ada"))
        request.hold_duration.FromSeconds(60)
        held = await inside.decisions.Commit(request)
        await opt_out(inside, "ada")
        confirmed = await inside.decisions.Confirm(
            commitment_pb2.ConfirmRequest(account="shop", commit_id=held.commit_id)
        )
        assert confirmed.commitment.state == commitment_pb2.COMMITMENT_STATE_COUNTED
        recorded = await commit(inside, attempt("ada"), mode=decisions.COMMIT_MODE_RECORD)
        assert recorded.commit_id
        assert (recorded.decision.outcome, recorded.decision.reason) == (ALLOWED, OPTED_OUT)


async def test_batches_deny_or_leave_out(tmp_path: Path) -> None:
    people = ["ada", "bob", "ada", "bob"]
    recipients = [decisions.Recipient(contact=contact, reference=contact) for contact in people]
    shared = attempt_pb2.Attempt(account="shop")
    async with serving(tmp_path / "data") as inside:
        await opt_out(inside, "ada")
        for atomicity, reason in (
            (decisions.ATOMICITY_PARTIAL, NEVER_MIND),
            (decisions.ATOMICITY_ALL_OR_NOTHING, decision_pb2.REASON_BATCH_REJECTED),
        ):
            batch: dict[str, Any] = {
                "attempt": shared,
                "recipients": recipients,
                "atomicity": atomicity,
            }
            response = await inside.decisions.CommitBatch(decisions.CommitBatchRequest(**batch))
            assert [each.decision.reason for each in response.results] == [
                OPTED_OUT, reason, OPTED_OUT, reason,
            ]  # fmt: skip
            assert not any(each.decision.HasField("retry_time") for each in response.results)
            request = decisions.CommitBatchRequest(
                **batch,
                exclude_opt_outs=True,
                exclude_duplicates=True,
                request_id=f"batch-{atomicity}",
            )
            response = await inside.decisions.CommitBatch(request)
            assert [each.opted_out for each in response.results] == [True, False, True, False]
            assert [each.duplicate for each in response.results] == [False, False, False, True]
            counts = (response.accepted_count, response.opted_out_count, response.duplicate_count)
            assert counts == (1, 2, 1)
            checked = await inside.decisions.CheckBatch(
                decisions.CheckBatchRequest(**batch, exclude_opt_outs=True)
            )
            assert (checked.accepted_count, checked.opted_out_count) == (2, 2)
            # Who was accepted before they opted out is answered as they were.
            await opt_out(inside, "bob")
            again = await inside.decisions.CommitBatch(request)
            assert [each.replayed for each in again.results] == [False, True, False, False]
            await opt_in(inside, "bob")


async def test_a_stream_denies_too(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await opt_out(inside, "ada")
        stream = inside.decisions.CommitStream()
        for contact in ("ada", "bob"):
            await stream.write(decisions.CommitRequest(attempt=attempt(contact)))
        await stream.done_writing()
        found = [response.decision.reason async for response in stream]
        assert found == [OPTED_OUT, NEVER_MIND]


async def test_limits_follow_the_zone_of_the_account(tmp_path: Path) -> None:
    day = policy_pb2.Calendar(unit=policy_pb2.CALENDAR_UNIT_DAY, time_zone="ACCOUNT")
    limit = policy_pb2.Limit(
        limit_id="day",
        cap=policy_pb2.Cap(
            measure=policy_pb2.MEASURE_MESSAGES, max_count=1, window=policy_pb2.Window(calendar=day)
        ),
        enforcement=policy_pb2.ENFORCEMENT_ENFORCED,
    )

    async def reset_hour(inside: Inside, *inline: policy_pb2.Limit) -> int:
        """The hour (UTC) at which the day that is full ends."""
        request = decisions.CheckRequest(attempt=attempt("ada"), inline_limits=inline)
        decision = (await inside.decisions.Check(request)).decision
        assert decision.reason == decision_pb2.REASON_MESSAGE_CAP
        return decision.retry_time.ToDatetime().hour

    async with serving(tmp_path / "data") as inside:
        inline = policy_pb2.Limit()
        inline.CopyFrom(limit)
        inline.limit_id = "inline"
        await commit(inside, attempt("ada"), inline_limits=[inline], request_id="first")
        assert await reset_hour(inside, inline) == 0
        policy = policy_pb2.Policy(limits=[limit])
        await inside.policies.CreatePolicy(pb2.CreatePolicyRequest(policy_id="p", policy=policy))
        await inside.policies.CreateAssignment(
            pb2.CreateAssignmentRequest(
                assignment_id="a", assignment=policy_pb2.Assignment(policy="policies/p")
            )
        )
        await set_account(inside, time_zone="Asia/Tokyo")
        # Midnight in Tokyo; and the same request is still the same, whatever its zone.
        repeated = await commit(inside, attempt("ada"), inline_limits=[inline], request_id="first")
        assert repeated.replayed
    async with serving(tmp_path / "data") as inside:
        await commit(inside, attempt("bob"))
        assert await reset_hour(inside) == 15
        assert await reset_hour(inside, inline) == 15
        await set_account(inside, time_zone="")
        assert await reset_hour(inside) == 0


async def test_accounts_are_read_and_changed_as_resources(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        get = pb2.GetAccountRequest(name="accounts/shop")
        unchanged = await inside.policies.GetAccount(get)
        assert (unchanged.name, unchanged.time_zone) == ("accounts/shop", "")
        assert not unchanged.HasField("update_time")
        trial = await inside.policies.UpdateAccount(
            pb2.UpdateAccountRequest(
                account=account_pb2.Account(name="accounts/shop", time_zone="Asia/Tokyo"),
                validate_only=True,
            )
        )
        assert trial.time_zone == "Asia/Tokyo"
        assert await inside.policies.GetAccount(get) == unchanged
        changed = await set_account(inside, time_zone="Asia/Tokyo")
        assert changed.HasField("update_time")
        assert await inside.policies.GetAccount(get) == changed
        listed = await inside.policies.ListAccounts(pb2.ListAccountsRequest())
        assert list(listed.accounts) == [changed]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await set_account(inside, time_zone="Asia/Kyoto", etag=changed.etag)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inside.policies.UpdateAccount(
                pb2.UpdateAccountRequest(
                    account=account_pb2.Account(name="accounts/shop", etag=unchanged.etag)
                )
            )
        assert caught.value.code() is grpc.StatusCode.ABORTED


async def test_who_has_an_account_of_his_own_lists_that_alone(
    tmp_path: Path, transport: str
) -> None:
    async with keyed(tmp_path / "data", transport) as server:
        for name in ("mine", "others"):
            account = account_pb2.Account(name=f"accounts/{name}", time_zone="Asia/Tokyo")
            await server.policies.UpdateAccount(
                pb2.UpdateAccountRequest(account=account), metadata=bearer(server.operator)
            )
        every = await server.policies.ListAccounts(
            pb2.ListAccountsRequest(), metadata=bearer(server.operator)
        )
        assert [each.name for each in every.accounts] == ["accounts/mine", "accounts/others"]
        secret = await server.key(accounts=["mine", "unchanged"])
        own = await server.policies.ListAccounts(
            pb2.ListAccountsRequest(page_size=1), metadata=bearer(secret)
        )
        assert [each.name for each in own.accounts] == ["accounts/mine"]
        assert not own.next_page_token
