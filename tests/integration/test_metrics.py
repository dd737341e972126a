"""The page of metrics of a running server: what it says after calls that are known."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter import metrics
from limiter.v1 import decision_service_pb2, policy_service_pb2
from tests.integration import transports
from tests.integration.inside import refused, serving
from tests.integration.process import ServerProcess
from tests.integration.requests import cap, commit_request
from tests.integration.test_mending import Disk, assign_to_all, full
from tests.unit.test_observation import samples

pytestmark = transports.BOTH

CALLS = "limiter_call_duration_seconds_count method=limiter.v1"


def page_of(server: ServerProcess) -> bytes:
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", server.log)
    assert found is not None, server.log
    with urllib.request.urlopen(found[0], timeout=30) as answer:
        return bytes(answer.read())


def test_calls_are_counted(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", metrics_port="0", clock="system") as server:
        server.policies.ApplyPolicies(_policies(3))
        for number in range(4):
            server.decisions.Commit(commit_request("someone@example.org", f"secret-{number}"))
        for _ in range(2):
            server.decisions.Commit(commit_request("another", "secret", request_id="r"))
        replies = server.decisions.CommitStream(
            iter([commit_request("another", f"secret-{number}") for number in range(2)])
        )
        assert len(list(replies)) == 2
        with pytest.raises(grpc.RpcError):
            server.decisions.Check(decision_service_pb2.CheckRequest())
        page = page_of(server)
        found = samples(page)
    assert found["limiter_serving"] == 1
    decisions = {name: count for name, count in found.items() if "_decisions_total" in name}
    assert decisions == {
        "limiter_decisions_total operation=commit outcome=ALLOWED reason=WITHIN_LIMITS": 6,
        "limiter_decisions_total operation=commit outcome=DENIED reason=CONTACT_CAP": 1,
    }
    assert found["limiter_replays_total operation=commit"] == 1
    assert found[f"{CALLS}.DecisionService/Commit"] == 6
    assert found[f"{CALLS}.DecisionService/CommitStream"] == 2
    assert found[f"{CALLS}.PolicyService/ApplyPolicies"] == 1
    assert found["limiter_errors_total code=INVALID_ARGUMENT reason=MISSING_FIELD"] == 1
    assert found["limiter_accounts"] == 2
    assert found["limiter_policy_revision"] == 1
    assert found["limiter_recoveries_total"] == 1
    assert found["limiter_watchers"] == 0
    assert found["limiter_journal_group_events_sum"] >= 7
    assert found["limiter_journal_group_events_count"] >= 2
    assert found["limiter_journal_append_duration_seconds_sum"] > 0
    assert found["limiter_journal_bytes"] > 0
    assert abs(found["limiter_clock_offset_seconds"]) < 1
    if transports.current() == "native":
        assert found["limiter_connections"] == 1
    assert b"secret" not in page
    assert b"someone" not in page
    described = {description.name for description in metrics.DESCRIPTIONS}
    told = {name.split(" ")[0] for name in found if not name.startswith("process_")}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in told} <= described


def _policies(max_count: int) -> policy_service_pb2.ApplyPoliciesRequest:
    request = policy_service_pb2.ApplyPoliciesRequest()
    policy = request.policies.add(name="policies/p")
    policy.limits.append(cap(max_count))
    request.assignments.add(name="assignments/p", policy="policies/p")
    return request


async def test_a_journal_that_fails_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    async with serving(tmp_path / "data", metrics_port="0") as inside:
        observation: Any = inside.server._observing.observation

        def now() -> dict[str, float]:
            return samples(metrics.page(observation.reading())[0])

        await assign_to_all(inside, cap(100))
        assert (now()["limiter_serving"], now()["limiter_journal_failures_total"]) == (1, 0)
        disk.fault = full()
        with pytest.raises(grpc.aio.AioRpcError):
            await inside.decisions.Commit(commit_request("a", "c"))
        assert now()["limiter_journal_failures_total"] == 1
        assert now()["limiter_serving"] == 0
        assert "limiter_accounts" not in now()
        disk.fault = None
        async with asyncio.timeout(30):
            while now()["limiter_serving"] == 0:  # noqa: ASYNC110 - as a scraper does
                await asyncio.sleep(0.01)
        assert now()["limiter_recoveries_total"] == 2
        assert now()["limiter_accounts"] == 0
    assert now()["limiter_serving"] == 0


async def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        fault = await refused(tmp_path / "other", metrics_port=inside.server.address)
        assert fault.reason == "PORT_IN_USE"
        assert "--metrics-port" in fault.message


async def test_callers_who_are_not_let_in_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", metrics_port="0", require_keys=True) as inside:
        observation: Any = inside.server._observing.observation
        name = "limiter_errors_total code=UNAUTHENTICATED reason=KEY_MISSING"
        before = samples(metrics.page(observation.reading())[0]).get(name, 0)
        request = policy_service_pb2.GetPolicyRequest(name="policies/p")
        for call in (
            inside.decisions.Commit(commit_request("a", "c")),
            inside.policies.GetPolicy(request),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        found = samples(metrics.page(observation.reading())[0])
        assert found[name] == before + 2
        # Who was not let in has not been answered.
        assert f"{CALLS}.PolicyService/GetPolicy" not in found
        assert found.get(f"{CALLS}.DecisionService/Commit", 0) == 0


async def test_the_log_of_denials_is_told_of_where_there_is_one(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", metrics_port="0") as inside:
        observation: Any = inside.server._observing.observation
        assert samples(metrics.page(observation.reading())[0])["limiter_restrictions_bytes"] > 0
    async with serving(tmp_path / "other", restrictions_retention_ms=0) as inside:
        observation = inside.server._observing.observation
        assert "limiter_restrictions_bytes" not in observation.reading()
