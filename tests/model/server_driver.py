"""A running server behind the driver's interface: its own folder, a real port, a driven clock."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from limiter._suppressions import Person
from limiter.server import Config, Server
from limiter.v1 import (
    account_pb2,
    commitment_pb2,
    decision_service_pb2_grpc,
    plan_pb2,
    policy_pb2,
    policy_service_pb2,
    policy_service_pb2_grpc,
    simulation_pb2,
    test_clock_service_pb2,
    test_clock_service_pb2_grpc,
)
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.driver import Fault

Result = TypeVar("Result")


class ServingLoop:
    """An event loop in a thread of its own, on which servers and their clients run.

    `transport` is what the servers speak gRPC with.
    """

    def __init__(self, transport: str) -> None:
        self.transport = transport
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serving")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Runs it on the loop and waits for what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class ServerDriver:
    """One server and one client of it."""

    def __init__(self, loop: ServingLoop, now_ms: int) -> None:
        self.now_ms = now_ms
        self._loop = loop
        self._folder = tempfile.TemporaryDirectory(prefix="limiter-model-")
        self._stopping = contextlib.AsyncExitStack()
        loop.run(self._start())

    async def _start(self) -> None:
        server = Server(
            Config(
                listen="127.0.0.1:0",
                data_dir=Path(self._folder.name),
                transport=self._loop.transport,
                clock="driven",
                clock_start_ms=self.now_ms,
            )
        )
        await server.start()
        self._stopping.push_async_callback(server.stop)
        channel = grpc.aio.insecure_channel(server.address)
        self._stopping.push_async_callback(channel.close)
        self._decisions = decision_service_pb2_grpc.DecisionServiceStub(channel)
        self._policies = policy_service_pb2_grpc.PolicyServiceStub(channel)
        self._clock = test_clock_service_pb2_grpc.TestClockServiceStub(channel)

    def _call(self, method: Any, request: Any) -> Any:
        async def call() -> Any:
            return await method(request, timeout=30)

        try:
            return self._loop.run(call())
        except grpc.aio.AioRpcError as error:
            raise fault_of(error) from error

    def set_clock(self, now_ms: int) -> None:
        self.now_ms = now_ms
        request = test_clock_service_pb2.SetTestClockRequest()
        request.current_time.FromMilliseconds(now_ms)
        self._call(self._clock.Set, request)

    def apply(
        self, policies: Sequence[policy_pb2.Policy], assignments: Sequence[policy_pb2.Assignment]
    ) -> bool:
        response = self._call(
            self._policies.ApplyPolicies,
            policy_service_pb2.ApplyPoliciesRequest(
                policies=policies, assignments=assignments, prune=True
            ),
        )
        assert isinstance(response, policy_service_pb2.ApplyPoliciesResponse)
        return bool(response.changes)

    def set_account(self, account: account_pb2.Account) -> None:
        request = policy_service_pb2.UpdateAccountRequest(account=account)
        request.update_mask.paths.append("*")
        self._call(self._policies.UpdateAccount, request)

    def opt(self, account: str, people: Sequence[Person], out: bool) -> int:
        suppressions = [
            account_pb2.Suppression(contact=text)
            if who == 1
            else account_pb2.Suppression(address=text)
            for who, text in people
        ]
        parent = f"accounts/{account}"
        if out:
            added = self._call(
                self._policies.AddSuppressions,
                policy_service_pb2.AddSuppressionsRequest(parent=parent, suppressions=suppressions),
            )
            assert isinstance(added, policy_service_pb2.AddSuppressionsResponse)
            return added.added_count
        removed = self._call(
            self._policies.RemoveSuppressions,
            policy_service_pb2.RemoveSuppressionsRequest(parent=parent, suppressions=suppressions),
        )
        assert isinstance(removed, policy_service_pb2.RemoveSuppressionsResponse)
        return removed.removed_count

    def opted_out(self, account: str) -> list[Person]:
        found: list[Person] = []
        request = policy_service_pb2.ListSuppressionsRequest(
            parent=f"accounts/{account}", page_size=2
        )
        while True:
            response = self._call(self._policies.ListSuppressions, request)
            assert isinstance(response, policy_service_pb2.ListSuppressionsResponse)
            found += [
                (1, each.contact) if each.contact else (2, each.address)
                for each in response.suppressions
            ]
            request.page_token = response.next_page_token
            if not request.page_token:
                return found

    def check(self, request: service_pb2.CheckRequest) -> service_pb2.CheckResponse:
        response = self._call(self._decisions.Check, request)
        assert isinstance(response, service_pb2.CheckResponse)
        return response

    def commit(self, request: service_pb2.CommitRequest) -> service_pb2.CommitResponse:
        response = self._call(self._decisions.Commit, request)
        assert isinstance(response, service_pb2.CommitResponse)
        return response

    def check_batch(self, request: service_pb2.CheckBatchRequest) -> service_pb2.CheckBatchResponse:
        response = self._call(self._decisions.CheckBatch, request)
        assert isinstance(response, service_pb2.CheckBatchResponse)
        return response

    def commit_batch(
        self, request: service_pb2.CommitBatchRequest
    ) -> service_pb2.CommitBatchResponse:
        response = self._call(self._decisions.CommitBatch, request)
        assert isinstance(response, service_pb2.CommitBatchResponse)
        return response

    def get_usage(self, request: service_pb2.GetUsageRequest) -> service_pb2.GetUsageResponse:
        response = self._call(self._decisions.GetUsage, request)
        assert isinstance(response, service_pb2.GetUsageResponse)
        return response

    def plan(self, request: plan_pb2.PlanRequest) -> plan_pb2.PlanResponse:
        response = self._call(self._decisions.Plan, request)
        assert isinstance(response, plan_pb2.PlanResponse)
        return response

    def cancel(self, request: commitment_pb2.CancelRequest) -> commitment_pb2.CancelResponse:
        response = self._call(self._decisions.Cancel, request)
        assert isinstance(response, commitment_pb2.CancelResponse)
        return response

    def confirm(self, request: commitment_pb2.ConfirmRequest) -> commitment_pb2.ConfirmResponse:
        response = self._call(self._decisions.Confirm, request)
        assert isinstance(response, commitment_pb2.ConfirmResponse)
        return response

    def simulate(
        self, request: simulation_pb2.SimulatePolicyRequest
    ) -> simulation_pb2.SimulatePolicyResponse:
        """What a draft would have denied."""
        response = self._call(self._policies.SimulatePolicy, request)
        assert isinstance(response, simulation_pb2.SimulatePolicyResponse)
        return response

    def restart(self) -> None:
        self._loop.run(self._stopping.aclose())
        self._loop.run(self._start())

    def close(self) -> None:
        """Idempotent."""
        self._loop.run(self._stopping.aclose())
        self._folder.cleanup()


def fault_of(error: grpc.aio.AioRpcError) -> Fault:
    """The fault that a status tells of, with the details of the contract."""
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    assert isinstance(details, bytes), f"no details: {error}"
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
    assert info.domain == "limiter.v1"
    fields = [violation.field for violation in request.field_violations]
    return Fault(error.code().name, info.reason, status.message, fields)
