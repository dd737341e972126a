"""Failed calls as exceptions: the inverse of `limiter.service.status`.

In: what gRPC raises. Out: the class of `limiter.errors` for its code, with the reason, the fields
that break a rule and the delay that its `google.rpc.Status` tells of. A failure that never reached
a server has its code for a reason.
"""

from __future__ import annotations

from typing import Any, Final, cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from limiter import errors

__all__ = ["fault_of", "with_request_id"]

_CLASSES: Final[dict[str, type[errors.LimiterError]]] = {
    each.code: each
    for each in vars(errors).values()
    if isinstance(each, type)
    and issubclass(each, errors.LimiterError)
    and each.__base__ is not errors.ResourceExhausted
}

# What grpc.aio says of a stream that breaks while it is written to.
_BROKEN_WHILE_WRITING: Final = "Internal error from Core"


def fault_of(error: grpc.RpcError) -> errors.LimiterError:
    """The fault of a failed call, of the class that fits its code."""
    call = cast(Any, error)
    code: grpc.StatusCode = call.code()
    if code is grpc.StatusCode.INTERNAL and call.details() == _BROKEN_WHILE_WRITING:
        return errors.Unavailable(code.name, "the connection broke")
    status = _status(call)
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_ms = None
    for detail in status.details if status is not None else ():
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    fault = _CLASSES.get(code.name, errors.LimiterError)(
        info.reason or code.name,
        call.details() or code.name.replace("_", " ").lower(),
        violations=[
            errors.FieldViolation(each.field, each.description) for each in bad.field_violations
        ],
        metadata=dict(info.metadata),
        retry_after_ms=retry_after_ms,
    )
    # What has no class of its own is told apart by its code.
    fault.code = code.name
    return fault


def with_request_id(fault: errors.LimiterError, request_id: str) -> errors.LimiterError:
    """The fault, which now tells under which id the call may be repeated."""
    if request_id:
        fault.metadata["request_id"] = request_id
        fault.add_note(f"request_id {request_id}: a repeat under it counts once at most")
    return fault


def _status(call: Any) -> status_pb2.Status | None:
    """The details that travel beside the status, or None if there are none or they do not fit."""
    try:
        return rpc_status.from_call(call)
    except ValueError:
        return None
