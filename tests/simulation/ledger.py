"""What the clients know, whatever the server and the oracle believe.

In flow the replies that have reached somebody; out flow failures. What always holds, whatever
breaks: who was told that something is counted finds it counted, once, under the same id, sequence
and instant, until it is taken back; what was taken back stays so; an edit that was acknowledged is
there; and the limit that nobody ever edits was never exceeded by what was acknowledged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from limiter import bounds
from limiter.v1 import attempt_pb2, commitment_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model.limits import CONTACT
from tests.model.verdicts import ALLOWED, DENIED
from tests.simulation.calls import Outcome, Request
from tests.simulation.witness import Witness

CANCELLED = commitment_pb2.COMMITMENT_STATE_CANCELLED
COUNTED = commitment_pb2.COMMITMENT_STATE_COUNTED


class Receipt(NamedTuple):
    """What an acknowledged commit was told."""

    commit_id: str
    account_sequence: int
    decide_ms: int


@dataclass
class Sent:
    """One acknowledged commit."""

    attempt: attempt_pb2.Attempt
    receipt: Receipt
    # Whether it counts whatever the limits say, or may have been taken back or lapsed.
    is_free: bool
    is_cancelled: bool = False
    is_confirmed: bool = False


@dataclass
class Call:
    """Something that a client wants done, however often it has to ask."""

    number: int
    request: Request
    # Whether it may be asked again.
    is_safe: bool
    try_count: int = 0
    is_over: bool = False
    # By the place in the batch.
    receipts: dict[int, Receipt] = field(default_factory=dict)


class Ledger:
    """All acknowledgements of one history."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, int], Sent] = {}
        self.by_id: dict[str, Sent] = {}
        self.edition = 0
        self.acknowledged_count = 0
        # What somebody has asked to be taken back, whatever has come of it.
        self._undone: set[str] = set()

    # ---- replies

    def note(self, call: Call, outcome: Outcome) -> None:
        """A reply has reached the client."""
        request = call.request
        if isinstance(outcome, int):
            self.edition = max(self.edition, outcome)
        elif isinstance(outcome, service_pb2.CommitResponse):
            assert isinstance(request, service_pb2.CommitRequest)
            is_free = request.mode != 0 or request.HasField("hold_duration")
            self._note(
                call, 0, request.attempt, outcome, has_id=bool(request.request_id), is_free=is_free
            )
        elif isinstance(outcome, service_pb2.CommitBatchResponse):
            assert isinstance(request, service_pb2.CommitBatchRequest)
            for index, (recipient, result) in enumerate(
                zip(request.recipients, outcome.results, strict=True)
            ):
                attempt = attempt_pb2.Attempt()
                attempt.CopyFrom(request.attempt)
                attempt.contact = recipient.contact
                has_id = bool(recipient.request_id or request.request_id)
                self._note(call, index, attempt, result, has_id=has_id, is_free=False)
        elif isinstance(outcome, commitment_pb2.CancelResponse | commitment_pb2.ConfirmResponse):
            self._note_fate(outcome.commitment)

    def _note(
        self,
        call: Call,
        index: int,
        attempt: attempt_pb2.Attempt,
        reply: service_pb2.CommitResponse | service_pb2.BatchResult,
        *,
        has_id: bool,
        is_free: bool,
    ) -> None:
        decision = reply.decision
        before = call.receipts.get(index) if has_id else None
        is_forgotten = before is not None and (
            decision.decide_time.ToMilliseconds()
            >= before.decide_ms + bounds.REQUEST_ID_RETENTION_MS
        )
        # A denial is not remembered: one that was on its way for longer says nothing.
        is_older = before is not None and (
            decision.decide_time.ToMilliseconds() <= before.decide_ms
        )
        if decision.outcome == DENIED:
            assert before is None or is_forgotten or is_older, (
                f"{before} was acknowledged and is denied"
            )
        if decision.outcome != ALLOWED:
            return
        receipt = Receipt(
            reply.commit_id, reply.account_sequence, decision.decide_time.ToMilliseconds()
        )
        assert before in (None, receipt) or is_forgotten, f"{before} was acknowledged: {receipt}"
        call.receipts[index] = receipt
        self._enter(Sent(attempt, receipt, is_free))

    def _enter(self, sent: Sent) -> None:
        self.acknowledged_count += 1
        place = (sent.attempt.account, sent.receipt.account_sequence)
        known = self.sent.setdefault(place, sent)
        same_id = self.by_id.setdefault(sent.receipt.commit_id, sent)
        for other in (known, same_id):
            assert (other.receipt, other.attempt.account, other.attempt.contact) == (
                sent.receipt,
                sent.attempt.account,
                sent.attempt.contact,
            ), f"two commits share a receipt: {other} and {sent}"

    def _note_fate(self, commitment: commitment_pb2.Commitment) -> None:
        sent = self.by_id.get(commitment.commit_id)
        if sent is None:
            # Its own acknowledgement was lost: it was named by its request id.
            return
        if commitment.state == CANCELLED:
            sent.is_cancelled = True
        elif commitment.state == COUNTED and not sent.is_cancelled:
            sent.is_confirmed = True

    def undo(self, commit_ids: Iterable[str]) -> None:
        """Somebody is about to ask for these to be taken back."""
        self._undone.update(commit_ids)

    # ---- what must be there

    def audit(self, witness: Witness) -> None:
        """Whether everything that was acknowledged is in what a server has recovered."""
        assert self.edition <= witness.edition, (
            f"edit {self.edition} was acknowledged, the journal ends at {witness.edition}"
        )
        for (account, sequence), sent in self.sent.items():
            known = witness.oracle.accounts.get(account)
            messages = known.messages if known is not None else []
            assert sequence <= len(messages), f"lost: {sent}"
            message = messages[sequence - 1]
            assert (
                witness.commit_ids[account, sequence],
                message.decided_ms,
                message.fields[CONTACT],
                message.message_count,
            ) == (
                sent.receipt.commit_id,
                sent.receipt.decide_ms,
                sent.attempt.contact,
                sent.attempt.message_count or 1,
            ), f"another stands where this was acknowledged: {sent}: {message}"
            assert not sent.is_cancelled or message.cancelled, f"counts again: {sent}"
            assert not sent.is_confirmed or message.lapse_ms is None, f"held again: {sent}"

    def check_floor(self, max_count: int, duration_ms: int) -> None:
        """Whether the limit of so many messages to a contact, in a rolling window of that length,
        was exceeded by what was acknowledged and certainly counted, in the order of the account."""
        lists: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for (account, _), sent in sorted(self.sent.items()):
            if sent.is_free or sent.receipt.commit_id in self._undone:
                continue
            sends = lists[account, sent.attempt.contact]
            now_ms = sent.receipt.decide_ms
            sends.append((now_ms, sent.attempt.message_count or 1))
            used = sum(count for at_ms, count in sends if now_ms - duration_ms < at_ms <= now_ms)
            assert used <= max_count, f"{used} messages where {max_count} may go: {sends}"
