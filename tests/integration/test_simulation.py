"""SimulatePolicy on a running server, over both transports: by the API and by the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from limiter import bounds
from limiter.cli.app import app
from limiter.cli.exit_codes import ExitCode
from limiter.simulation import HistorySimulation
from limiter.v1 import (
    account_pb2,
    attempt_pb2,
    commitment_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    simulation_pb2,
)
from tests.integration import transports
from tests.integration.inside import serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request, fault_of
from tests.integration.test_commitments import set_clock

pytestmark = transports.BOTH

DAY_MS = bounds.DAY_MS
MASK = FieldMask(paths=["time_zone"])


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a history."""
    folder = tmp_path_factory.mktemp("simulation") / "data"
    with ServerProcess(folder, clock_start_ms=START_MS, transport=transport) as running:
        live(running)
        yield running


def draft(*limits: policy_pb2.Limit) -> policy_pb2.Policy:
    return policy_pb2.Policy(limits=limits)


def simulate(
    server: ServerProcess, policy: policy_pb2.Policy, account: str = "acme", **times: Timestamp
) -> simulation_pb2.SimulatePolicyResponse:
    request = simulation_pb2.SimulatePolicyRequest(policy=policy, account=account, **times)
    return server.policies.SimulatePolicy(request, timeout=30)


def live(server: ServerProcess) -> None:
    """Three people on each of two days, under a limit of two; the third is denied, and the first
    one's message of the second day is cancelled."""
    assign(server, "acme", cap(2))
    for day in range(2):
        set_clock(server, START_MS + day * 2 * DAY_MS)
        for name in ("ana", "ben", "cleo"):
            response = server.decisions.Commit(commit_request("acme", name))
            if (day, name) == (1, "ana"):
                server.decisions.Cancel(
                    commitment_pb2.CancelRequest(account="acme", commit_id=response.commit_id)
                )


def days_of(found: simulation_pb2.SimulatePolicyResponse) -> list[tuple[str, int, int, int]]:
    return [
        (row.limit_id, row.denied_count, row.binding_count, row.denied_contact_count)
        for row in found.rows
    ]


def test_denied_attempts_are_tried_too(server: ServerProcess) -> None:
    same = simulate(server, draft(cap(2)))
    # On the second day a cancellation had made room.
    assert (same.attempt_count, same.denied_count, len(same.days)) == (6, 1, 2)
    assert days_of(same) == [("cap", 1, 1, 1)]
    wider = simulate(server, draft(cap(3)))
    assert (wider.attempt_count, wider.allowed_count, list(wider.rows)) == (6, 6, [])
    tighter = simulate(server, draft(cap(1), cap(0, limit_id="none")))
    assert tighter.denied_count == 6
    assert days_of(tighter) == [("none", 3, 3, 3), ("none", 3, 3, 3)]
    assert simulate(server, draft(cap(1)), "nobody") == simulation_pb2.SimulatePolicyResponse()
    # Nothing has changed.
    usage = server.decisions.GetUsage(
        decision_service_pb2.GetUsageRequest(attempt=attempt_pb2.Attempt(account="acme"))
    )
    assert usage.limit_statuses[0].used_count == 2
    assert simulate(server, draft(cap(2))) == same


def test_only_a_span_is_reported_and_what_came_before_counts(server: ServerProcess) -> None:
    start, end = Timestamp(), Timestamp()
    start.FromMilliseconds(START_MS + 2 * DAY_MS)
    end.FromMilliseconds(START_MS + 2 * DAY_MS)
    before = simulate(server, draft(cap(2)), end_time=end)
    assert (before.attempt_count, before.denied_count) == (3, 1)
    after = simulate(server, draft(cap(2, 4 * 86_400)), start_time=start)
    # The day before counts: two people are inside, so that only the third is new.
    assert (after.attempt_count, after.denied_count) == (3, 1)


def test_an_accounts_own_zone_is_meant(server: ServerProcess) -> None:
    """It is eight in the morning in UTC, and ten in the evening where the account then lives."""
    hours = policy_pb2.Limit(limit_id="morning", enforcement=policy_pb2.ENFORCEMENT_ENFORCED)
    hours.hours.time_zone = "ACCOUNT"
    hours.hours.ranges.add(
        days=policy_pb2.DayOfWeek.values()[1:], start_minute=0, end_minute=12 * 60
    )
    for zone, denied_count in (("UTC", 0), ("Pacific/Kiritimati", 6), ("", 0)):
        account = account_pb2.Account(name="accounts/acme", time_zone=zone)
        server.policies.UpdateAccount(
            policy_service_pb2.UpdateAccountRequest(account=account, update_mask=MASK), timeout=30
        )
        assert simulate(server, draft(hours)).denied_count == denied_count


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("policy", {"policy": None}),
        ("account", {"account": "a b"}),
        ("account", {"account": ""}),
        ("policy.limits[0].limit_id", {"policy": draft(cap(1, limit_id="NO"))}),
        ("policy.limits[1].limit_id", {"policy": draft(cap(1), cap(2))}),
        ("start_time", {"start_time": Timestamp(seconds=-1)}),
        ("end_time", {"end_time": Timestamp(nanos=-1)}),
        ("end_time", {"end_time": Timestamp(seconds=5), "start_time": Timestamp(seconds=5)}),
    ],
)
def test_what_breaks_a_rule_is_refused(
    server: ServerProcess, field: str, change: dict[str, Any]
) -> None:
    fields: dict[str, Any] = {"policy": draft(cap(1)), "account": "acme"} | change
    with pytest.raises(grpc.RpcError) as caught:
        server.policies.SimulatePolicy(simulation_pb2.SimulatePolicyRequest(**fields), timeout=30)
    fault = fault_of(caught.value)
    assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(fault.fields) == [field]


async def test_only_so_many_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And decisions are made while they run."""
    begun: set[int] = set()
    all_have_begun = asyncio.Event()
    may_end = False
    step = HistorySimulation.step

    def slow_step(self: HistorySimulation) -> bool:
        begun.add(id(self))
        if len(begun) == bounds.SIMULATIONS_MAX:
            all_have_begun.set()
        return may_end and step(self)

    monkeypatch.setattr(HistorySimulation, "step", slow_step)
    request = simulation_pb2.SimulatePolicyRequest(policy=draft(cap(1)), account="acme")
    async with serving(tmp_path / "data") as inside:
        await inside.decisions.Commit(commit_request("acme", "ana"))
        running = [
            asyncio.ensure_future(inside.policies.SimulatePolicy(request, timeout=60))
            for _ in range(bounds.SIMULATIONS_MAX)
        ]
        await all_have_begun.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inside.policies.SimulatePolicy(request)
        fault = fault_of(caught.value)
        assert (fault.code, fault.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_SIMULATIONS",
        )
        assert fault.retry_ms == 1_000
        assert (await inside.decisions.Commit(commit_request("acme", "ben"))).commit_id
        may_end = True
        # What was committed after one has begun is not part of it.
        assert [(await each).attempt_count for each in running] == [1] * len(running)
        assert (await inside.policies.SimulatePolicy(request)).denied_count == 1


POLICY = """policies:
  - limits:
      - limitId: one
        enforcement: ENFORCEMENT_ENFORCED
        cap: {measure: MEASURE_CONTACTS, maxCount: 1, window: {rolling: 86400s}}
"""


def run(server: ServerProcess, policy: Path, *options: str) -> Result:
    arguments = ["simulate", "--policy", str(policy), "--account", "acme", *options]
    return CliRunner().invoke(app, arguments, env={"LIMITER_ADDRESS": server.address})


def test_the_command_asks_the_server(server: ServerProcess, tmp_path: Path) -> None:
    policy = tmp_path / "draft.yaml"
    policy.write_text(POLICY)
    result = run(server, policy)
    assert result.exit_code == 0, result.output
    assert "6 attempts on 2 days: 3 allowed, 3 denied (50.0%)." in result.stdout
    told = json.loads(run(server, policy, "-o", "json").stdout)
    assert [row["deniedCount"] for row in told["rows"]] == ["2", "1"]
    since = ["--since", told["days"][1]["day"] + "T00:00:00Z"]
    assert json.loads(run(server, policy, "-o", "json", *since).stdout)["attemptCount"] == "3"
    policy.write_text(POLICY.replace("maxCount: 1", "maxCount: -1"))
    refused = run(server, policy)
    assert refused.exit_code == ExitCode.INVALID
    assert f"policy.limits[0].cap.max_count ({policy}:5)" in refused.stderr
    policy.write_text(POLICY + "  - name: policies/other\n")
    assert run(server, policy).exit_code == ExitCode.INVALID
    neither = CliRunner().invoke(app, ["simulate", "--policy", str(policy)])
    assert neither.exit_code == ExitCode.USAGE
