"""The faults of the service, independent of any transport.

A *denial* is never an error: it is a normal decision. What is raised here is a request that cannot
be decided at all (malformed, unknown, refused for lack of room), or a service that cannot answer.
`limiter.service.status` turns each of them into one `google.rpc.Status`; nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule: `field` is its path in the request, `description` the rule
    and the way out, in words."""

    field: str
    description: str


class Away(Exception):
    """A call needs an account that is not in memory, and nothing has been done: it is to be
    repeated once the account is there. `account_id` is the number of its name."""

    def __init__(self, account_id: int) -> None:
        super().__init__(account_id)
        self.account_id = account_id


class LimiterError(Exception):
    """Base of every fault. `code` is the canonical gRPC code's name, `reason` the ErrorInfo reason.

    `metadata` goes into ErrorInfo as it is; `retry_after_ms` becomes a RetryInfo where set.
    """

    code = "INTERNAL"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after_ms = retry_after_ms


class InvalidArgument(LimiterError):
    """The request breaks a rule whatever the state of the service."""

    code = "INVALID_ARGUMENT"

    @classmethod
    def for_field(
        cls, field: str, description: str, reason: str = "INVALID_FIELD"
    ) -> InvalidArgument:
        """An error about the field at path `field`; `description`: the rule and the way out."""
        return cls(
            reason, f"{field}: {description}", violations=(FieldViolation(field, description),)
        )


class Unauthenticated(LimiterError):
    """Who calls is not known: no credential, or one that is not good (any more)."""

    code = "UNAUTHENTICATED"


class PermissionDenied(LimiterError):
    """Who calls is known and may not do this."""

    code = "PERMISSION_DENIED"


class NotFound(LimiterError):
    """The named thing does not exist (or the caller may not know that it does)."""

    code = "NOT_FOUND"


class AlreadyExists(LimiterError):
    """The name or the scope is taken."""

    code = "ALREADY_EXISTS"


class Aborted(LimiterError):
    """The etag does not match: read again and retry."""

    code = "ABORTED"


class FailedPrecondition(LimiterError):
    """The state of the service forbids it until something else is done first."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(LimiterError):
    """A ceiling is reached; nothing was done."""

    code = "RESOURCE_EXHAUSTED"


class OverShare(ResourceExhausted):
    """The account has taken more than its share of a room that others need too; nothing was done.

    Whoever can wait, as a stream can, waits instead.
    """


class Unavailable(LimiterError):
    """The service cannot answer now; a retry with the same request_id is safe."""

    code = "UNAVAILABLE"


class DataLoss(LimiterError):
    """Stored bytes are not what was written."""

    code = "DATA_LOSS"


class DeadlineExceeded(LimiterError):
    """No answer came in time; whether anything was done is unknown."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(LimiterError):
    """The call was ended before its answer; whether anything was done is unknown."""

    code = "CANCELLED"


class Unimplemented(LimiterError):
    """The server does not serve the method."""

    code = "UNIMPLEMENTED"
