"""The design's section 2 as naive Python: the oracle that the real thing is compared with.

It keeps every counted message for ever and answers each question by going through all of them. It
shares no code with the service but the protobuf stubs. Requests come in as protobuf messages, and
what the service ought to reply goes out as protobuf messages, `commit_id` apart (any unused id will
do).

`windows` says what is inside a window, `limits` what one limit counts and allows, `book` which
limits apply, `accounts` what their counters hold, `verdicts` what all limits together say about one
attempt; here is what happens to whole attempts and batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from limiter.v1 import (
    account_pb2,
    attempt_pb2,
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
)
from tests.model.accounts import NOTHING, Account, Later, Refused, Remembered
from tests.model.book import PolicyBook
from tests.model.fates import (
    NOW_AND_FOR_GOOD,
    UNDONE,
    Terms,
    commitment_of,
    fate_of,
    terms_of,
)
from tests.model.limits import (
    ADDRESS,
    CONTACT,
    ENFORCED,
    FIELD_NAMES,
    RETRY_REACH_MS,
    Limit,
    Message,
    Standing,
    changes_of,
    limit_of,
    set_time,
)
from tests.model.verdicts import (
    ALLOWED,
    DENIED,
    OPTED_OUT,
    Attempt,
    Choice,
    Verdict,
    attempt_of,
    bar,
    decide,
    record,
    take_exact,
)
from tests.model.windows import DAY_MS

REQUEST_ID_RETENTION_MS = DAY_MS
EVENT_AGE_MS = 62 * DAY_MS

BatchRequest = decision_service_pb2.CheckBatchRequest | decision_service_pb2.CommitBatchRequest
BatchResponse = decision_service_pb2.CheckBatchResponse | decision_service_pb2.CommitBatchResponse
InlineLimits = Sequence[policy_pb2.Limit]
CATEGORY = attempt_pb2.DIMENSION_CATEGORY
# 1 and a contact, or 2 and an address.
Person = tuple[int, str]


# --------------------------------------------------------------------------- all of it


@dataclass(slots=True)
class Row:
    """What becomes of one recipient of a batch; without a decision it is left out, because it has
    opted out or as a duplicate."""

    recipient: decision_service_pb2.Recipient
    attempt: Attempt
    decision: decision_pb2.Decision | None = None
    standings: Sequence[Standing] = ()
    account_sequence: int = 0
    replayed: bool = False
    opted_out: bool = False

    @property
    def allowed(self) -> bool:
        return self.decision is not None and self.decision.outcome == ALLOWED


class Oracle:
    """The whole service, as section 2 of the design has it."""

    def __init__(self) -> None:
        self.book = PolicyBook()
        self.accounts: dict[str, Account] = {}
        # Who has opted out, and which categories may go to them all the same, by account.
        self.opted_out: dict[str, set[Person]] = {}
        self.allowed: dict[str, set[str]] = {}

    # ---- policies

    def revise(
        self,
        policies: Sequence[policy_pb2.Policy],
        assignments: Sequence[policy_pb2.Assignment],
        now_ms: int,
    ) -> None:
        """From now on these are all the policies and all the assignments there are."""
        self.book.policies = {policy.name: policy for policy in policies}
        self.book.assignments = {assignment.name: assignment for assignment in assignments}
        self._keep_kinds(now_ms)

    def set_account(self, changed: account_pb2.Account, now_ms: int) -> None:
        """From now on the account is like that."""
        name = changed.name.removeprefix("accounts/")
        self.book.zones[name] = changed.time_zone
        self.allowed[name] = set(changed.allowed_categories)
        self._keep_kinds(now_ms)

    def opt(self, account: str, people: Iterable[Person], out: bool) -> int:
        """These opt out of the account's messages, or in again; says how many that changes."""
        known = self.opted_out.setdefault(account, set())
        changed = set(people) - known if out else set(people) & known
        known ^= changed
        return len(changed)

    def _keep_kinds(self, now_ms: int) -> None:
        """Something has changed on which the kinds hang that are kept."""
        self.book.revise(now_ms)
        for name, account in self.accounts.items():
            assigned = self.book.kinds_of(name)
            for kind in list(account.kinds):
                if kind not in assigned and kind not in account.inline.values():
                    account.kinds.remove(kind)
            account.kinds |= assigned

    def account(self, name: str) -> Account:
        """An account; one in which nothing has been counted yet is as good as new."""
        if name in self.accounts:
            return self.accounts[name]
        return Account(self.book.kinds_of(name))

    # ---- deciding

    def standings(
        self,
        attempt: Attempt,
        limits: Sequence[Limit],
        now_ms: int,
        later: Later = NOTHING,
        refuse: bool = True,
    ) -> list[Standing]:
        """Where each limit that applies to the attempt stands, `later` being counted as well. An
        enforced limit that lacks a field refuses the attempt, if `refuse` is set."""
        account = self.account(attempt.account)
        standings = []
        for limit in limits:
            if not limit.applies(attempt.fields):
                continue
            missing = limit.missing(attempt.fields)
            if missing and refuse and limit.enforcement == ENFORCED:
                raise Refused("MISSING_FIELD", {FIELD_NAMES[dimension] for dimension in missing})
            kind = limit.kind
            if kind is None:
                standings.append(clock_standing(limit, attempt, bool(missing), now_ms))
                continue
            standings.append(
                Standing(
                    limit,
                    None if missing else account.entries(kind, attempt.fields, later, now_ms),
                    kind.member(attempt.fields),
                    attempt.message_count,
                    kind.counts_message(attempt.fields),
                )
            )
        return standings

    def judge(
        self,
        attempt: Attempt,
        inline_limits: InlineLimits,
        now_ms: int,
        later: Later = NOTHING,
        terms: Terms = NOW_AND_FOR_GOOD,
    ) -> Verdict:
        """What is decided about an attempt at one instant, `later` being counted as well."""
        require_contacts([attempt])
        assigned, limits = self._limits(attempt, inline_limits)
        standings = self.standings(attempt, limits, now_ms, later, not terms.recorded)
        no_policy = not assigned and not inline_limits
        opted_out = self.has_opted_out(attempt)
        if terms.recorded:
            at_ms = now_ms if terms.event_ms is None else terms.event_ms
            readings = [
                record(standings, at_ms, now_ms, no_policy, late) for late in readings_of(standings)
            ]
            if opted_out:
                for reading in readings:
                    reading.reason = OPTED_OUT
        elif opted_out:
            readings = [bar(standings, now_ms, late) for late in readings_of(standings)]
        else:
            readings = [
                decide(standings, now_ms, no_policy, late, terms.lapse_ms)
                for late in readings_of(standings)
            ]
        return Verdict(readings[0], readings[-1], standings)

    def has_opted_out(self, attempt: Attempt) -> bool:
        """Whether the attempt is to somebody who has opted out, and in no category that may go to
        them all the same."""
        people = self.opted_out.get(attempt.account, set())
        if attempt.fields.get(CATEGORY) in self.allowed.get(attempt.account, ()):
            return False
        return any(
            (who, attempt.fields[dimension]) in people
            for who, dimension in ((1, CONTACT), (2, ADDRESS))
            if dimension in attempt.fields
        )

    def _limits(self, attempt: Attempt, inline_limits: InlineLimits) -> tuple[bool, list[Limit]]:
        """Whether anything is assigned, and the limits that apply, inline ones last."""
        assigned, limits = self.book.limits(
            attempt.account,
            attempt.fields.get(attempt_pb2.DIMENSION_RESOURCE, ""),
            attempt.fields.get(attempt_pb2.DIMENSION_CAMPAIGN, ""),
        )
        zone = self.book.zone_of(attempt.account)
        return assigned, limits + [limit_of(limit, zone=zone) for limit in inline_limits]

    def _replay(
        self,
        known: Remembered,
        attempt: Attempt,
        inline_limits: InlineLimits,
        now_ms: int,
        later: Later = NOTHING,
    ) -> Verdict:
        """The answer that was given once, with the policies and the limits as they are now."""
        assigned, limits = self._limits(attempt, inline_limits)
        reason = decision_pb2.REASON_WITHIN_LIMITS
        if not assigned and not inline_limits:
            reason = decision_pb2.REASON_NO_POLICY
        standings = self._usage(attempt, limits, now_ms, later)
        decisions = []
        for late in (False, True):
            decision = decision_pb2.Decision(outcome=ALLOWED, reason=reason)
            set_time(decision.decide_time, known.at_ms)
            decision.limit_statuses.extend(each.usage(now_ms, late) for each in standings)
            decisions.append(decision)
        return Verdict(decisions[0], decisions[1], standings)

    def _usage(
        self,
        attempt: Attempt,
        limits: Sequence[Limit],
        now_ms: int,
        later: Later = NOTHING,
    ) -> list[Standing]:
        """Where every limit stands that would apply to such an attempt. A template need not have
        what is measured or tested, only what keys the counter."""
        account = self.account(attempt.account)
        standings = []
        for limit in limits:
            if not limit.applies(attempt.fields):
                continue
            kind = limit.kind
            if kind is None:
                standings.append(clock_standing(limit, attempt, False, now_ms))
                continue
            entries = None
            if kind.key(attempt.fields) is not None:
                entries = account.entries(kind, attempt.fields, later, now_ms)
            standings.append(
                Standing(
                    limit,
                    entries,
                    kind.member(attempt.fields),
                    attempt.message_count,
                    False,
                )
            )
        return standings

    def _count(
        self,
        attempt: Attempt,
        inline_limits: InlineLimits,
        now_ms: int,
        terms: Terms = NOW_AND_FOR_GOOD,
    ) -> int:
        """Counts an allowed attempt, and says the how manieth of its account it is."""
        account = self.accounts.setdefault(attempt.account, self.account(attempt.account))
        zone = self.book.zone_of(attempt.account)
        found = [limit_of(limit, zone=zone).kind for limit in inline_limits]
        kinds = [kind for kind in found if kind is not None]
        assigned = self.book.kinds_of(attempt.account)
        account.keep_inline(kinds, assigned, now_ms)
        account.messages.append(
            Message(
                now_ms if terms.event_ms is None else terms.event_ms,
                attempt.fields,
                attempt.message_count,
                now_ms,
                terms.lapse_ms,
            )
        )
        return len(account.messages)

    def count(self, request: decision_service_pb2.CommitRequest, now_ms: int) -> int:
        """Counts what is known to be allowed, and says the how manieth of its account it is."""
        return self._count(attempt_of(request.attempt), request.inline_limits, now_ms)

    # ---- request ids

    def _remembered(
        self, account: str, keys: Sequence[tuple[str, ...]], payload: bytes, now_ms: int
    ) -> Remembered | None:
        """What was allowed under one of these ids; refused if that was something else."""
        for key in keys:
            known = self.account(account).remembered.get(key)
            if known is not None and now_ms < known.at_ms + REQUEST_ID_RETENTION_MS:
                if known.payload != payload:
                    raise Refused("REQUEST_ID_REUSED", {"request_id"})
                if known.account_sequence:
                    message = self.account(account).messages[known.account_sequence - 1]
                    if fate_of(message, now_ms) in UNDONE:
                        raise Refused("COMMIT_UNDONE", set())
                return known
        return None

    def _remember(self, account: str, keys: Sequence[tuple[str, ...]], known: Remembered) -> None:
        for key in keys:
            self.accounts[account].remembered[key] = known

    # ---- one attempt at a time

    def check(
        self, request: decision_service_pb2.CheckRequest, now_ms: int, choose: Choice = take_exact
    ) -> decision_service_pb2.CheckResponse:
        verdict = self.judge(attempt_of(request.attempt), request.inline_limits, now_ms)
        decision = in_view(choose(verdict, 0), request.view, decision_pb2.VIEW_FULL)
        return decision_service_pb2.CheckResponse(decision=decision)

    def commit(
        self, request: decision_service_pb2.CommitRequest, now_ms: int, choose: Choice = take_exact
    ) -> decision_service_pb2.CommitResponse:
        attempt = attempt_of(request.attempt)
        require_contacts([attempt])
        keys = commit_keys(request.request_id)
        terms = terms_of(request, now_ms)
        payload = payload_of(attempt, request.inline_limits, request)
        known = self._remembered(attempt.account, keys, payload, now_ms)
        sequence = 0
        if known is not None:
            decision = choose(self._replay(known, attempt, request.inline_limits, now_ms), 0)
            sequence = known.account_sequence
        else:
            if terms.event_ms is not None and not now_ms - EVENT_AGE_MS < terms.event_ms <= now_ms:
                raise Refused("INVALID_FIELD", {"event_time"})
            verdict = self.judge(attempt, request.inline_limits, now_ms, terms=terms)
            decision = choose(verdict, 0)
            if decision.outcome == ALLOWED:
                sequence = self._count(attempt, request.inline_limits, now_ms, terms)
                self._remember(attempt.account, keys, Remembered(payload, now_ms, sequence))
        return decision_service_pb2.CommitResponse(
            decision=in_view(decision, request.view, decision_pb2.VIEW_FULL),
            account_sequence=sequence,
            replayed=known is not None,
        )

    def get_usage(
        self, request: decision_service_pb2.GetUsageRequest, now_ms: int, late: bool = False
    ) -> decision_service_pb2.GetUsageResponse:
        """Where every limit stands that would apply to an attempt like this one."""
        attempt = attempt_of(request.attempt)
        _, limits = self._limits(attempt, ())
        standings = self._usage(attempt, limits, now_ms)
        return decision_service_pb2.GetUsageResponse(
            limit_statuses=[standing.usage(now_ms, late) for standing in standings]
        )

    # ---- what becomes of commits

    def cancel(self, account: str, sequence: int, now_ms: int) -> commitment_pb2.Commitment:
        """Takes the commit of that number back, if it still counts."""
        message = self._commit(account, sequence, now_ms)
        if fate_of(message, now_ms) not in UNDONE:
            message = replace(message, cancelled=True)
            self.accounts[account].change(sequence, message)
        return commitment_of(message, now_ms)

    def confirm(self, account: str, sequence: int, now_ms: int) -> commitment_pb2.Commitment:
        """The commit of that number counts for good, if it is held."""
        message = self._commit(account, sequence, now_ms)
        if fate_of(message, now_ms) in UNDONE:
            raise Refused("COMMIT_UNDONE", set())
        message = replace(message, lapse_ms=None)
        self.accounts[account].change(sequence, message)
        return commitment_of(message, now_ms)

    def sequence_of(self, account: str, request_id: str, now_ms: int) -> int:
        """The commit that was allowed under a request id; 0 when there is none."""
        known = self.account(account).remembered.get(("commit", request_id))
        if known is None or now_ms >= known.at_ms + REQUEST_ID_RETENTION_MS:
            return 0
        return known.account_sequence

    def _commit(self, account: str, sequence: int, now_ms: int) -> Message:
        messages = self.account(account).messages
        if 0 < sequence <= len(messages):
            message = messages[sequence - 1]
            if message.decided_ms > now_ms - EVENT_AGE_MS:
                return message
        raise Refused("COMMIT_NOT_FOUND", set())

    # ---- batches

    def check_batch(
        self,
        request: decision_service_pb2.CheckBatchRequest,
        now_ms: int,
        choose: Choice = take_exact,
    ) -> decision_service_pb2.CheckBatchResponse:
        response = decision_service_pb2.CheckBatchResponse()
        fill_response(response, self._decide_rows(request, {}, now_ms, choose), request.view)
        return response

    def commit_batch(
        self,
        request: decision_service_pb2.CommitBatchRequest,
        now_ms: int,
        choose: Choice = take_exact,
    ) -> decision_service_pb2.CommitBatchResponse:
        account = request.attempt.account
        require_contacts([attempt_of(request.attempt, each) for each in request.recipients])
        head = [("batch", request.request_id)] if request.request_id else []
        head_known = self._remembered(account, head, payload_of_batch(request), now_ms)
        asked = [self._asked_by(request, index) for index in range(len(request.recipients))]
        replays: dict[int, Remembered] = {}
        for index, (keys, payload) in enumerate(asked):
            known = self._remembered(account, keys, payload, now_ms)
            if known is not None:
                replays[index] = known
        rows = self._decide_rows(request, replays, now_ms, choose)
        for index, row in enumerate(rows):
            if index in replays and row.decision is not None:
                row.replayed = True
                row.account_sequence = replays[index].account_sequence
            elif row.decision is not None and row.allowed:
                row.account_sequence = self._count(row.attempt, request.inline_limits, now_ms)
                keys, payload = asked[index]
                known = Remembered(payload, now_ms, row.account_sequence)
                self._remember(account, keys, known)
                if head_known is None:
                    head_known = Remembered(payload_of_batch(request), now_ms, 0)
                    self._remember(account, head, head_known)
        response = decision_service_pb2.CommitBatchResponse()
        fill_response(response, rows, request.view)
        return response

    def _asked_by(
        self, request: decision_service_pb2.CommitBatchRequest, index: int
    ) -> tuple[list[tuple[str, ...]], bytes]:
        """The id of one recipient's attempt, and what is asked under it: its own id, in one
        namespace with those of single commits, else one derived from the batch's."""
        recipient = request.recipients[index]
        if recipient.request_id or not request.request_id:
            attempt = attempt_of(request.attempt, recipient)
            return commit_keys(recipient.request_id), payload_of(attempt, request.inline_limits)
        return [("derived", request.request_id, str(index))], payload_of_batch(request)

    def _decide_rows(
        self,
        request: BatchRequest,
        replays: dict[int, Remembered],
        now_ms: int,
        choose: Choice,
    ) -> list[Row]:
        """All recipients in order at one instant, each with the earlier allowed ones counted."""
        require_contacts([attempt_of(request.attempt, each) for each in request.recipients])
        rows: list[Row] = []
        later = Later()
        seen: set[tuple[str, str]] = set()
        for index, recipient in enumerate(request.recipients):
            row = Row(recipient, attempt_of(request.attempt, recipient))
            rows.append(row)
            if request.exclude_opt_outs and index not in replays:
                row.opted_out = self.has_opted_out(row.attempt)
            if row.opted_out:
                continue
            person = ("", recipient.address) if recipient.address else (recipient.contact, "")
            if request.exclude_duplicates and any(person):
                if person in seen:
                    continue
                seen.add(person)
            if index in replays:
                verdict = self._replay(
                    replays[index], row.attempt, request.inline_limits, now_ms, later
                )
                row.decision = choose(verdict, index)
                continue
            verdict = self.judge(row.attempt, request.inline_limits, now_ms, later)
            row.standings = verdict.standings
            row.decision = choose(verdict, index)
            if row.allowed:
                later.messages.append(tentative(row.attempt, now_ms))
        whole = request.atomicity == decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
        if whole and any(row.decision is not None and not row.allowed for row in rows):
            self._reject(rows, replays, request.inline_limits, now_ms)
        return rows

    def _reject(
        self,
        rows: Sequence[Row],
        replays: dict[int, Remembered],
        inline_limits: InlineLimits,
        now_ms: int,
    ) -> None:
        """Turns a batch of which some are denied into one of which all are."""
        news = [row for i, row in enumerate(rows) if i not in replays and row.decision is not None]
        retry_ms = self._first_passing_of_all(news, inline_limits, now_ms)
        for row in news:
            assert row.decision is not None
            if row.allowed:
                row.decision = decision_pb2.Decision(
                    outcome=DENIED, reason=decision_pb2.REASON_BATCH_REJECTED
                )
                set_time(row.decision.decide_time, now_ms)
                row.decision.limit_statuses.extend(
                    standing.status(now_ms, allowed=False, late=False) for standing in row.standings
                )
            row.decision.ClearField("retry_time")
            set_time(row.decision.retry_time, retry_ms)

    def _first_passing_of_all(
        self, rows: Sequence[Row], inline_limits: InlineLimits, now_ms: int
    ) -> int | None:
        """The earliest instant, at most 400 days ahead, at which the whole batch passes if nothing
        else is sent: tried at every instant at which anything changes."""
        evaluated: list[Standing] = []
        for row in rows:
            if self.has_opted_out(row.attempt):
                return None
            _, limits = self._limits(row.attempt, inline_limits)
            standings = self.standings(row.attempt, limits, now_ms)
            if any(s.over_max() for s in standings if s.denies_when_full):
                return None
            evaluated += [each for each in standings if each.entries is not None]
        for instant in changes_of(evaluated, now_ms, late=False):
            if instant > now_ms + RETRY_REACH_MS:
                return None
            if self._all_pass(rows, inline_limits, instant):
                return instant
        return None

    def _all_pass(self, rows: Sequence[Row], inline_limits: InlineLimits, at_ms: int) -> bool:
        later = Later()
        for row in rows:
            _, limits = self._limits(row.attempt, inline_limits)
            standings = self.standings(row.attempt, limits, at_ms, later)
            if not all(s.fits(at_ms, late=False) for s in standings if s.denies_when_full):
                return False
            later.messages.append(tentative(row.attempt, at_ms))
        return True


# --------------------------------------------------------------------------- helpers


def readings_of(standings: Sequence[Standing]) -> Sequence[bool]:
    """The readings that may differ, the exact one first: there is another one only where something
    may leave late."""
    has_leeway = any(
        entry.late_exit_ms != entry.exit_ms
        for standing in standings
        for entry in standing.entries or ()
    )
    return (False, True) if has_leeway else (False,)


def clock_standing(limit: Limit, attempt: Attempt, missing: bool, now_ms: int) -> Standing:
    """Where a limit stands that reads no counter."""
    entries = None if missing else ()
    return Standing(limit, entries, "", attempt.message_count, False, contact_zone=attempt.zone)


def tentative(attempt: Attempt, now_ms: int) -> Message:
    return Message(now_ms, attempt.fields, attempt.message_count)


def require_contacts(attempts: Sequence[Attempt]) -> None:
    """An attempt is to somebody."""
    if any(CONTACT not in attempt.fields for attempt in attempts):
        raise Refused("MISSING_FIELD", {"contact"})


def commit_keys(request_id: str) -> list[tuple[str, ...]]:
    return [("commit", request_id)] if request_id else []


def payload_of(
    attempt: Attempt,
    inline_limits: InlineLimits,
    request: decision_service_pb2.CommitRequest | None = None,
) -> bytes:
    """What is asked for under a request id: everything but the view."""
    fields = sorted(attempt.fields.items())
    limits = [limit.SerializeToString(deterministic=True) for limit in inline_limits]
    terms = terms_of(request or decision_service_pb2.CommitRequest(), 0)
    what = (attempt.account, fields, attempt.message_count, attempt.zone, limits, terms)
    return repr(what).encode()


def payload_of_batch(request: decision_service_pb2.CommitBatchRequest) -> bytes:
    """The same of a batch: the same recipients in the same order, to be treated the same way."""
    attempts = [attempt_of(request.attempt, recipient) for recipient in request.recipients]
    payloads = [payload_of(attempt, request.inline_limits) for attempt in attempts]
    ids = [recipient.request_id for recipient in request.recipients]
    whole = request.atomicity == decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
    left_out = (request.exclude_duplicates, request.exclude_opt_outs)
    return repr((payloads, ids, whole, left_out)).encode()


def in_view(
    decision: decision_pb2.Decision, view: int, otherwise: decision_pb2.View.ValueType
) -> decision_pb2.Decision:
    """The decision as far as the view shows it; without a view, `otherwise`."""
    shown = decision_pb2.Decision()
    shown.CopyFrom(decision)
    if (view or otherwise) != decision_pb2.VIEW_FULL:
        shown.ClearField("limit_statuses")
    return shown


def fill_response(response: BatchResponse, rows: Sequence[Row], view: int) -> None:
    for row in rows:
        result = response.results.add(
            reference=row.recipient.reference,
            duplicate=row.decision is None and not row.opted_out,
            opted_out=row.opted_out,
            account_sequence=row.account_sequence,
            replayed=row.replayed,
        )
        if row.decision is not None:
            result.decision.CopyFrom(in_view(row.decision, view, decision_pb2.VIEW_BASIC))
    response.accepted_count = sum(row.allowed for row in rows)
    response.opted_out_count = sum(row.opted_out for row in rows)
    left_out_count = sum(row.decision is None for row in rows)
    response.duplicate_count = left_out_count - response.opted_out_count
    response.denied_count = len(rows) - response.accepted_count - left_out_count
