"""The restrictions log beside a plain list of what it should hold, driven through the core.

The model knows the rules and nothing of buffers on disk, digests, seals or keys: denials of one
account, person, campaign, limit and day are one entry; so many new ones fit between two rounds of
work; what is lost is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limiter import bounds, kinds, zones
from limiter._core import Core
from limiter._denials import DenialBuffer
from limiter._hot import Decider
from limiter.policy import PolicyStore
from limiter.restriction_records import Forgotten, Restriction, day_of
from limiter.restriction_store import RestrictionStore, Wanted
from limiter.restrictions import RestrictionLog
from limiter.service import conversion
from limiter.v1 import attempt_pb2, decision_pb2, decision_service_pb2, policy_pb2

START_MS = 1_800_000_000_000
FOLDER_KEY = bytes(range(32))
RETENTION_MS = 3 * bounds.DAY_MS


@dataclass
class Entry:
    """What the model knows of one restriction."""

    attempt: attempt_pb2.Attempt
    reference: str
    first_ms: int
    last_ms: int
    count: int
    reason: int
    limit_id: str
    max_count: int
    retry_ms: int | None
    shadow: bool
    etag: str
    forgotten: bool = False

    def forget(self, who: Forgotten) -> None:
        """Leaves nothing that could tell who it is about."""
        attempt = attempt_pb2.Attempt()
        attempt.CopyFrom(self.attempt)
        if who.contact or attempt.contact == attempt.address:
            attempt.ClearField("contact")
            attempt.ClearField("contact_time_zone")
        attempt.ClearField("address")
        self.attempt, self.reference, self.forgotten = attempt, "", True

    def check(self, found: Restriction) -> None:
        shown = {
            name: getattr(found, name)
            for name in attempt_pb2.Attempt.DESCRIPTOR.fields_by_name
            if hasattr(found, name)
        }
        assert attempt_pb2.Attempt(**shown) == self.attempt
        assert (found.reference, found.reason, found.shadow) == (
            self.reference,
            self.reason,
            self.shadow,
        )
        assert (found.first_ms, found.last_ms, found.count) == (
            self.first_ms,
            self.last_ms,
            self.count,
        )
        assert (found.limit_id, found.max_count, found.etag) == (
            self.limit_id,
            self.max_count,
            self.etag,
        )
        assert found.retry_ms == self.retry_ms
        assert found.forgotten == self.forgotten


class Pair:
    """One service whose denials are logged, and the model."""

    def __init__(self, folder: Path, row_count_max: int, *limits: policy_pb2.Limit) -> None:
        self._folder = folder
        self._row_count_max = row_count_max
        self._groups: list[tuple[int, bytes]] = []
        self.now_ms = START_MS
        self.entries: dict[tuple[Any, ...], Entry] = {}
        self.dropped: dict[tuple[str, int], int] = {}
        # Since the last round of work: new entries, repeats of them, and what did not fit.
        self._pending: dict[tuple[Any, ...], Entry] = {}
        self._pending_drops: dict[str, int] = {}
        self._denied: dict[str, int] = {}
        self._open()
        self.apply(*limits)
        self.log.start_known(self._core_end())

    def _open(self) -> None:
        store = RestrictionStore(self._folder, FOLDER_KEY)
        self.log = _Log(store, RETENTION_MS, self._row_count_max)
        self.log.tick(self.now_ms)
        self._policies = PolicyStore()
        self.core = Core(FOLDER_KEY, self._policies.bind, kinds.define_kind)
        self._policies.connect(self.core)
        self.core.tell_denials(self.log.buffer)
        for number, events in self._groups:
            self.core.replay(number, events, self._policies.restore)
        self._decider = Decider(self.core, kinds.compile_inline, zones.zone)

    def _core_end(self) -> int:
        return (len(self._groups) + 1) << 24

    def _journal(self) -> None:
        taken = self.core.take_group()
        if taken is not None:
            self._groups.append(taken[:2])

    def apply(self, *limits: policy_pb2.Limit) -> None:
        """Makes these the limits of everybody."""
        draft = self._policies.draft()
        policy = policy_pb2.Policy(name="policies/p", limits=limits)
        draft.put_policy(conversion.policy_from_message(policy, "policy"), "policy")
        assignment = policy_pb2.Assignment(name="assignments/all", policy="policies/p")
        draft.put_assignment(conversion.assignment_from_message(assignment), "assignment")
        self._policies.commit(self._policies.prepare(draft, self.now_ms))
        self.etag = self._policies.policy("policies/p").etag
        self._journal()

    # --- What happens -----------------------------------------------------------------------------

    def commit(self, attempt: attempt_pb2.Attempt) -> decision_pb2.Decision:
        request = decision_service_pb2.CommitRequest(attempt=attempt)
        reply, _ = self._decider.commit(request.SerializeToString(), self.now_ms)
        self._journal()
        decision = decision_service_pb2.CommitResponse.FromString(reply).decision
        self._note(attempt, "", decision)
        return decision

    def batch(self, request: decision_service_pb2.CommitBatchRequest) -> None:
        request.view = decision_pb2.VIEW_FULL
        reply, _ = self._decider.commit_batch(request.SerializeToString(), self.now_ms)
        self._journal()
        response = decision_service_pb2.CommitBatchResponse.FromString(reply)
        for recipient, result in zip(request.recipients, response.results, strict=True):
            if result.duplicate:
                continue
            attempt = attempt_pb2.Attempt()
            attempt.CopyFrom(request.attempt)
            attempt.contact, attempt.address = recipient.contact, recipient.address
            attempt.contact_time_zone = recipient.contact_time_zone
            self._note(attempt, recipient.reference, result.decision)

    def work(self) -> None:
        """The log writes what it was told."""
        self.log.tick(self.now_ms)
        self.log.work()
        day = day_of(self.now_ms)
        for key, entry in self._pending.items():
            known = self.entries.setdefault(key, entry)
            if known is not entry:
                _merge(known, entry)
        for account, count in self._pending_drops.items():
            self._add_dropped(account, day, count)
        self._forget_pending()

    def forget(self, who: Forgotten) -> int:
        """Forgets somebody, in what was not written yet too; how many entries were about them."""
        self.work()
        entries: dict[tuple[Any, ...], Entry] = {}
        count = 0
        for key, entry in self.entries.items():
            attempt = entry.attempt
            is_theirs = attempt.account == who.account and (
                attempt.contact == who.contact if who.contact else attempt.address == who.address
            )
            if is_theirs:
                entry.forget(who)
                count += day_of(entry.first_ms) >= day_of(self.now_ms - RETENTION_MS)
            # What comes later is an entry of its own.
            entries[(*key, len(entries)) if is_theirs else key] = entry
        self.entries = entries
        assert self.log.forget(who, look_only=True) == count
        assert self.log.forget(who, look_only=False) == count
        return count

    def crash(self) -> None:
        """The process ends before the log has written, and another one starts."""
        self.log.close()
        for account, count in self._denied.items():
            self._add_dropped(account, day_of(self.now_ms), count)
        self._forget_pending()
        self._open()
        self.log.work()

    def _add_dropped(self, account: str, day: int, count: int) -> None:
        key = (account, day)
        self.dropped[key] = self.dropped.get(key, 0) + count

    def _forget_pending(self) -> None:
        self._pending, self._pending_drops, self._denied = {}, {}, {}

    def _note(
        self, attempt: attempt_pb2.Attempt, reference: str, decision: decision_pb2.Decision
    ) -> None:
        is_denied = decision.outcome == decision_pb2.OUTCOME_DENIED
        limit: decision_pb2.LimitStatus | None = None
        if is_denied:
            self._denied[attempt.account] = self._denied.get(attempt.account, 0) + 1
            if decision.HasField("binding_limit"):
                limit = decision.binding_limit
        else:
            shadows = [
                each
                for each in decision.limit_statuses
                if each.enforcement == policy_pb2.ENFORCEMENT_SHADOW and each.exceeded
            ]
            if not shadows:
                return
            (limit,) = shadows
        entry = Entry(
            attempt,
            reference,
            self.now_ms,
            self.now_ms,
            1,
            decision.reason if limit is None or is_denied else limit.reason,
            limit.limit_id if limit is not None else "",
            limit.max_count if limit is not None else 0,
            decision.retry_time.ToMilliseconds() if decision.HasField("retry_time") else None,
            not is_denied,
            self.etag if limit is not None else "",
        )
        key = (
            attempt.account,
            attempt.contact or attempt.address,
            attempt.campaign,
            entry.limit_id,
            entry.reason if limit is None else 0,
            entry.shadow,
            day_of(self.now_ms),
        )
        if key in self._pending:
            _merge(self._pending[key], entry)
        elif len(self._pending) < self._row_count_max:
            self._pending[key] = entry
        else:
            drops = self._pending_drops
            drops[attempt.account] = drops.get(attempt.account, 0) + 1

    # --- What is told -----------------------------------------------------------------------------

    def expected(self, admits: Callable[[Entry], bool]) -> list[Entry]:
        from_day = day_of(self.now_ms - RETENTION_MS)
        kept = [each for each in self.entries.values() if day_of(each.first_ms) >= from_day]
        return [each for each in kept if admits(each)]

    def check(self, wanted: Wanted, page_size: int) -> int:
        """Reads all that is wanted page by page and compares it; how much it was."""
        found: list[Restriction] = []
        after = None
        while True:
            page, dropped = self.log.find(wanted, after, page_size, self.now_ms)
            found += page.rows
            assert len(page.rows) <= page_size
            after = page.next
            if after is None:
                break
        expected = self.expected(
            lambda each: (
                each.attempt.account == wanted.account
                and wanted.campaign in ("", each.attempt.campaign)
                and wanted.contact in ("", each.attempt.contact)
                and wanted.limit_id in ("", each.limit_id)
                and (wanted.start_ms is None or each.last_ms >= wanted.start_ms)
                and (wanted.end_ms is None or each.first_ms < wanted.end_ms)
            )
        )
        assert len(found) == len(expected)
        for row, entry in zip(found, expected, strict=True):
            entry.check(row)
        from_day = day_of(self.now_ms - RETENTION_MS)
        assert dropped == sum(
            count
            for (account, day), count in self.dropped.items()
            if account == wanted.account and day >= from_day
        )
        return len(found)


class _Log(RestrictionLog):
    """Without a thread, and with a buffer of its own size."""

    def __init__(self, store: RestrictionStore, retention_ms: int, row_count_max: int) -> None:
        super().__init__(store, retention_ms)
        self.buffer = DenialBuffer(bytes(16), row_count_max)
        self.buffer.position = store.known_up_to

    def start_known(self, position: int) -> None:
        """What `start` does for a new log."""
        self.buffer.position = position
        self._store.write((), {}, 0, position)

    def flush(self, patience_s: float = 0) -> bool:
        """There is no thread to wait for."""
        return True


def _merge(known: Entry, newer: Entry) -> None:
    known.count += newer.count
    known.last_ms = newer.last_ms
    known.reason, known.retry_ms, known.etag = newer.reason, newer.retry_ms, newer.etag
    known.max_count = newer.max_count
