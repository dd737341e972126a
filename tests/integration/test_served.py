"""Which methods of the API are served, over both transports, and what their errors name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from limiter.v1 import (
    access_service_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration import transports
from tests.integration.inside import Inside, serving

pytestmark = transports.BOTH

SERVICES = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (decision_service_pb2, "DecisionService"),
        (policy_service_pb2, "PolicyService"),
        (access_service_pb2, "AccessService"),
        (test_clock_service_pb2, "TestClockService"),
    )
]
# By their names.
NOT_SERVED: set[str] = set()


async def code_of(inside: Inside, path: str) -> grpc.StatusCode:
    """What a call with bytes that are no request ends with."""
    channel: Any = inside.channel
    try:
        await channel.unary_unary(path)(b"\xff", timeout=30)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_every_method_is_served_or_said_not_to_be(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        ends = {
            method.name: await code_of(inside, f"/{service.full_name}/{method.name}")
            for service in SERVICES
            for method in service.methods
        }
    unserved = {name for name, code in ends.items() if code is grpc.StatusCode.UNIMPLEMENTED}
    assert unserved == NOT_SERVED
    assert {ends[name] for name in ends.keys() - unserved} == {grpc.StatusCode.INVALID_ARGUMENT}


def resource_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ResourceInfo:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    found = error_details_pb2.ResourceInfo()
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(found)
    return found


async def test_errors_name_the_resource(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        create = policy_service_pb2.CreatePolicyRequest(policy_id="p", policy=policy_pb2.Policy())
        await inside.policies.CreatePolicy(create)
        await inside.policies.CreateAssignment(
            policy_service_pb2.CreateAssignmentRequest(
                assignment_id="a", assignment=policy_pb2.Assignment(policy="policies/p")
            )
        )
        calls: list[tuple[grpc.StatusCode, str, Any, Any]] = [
            (
                grpc.StatusCode.ALREADY_EXISTS,
                "policies/p",
                inside.policies.CreatePolicy,
                create,
            ),
            (
                grpc.StatusCode.NOT_FOUND,
                "policies/none",
                inside.policies.GetPolicy,
                policy_service_pb2.GetPolicyRequest(name="policies/none"),
            ),
            (
                grpc.StatusCode.FAILED_PRECONDITION,
                "policies/p",
                inside.policies.DeletePolicy,
                policy_service_pb2.DeletePolicyRequest(name="policies/p"),
            ),
        ]
        for code, name, method, request in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(request)
            resource = resource_of(caught.value)
            assert caught.value.code() is code
            assert (resource.resource_type, resource.resource_name) == ("limiter.v1.Policy", name)
