"""One request for every method, aimed at an account: for tests of who may call what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from limiter.access import Permission
from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    account_pb2,
    activity_pb2,
    attempt_pb2,
    commitment_pb2,
    decision_service_pb2,
    plan_pb2,
    policy_pb2,
    policy_service_pb2,
    restriction_pb2,
    simulation_pb2,
)

ACCESS = access_service_pb2.DESCRIPTOR.services_by_name["AccessService"]
DECISIONS = decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"]
POLICIES = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"]
SERVICES = (ACCESS, DECISIONS, POLICIES)

_P = policy_service_pb2
_A = access_service_pb2
_D = decision_service_pb2

Make = Callable[[str], Message]


def attempt(account: str, **fields: str) -> attempt_pb2.Attempt:
    """An attempt to somebody."""
    return attempt_pb2.Attempt(account=account, contact="ada", **fields)  # type: ignore[arg-type]


# By method: a request that reaches the account, and is sound but for what it names.
REQUESTS: dict[str, Make] = {
    "Check": lambda a: _D.CheckRequest(attempt=attempt(a)),
    "Commit": lambda a: _D.CommitRequest(attempt=attempt(a)),
    "CheckBatch": lambda a: _D.CheckBatchRequest(
        attempt=attempt_pb2.Attempt(account=a), recipients=[_D.Recipient(contact="ada")]
    ),
    "CommitBatch": lambda a: _D.CommitBatchRequest(
        attempt=attempt_pb2.Attempt(account=a), recipients=[_D.Recipient(contact="ada")]
    ),
    "CommitStream": lambda a: _D.CommitRequest(attempt=attempt(a)),
    "GetUsage": lambda a: _D.GetUsageRequest(attempt=attempt(a)),
    "Confirm": lambda a: commitment_pb2.ConfirmRequest(account=a, request_id="r"),
    "Cancel": lambda a: commitment_pb2.CancelRequest(account=a, request_id="r"),
    "WatchUsage": lambda a: _D.WatchUsageRequest(attempt=attempt(a)),
    "GetActivity": lambda a: activity_pb2.GetActivityRequest(account=a),
    "Plan": lambda a: plan_pb2.PlanRequest(
        attempt=attempt_pb2.Attempt(account=a), recipients=[plan_pb2.PlanRecipient(contact="ada")]
    ),
    "ListRestrictions": lambda a: restriction_pb2.ListRestrictionsRequest(account=a),
    "CreatePolicy": lambda a: _P.CreatePolicyRequest(
        parent=f"accounts/{a}", policy_id="new", policy=policy_pb2.Policy(), validate_only=True
    ),
    "GetPolicy": lambda a: _P.GetPolicyRequest(name=f"accounts/{a}/policies/own"),
    "ListPolicies": lambda a: _P.ListPoliciesRequest(parent=f"accounts/{a}"),
    "UpdatePolicy": lambda a: _P.UpdatePolicyRequest(
        policy=policy_pb2.Policy(name=f"accounts/{a}/policies/own", display_name="x"),
        validate_only=True,
    ),
    "DeletePolicy": lambda a: _P.DeletePolicyRequest(
        name=f"accounts/{a}/policies/own", validate_only=True
    ),
    "CreateAssignment": lambda a: _P.CreateAssignmentRequest(
        parent=f"accounts/{a}",
        assignment_id="new",
        assignment=policy_pb2.Assignment(
            policy=f"accounts/{a}/policies/own", scope=policy_pb2.Scope(account=a), mandatory=True
        ),
        validate_only=True,
    ),
    "GetAssignment": lambda a: _P.GetAssignmentRequest(name=f"accounts/{a}/assignments/own"),
    "ListAssignments": lambda a: _P.ListAssignmentsRequest(parent=f"accounts/{a}"),
    "UpdateAssignment": lambda a: _P.UpdateAssignmentRequest(
        assignment=policy_pb2.Assignment(name=f"accounts/{a}/assignments/own", mandatory=True),
        validate_only=True,
    ),
    "DeleteAssignment": lambda a: _P.DeleteAssignmentRequest(
        name=f"accounts/{a}/assignments/own", validate_only=True
    ),
    "ApplyPolicies": lambda a: _P.ApplyPoliciesRequest(
        policies=[policy_pb2.Policy(name=f"accounts/{a}/policies/own", display_name="x")],
        validate_only=True,
    ),
    "ClonePolicy": lambda a: _P.ClonePolicyRequest(
        source=f"accounts/{a}/policies/own",
        parent=f"accounts/{a}",
        policy_id="copy",
        validate_only=True,
    ),
    "ListPolicyVersions": lambda a: _P.ListPolicyVersionsRequest(name=f"accounts/{a}/policies/own"),
    "RollbackPolicy": lambda a: _P.RollbackPolicyRequest(
        name=f"accounts/{a}/policies/own", revision=1, validate_only=True
    ),
    "SimulatePolicy": lambda a: simulation_pb2.SimulatePolicyRequest(
        policy=policy_pb2.Policy(), account=a
    ),
    "GetAccount": lambda a: _P.GetAccountRequest(name=f"accounts/{a}"),
    "ListAccounts": lambda a: _P.ListAccountsRequest(),
    "UpdateAccount": lambda a: _P.UpdateAccountRequest(
        account=account_pb2.Account(name=f"accounts/{a}", time_zone="UTC"), validate_only=True
    ),
    "AddSuppressions": lambda a: _P.AddSuppressionsRequest(
        parent=f"accounts/{a}", suppressions=[account_pb2.Suppression(contact="ada")]
    ),
    "RemoveSuppressions": lambda a: _P.RemoveSuppressionsRequest(
        parent=f"accounts/{a}", suppressions=[account_pb2.Suppression(contact="ada")]
    ),
    "ListSuppressions": lambda a: _P.ListSuppressionsRequest(parent=f"accounts/{a}"),
    "ForgetContact": lambda a: _P.ForgetContactRequest(name=f"accounts/{a}", contact="ada"),
    "CreateApiKey": lambda a: _A.CreateApiKeyRequest(
        api_key_id="own",
        api_key=access_pb2.ApiKey(role=access_pb2.ROLE_VIEWER, accounts=[a]),
    ),
    "ListApiKeys": lambda a: _A.ListApiKeysRequest(),
    "RevokeApiKey": lambda a: _A.RevokeApiKeyRequest(name=f"apiKeys/of-{a}"),
    "RotateApiKey": lambda a: _A.RotateApiKeyRequest(name=f"apiKeys/of-{a}"),
    "CreateGroup": lambda a: _A.CreateGroupRequest(
        parent=f"accounts/{a}", group_id="new", group=access_pb2.Group(), validate_only=True
    ),
    "GetGroup": lambda a: _A.GetGroupRequest(name=f"accounts/{a}/groups/own"),
    "ListGroups": lambda a: _A.ListGroupsRequest(parent=f"accounts/{a}"),
    "UpdateGroup": lambda a: _A.UpdateGroupRequest(
        group=access_pb2.Group(name=f"accounts/{a}/groups/own", display_name="x"),
        validate_only=True,
    ),
    "DeleteGroup": lambda a: _A.DeleteGroupRequest(
        name=f"accounts/{a}/groups/own", validate_only=True
    ),
    "ListAuditEntries": lambda a: _A.ListAuditEntriesRequest(account=a),
}

# Lists that reach no account by name: foreign things are left out of them.
FILTERED = {"ListAccounts", "ListApiKeys"}

# What each method takes, as the API's own description says it.
PERMISSIONS: dict[str, Permission] = {
    **dict.fromkeys(("Check", "CheckBatch", "Plan"), Permission.DECISIONS_CHECK),
    **dict.fromkeys(
        ("Commit", "CommitBatch", "CommitStream", "Confirm", "Cancel"), Permission.DECISIONS_COMMIT
    ),
    **dict.fromkeys(("GetUsage", "WatchUsage"), Permission.USAGE_READ),
    "ListRestrictions": Permission.RESTRICTIONS_READ,
    "GetActivity": Permission.USAGE_READ,
    **dict.fromkeys(
        (
            "GetPolicy",
            "ListPolicies",
            "GetAssignment",
            "ListAssignments",
            "ListPolicyVersions",
            "SimulatePolicy",
            "GetAccount",
            "ListAccounts",
            "ListSuppressions",
            "GetGroup",
            "ListGroups",
            "ListAuditEntries",
        ),
        Permission.POLICIES_READ,
    ),
    **dict.fromkeys(
        ("CreateApiKey", "ListApiKeys", "RevokeApiKey", "RotateApiKey"), Permission.ACCESS_WRITE
    ),
}
PERMISSIONS |= {name: Permission.POLICIES_WRITE for name in REQUESTS if name not in PERMISSIONS}


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """The metadata of who shows a key."""
    return (("authorization", f"Bearer {secret}"),)


async def _stream(caller: Any, path: str, data: bytes, metadata: Sequence[tuple[str, str]]) -> None:
    """One message on a stream. A server may end a call before it has read the message; grpc.aio
    then hides the status behind an error of its own, so the call is made again."""
    for _ in range(100):
        both = caller.stream_stream(path)(metadata=metadata)
        try:
            await both.write(data)
            await both.done_writing()
            async for _ in both:
                pass
        except grpc.aio.AioRpcError as error:
            if error.details() != "Internal error from Core":
                raise
        else:
            return
    raise AssertionError(f"{path} never told its status")


async def outcome(
    channel: grpc.aio.Channel,
    path: str,
    request: Message,
    metadata: Sequence[tuple[str, str]] = (),
) -> grpc.StatusCode:
    """What a call of any method ends with, without its replies."""
    method = path.rpartition("/")[2]
    data = request.SerializeToString()
    # Without serializers it takes bytes, which its types do not know.
    caller: Any = channel
    try:
        if method == "CommitStream":
            await _stream(caller, path, data, metadata)
        elif method == "WatchUsage":
            stream = caller.unary_stream(path)(data, metadata=metadata)
            async for _ in stream:
                break
            stream.cancel()
        else:
            await caller.unary_unary(path)(data, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
