"""The restrictions log of a running server: by the clients, the API and the command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

import limiter
from limiter import Reason, Recipient
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.server import Config
from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    attempt_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    restriction_pb2,
    test_clock_service_pb2,
)
from tests.integration import transports
from tests.integration.clients import KINDS, Face
from tests.integration.inside import refused, serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request, fault_of

pytestmark = transports.BOTH

START = datetime.fromtimestamp(START_MS / 1_000, UTC)


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp(f"restrictions-{transport}") / "data"
    with ServerProcess(folder, clock_start_ms=START_MS) as running:
        yield running


_numbers = itertools.count(1)


@pytest.fixture
def account() -> str:
    """One that nobody else uses."""
    return f"account-{next(_numbers)}"


@pytest.fixture(params=KINDS)
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Face]:
    made: Any = KINDS[request.param]
    with made(server.address) as face:
        yield face


def run(server: ServerProcess, *arguments: str) -> Result:
    environment = {"LIMITER_ADDRESS": server.address, "COLUMNS": "200"}
    return CliRunner().invoke(app, ["restrictions", *arguments], env=environment)


def now(server: ServerProcess) -> datetime:
    request = test_clock_service_pb2.GetTestClockRequest()
    return server.test_clock.Get(request, timeout=30).current_time.ToDatetime(UTC)


def move_clock(server: ServerProcess, **ahead: int) -> None:
    request = test_clock_service_pb2.SetTestClockRequest()
    request.current_time.FromDatetime(now(server) + timedelta(**ahead))
    server.test_clock.Set(request, timeout=30)


def next_day(server: ServerProcess) -> datetime:
    """Moves the clock to the next midnight in UTC, and says when that is."""
    wait = timedelta(days=1) - (now(server) - START) % timedelta(days=1) + timedelta(hours=16)
    move_clock(server, seconds=int(wait.total_seconds()))
    return now(server)


def listed(server: ServerProcess, **fields: Any) -> restriction_pb2.ListRestrictionsResponse:
    request = restriction_pb2.ListRestrictionsRequest(**fields)
    return server.decisions.ListRestrictions(request, timeout=30)


class TestWhatIsListed:
    def test_a_denied_commit_with_all_that_was_decided(
        self, server: ServerProcess, client: Face, account: str
    ) -> None:
        start = next_day(server)
        policy = assign(server, account, cap(1))
        client.commit(account, contact="ada")
        sent = {"address": "ada@example.org", "channel": "email", "campaign": "spring"}
        for _ in range(3):
            client.commit(account, contact="bob", contact_time_zone="Asia/Tokyo", **sent)
        move_clock(server, minutes=5)
        newest = client.commit(account, contact="bob", campaign="spring", message_count=2)
        assert not newest.allowed
        (found,) = client.restrictions(account)
        assert found.attempt == limiter.Attempt(
            account=account, contact="bob", contact_time_zone="Asia/Tokyo", message_count=0, **sent
        )
        assert (found.denial_count, found.shadow, found.reference) == (4, False, "")
        assert found.reason is Reason.CONTACT_CAP
        assert found.binding_limit == newest.binding_limit
        assert found.binding_limit.policy == policy.name
        assert found.policy_etag == policy.etag
        assert found.retry_time == newest.retry_time == start + timedelta(days=1)
        assert (found.first_time, found.last_time) == (start, start + timedelta(minutes=5))

    def test_the_version_that_decided(
        self, server: ServerProcess, client: Face, account: str
    ) -> None:
        before = assign(server, account, cap(0))
        client.commit(account, contact="ada")
        after = policy_pb2.Policy(name=before.name, limits=[cap(0, limit_id="other")])
        server.policies.UpdatePolicy(policy_service_pb2.UpdatePolicyRequest(policy=after))
        client.commit(account, contact="ada")
        first, second = client.restrictions(account)
        assert first.policy_etag == before.etag
        assert second.policy_etag not in {before.etag, ""}
        assert [each.binding_limit.limit_id for each in (first, second)] == ["cap", "other"]

    def test_batches_and_streams(self, server: ServerProcess, client: Face, account: str) -> None:
        assign(server, account, cap(2))
        people = [
            Recipient(contact=f"c{number}", address=f"+49 {number}", reference=f"row-{number}")
            for number in range(4)
        ]
        client.commit_batch(account, people, all_or_nothing=True, campaign="whole")
        client.commit_batch(account, people, campaign="partly")
        for answer in client.commit_stream([limiter.Attempt(account=account, contact="late")]):
            assert not answer.allowed
        found = [
            (each.attempt.campaign, each.reference, each.attempt.address, each.reason)
            for each in client.restrictions(account)
        ]
        rejected, full = Reason.BATCH_REJECTED, Reason.CONTACT_CAP
        assert found == [
            ("whole", "row-0", "+49 0", rejected),
            ("whole", "row-1", "+49 1", rejected),
            ("whole", "row-2", "+49 2", full),
            ("whole", "row-3", "+49 3", full),
            ("partly", "row-2", "+49 2", full),
            ("partly", "row-3", "+49 3", full),
            ("", "", "", full),
        ]

    def test_what_a_limit_in_shadow_would_have_denied(
        self, server: ServerProcess, client: Face, account: str
    ) -> None:
        shadow = policy_pb2.ENFORCEMENT_SHADOW
        assign(server, account, cap(1, limit_id="trial", enforcement=shadow))
        for number in range(3):
            assert client.commit(account, contact=f"c{number}").allowed
        client.record(account, contact="noted")
        found = list(client.restrictions(account))
        assert [each.attempt.contact for each in found] == ["c1", "c2"]
        for used, each in enumerate(found, 1):
            assert each.shadow
            assert each.binding_limit.limit_id == "trial"
            # As it was before the attempt counted.
            assert (each.binding_limit.used_count, each.binding_limit.max_count) == (used, 1)
            assert (each.retry_time, each.binding_limit.reset_time) == (None, None)

    def test_who_has_opted_out(self, server: ServerProcess, client: Face, account: str) -> None:
        assign(server, account, cap(5))
        request = policy_service_pb2.AddSuppressionsRequest(parent=f"accounts/{account}")
        request.suppressions.add(contact="ada")
        server.policies.AddSuppressions(request, timeout=30)
        assert not client.commit(account, contact="ada").allowed
        (found,) = client.restrictions(account)
        assert (found.reason, found.binding_limit) == (Reason.OPTED_OUT, None)
        assert (found.policy_etag, found.retry_time) == ("", None)

    def test_checks_leave_nothing(self, server: ServerProcess, client: Face, account: str) -> None:
        assign(server, account, cap(0))
        assert not client.check(account, contact="ada").allowed
        assert not client.check_batch(account, [Recipient(contact="ada")]).results[0].allowed
        assert list(client.restrictions(account)) == []

    def test_filters(self, server: ServerProcess, client: Face, account: str) -> None:
        assign(server, account, cap(0), cap(0, limit_id="inline-1"))
        assign(server, f"{account}-other", cap(0))
        client.commit(f"{account}-other", contact="ada")
        start = next_day(server)
        for hour, (contact, campaign) in enumerate([("ada", "a"), ("bob", "a"), ("ada", "b")]):
            move_clock(server, hours=min(hour, 1))
            client.commit(account, contact=contact, campaign=campaign)

        def who(**wanted: Any) -> list[tuple[str, str]]:
            found = client.restrictions(account, **wanted)
            return [(each.attempt.contact, each.attempt.campaign) for each in found]

        assert who() == [("ada", "a"), ("bob", "a"), ("ada", "b")]
        assert who(contact="ada") == [("ada", "a"), ("ada", "b")]
        assert who(campaign="a") == [("ada", "a"), ("bob", "a")]
        assert who(contact="ada", campaign="b") == [("ada", "b")]
        assert who(limit_id="none") == []
        assert len(who(limit_id="cap")) == 3
        assert who(start_time=start + timedelta(hours=1)) == [("bob", "a"), ("ada", "b")]
        assert who(end_time=start + timedelta(hours=1)) == [("ada", "a")]
        assert list(client.restrictions("nobody")) == []


class TestPages:
    def test_pages_follow_the_order_and_are_tied_to_their_list(
        self, server: ServerProcess, account: str
    ) -> None:
        assign(server, account, cap(0))
        next_day(server)
        for number in range(5):
            server.decisions.Commit(commit_request(account, f"c{number}"), timeout=30)
        first = listed(server, account=account, page_size=2)
        assert [each.attempt.contact for each in first.restrictions] == ["c0", "c1"]
        # What comes later does not move what is there.
        server.decisions.Commit(commit_request(account, "c9"), timeout=30)
        server.decisions.Commit(commit_request(account, "c0"), timeout=30)
        rest = listed(server, account=account, page_token=first.next_page_token)
        assert [each.attempt.contact for each in rest.restrictions] == ["c2", "c3", "c4", "c9"]
        assert rest.next_page_token == ""
        for broken in (
            {"account": "other", "page_token": first.next_page_token},
            {"account": account, "campaign": "c", "page_token": first.next_page_token},
            {"account": account, "page_token": "AAAA"},
            {"account": account, "page_size": -1},
            {"account": ""},
            {"account": "-"},
            {"account": account, "contact": "c" * 257},
            {"account": account, "limit_id": "No Id"},
        ):
            with pytest.raises(grpc.RpcError) as caught:
                listed(server, **broken)
            assert fault_of(caught.value).code is grpc.StatusCode.INVALID_ARGUMENT

    def test_retention_is_by_whole_days(self, server: ServerProcess, account: str) -> None:
        assign(server, account, cap(0))
        next_day(server)
        server.decisions.Commit(commit_request(account, "ada"), timeout=30)
        move_clock(server, days=90, hours=23)
        assert len(listed(server, account=account).restrictions) == 1
        move_clock(server, hours=1)
        assert len(listed(server, account=account).restrictions) == 0


class TestRestarts:
    def test_what_was_denied_is_there_after_a_restart(self, transport: str, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        contact, address, reference = "contact-in-clear", "address-in-clear", "reference-in-clear"
        with ServerProcess(folder) as server:
            assign(server, "acme", cap(0))
            request = decision_service_pb2.CommitBatchRequest(
                attempt=attempt_pb2.Attempt(account="acme", campaign="campaign-in-clear")
            )
            request.recipients.add(contact=contact, address=address, reference=reference)
            server.decisions.CommitBatch(request, timeout=30)
        with ServerProcess(folder) as server:
            server.decisions.CommitBatch(request, timeout=30)
            (found,) = listed(server, account="acme").restrictions
            assert found.denial_count == 2
            assert (found.attempt.contact, found.reference) == (contact, reference)
        kept = b"".join(path.read_bytes() for path in folder.rglob("*.mdb"))
        assert len(kept) > 10_000
        for text in (contact, address, reference):
            assert text.encode() not in kept
        # Names are in the journal; in the log not even those.
        log = (folder / "restrictions" / "data.mdb").read_bytes()
        assert b"campaign-in-clear" not in log
        assert stat.S_IMODE((folder / "restrictions").stat().st_mode) == 0o700

    def test_what_a_crash_takes_is_counted(self, transport: str, tmp_path: Path) -> None:
        folder = tmp_path / "data"
        with ServerProcess(folder) as server:
            assign(server, "acme", cap(1))
            server.decisions.Commit(commit_request("acme", "first"), timeout=30)
            for number in range(20):
                server.decisions.Commit(commit_request("acme", f"c{number}"), timeout=30)
            # It is durable with all before it.
            server.decisions.Commit(commit_request("acme", "first"), timeout=30)
            server.kill()
        with ServerProcess(folder) as server:
            found = listed(server, account="acme")
            assert len(found.restrictions) + found.dropped_count == 20
            assert listed(server, account="other").dropped_count == 0

    async def test_another_key_is_refused(self, transport: str, tmp_path: Path) -> None:
        for name in ("one", "two"):
            async with serving(tmp_path / name):
                pass
        moved = tmp_path / "one" / "restrictions"
        moved.rename(tmp_path / "foreign")
        (tmp_path / "two" / "restrictions").rename(moved)
        error = await refused(tmp_path / "one")
        assert error.reason == "RESTRICTIONS_KEY_FOREIGN"

    async def test_without_a_log(self, transport: str, tmp_path: Path) -> None:
        async with serving(tmp_path / "data", restrictions_retention_ms=0) as inside:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inside.decisions.ListRestrictions(
                    restriction_pb2.ListRestrictionsRequest(account="acme")
                )
        assert fault_of(caught.value).reason == "RESTRICTIONS_OFF"
        assert not (tmp_path / "data" / "restrictions").exists()
        with pytest.raises(limiter.errors.InvalidArgument, match="restrictions_retention"):
            Config(restrictions_retention_ms=1)
        with pytest.raises(limiter.errors.InvalidArgument, match="restrictions_bytes_max"):
            Config(restrictions_bytes_max=1)


@pytest.mark.parametrize(
    ("narrowed", "seen"),
    [
        ({}, ["c0", "c1", "c2"]),
        ({"campaigns": ["spring"]}, ["c0"]),
        ({"resources": ["web"]}, ["c0", "c1"]),
        ({"resources": ["web"], "campaigns": ["autumn"]}, ["c1"]),
        ({"campaigns": ["none"]}, []),
    ],
)
async def test_who_sees_a_part_sees_that_part(
    narrowed: dict[str, Any], seen: list[str], transport: str, tmp_path: Path
) -> None:
    async with serving(tmp_path / "data", require_keys=True, require_policy=True) as inside:
        operator = (("authorization", f"Bearer {operator_key(tmp_path / 'data')}"),)
        key = access_pb2.ApiKey(role=access_pb2.ROLE_VIEWER, accounts=["acme"], **narrowed)
        made = await inside.access.CreateApiKey(
            access_service_pb2.CreateApiKeyRequest(api_key_id="viewer", api_key=key),
            metadata=operator,
        )
        for number, (resource, campaign) in enumerate(
            [("web", "spring"), ("web", "autumn"), ("app", "autumn")]
        ):
            request = commit_request("acme", f"c{number}", resource=resource, campaign=campaign)
            await inside.decisions.Commit(request, metadata=operator)
        found = await inside.decisions.ListRestrictions(
            restriction_pb2.ListRestrictionsRequest(account="acme"),
            metadata=(("authorization", f"Bearer {made.secret}"),),
        )
        assert [each.attempt.contact for each in found.restrictions] == seen


def operator_key(folder: Path) -> str:
    return (folder / "operator.key").read_text().strip()


class TestCommand:
    @pytest.fixture(autouse=True)
    def denied(self, server: ServerProcess, account: str) -> None:
        """Six denials of four people, one of them with a name that a spreadsheet would run."""
        next_day(server)
        assign(server, account, cap(0))
        for contact in ("+49 30 1", "=1+2", "ada", "'quoted", "ada"):
            server.decisions.Commit(commit_request(account, contact, campaign="a"), timeout=30)
        server.decisions.Commit(commit_request(account, "ada", campaign="b"), timeout=30)

    def test_a_table(self, server: ServerProcess, account: str) -> None:
        found = run(server, "--account", account)
        assert found.exit_code == ExitCode.OK
        lines = found.stdout.splitlines()
        assert lines[0].split()[:2] == ["contact", "campaign"]
        assert len(lines) == 6
        assert "the cap on contacts is full" in lines[1] or "larger than the cap" in lines[1]
        assert "Nobody was denied." in run(server, "--account", "nobody").stdout
        short = run(server, "--account", account, "--count", "2")
        assert (len(short.stdout.splitlines()), "more than 2" in short.stderr) == (3, True)

    def test_json(self, server: ServerProcess, account: str) -> None:
        who = ("--account", account, "--contact", "ada", "--campaign", "a", "--limit", "cap")
        found = json.loads(run(server, *who, "--output", "json").stdout)
        (one,) = found["restrictions"]
        assert one["denialCount"] == "2"

    def test_an_export_to_go_on_with(
        self, server: ServerProcess, account: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "missed.csv"
        found = run(server, "--account", account, "--export", str(path))
        assert (found.exit_code, "5 written" in found.stderr) == (ExitCode.OK, True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        assert [row["contact"] for row in rows] == ["+49 30 1", "'=1+2", "ada", "''quoted", "ada"]
        assert list(rows[0])[:3] == ["account", "contact", "address"]
        assert rows[2] | {"account": account, "denial_count": "2", "shadow": "false"} == rows[2]
        assert rows[2]["first_time"] == now(server).isoformat().replace("+00:00", "Z")

    def test_each_contact_once(self, server: ServerProcess, account: str, tmp_path: Path) -> None:
        path = tmp_path / "missed.jsonl"
        move_clock(server, days=1)
        server.decisions.Commit(commit_request(account, "ada", campaign="a"), timeout=30)
        run(server, "--account", account, "--export", str(path), "--contacts")
        rows = [json.loads(line)["attempt"] for line in path.read_text().splitlines()]
        assert [(row["contact"], row["campaign"]) for row in rows] == [
            ("+49 30 1", "a"),
            ("=1+2", "a"),
            ("ada", "a"),
            ("'quoted", "a"),
            ("ada", "b"),
        ]

    def test_what_cannot_be(self, server: ServerProcess, account: str, tmp_path: Path) -> None:
        who = ("--account", account)
        assert run(server, *who, "--contacts").exit_code == ExitCode.USAGE
        assert run(server, *who, "--export", "x.txt").exit_code == ExitCode.USAGE
        assert run(server, *who, "--since", "now").exit_code == ExitCode.USAGE
        path = tmp_path / "none" / "x.csv"
        assert run(server, *who, "--export", str(path)).exit_code == ExitCode.FAILURE
        assert run(server, "--account", "-").exit_code == ExitCode.INVALID
