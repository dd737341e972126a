"""DecisionService's Cancel and Confirm: what becomes of a commit after it was decided.

What flows in: an account, and a commit by its id or by the request id that it was asked under. What
flows out: how the commit stands.

What always holds: the reply leaves once all that the core has appended is durable, also when there
was nothing left to do: the call that did it may be waiting still. A commit of another account
answers as one that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from limiter import bounds, errors, model
from limiter._commitments import Commitments, Standing
from limiter.service.conversion import timestamp_from_ms
from limiter.v1 import commitment_pb2

__all__ = ["CommitmentServicer", "cancel", "commit_id_of", "confirm"]

_Context = grpc.aio.ServicerContext[Any, Any]
_Request = commitment_pb2.CancelRequest | commitment_pb2.ConfirmRequest
_Act = Callable[[str, int, int], Standing | None]

# Four digits for the shard and sixteen for the position in its journal.
_COMMIT_ID: Final = re.compile(r"([0-9a-f]{4})([0-9a-f]{16})")


class CommitmentServicer:
    """Cancels and confirms the commits of one shard's core.

    `durable` waits until everything appended up to now is durable and raises Unavailable; `now_ms`
    is the clock.
    """

    def __init__(
        self,
        commitments: Commitments,
        shard: int,
        durable: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._commitments = commitments
        self._shard = shard
        self._durable = durable
        self._now_ms = now_ms

    async def Cancel(  # noqa: N802 - the method's name in the API
        self, request: commitment_pb2.CancelRequest, context: _Context
    ) -> commitment_pb2.CancelResponse:
        """Takes back what a commit counted."""
        response = cancel(self._commitments, self._shard, request, self._now_ms())
        await self._durable()
        return response

    async def Confirm(  # noqa: N802 - the method's name in the API
        self, request: commitment_pb2.ConfirmRequest, context: _Context
    ) -> commitment_pb2.ConfirmResponse:
        """Makes a held commit count for good."""
        response = confirm(self._commitments, self._shard, request, self._now_ms())
        await self._durable()
        return response


def cancel(
    commitments: Commitments, shard: int, request: commitment_pb2.CancelRequest, now_ms: int
) -> commitment_pb2.CancelResponse:
    """Cancels and says how the commit stands; what was done is not durable yet.

    Raises InvalidArgument, NotFound, and ResourceExhausted when too many commits were undone.
    """
    return commitment_pb2.CancelResponse(
        commitment=_act(commitments, shard, request, now_ms, commitments.cancel)
    )


def confirm(
    commitments: Commitments, shard: int, request: commitment_pb2.ConfirmRequest, now_ms: int
) -> commitment_pb2.ConfirmResponse:
    """Confirms and says how the commit stands; what was done is not durable yet.

    Raises InvalidArgument, NotFound, and FailedPrecondition when the commit counts no longer.
    """
    return commitment_pb2.ConfirmResponse(
        commitment=_act(commitments, shard, request, now_ms, commitments.confirm)
    )


def _act(
    commitments: Commitments, shard: int, request: _Request, now_ms: int, act: _Act
) -> commitment_pb2.Commitment:
    if not request.account:
        raise model.missing("account", "name the account of the commit")
    if bounds.ACCOUNT_PATTERN.fullmatch(request.account) is None:
        raise errors.InvalidArgument.for_field(
            "account",
            f"must be 1 to {bounds.ACCOUNT_BYTES_MAX} of the characters A-Z a-z 0-9 . _ ~ @ + -",
        )
    position = _position_of(commitments, shard, request, now_ms)
    standing = act(request.account, position, now_ms) if position else None
    if standing is None:
        what = request.WhichOneof("commit")
        assert what is not None
        raise errors.NotFound(
            "COMMIT_NOT_FOUND",
            f"{what}: account {request.account} has no such commit within the history that is kept",
            metadata={"account": request.account, what: getattr(request, what)},
        )
    commitment = commitment_pb2.Commitment(
        commit_id=commit_id_of(shard, standing.position),
        event_time=timestamp_from_ms(standing.event_ms),
    )
    commitment.state = commitment_pb2.CommitmentState.ValueType(standing.fate)
    if standing.lapse_ms is not None:
        commitment.lapse_time.CopyFrom(timestamp_from_ms(standing.lapse_ms))
    return commitment


def _position_of(
    commitments: Commitments, shard: int, request: _Request, now_ms: int
) -> int | None:
    """Where the commit is that a request names; None when there is none."""
    if request.HasField("request_id"):
        if not 0 < len(request.request_id.encode()) <= bounds.REQUEST_ID_BYTES_MAX:
            raise errors.InvalidArgument.for_field(
                "request_id",
                f"must be 1 to {bounds.REQUEST_ID_BYTES_MAX} bytes long: send the one that was"
                " committed under",
            )
        return commitments.position_of(request.account, request.request_id, now_ms)
    if not request.HasField("commit_id"):
        raise model.missing("commit_id", "name the commit by its commit_id or its request_id")
    parts = _COMMIT_ID.fullmatch(request.commit_id)
    if parts is None:
        raise errors.InvalidArgument.for_field(
            "commit_id", "is no id of a commit: send the one that the commit was answered with"
        )
    if int(parts[1], 16) != shard:
        return None
    return int(parts[2], 16)


def commit_id_of(shard: int, position: int) -> str:
    """The commit_id of the commit at a position."""
    return f"{shard:04x}{position:016x}"
