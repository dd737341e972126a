"""Somebody is forgotten: what named them does not, what was counted stands, over both transports.

A twin account lives through the same, but nobody is forgotten in it: what is decided in the one is
decided in the other, to the millisecond.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from limiter._suppressions import Suppressions
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.people_store import Change, Kept, PeopleStore
from limiter.restriction_store import RestrictionStore, Wanted
from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    account_pb2,
    attempt_pb2,
    decision_pb2,
    policy_pb2,
    policy_service_pb2,
    restriction_pb2,
    test_clock_service_pb2,
)
from limiter.v1 import decision_service_pb2 as decisions
from tests.integration import transports
from tests.integration.access_requests import bearer
from tests.integration.inside import Inside, refused, serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import HOUR_S, assign, cap, commit_request, fault_of
from tests.integration.test_access import keyed
from tests.integration.test_images import accounts_in, state_of, until
from tests.integration.test_mending import assign_to_all

pytestmark = transports.BOTH

MESSAGES = policy_pb2.MEASURE_MESSAGES
TO_ONE = (attempt_pb2.DIMENSION_CONTACT,)
LIMITS = (
    cap(2, 5 * HOUR_S, measure=MESSAGES, per=TO_ONE, limit_id="to-one"),
    cap(4, 24 * HOUR_S, limit_id="people"),
    cap(3, measure=MESSAGES, per=(attempt_pb2.DIMENSION_ADDRESS,), limit_id="to-address"),
)
ADA = {"contact": "ada", "address": "ada@example.org", "contact_time_zone": "Asia/Tokyo"}
EVE = {"contact": "eve", "address": "eve@example.org"}


async def commit(inside: Inside, account: str, **fields: Any) -> decision_pb2.Decision:
    request = decisions.CommitRequest(attempt=attempt_pb2.Attempt(account=account, **fields))
    return (await inside.decisions.Commit(request)).decision


async def check(inside: Inside, account: str, **fields: Any) -> decision_pb2.Decision:
    request = decisions.CheckRequest(attempt=attempt_pb2.Attempt(account=account, **fields))
    return (await inside.decisions.Check(request)).decision


async def forget(
    inside: Inside, account: str, *, metadata: Any = None, **who: Any
) -> tuple[int, int]:
    request = policy_service_pb2.ForgetContactRequest(name=f"accounts/{account}", **who)
    found = await inside.policies.ForgetContact(request, metadata=metadata)
    return found.restriction_count, found.suppression_count


async def restrictions(inside: Inside, account: str) -> list[restriction_pb2.Restriction]:
    request = restriction_pb2.ListRestrictionsRequest(account=account)
    found = await inside.decisions.ListRestrictions(request)
    assert found.dropped_count == 0
    return list(found.restrictions)


async def opt_out(inside: Inside, account: str, *people: account_pb2.Suppression) -> None:
    request = policy_service_pb2.AddSuppressionsRequest(
        parent=f"accounts/{account}", suppressions=people
    )
    await inside.policies.AddSuppressions(request)


async def suppressions(inside: Inside, account: str) -> list[account_pb2.Suppression]:
    request = policy_service_pb2.ListSuppressionsRequest(parent=f"accounts/{account}")
    return list((await inside.policies.ListSuppressions(request)).suppressions)


async def move_clock(inside: Inside, minutes: int) -> None:
    request = test_clock_service_pb2.SetTestClockRequest()
    request.current_time.FromMilliseconds(START_MS + minutes * 60_000)
    await inside.test_clock.Set(request)


async def test_what_is_decided_stays_the_same_to_the_millisecond(tmp_path: Path) -> None:
    accounts = ("mine", "twin")
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign_to_all(inside, *LIMITS)
        for account in accounts:
            for _ in range(3):
                await commit(inside, account, **ADA)
            await opt_out(inside, account, account_pb2.Suppression(contact="eve"))
        assert await forget(inside, "mine", contact="ada") == (1, 0)
        assert await forget(inside, "mine", contact="eve") == (0, 1)
    # Also after a restart, whose counts come from the journal alone.
    async with serving(tmp_path / "data") as inside:
        for minutes in (1, 299, 300, 301, 24 * 60 - 1, 24 * 60, 24 * 60 + 1):
            await move_clock(inside, minutes)
            for who in (ADA, EVE, {"contact": "bob", "address": ADA["address"]}):
                for ask in (check, commit):
                    mine, twin = [await ask(inside, account, **who) for account in accounts]
                    assert mine == twin
                    if minutes == 1 and who is ADA:
                        assert mine.outcome == decision_pb2.OUTCOME_DENIED
                        assert mine.retry_time.ToMilliseconds() == START_MS + 5 * HOUR_S * 1_000
                    if who is EVE:
                        assert mine.reason == decision_pb2.REASON_OPTED_OUT


async def test_rows_stay_as_counts_without_a_name(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign_to_all(inside, LIMITS[0])
        for who in (ADA, {"contact": "bob", "address": "shared"}, {"contact": "shared"}):
            for _ in range(4):
                await commit(inside, "a", **who, campaign="spring")
        batch = decisions.CommitBatchRequest(
            attempt=attempt_pb2.Attempt(account="a", campaign="autumn"),
            recipients=[decisions.Recipient(contact="ada", reference="row of ada")],
        )
        await inside.decisions.CommitBatch(batch)
        before = await restrictions(inside, "a")
        assert [each.denial_count for each in before] == [2, 2, 2, 1]
        # What the log has not written yet is forgotten too: nobody has asked for a list since.
        await commit(inside, "a", **ADA, agent="kim", campaign="last")
        assert await forget(inside, "a", contact="ada", validate_only=True) == (3, 0)
        assert (await restrictions(inside, "a"))[:4] == before
        assert await forget(inside, "a", contact="ada") == (3, 0)
        assert await forget(inside, "a", contact="ada") == (0, 0)
        assert await forget(inside, "another", contact="bob") == (0, 0)
        found = await restrictions(inside, "a")
        for place in (0, 3, 4):
            attempt = found[place].attempt
            assert (attempt.contact, attempt.address, found[place].reference) == ("", "", "")
            assert found[place].forgotten
            assert not attempt.contact_time_zone
        assert (found[4].attempt.agent, found[4].denial_count) == ("kim", 1)
        for place in (0, 3):
            expected = restriction_pb2.Restriction()
            expected.CopyFrom(before[place])
            for field in ("contact", "address", "contact_time_zone"):
                expected.attempt.ClearField(field)
            expected.reference, expected.forgotten = "", True
            assert found[place] == expected
        assert found[1:3] == before[1:3]
        # An address: whose it was stays, unless they are called like it.
        assert await forget(inside, "a", address="shared") == (1, 0)
        found = await restrictions(inside, "a")
        assert (found[1].attempt.contact, found[1].attempt.address) == ("bob", "")
        assert found[2].attempt.contact == "shared"
        # Whoever is denied again on the same day is noted anew, beside what was forgotten.
        await commit(inside, "a", **ADA, campaign="spring")
        found = await restrictions(inside, "a")
        assert [each.attempt.contact for each in found] == ["", "bob", "shared", "", "", "ada"]
        assert [each.denial_count for each in found] == [2, 2, 2, 1, 1, 1]
    async with serving(tmp_path / "data") as inside:
        assert await restrictions(inside, "a") == found


async def test_nothing_in_the_folder_opens_to_the_name(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign_to_all(inside, cap(0))
        for _ in range(2):
            await commit(inside, "a", **ADA)
        await opt_out(inside, "a", account_pb2.Suppression(contact="ada"))
        assert await forget(inside, "a", contact="ada") == (1, 1)
    key = (tmp_path / "data" / "digest-key").read_bytes()
    log = RestrictionStore(tmp_path / "data" / "restrictions", key)
    (row,) = log.find(Wanted(account="a"), None, 10).rows
    assert "ada" not in repr(row)
    assert row.count == 2
    assert log.find(Wanted(account="a", contact="ada"), None, 10).rows == []
    log.close()
    people = PeopleStore(tmp_path / "data" / "people", key)
    assert people.check() == 1
    assert people.unsettled() == []
    people.close()


async def test_who_has_opted_out_stays_so_without_a_name(tmp_path: Path) -> None:
    ada, phone = account_pb2.Suppression(contact="ada"), account_pb2.Suppression(address="+49")
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await opt_out(inside, "a", ada, phone)
        before = await suppressions(inside, "a")
        assert await forget(inside, "a", address="+49", validate_only=True) == (0, 1)
        assert await forget(inside, "a", address="ada") == (0, 0)
        assert await forget(inside, "a", contact="ada") == (0, 1)
        assert await forget(inside, "a", contact="ada") == (0, 0)
        found = await suppressions(inside, "a")
        assert [each.WhichOneof("who") for each in found] == [None, "address"]
        assert [each.create_time for each in found] == [each.create_time for each in before]
        # To opt out again gives nobody their name back; to opt in needs it.
        await opt_out(inside, "a", ada)
        assert await suppressions(inside, "a") == found
    async with serving(tmp_path / "data") as inside:
        assert await suppressions(inside, "a") == found
        denied = await commit(inside, "a", contact="ada")
        assert denied.reason == decision_pb2.REASON_OPTED_OUT
        request = policy_service_pb2.RemoveSuppressionsRequest(
            parent="accounts/a", suppressions=[ada]
        )
        assert (await inside.policies.RemoveSuppressions(request)).removed_count == 1
        assert [each.address for each in await suppressions(inside, "a")] == ["+49"]
        assert (await commit(inside, "a", contact="ada")).outcome == decision_pb2.OUTCOME_ALLOWED


async def test_it_is_noted_that_somebody_was_forgotten_but_not_whom(
    tmp_path: Path, transport: str
) -> None:
    async def entries(server: Any) -> list[tuple[str, int, str]]:
        found = await server.access.ListAuditEntries(
            access_service_pb2.ListAuditEntriesRequest(account="mine"),
            metadata=bearer(server.operator),
        )
        return [(each.author, each.action, each.resource) for each in found.entries]

    async with keyed(tmp_path / "data", transport) as server:
        master = await server.made("master", accounts=["mine"], role=access_pb2.ROLE_MASTER)
        viewer = await server.made("viewer", accounts=["mine"], role=access_pb2.ROLE_VIEWER)
        people = [account_pb2.Suppression(contact="ada")]
        await server.policies.AddSuppressions(
            policy_service_pb2.AddSuppressionsRequest(parent="accounts/mine", suppressions=people),
            metadata=bearer(server.operator),
        )
        for secret, account in ((viewer.secret, "mine"), (master.secret, "others")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await forget(server, account, contact="ada", metadata=bearer(secret))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        mine = bearer(master.secret)
        assert await forget(server, "mine", contact="ada", validate_only=True, metadata=mine) == (
            0,
            1,
        )
        assert await forget(server, "mine", contact="ada", metadata=mine) == (0, 1)
        # Where nothing was there to erase, nothing was done.
        assert await forget(server, "mine", contact="ada", metadata=mine) == (0, 0)
        noted = await entries(server)
        forgot = access_pb2.AuditEntry.ACTION_FORGET
        assert noted == [("apiKeys/master", forgot, "accounts/mine")]
    async with serving(tmp_path / "data") as inside:
        found = await inside.access.ListAuditEntries(
            access_service_pb2.ListAuditEntriesRequest(account="mine")
        )
        assert [each.action for each in found.entries] == [forgot]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"contact": "ada"}, "name"),
        ({"name": "accounts/-", "contact": "ada"}, "name"),
        ({"name": "accounts/a"}, "contact"),
        ({"name": "accounts/a", "address": ""}, "address"),
        ({"name": "accounts/a", "address": "x" * 257}, "address"),
    ],
)
async def test_broken_requests_are_named_by_field(
    tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    async with serving(tmp_path / "data") as inside:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inside.policies.ForgetContact(policy_service_pb2.ForgetContactRequest(**fields))
        assert list(fault_of(caught.value).fields) == [field]


async def test_names_are_forgotten_where_no_restrictions_are_kept(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", restrictions_retention_ms=0) as inside:
        await opt_out(inside, "a", account_pb2.Suppression(contact="ada"))
        assert await forget(inside, "a", contact="ada") == (0, 1)


async def test_many_rows_of_a_flood_are_forgotten_while_it_goes_on(tmp_path: Path) -> None:
    """Rows in the store, in the thread's hands and in the buffer, in one go."""
    async with serving(tmp_path / "data", clock_start_ms=START_MS) as inside:
        await assign_to_all(inside, cap(0))

        async def flood(campaign: str) -> None:
            people = ["ada", *(f"p{number}" for number in range(3_000))]
            await inside.decisions.CommitBatch(
                decisions.CommitBatchRequest(
                    attempt=attempt_pb2.Attempt(account="a", campaign=campaign),
                    recipients=[decisions.Recipient(contact=each) for each in people],
                )
            )

        for number in range(4):
            await flood(str(number))
        before = asyncio.create_task(forget(inside, "a", contact="ada"))
        assert await before == (4, 0)
        request = restriction_pb2.ListRestrictionsRequest(account="a", contact="ada")
        assert not (await inside.decisions.ListRestrictions(request)).restrictions


async def test_names_outlast_memory_and_journal(tmp_path: Path) -> None:
    """Accounts that are away, behind a baseline: names, marks and who is forgotten."""
    folder = tmp_path / "data"
    settings: dict[str, Any] = {"baseline_lag_events_max": 1, "memory_bytes_max": 1}
    async with serving(folder, **settings) as inside:
        for account in ("a", "b"):
            people = [account_pb2.Suppression(contact=name) for name in ("ada", "bob", "cleo")]
            await opt_out(inside, account, *people)
        assert await forget(inside, "a", contact="bob") == (0, 1)
        await until(lambda: state_of(inside).imaging.standing().lag_event_count == 0)
        await until(lambda: accounts_in(inside) == 0)
        assert [each.contact for each in await suppressions(inside, "a")] == ["ada", "", "cleo"]
        key_of = Suppressions(state_of(inside).core).key_of
        orphan, member = key_of(1, "nobody"), key_of(1, "cleo")
    # As a crash leaves them.
    secret = (folder / "digest-key").read_bytes()
    store = PeopleStore(folder / "people", secret)
    store.write([Change("b", put={orphan: Kept(0, "nobody")}, unsettled=[orphan, member])])
    store.close()
    async with serving(folder, **settings) as inside:
        assert [each.contact for each in await suppressions(inside, "a")] == ["ada", "", "cleo"]
        assert [each.contact for each in await suppressions(inside, "b")] == ["ada", "bob", "cleo"]
        noted = await inside.access.ListAuditEntries(access_service_pb2.ListAuditEntriesRequest())
        assert [each.action for each in noted.entries] == [access_pb2.AuditEntry.ACTION_FORGET]
        assert await forget(inside, "b", contact="cleo") == (0, 1)
    store = PeopleStore(folder / "people", secret)
    assert store.unsettled() == []
    assert store.find("b", [orphan]) == [None]
    store.close()
    shutil.rmtree(folder / "people")
    refusal = await refused(folder, **settings)
    assert refusal.reason == "PEOPLE_MISSING"
    # An empty folder is somebody's word to go on without names; all stay opted out.
    shutil.rmtree(folder / "people")
    (folder / "people").mkdir()
    async with serving(folder, **settings) as inside:
        found = await suppressions(inside, "b")
        assert [each.WhichOneof("who") for each in found] == [None] * 3
        assert (await commit(inside, "b", contact="ada")).reason == decision_pb2.REASON_OPTED_OUT


def run(address: str, *arguments: str, text: str | None = None) -> Result:
    environment = {"LIMITER_ADDRESS": address, "COLUMNS": "200"}
    return CliRunner().invoke(app, arguments, env=environment, input=text)


def test_the_command_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS) as server:
        assign(server, "a", cap(0))
        server.decisions.Commit(commit_request("a", "ada"))
        whom = ("forget", "--account", "a", "--contact", "ada")
        refused = run(server.address, *whom)
        assert refused.exit_code == ExitCode.USAGE
        assert "say --yes" in refused.output
        assert run(server.address, "forget", "--account", "a").exit_code == ExitCode.USAGE
        both = run(server.address, *whom, "--contact-address", "x")
        assert both.exit_code == ExitCode.USAGE
        monkeypatch.setattr("limiter.cli.terminal.interactive", lambda: True)
        declined = run(server.address, *whom, text="n\n")
        assert declined.exit_code == ExitCode.DECLINED
        dry = run(server.address, *whom, "--dry-run")
        assert "1 restriction and 0 suppressions name them." in dry.output
        assert "ada" in run(server.address, "restrictions", "--account", "a").output
        done = run(server.address, *whom, text="y\n")
        assert done.exit_code == ExitCode.OK
        assert "1 restriction and 0 suppressions named them, and do not any more." in done.output
        shown = run(server.address, "restrictions", "--account", "a").output
        assert "(forgotten)" in shown
        assert "ada" not in shown
        export = run(server.address, "restrictions", "--account", "a", "--export", "-")
        assert export.stdout.splitlines()[0].endswith(",shadow,forgotten")
        distinct = ("restrictions", "--account", "a", "--export", "-", "--contacts")
        assert "0 written" in run(server.address, *distinct).output
        run(server.address, "suppress", "add", "--account", "a", "ada")
        again = run(server.address, *whom, "--yes", "--output", "json")
        assert json.loads(again.stdout) == {"restrictionCount": "0", "suppressionCount": "1"}
        assert "(forgotten)" in run(server.address, "suppress", "list", "--account", "a").output
        assert "forget somebody of" in run(server.address, "audit", "--account", "a").output
