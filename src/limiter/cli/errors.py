"""Faults as a person sees them: what is wrong, where, and the way out. Never a traceback.

In: an exception of a call or of this package. Out: a `CommandError` that holds the lines to print
and the exit code. `explain` is the only place that reads `google.rpc.Status` details.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from limiter.cli.durations import in_words
from limiter.cli.exit_codes import ExitCode

EXIT_CODES: dict[grpc.StatusCode, ExitCode] = {
    grpc.StatusCode.INVALID_ARGUMENT: ExitCode.INVALID,
    grpc.StatusCode.OUT_OF_RANGE: ExitCode.INVALID,
    grpc.StatusCode.NOT_FOUND: ExitCode.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: ExitCode.UNAVAILABLE,
    grpc.StatusCode.ALREADY_EXISTS: ExitCode.CONFLICT,
    grpc.StatusCode.ABORTED: ExitCode.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: ExitCode.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExitCode.EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: ExitCode.DEADLINE,
    grpc.StatusCode.UNAUTHENTICATED: ExitCode.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: ExitCode.REFUSED,
}
"""The exit code of each status. What is not named is a FAILURE."""

_WAYS_OUT: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.ABORTED: "It has changed in between: look at it again, then repeat.",
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "The server may still have done it. Repeat a commit with the same --request-id; "
        "allow more time with --timeout."
    ),
    grpc.StatusCode.UNAUTHENTICATED: "Show a key with --api-key or LIMITER_API_KEY.",
    grpc.StatusCode.UNIMPLEMENTED: "The server does not serve this: is it an older version?",
}

Locate = Callable[[str], str]
"""From a field's path in the request to where it stands in the user's file ("" if unknown)."""


class CommandError(Exception):
    """A command that cannot do its work. `lines` say why; the process ends with `exit_code`."""

    def __init__(self, exit_code: ExitCode, *lines: str) -> None:
        super().__init__(lines[0])
        self.exit_code = exit_code
        self.lines = lines


def explain(error: grpc.RpcError, address: str, locate: Locate | None = None) -> CommandError:
    """The failure of a call to the server at `address`, in words.

    `locate`, where given, adds the place in the user's file to each field.
    """
    call = cast(object, error)
    if not isinstance(call, grpc.Call):
        return CommandError(ExitCode.FAILURE, f"the call failed: {error}")
    code = call.code()
    exit_code = EXIT_CODES.get(code, ExitCode.FAILURE)
    status = _status(call)
    if code is grpc.StatusCode.UNAVAILABLE and status is None:
        return CommandError(
            exit_code,
            f"no server answers at {address}",
            "Start one with `limiter serve`, or name another with --address or LIMITER_ADDRESS.",
            f"({call.details() or 'no details'})",
        )
    message = call.details() or "no details"
    lines = _detail_lines(status, message, locate) if status is not None else [message]
    lines[0] = f"{_words(code.name)}: {lines[0]}"
    if code in _WAYS_OUT:
        lines.append(_WAYS_OUT[code])
    return CommandError(exit_code, *lines)


def _status(error: grpc.Call) -> status_pb2.Status | None:
    """The details that travel beside the status, or None if there are none or they do not fit."""
    try:
        return rpc_status.from_call(error)
    except ValueError:
        return None


def _detail_lines(status: status_pb2.Status, message: str, locate: Locate | None) -> list[str]:
    """The message, then one line for each thing that the details say and it does not."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    resource = error_details_pb2.ResourceInfo()
    quota = error_details_pb2.QuotaFailure()
    lines: list[str] = []
    reason: list[str] = []
    for detail in status.details:
        if detail.Unpack(bad):
            lines += [_violation_line(each, locate) for each in bad.field_violations]
            # Of a single field the message says the same again, but not where it stands.
            if _is_whole_message(bad, message):
                message = lines.pop()
        elif detail.Unpack(resource):
            if resource.resource_name not in message:
                lines.append(f"{resource.resource_type} {resource.resource_name}")
        elif detail.Unpack(quota):
            said = [each.description for each in quota.violations]
            lines += [description for description in said if description != message]
        elif detail.Unpack(retry):
            lines.append(f"try again in {in_words(retry.retry_delay.ToMilliseconds())}")
        elif detail.Unpack(info):
            pairs = "".join(f", {key} {value}" for key, value in sorted(info.metadata.items()))
            reason = [f"reason {info.reason}{pairs}"]
    return [message, *(f"  {line}" for line in lines + reason)]


def _violation_line(
    violation: error_details_pb2.BadRequest.FieldViolation, locate: Locate | None
) -> str:
    """One field, where it stands in the user's file, and the rule."""
    if not violation.field:
        return str(violation.description)
    place = locate(violation.field) if locate is not None else ""
    where = f"{violation.field} ({place})" if place else violation.field
    return f"{where}: {violation.description}"


def _is_whole_message(bad: error_details_pb2.BadRequest, message: str) -> bool:
    violations = bad.field_violations
    return len(violations) == 1 and message == f"{violations[0].field}: {violations[0].description}"


def _words(name: str) -> str:
    """`INVALID_ARGUMENT` as "invalid argument"."""
    return name.replace("_", " ").lower()
