"""What becomes of commits after they were decided, over both transports: by the clients and by the
commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import limiter
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.client.results import CommitmentState
from limiter.v1 import test_clock_service_pb2
from tests.integration import transports
from tests.integration.clients import KINDS, Face
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap

pytestmark = transports.BOTH


@pytest.fixture
def server(transport: str, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as running:
        yield running


@pytest.fixture(params=KINDS)
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Face]:
    made: Any = KINDS[request.param]
    with made(server.address) as face:
        yield face


@pytest.fixture
def account(server: ServerProcess) -> str:
    """An account under a limit of three people a day."""
    assign(server, "acme", cap(3))
    return "acme"


def set_clock(server: ServerProcess, now_ms: int) -> None:
    request = test_clock_service_pb2.SetTestClockRequest()
    request.current_time.FromMilliseconds(now_ms)
    server.test_clock.Set(request, timeout=30)


def run(server: ServerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"LIMITER_ADDRESS": server.address})


class TestCommitments:
    def test_a_hold_lapses_unless_it_is_confirmed(
        self, server: ServerProcess, client: Face, account: str
    ) -> None:
        held = client.commit(account, contact="c0", hold_duration=timedelta(minutes=5))
        kept = client.commit(account, contact="c1", hold_duration=timedelta(minutes=5))
        confirmed = client.confirm(account, commit_id=kept.commit_id)
        assert confirmed.state is CommitmentState.COUNTED
        assert confirmed.lapse_time is None
        assert client.usage(account).limit_statuses[0].used_count == 2
        set_clock(server, START_MS + 300_000)
        assert client.usage(account).limit_statuses[0].used_count == 1
        with pytest.raises(limiter.errors.FailedPrecondition) as caught:
            client.confirm(account, commit_id=held.commit_id)
        assert caught.value.reason == "COMMIT_UNDONE"

    def test_a_cancel_takes_back_what_a_commit_counted(self, client: Face, account: str) -> None:
        for number in range(3):
            client.commit(account, contact=f"c{number}", request_id=f"r{number}")
        denied = client.commit(account, contact="c3")
        assert not denied.allowed
        assert client.cancel(account, request_id="r1").state is CommitmentState.CANCELLED
        assert client.cancel(account, request_id="r1").state is CommitmentState.CANCELLED
        assert client.commit(account, contact="c3").allowed
        with pytest.raises(limiter.errors.FailedPrecondition):
            client.commit(account, contact="c1", request_id="r1")
        with pytest.raises(limiter.errors.NotFound):
            client.cancel(account, request_id="unknown")

    def test_what_has_gone_out_counts_whatever_the_limits_say(
        self, client: Face, account: str
    ) -> None:
        recorded = [client.record(account, contact=f"c{number}") for number in range(4)]
        assert all(each.allowed for each in recorded)
        assert recorded[-1].limit_statuses[0].exceeded
        assert client.usage(account).limit_statuses[0].used_count == 4
        assert not client.commit(account, contact="c9").allowed


def test_the_commands(server: ServerProcess, account: str) -> None:
    who = ("--account", account)
    commit = ("commit", *who, "--contact", "c0")
    held = run(server, *commit, "--hold", "5min", "--request-id", "r", "--output", "json")
    assert held.exit_code == ExitCode.OK
    commit_id = json.loads(held.stdout)["commitId"]
    confirmed = run(server, "confirm", *who, commit_id)
    assert (confirmed.exit_code, "counts, for good" in confirmed.stdout) == (ExitCode.OK, True)
    cancelled = run(server, "cancel", *who, "--request-id", "r")
    assert (cancelled.exit_code, "is cancelled" in cancelled.stdout) == (ExitCode.OK, True)
    late = run(server, *commit, "--record", "--event-time", "2027-01-15T07:00:00Z")
    assert late.exit_code == ExitCode.OK
    assert run(server, "cancel", *who).exit_code == ExitCode.USAGE
    assert run(server, "cancel", *who, "0" * 20).exit_code == ExitCode.NOT_FOUND
    assert run(server, *commit, "--hold", "soon").exit_code == ExitCode.USAGE
