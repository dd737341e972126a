"""The log names nobody: neither whom messages go to nor what callers call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.v1 import decision_service_pb2, policy_service_pb2
from tests.integration import transports
from tests.integration.process import ServerProcess
from tests.integration.requests import cap, commit_request

pytestmark = transports.BOTH

# In whatever a caller may say; long, so that it is not there by chance.
SECRET = "5f0e9c1d-nobody-may-read-this"


def attempt(**fields: Any) -> decision_service_pb2.CommitRequest:
    request = commit_request("a", SECRET, request_id=SECRET)
    for name, value in fields.items():
        setattr(request.attempt, name, value)
    return request


def test_whatever_goes_wrong_the_log_names_nobody(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        commit: Any = server.decisions.Commit
        policies = policy_service_pb2.ApplyPoliciesRequest()
        policies.policies.add(name="policies/p").limits.append(cap(1))
        policies.assignments.add(name="assignments/p", policy="policies/p")
        server.policies.ApplyPolicies(policies)
        everything = {"address": SECRET, "channel": SECRET, "resource": SECRET, "agent": SECRET}
        commit(attempt(**everything))
        commit(attempt(**everything))
        denied = commit_request("a", SECRET + "2")
        assert commit(denied).decision.binding_limit.limit_id
        for broken in (
            attempt(contact=SECRET * 20),
            attempt(account=SECRET + "/" + SECRET),
            attempt(contact_time_zone=SECRET),
            attempt(message_count=-1),
            attempt(campaign=SECRET),  # the same request_id for something else
        ):
            with pytest.raises(grpc.RpcError):
                commit(broken)
        with pytest.raises(grpc.RpcError):
            list(server.decisions.CommitStream(iter([attempt(account=SECRET + "/")])))
        with pytest.raises(grpc.RpcError):
            commit(attempt(), timeout=0)
        for method in ("DecisionService/Check", "PolicyService/GetPolicy", SECRET):
            call: Any = server.channel.unary_unary(f"/limiter.v1.{method}")
            with pytest.raises(grpc.RpcError):
                call(SECRET.encode())
        with pytest.raises(grpc.RpcError):
            server.policies.GetPolicy(policy_service_pb2.GetPolicyRequest(name=SECRET))
        with pytest.raises(grpc.RpcError):
            commit(attempt(), metadata=(("authorization", SECRET), ("x-secret", SECRET)))
        assert server.terminate() == 0
        assert "message=stopped" in server.log
        assert SECRET not in server.log
