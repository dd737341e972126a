"""Batches larger than one call takes: apart, and together again.

In: recipients in any number. Out: parts that each fit into one call, in order, and one result for
all once they are answered.

What always holds: results have the order of the recipients. A duplicate of a recipient in an
earlier part is found here, by the rule that the server has inside a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from limiter import bounds
from limiter.client import results
from limiter.client.attempts import (
    Recipient,
    RecipientLike,
    recipient_message,
    recipient_of,
)
from limiter.v1 import decision_service_pb2

__all__ = ["Batch", "Part", "Reply"]

Reply = decision_service_pb2.CheckBatchResponse | decision_service_pb2.CommitBatchResponse

# Tag and length of one recipient in a message, at most.
_FRAME_BYTES = 5


@dataclass(slots=True)
class Part:
    """What one call takes: the recipients, and the place of each among all."""

    recipients: list[decision_service_pb2.Recipient] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    size_bytes: int = 0

    def has_room(self, recipient_bytes: int, room_bytes: int) -> bool:
        """Whether one more recipient of that size fits."""
        return (
            len(self.recipients) < bounds.BATCH_RECIPIENTS_MAX
            and self.size_bytes + recipient_bytes <= room_bytes
        )


class Batch:
    """The recipients of one batch, in parts; `shared_bytes` is what each call holds besides."""

    def __init__(
        self,
        recipients: Iterable[RecipientLike],
        *,
        shared_bytes: int = 0,
        exclude_duplicates: bool = False,
    ) -> None:
        self.recipients = [recipient_of(each) for each in recipients]
        self.parts = [Part()]
        room_bytes = bounds.MESSAGE_BYTES_MAX - shared_bytes
        seen: set[tuple[str, str]] = set()
        for place, recipient in enumerate(self.recipients):
            key = ("address", recipient.address) if recipient.address else ("", recipient.contact)
            message = recipient_message(recipient)
            size_bytes = message.ByteSize() + _FRAME_BYTES
            part = self.parts[-1]
            is_full = bool(part.recipients) and not part.has_room(size_bytes, room_bytes)
            # Within the first part the server finds them; one of an earlier part goes nowhere.
            if exclude_duplicates and key in seen and (is_full or len(self.parts) > 1):
                continue
            if is_full:
                part = Part()
                self.parts.append(part)
            seen.add(key)
            part.recipients.append(message)
            part.places.append(place)
            part.size_bytes += size_bytes

    def together(self, replies: Sequence[Reply], request_id: str) -> results.BatchResult:
        """One result for all, from the reply to each part."""
        found: list[results.RecipientResult | None] = [None] * len(self.recipients)
        for part, reply in zip(self.parts, replies, strict=True):
            for place, message in zip(part.places, reply.results, strict=True):
                found[place] = results.recipient_result(self.recipients[place], message)
        left_out = found.count(None)
        return results.BatchResult(
            results=tuple(
                _duplicate(recipient) if result is None else result
                for recipient, result in zip(self.recipients, found, strict=True)
            ),
            accepted_count=sum(reply.accepted_count for reply in replies),
            denied_count=sum(reply.denied_count for reply in replies),
            duplicate_count=sum(reply.duplicate_count for reply in replies) + left_out,
            opted_out_count=sum(reply.opted_out_count for reply in replies),
            request_id=request_id,
        )


def _duplicate(recipient: Recipient) -> results.RecipientResult:
    """What the server says of one that it leaves out."""
    return results.RecipientResult(
        recipient=recipient,
        decision=None,
        commit_id="",
        account_sequence=0,
        duplicate=True,
        opted_out=False,
        replayed=False,
    )
