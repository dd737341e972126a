"""The commands watch and top, and the clients' watch, against a server that is really there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import limiter
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.v1 import policy_pb2
from tests.integration import transports
from tests.integration.process import PATIENCE_S, START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request
from tests.integration.test_commitments import set_clock

pytestmark = transports.BOTH

MINUTE_MS = 60_000


@pytest.fixture
def server(tmp_path: Path, transport: str) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as running:
        assign(running, "a", cap(1, 60, measure=policy_pb2.MEASURE_MESSAGES))
        yield running


def run(server: ServerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"LIMITER_ADDRESS": server.address})


def test_a_queue_restarts_by_itself(server: ServerProcess) -> None:
    server.decisions.Commit(commit_request("a", "b"))
    command = [sys.executable, "-m", "limiter.cli", "watch", "--address", server.address]
    command += ["--account", "a", "--until-allowed", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        denied = json.loads(process.stdout.readline())
        assert not denied["allowed"]
        assert denied["retryTime"] == "2027-01-15T08:01:00Z"
        # At the very instant, and then the command has done its work.
        set_clock(server, START_MS + MINUTE_MS)
        rest, _ = process.communicate(timeout=PATIENCE_S)
        assert [json.loads(line)["allowed"] for line in rest.splitlines()] == [True]
        assert process.returncode == ExitCode.OK


def test_what_may_go_ends_the_watch_at_once(server: ServerProcess) -> None:
    found = run(server, "watch", "--account", "a", "--until-allowed")
    assert found.exit_code == ExitCode.OK
    assert "ALLOWED" in found.stdout
    assert "cap" in found.stdout


def test_what_may_not_go_in_time_is_denied(server: ServerProcess) -> None:
    server.decisions.Commit(commit_request("a", "b"))
    limits = ("--account", "a", "--at-most", "100ms")
    found = run(server, "watch", *limits, "--until-allowed")
    assert found.exit_code == ExitCode.DENIED
    assert "try again in 1 min" in found.stdout
    assert run(server, "watch", *limits).exit_code == ExitCode.OK


def test_a_watch_that_cannot_be_is_told(server: ServerProcess) -> None:
    assert run(server, "watch", "--account", "no account").exit_code == ExitCode.INVALID
    assert run(server, "watch", "--account", "a", "--at-most", "soon").exit_code == ExitCode.USAGE
    nobody = run(server, "watch", "--account", "a", "--address", "127.0.0.1:1", "--timeout", "0.2")
    assert nobody.exit_code == ExitCode.UNAVAILABLE


def test_top_looks_once(server: ServerProcess) -> None:
    assert "No account asked within the last minute." in run(server, "top", "--once").stdout
    for contact in "bc":
        server.decisions.Commit(commit_request("a", contact))
    set_clock(server, START_MS + 1_000)
    lines = run(server, "top", "--once").stdout.splitlines()
    assert lines[2].split() == ["commits", "0.1", "0.1", "2", "2"]
    assert lines[6].split() == ["a", "1", "1"]
    assert lines[9].split()[:7] == ["cap", "of", "accounts/a/policies/own", "a", "1", "1", "0"]
    told = json.loads(run(server, "top", "--once", "--account", "a", "-o", "json").stdout)
    assert told["accounts"][0]["deniedCount"] == "1"
    assert told["nearlyFullLimits"][0]["limitStatus"]["usedCount"] == "1"


def test_a_client_watches_over_a_restart(tmp_path: Path, server: ServerProcess) -> None:
    with limiter.Client(server.address, timeout_s=PATIENCE_S) as client:
        changes = client.watch_usage("a")
        assert next(changes).allowed
        client.commit("a", contact="b", request_id="once")
        assert not next(changes).allowed
        assert server.terminate() == 0
        settings = {"listen": server.address, "clock_start_ms": START_MS + 1}
        with ServerProcess(tmp_path / "data", **settings) as again:
            change = next(changes)
            assert not change.allowed
            assert change.limit_statuses[0].used_count == 1
            set_clock(again, START_MS + MINUTE_MS)
            assert next(changes).allowed
            changes.close()


async def test_an_asynchronous_client_is_woken_up(server: ServerProcess) -> None:
    async with limiter.AsyncClient(server.address) as client:
        await client.commit("a", contact="b")
        changes = client.watch_usage("a", contact="c")
        first = await anext(changes)
        assert not first.allowed
        assert first.retry_time is not None
        set_clock(server, int(first.retry_time.timestamp() * 1000))
        assert (await asyncio.wait_for(anext(changes), PATIENCE_S)).allowed
        await changes.aclose()
