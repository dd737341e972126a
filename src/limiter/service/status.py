"""Faults as gRPC statuses: the one place where an exception becomes a `google.rpc.Status`.

What flows in: a LimiterError, or anything else that a servicer let escape. What flows out: a status
with one ErrorInfo of domain `limiter.v1` and, as fits, BadRequest, RetryInfo, QuotaFailure or
ResourceInfo, in the trailing metadata that clients in all languages know how to read.

What always holds:

- What was not foreseen becomes INTERNAL. Its traceback goes to the log under an id that the caller
  is told, and nothing else of it leaves the process.
- A cancelled call stays cancelled: asyncio's own exceptions pass through.
- A status fits into the 8 KiB of metadata that clients accept: what is too long is cut, whole
  violations first, and says so.
"""

from __future__ import annotations

import bisect
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc.aio import AbortError

from limiter import errors, faults_told

__all__ = [
    "DETAILS_KEY",
    "DOMAIN",
    "Gate",
    "Visit",
    "abort",
    "code_of",
    "handlers",
    "seen_by_callers",
    "to_status",
]

_log: Final = logging.getLogger(__name__)

DOMAIN: Final = "limiter.v1"

DETAILS_KEY: Final = "grpc-status-details-bin"

# Metadata of up to 8 KiB is what every client accepts. The details travel in base64 and hold the
# message, which travels beside them once more.
_MESSAGE_BYTES_MAX: Final = 1024
_DETAILS_BYTES_MAX: Final = 4096

_Context = grpc.aio.ServicerContext[Any, Any]


def to_status(error: errors.LimiterError) -> status_pb2.Status:
    """The status of a fault, with its details, no larger than a client accepts."""
    message = _shortened(error.message, _MESSAGE_BYTES_MAX)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[key] = _shortened(value, _MESSAGE_BYTES_MAX // 4)
    status.details.add().Pack(info)
    if error.retry_after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(error.retry_after_ms)
        status.details.add().Pack(retry)
    if "resource" in error.metadata:
        status.details.add().Pack(_resource_info(error.metadata["resource"], message))
    elif isinstance(error, errors.ResourceExhausted):
        subject = _shortened(error.metadata.get("account", ""), _MESSAGE_BYTES_MAX // 4)
        quota = error_details_pb2.QuotaFailure()
        quota.violations.add(subject=subject, description=message)
        status.details.add().Pack(quota)
    if error.violations:
        room_bytes = _DETAILS_BYTES_MAX - status.ByteSize()
        status.details.add().Pack(_bad_request(error.violations, room_bytes))
    return status


async def abort(context: _Context, error: BaseException) -> NoReturn:
    """Ends the call with the status of `error`; what is no LimiterError is logged and hidden.

    Never returns: raises what ends the call. Passes on cancellation and aborts under way.
    """
    if isinstance(error, AbortError) or not isinstance(error, Exception):
        raise error
    seen = seen_by_callers(error)
    faults_told.count(seen.code, seen.reason)
    status = to_status(seen)
    code = _CODES[seen.code]
    await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))


def seen_by_callers(error: Exception) -> errors.LimiterError:
    """The fault that a caller is told of; what was not foreseen is logged and hidden."""
    return error if isinstance(error, errors.LimiterError) else _hidden(error)


def code_of(code: grpc.StatusCode) -> int:
    """The number of a status code."""
    number: int = code.value[0]
    return number


class Visit(Protocol):
    """A call that was let in; see `limiter.service.authorization`."""

    def check(self, request: Message) -> None:
        """Raises for a request that reaches what is not the caller's."""

    def renew(self) -> None:
        """Raises when the caller is not let in any more."""


class Gate(Protocol):
    """What lets callers in; see `limiter.service.authorization`."""

    def enter(self, path: str, context: Any) -> Visit:
        """Lets in who calls the method at `path`, or raises."""


def handlers(
    servicer: Callable[[], object], service: Any, served_by: type, gate: Gate
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """Handlers of those methods of `service` (its descriptor) that the class `served_by` has; their
    faults end in a status.

    Every call goes through the `gate`, before and after its request is read. `servicer` gives the
    one of that class that does the work, for each call anew; it too may raise. Its unary methods
    are coroutines, those with a stream of replies async generators of messages, or of the bytes of
    messages. One that the class names in `TAKES_BYTES` takes and gives bytes, and gets the visit's
    `check` as well. Bytes that are no request are INVALID_ARGUMENT like any other fault of the
    caller.
    """
    made: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        if not hasattr(served_by, method.name):
            continue
        call = _Call(
            servicer,
            method.name,
            GetMessageClass(method.input_type),
            partial(gate.enter, f"/{service.full_name}/{method.name}"),
        )
        if method.name in getattr(served_by, "TAKES_BYTES", ()):
            made[method.name] = grpc.unary_unary_rpc_method_handler(call.unary_bytes)
        elif method.server_streaming:
            made[method.name] = grpc.unary_stream_rpc_method_handler(call.stream)
        else:
            made[method.name] = grpc.unary_unary_rpc_method_handler(call.unary)
    return made


@dataclass(frozen=True, slots=True)
class _Call:
    """How one method is called: `enter` lets a caller in."""

    servicer: Callable[[], object]
    name: str
    request_type: type[Message]
    enter: Callable[[_Context], Visit]

    async def unary(self, request: bytes, context: _Context) -> bytes:
        """One request, one reply."""
        try:
            visit = self.enter(context)
            decoded = _decoded(request, self.request_type)
            visit.check(decoded)
            reply: Message = await getattr(self.servicer(), self.name)(decoded, context)
            return reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def unary_bytes(self, request: bytes, context: _Context) -> bytes:
        """The same where reading the request and making the reply are the servicer's work."""
        try:
            visit = self.enter(context)
            reply: bytes = await getattr(self.servicer(), self.name)(request, context, visit.check)
            return reply
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)

    async def stream(self, request: bytes, context: _Context) -> AsyncIterator[bytes]:
        """One request, a stream of replies: up to when its caller is not let in any more."""
        try:
            visit = self.enter(context)
            decoded = _decoded(request, self.request_type)
            visit.check(decoded)
            replies = getattr(self.servicer(), self.name)(decoded, context)
            async with aclosing(replies):
                async for reply in replies:
                    visit.renew()
                    yield reply if isinstance(reply, bytes) else reply.SerializeToString()
        except Exception as error:  # noqa: BLE001 - every fault becomes a status
            await abort(context, error)


def _decoded(request: bytes, request_type: type[Message]) -> Message:
    try:
        return request_type.FromString(request)
    except DecodeError:
        raise errors.InvalidArgument(
            "MALFORMED_REQUEST",
            f"the request is not a well-formed {request_type.DESCRIPTOR.full_name}; send the "
            "message as the generated client encodes it",
        ) from None


_CODES: Final = {code.name: code for code in grpc.StatusCode}

# The collection in a resource's name says what it is.
_RESOURCE_TYPES: Final = {
    "policies": "limiter.v1.Policy",
    "assignments": "limiter.v1.Assignment",
    "groups": "limiter.v1.Group",
    "apiKeys": "limiter.v1.ApiKey",
}


def _resource_info(name: str, description: str) -> error_details_pb2.ResourceInfo:
    parts = name.split("/")
    collection = parts[-2] if len(parts) > 1 else ""
    return error_details_pb2.ResourceInfo(
        resource_type=_RESOURCE_TYPES.get(collection, ""),
        resource_name=_shortened(name, _MESSAGE_BYTES_MAX // 4),
        description=description,
    )


def _bad_request(
    violations: tuple[errors.FieldViolation, ...], room_bytes: int
) -> error_details_pb2.BadRequest:
    """As many violations as there is room for, at least one; the last one says what is left out."""
    bad = error_details_pb2.BadRequest()
    for index, violation in enumerate(violations):
        added = error_details_pb2.BadRequest.FieldViolation(
            field=_shortened(violation.field, _MESSAGE_BYTES_MAX // 4),
            description=_shortened(violation.description, _MESSAGE_BYTES_MAX // 2),
        )
        # Some bytes for the framing of each, and for the note on what is left out.
        room_bytes -= added.ByteSize() + 8
        if index > 0 and room_bytes < 100:
            bad.field_violations.add(description=f"and {len(violations) - index} more")
            break
        bad.field_violations.append(added)
    return bad


def _shortened(text: str, limit_bytes: int) -> str:
    """The text as valid UTF-8 of at most so many bytes as they travel; `…` marks a cut.

    In `grpc-message` every byte outside printable ASCII travels as three.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    if _travel_bytes(text) <= limit_bytes:
        return text
    # No character is shorter than a byte, so nothing beyond this many could stay.
    kept_count = bisect.bisect_right(
        range(limit_bytes + 1),
        limit_bytes - _travel_bytes("…"),
        key=lambda count: _travel_bytes(text[:count]),
    )
    return text[: kept_count - 1] + "…"


# Printable ASCII but for the percent sign, which marks the escapes of the other bytes.
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)


def _travel_bytes(text: str) -> int:
    data = text.encode()
    return len(data) + 2 * len(data.translate(None, _PLAIN))


def _hidden(error: Exception) -> errors.LimiterError:
    """What the caller of something unforeseen learns; the log has the rest."""
    incident = secrets.token_hex(4)
    _log.error("internal error %s", incident, exc_info=error)
    return errors.LimiterError(
        "INTERNAL",
        f"internal error: the server's log says more about incident {incident}",
        metadata={"incident": incident},
    )
