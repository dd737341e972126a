"""The ledger: what the clients know, kept outside the server.

What flows in: every attempt before it is sent, and every reply. What flows out: what has to be
asked again, what the server must now hold, and a list of faults.

What always holds: an attempt without a reply is unknown, and stays so until it is answered under
the same request id. One whose allowance was acknowledged is never forgotten: every later answer to
it must say the same. A denial binds nobody, because it is answered without waiting for the commits
that it is due to: after a crash the same attempt may pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from limiter import bounds
from limiter.v1 import attempt_pb2, commitment_pb2, decision_pb2, decision_service_pb2

__all__ = [
    "CONTACTS_MAX",
    "MESSAGES_MAX",
    "Batch",
    "Ledger",
    "Receipt",
    "Reply",
    "Send",
    "Tally",
    "Undoing",
]

# The caps that every account is under: distinct contacts, and messages to one of them.
CONTACTS_MAX: Final = 24
MESSAGES_MAX: Final = 8

ALLOWED: Final = decision_pb2.OUTCOME_ALLOWED
DENIED: Final = decision_pb2.OUTCOME_DENIED
COUNTED: Final = commitment_pb2.COMMITMENT_STATE_COUNTED
CANCELLED: Final = commitment_pb2.COMMITMENT_STATE_CANCELLED
ALL_OR_NOTHING: Final = decision_service_pb2.ATOMICITY_ALL_OR_NOTHING


class Receipt(NamedTuple):
    """What an acknowledged commit was told, and has to be told again: `decide_ms` since 1970."""

    commit_id: str
    account_sequence: int
    decide_ms: int


class Reply(Protocol):
    """The answer to one attempt: a CommitResponse or a BatchResult."""

    @property
    def decision(self) -> decision_pb2.Decision: ...
    @property
    def commit_id(self) -> str: ...
    @property
    def account_sequence(self) -> int: ...
    @property
    def replayed(self) -> bool: ...


@dataclass(eq=False, slots=True)
class Send:
    """One attempt. `request_id` is its own one, empty where only its batch has one."""

    account: str
    contact: str
    message_count: int
    request_id: str
    round_number: int
    outcome: decision_pb2.Outcome.ValueType = decision_pb2.OUTCOME_UNSPECIFIED
    receipt: Receipt | None = None
    was_unknown: bool = False
    # For longer than a run lasts, so that it counts until it is cancelled, confirmed or not.
    is_held: bool = False
    undoing: Undoing | None = None

    @property
    def is_unknown(self) -> bool:
        return self.outcome == decision_pb2.OUTCOME_UNSPECIFIED

    def request(self) -> decision_service_pb2.CommitRequest:
        """The same at every repeat."""
        attempt = attempt_pb2.Attempt(
            account=self.account, contact=self.contact, message_count=self.message_count
        )
        request = decision_service_pb2.CommitRequest(attempt=attempt, request_id=self.request_id)
        if self.is_held:
            request.hold_duration.FromMilliseconds(bounds.HOLD_DURATION_MS_MAX)
        return request

    def __str__(self) -> str:
        how = f"receipt {self.receipt}" if self.receipt else f"outcome {self.outcome}"
        retried = ", once unknown" if self.was_unknown else ""
        return (
            f"{self.account}/{self.contact} x{self.message_count} {self.request_id!r} "
            f"of round {self.round_number}: {how}{retried}"
        )


@dataclass(eq=False, slots=True)
class Undoing:
    """The cancellation of an acknowledged attempt, or else the confirmation."""

    send: Send
    cancels: bool
    is_unknown: bool = True


@dataclass(eq=False, slots=True)
class Batch:
    """Attempts that are sent as one; they share account and message_count."""

    sends: Sequence[Send]
    request_id: str
    atomicity: decision_service_pb2.Atomicity.ValueType

    @property
    def is_unknown(self) -> bool:
        return any(send.is_unknown for send in self.sends)

    def request(self) -> decision_service_pb2.CommitBatchRequest:
        """The same at every repeat."""
        request = decision_service_pb2.CommitBatchRequest(
            request_id=self.request_id, atomicity=self.atomicity
        )
        request.attempt.account = self.sends[0].account
        request.attempt.message_count = self.sends[0].message_count
        for send in self.sends:
            request.recipients.add(contact=send.contact, request_id=send.request_id)
        return request


@dataclass(slots=True)
class Tally:
    """What one account's allowed attempts come to: messages by contact, attempts by sequence."""

    request_count: int = 0
    messages: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sequences: dict[int, Send] = field(default_factory=dict)

    def fits(self, send: Send) -> bool:
        """Whether both caps let the attempt pass."""
        is_inside = send.contact in self.messages
        messages = self.messages[send.contact] if is_inside else 0
        has_room = is_inside or len(self.messages) < CONTACTS_MAX
        return has_room and messages + send.message_count <= MESSAGES_MAX


class Ledger:
    """All attempts of a run, the server's last known edition of the policy, and the faults."""

    def __init__(self) -> None:
        self.singles: list[Send] = []
        self.batches: list[Batch] = []
        self.undoings: list[Undoing] = []
        self.faults: list[str] = []
        self._tallies: dict[str, Tally] = defaultdict(Tally)
        self._commit_ids: dict[str, Send] = {}
        # The policy's editions, one after the other: the last one asked for and acknowledged.
        self.edition_asked = 0
        self.edition = 0
        # Of the unknown ones that were allowed at last: those that the server had counted before
        # they were asked for again, and those that it had not.
        self.found_count = 0
        self.fresh_count = 0

    @property
    def accounts(self) -> list[str]:
        return list(self._tallies)

    def tally(self, account: str) -> Tally:
        return self._tallies[account]

    def add(self, entry: Send | Batch) -> None:
        """To be called before the attempt leaves: from now on it may have been counted."""
        if isinstance(entry, Send):
            self._tallies[entry.account].request_count += 1
            self.singles.append(entry)
        else:
            self._tallies[entry.sends[0].account].request_count += 1
            self.batches.append(entry)

    def undo(self, send: Send, *, cancels: bool) -> Undoing:
        """To be called before an acknowledged attempt is cancelled or confirmed."""
        assert send.undoing is None
        send.undoing = Undoing(send, cancels)
        self.undoings.append(send.undoing)
        return send.undoing

    def settle_undoing(
        self, undoing: Undoing, state: commitment_pb2.CommitmentState.ValueType
    ) -> None:
        """What a cancellation or a confirmation has led to."""
        send = undoing.send
        expected = CANCELLED if undoing.cancels else COUNTED
        if state != expected:
            self.faults.append(f"state {state} instead of {expected}: {send}")
        if undoing.is_unknown and undoing.cancels:
            messages = self._tallies[send.account].messages
            messages[send.contact] -= send.message_count
            if messages[send.contact] == 0:
                del messages[send.contact]
        undoing.is_unknown = False

    def unknown(self) -> list[Send | Batch | Undoing]:
        """What has to be asked again, marked as having been unknown."""
        undoings = [each for each in self.undoings if each.is_unknown]
        return [*self._unknown_attempts(), *undoings]

    def _unknown_attempts(self) -> list[Send | Batch]:
        entries: list[Send | Batch] = []
        entries += [send for send in self.singles if send.is_unknown]
        entries += [batch for batch in self.batches if batch.is_unknown]
        for entry in entries:
            for send in entry.sends if isinstance(entry, Batch) else (entry,):
                send.was_unknown |= send.is_unknown
        return entries

    def acknowledged(self) -> list[Send | Batch]:
        """What must be answered as it was: every single and batch with a receipt, but for what was
        cancelled."""
        entries: list[Send | Batch] = []
        entries += [
            send
            for send in self.singles
            if send.receipt and not (send.undoing and send.undoing.cancels)
        ]
        entries += [batch for batch in self.batches if any(send.receipt for send in batch.sends)]
        return entries

    def settle(self, send: Send, reply: Reply, *, is_repeat: bool = False) -> None:
        """An answer to an attempt. `is_repeat`: it has been answered before this was asked."""
        outcome = reply.decision.outcome
        if outcome not in {ALLOWED, DENIED}:
            self.faults.append(f"outcome {outcome} for {send}")
        elif outcome == ALLOWED:
            self._allowed(send, reply, is_repeat=is_repeat)
        elif send.receipt is not None:
            self.faults.append(f"lost: denied after it had been acknowledged: {send}")
        else:
            send.outcome = DENIED

    def settle_batch(
        self,
        batch: Batch,
        reply: decision_service_pb2.CommitBatchResponse,
        *,
        is_repeat: bool = False,
    ) -> None:
        """An answer to a batch, taken apart."""
        results = list(reply.results)
        allowed = [result for result in results if result.decision.outcome == ALLOWED]
        if len(results) != len(batch.sends) or reply.accepted_count != len(allowed):
            self.faults.append(f"a batch of {len(batch.sends)} was answered by {reply}")
            return
        if batch.atomicity == ALL_OR_NOTHING:
            self._check_whole(batch, results)
        for send, result in zip(batch.sends, results, strict=True):
            self.settle(send, result, is_repeat=is_repeat)

    def settle_twins(self, send: Send, replies: Sequence[Reply]) -> None:
        """The answers to an attempt that was sent twice at once: counted once at most. One may be
        denied and the other then allowed, but only where a cancellation can have made room."""
        outcomes = {reply.decision.outcome for reply in replies}
        is_replayed = sorted(reply.replayed for reply in replies)
        in_order = sorted(
            replies,
            key=lambda reply: (
                reply.decision.decide_time.ToMilliseconds(),
                reply.decision.outcome == ALLOWED,
            ),
        )
        if len(outcomes) != 1 and not (
            in_order[-1].decision.outcome == ALLOWED and self._has_cancels(send.account)
        ):
            self.faults.append(f"one was allowed and its twin denied: {send}: {replies}")
        elif outcomes == {ALLOWED} and is_replayed != [False, True]:
            self.faults.append(f"not exactly one of two twins was replayed: {send}: {replies}")
        for reply in in_order:
            self.settle(send, reply)

    def _has_cancels(self, account: str) -> bool:
        return any(each.cancels and each.send.account == account for each in self.undoings)

    def gaps(self, account: str) -> list[str]:
        """Whatever is wrong with the account's sequence: it must be 1 to N for N commits."""
        sequences = self._tallies[account].sequences
        missing = sorted(set(range(1, len(sequences) + 1)) - set(sequences))
        beyond = [send for number, send in sorted(sequences.items()) if number > len(sequences)]
        if not missing and not beyond:
            return []
        return [
            f"{account}: {len(sequences)} commits, sequences missing: {missing}, beyond: "
            + "; ".join(map(str, beyond))
        ]

    def sends_of(self, account: str, contact: str) -> Iterable[Send]:
        """The allowed attempts to a contact, in their order."""
        sequences = self._tallies[account].sequences
        return (send for _, send in sorted(sequences.items()) if send.contact == contact)

    def _allowed(self, send: Send, reply: Reply, *, is_repeat: bool) -> None:
        receipt = Receipt(
            reply.commit_id,
            reply.account_sequence,
            reply.decision.decide_time.ToMilliseconds(),
        )
        if send.receipt is not None:
            if receipt != send.receipt:
                self.faults.append(f"acknowledged, then answered by {receipt}: {send}")
            elif is_repeat and not reply.replayed:
                self.faults.append(f"counted again: {send}")
            return
        if reply.replayed and is_repeat:
            self.faults.append(f"answered as a denial, now as if allowed then: {send}")
        if send.was_unknown:
            self.found_count += reply.replayed
            self.fresh_count += not reply.replayed
        send.outcome = ALLOWED
        send.receipt = receipt
        self._enter(send, receipt)

    def _enter(self, send: Send, receipt: Receipt) -> None:
        tally = self._tallies[send.account]
        tally.messages[send.contact] += send.message_count
        same_place = tally.sequences.setdefault(receipt.account_sequence, send)
        same_id = self._commit_ids.setdefault(receipt.commit_id, send)
        for other in {same_place, same_id} - {send}:
            self.faults.append(f"two commits share a receipt: {send}; {other}")

    def _check_whole(
        self, batch: Batch, results: Sequence[decision_service_pb2.BatchResult]
    ) -> None:
        """One that goes whole or not at all survives a crash whole or not at all too."""
        fates = {(result.decision.outcome == ALLOWED, result.replayed) for result in results}
        if len(fates) != 1:
            self.faults.append(f"a whole batch came apart: {[*map(str, batch.sends)]}: {results}")
