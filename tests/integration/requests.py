"""Requests in few words, and faults taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from limiter.v1 import attempt_pb2, decision_service_pb2, policy_pb2, policy_service_pb2
from tests.integration.process import ServerProcess

HOUR_S = 3_600
DAY_S = 24 * HOUR_S


def cap(
    max_count: int,
    seconds: int = DAY_S,
    *,
    measure: policy_pb2.Measure.ValueType = policy_pb2.MEASURE_CONTACTS,
    per: tuple[attempt_pb2.Dimension.ValueType, ...] = (),
    limit_id: str = "cap",
    enforcement: policy_pb2.Enforcement.ValueType = policy_pb2.ENFORCEMENT_ENFORCED,
) -> policy_pb2.Limit:
    """A cap in a rolling window."""
    limit = policy_pb2.Limit(limit_id=limit_id, enforcement=enforcement)
    limit.cap.measure = measure
    limit.cap.max_count = max_count
    limit.cap.per.extend(per)
    limit.cap.window.rolling.FromSeconds(seconds)
    return limit


def assign(server: ServerProcess, account: str, *limits: policy_pb2.Limit) -> policy_pb2.Policy:
    """Gives the account a policy of its own with these limits."""
    policy = server.policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(
            parent=f"accounts/{account}",
            policy_id="own",
            policy=policy_pb2.Policy(limits=limits),
        )
    )
    assignment = policy_pb2.Assignment(policy=policy.name)
    assignment.scope.account = account
    server.policies.CreateAssignment(
        policy_service_pb2.CreateAssignmentRequest(
            parent=f"accounts/{account}", assignment_id="own", assignment=assignment
        )
    )
    return policy


def commit_request(
    account: str, contact: str = "", **fields: Any
) -> decision_service_pb2.CommitRequest:
    """A commit; `fields` are those of the request, or of the attempt."""
    own = {key: value for key, value in fields.items() if key in _COMMIT_FIELDS}
    rest = {key: value for key, value in fields.items() if key not in _COMMIT_FIELDS}
    attempt = attempt_pb2.Attempt(account=account, contact=contact, **rest)
    return decision_service_pb2.CommitRequest(attempt=attempt, **own)


_COMMIT_FIELDS = {each.name for each in decision_service_pb2.CommitRequest.DESCRIPTOR.fields}


@dataclass(frozen=True)
class Fault:
    """A status taken apart. `fields` maps the path of each field to the rule that it breaks."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    retry_ms: int | None = None


def fault_of(error: grpc.RpcError) -> Fault:
    """The status of a call that failed, checked for the form that every one of ours has."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"no details: {error}"
    assert status.message == error.details()
    fields: dict[str, str] = {}
    infos = []
    retry_ms = None
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            infos.append(info)
        if detail.Unpack(bad):
            fields = {each.field: each.description for each in bad.field_violations}
        if detail.Unpack(retry):
            retry_ms = retry.retry_delay.ToMilliseconds()
    assert len(infos) == 1
    assert infos[0].domain == "limiter.v1"
    return Fault(
        error.code(),
        status.message,
        infos[0].reason,
        fields,
        dict(infos[0].metadata),
        retry_ms,
    )
