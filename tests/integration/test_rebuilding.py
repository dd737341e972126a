"""A limit of a new kind on a running server: right at every instant, and its state is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limiter.cli.app import app
from limiter.v1 import attempt_pb2, decision_service_pb2, policy_pb2, policy_service_pb2
from tests.integration import transports
from tests.integration.process import START_MS, ServerProcess

pytestmark = transports.BOTH

# More than are read in the call that needs them.
MESSAGES = 700


def a_day(since_midnight: bool, max_count: int) -> policy_pb2.Policy:
    window = policy_pb2.Window()
    if since_midnight:
        window.calendar.unit = policy_pb2.CALENDAR_UNIT_DAY
    else:
        window.rolling.FromMilliseconds(86_400_000)
    cap = policy_pb2.Cap(measure=policy_pb2.MEASURE_MESSAGES, max_count=max_count, window=window)
    limit = policy_pb2.Limit(limit_id="a-day", cap=cap, enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    return policy_pb2.Policy(name="policies/a-day", limits=[limit])


def apply(server: ServerProcess, policy: policy_pb2.Policy) -> None:
    assignment = policy_pb2.Assignment(name="assignments/everything", policy=policy.name)
    server.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(policies=[policy], assignments=[assignment])
    )


def state(server: ServerProcess) -> str:
    """As the command shows it."""
    command = ["get", "assignments", "--address", server.address, "--output", "json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    return str(shown["assignments"][0]["state"])


def commit(server: ServerProcess, account: str) -> decision_service_pb2.CommitResponse:
    attempt = attempt_pb2.Attempt(account=account, contact="ana")
    return server.decisions.Commit(decision_service_pb2.CommitRequest(attempt=attempt))


@pytest.mark.timeout(120)
def test_a_day_turns_from_rolling_to_since_midnight_and_back(
    transport: str, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "data", clock_start_ms=START_MS, transport=transport) as server:
        apply(server, a_day(False, MESSAGES))
        for account in ("large", "small"):
            attempt = attempt_pb2.Attempt(account=account)
            recipients = [
                decision_service_pb2.Recipient(contact=f"c{i}")
                for i in range(MESSAGES if account == "large" else 5)
            ]
            server.decisions.CommitBatch(
                decision_service_pb2.CommitBatchRequest(attempt=attempt, recipients=recipients)
            )
        for since_midnight in (True, False, True):
            apply(server, a_day(since_midnight, MESSAGES))
            # By the old limit or by the new one, the account is full; the other one is not.
            assert commit(server, "large").commit_id == ""
            assert commit(server, "small").commit_id
            while state(server) != "ASSIGNMENT_STATE_ACTIVE":
                assert commit(server, "large").commit_id == ""
            denied = commit(server, "large").decision
            assert denied.binding_limit.used_count == MESSAGES
            assert not denied.binding_limit.HasField("counted_since_time")
