# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The state machine of limit decisions.

In flow attempts, the policies' compiled form and one `now_ms` per decision; out flow decisions and
packed journal events. It does no I/O and reads no clock: the same journal gives the same state.
What always holds:

- a decision is complete before anything changes; then every counter of the account that counts the
  attempt counts it, or, if an enforced limit denies, none does;
- whatever changed is in the event buffer before the call returns, so a group taken from it is
  exactly what happened since the last one;
- instants never go back: `now_ms` of a call is at or after that of every call before.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import (
    DataLoss,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    ResourceExhausted,
)
from limiter._accounts cimport WATCH_NEXT, WATCH_TOLD, Account, Accounts, note_event
from limiter._denials cimport DenialBuffer
from limiter._event cimport (
    EVENT_BATCH_HEAD,
    EVENT_COMMIT,
    EVENT_CONFIRM,
    EVENT_DENIAL,
    EVENT_INLINE_KIND,
    EVENT_NAME,
    EVENT_OPT_OUTS,
    EVENT_REVISION,
    EVENT_UNDO,
    Event,
    GroupCursor,
    group_next,
)
from limiter._fates cimport FATE_COUNTED, FATE_LAPSED, FateRow, fates_due, fates_find, is_undone
from limiter._judge cimport Judge
from limiter._kinds cimport BoundPlan, InlineRules, Kind, Rule, slice_of
from limiter._names cimport names_insert
from limiter._past cimport Past, require_event_time
from limiter._rebuild cimport Rebuild
from limiter._recorder cimport Recorder
from limiter._requests cimport (
    RequestRow,
    requests_expire,
    requests_find,
    requests_free,
    requests_remember,
)
from limiter._siphash cimport same_digest, siphash64
from limiter._subject cimport Name, Subject, keys_from, subject_from
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CHANNEL,
    DIMENSION_COUNT,
    NO_TIME,
    OUTCOME_ALLOWED,
    Attempt,
    Decision,
    LimitResult,
    Slice,
)

cdef int64_t RETENTION_MS = bounds.REQUEST_ID_RETENTION_MS
cdef uint32_t REQUEST_IDS_MAX = bounds.REQUEST_IDS_MAX
cdef uint32_t INLINE_KINDS_MAX = bounds.INLINE_KINDS_MAX
# Old request ids are forgotten a few at a time, so that no call pays for many.
cdef uint32_t FORGET_AT_ONCE = 4


@cython.final
cdef class Core:
    """The state of one shard. `digest_key` are 32 secret bytes; `bind(account)` tells what holds
    for an account (and returns the same Binding while nothing changed for it);
    `define_kind(definition)` gives the one Kind with that definition."""

    def __cinit__(self, bytes digest_key not None, bind, define_kind):
        if PyBytes_GET_SIZE(digest_key) != 32:
            raise ValueError("the digest key has 32 bytes")
        self.accounts = Accounts(bind)
        self.accounts.keys = keys_from(<const uint8_t*>PyBytes_AS_STRING(digest_key))
        self.past = Past(self.accounts)
        self.recorder = Recorder(self.accounts)
        self.past.buffer = &self.recorder.buffer
        self.rebuild = Rebuild(self.past, self.recorder)
        self.accounts.filler = self.rebuild
        self.judge = Judge()
        self.judge.past = self.past
        self.define_kind = define_kind
        self.plain.event_ms = NO_TIME

    def __dealloc__(self):
        requests_free(&self.requests)

    # ------------------------------------------------------------ the outside

    @property
    def pending_bytes(self):
        """Bytes appended since the last `take_group`."""
        return self.recorder.buffer.size

    @property
    def appended(self):
        """Events appended or replayed, ever."""
        return self.recorder.appended

    @property
    def last_event_ms(self):
        """The instant of the latest event; 0 before the first one."""
        return self.recorder.last_event_ms

    @property
    def account_count(self):
        """Accounts in memory."""
        return self.accounts.count

    def recall_from(self, history not None):
        """Reads events that are not pending any more from `history`: `event(position)` gives a
        packed event and `group(number)` a group's, None where they are not kept."""
        self.past.history = history

    def tell_denials(self, DenialBuffer denials):
        """Tells `denials` of each attempt that is denied, from now on and in what is replayed."""
        self.denials = denials

    def event_at(self, uint64_t position):
        """The packed event at a position that an event has named, None when it is not kept."""
        return self.past.read(position)

    def last_events(self, str account not None):
        """Where the account's newest event that is no denial and its newest denial are; 0: none."""
        cdef bytes name = account.encode()
        cdef const Account* found
        cdef Name known
        self.accounts.name_in(name, &known)
        found = self.accounts.fetch(known.id)
        if found == NULL:
            return 0, 0
        return found.last_position, found.last_denial

    def policies_changed(self):
        """Every account asks `bind` again, when it is touched or `rebuild` comes to it."""
        self.accounts.epoch += 1
        self.rebuild.begin_round()
        if self.on_change is not None:
            self.on_change(0)

    def append_revision(self, bytes payload not None, int64_t now_ms):
        """Journals a change of policies, whose bytes only the policy layer understands."""
        cdef Event event
        memset(&event, 0, sizeof(Event))
        event.type = EVENT_REVISION
        event.time_ms = now_ms
        event.body = slice_of(payload)
        self.recorder.append(&event)

    def take_group(self):
        """(group number, packed events, event count) of all that was appended since the last call,
        None when there is nothing. What comes next belongs to the next group."""
        return self.recorder.take_group()

    def replay(self, uint64_t group_number, bytes events not None, on_revision):
        """Applies one journalled group and returns the number of its events. Groups come in order,
        from 1. `on_revision(payload, time_ms)` is called for each change of policies, in place.
        Raises DataLoss for bytes that are not events."""
        cdef GroupCursor cursor
        cdef uint64_t position
        cdef Event event
        self.recorder.begin_replay(group_number, events, &cursor)
        replayed = 0
        self.past.replayed = events
        while group_next(&cursor, &event, &position):
            self.apply(&event, position, on_revision)
            replayed += 1
        self.past.replayed = None
        self.recorder.appended += replayed
        self.recorder.buffer.group = group_number + 1
        return replayed

    # ------------------------------------------------------------ attempts

    cdef int prepare(self, const Attempt* attempt, Subject* subject) except -1:
        # Digests, hashes and known ids of an attempt. The subject borrows the attempt's slices.
        subject_from(attempt, &self.accounts.keys, &self.accounts.names, subject)
        return 0

    cdef BoundPlan plan_of(self, Account* account, Subject* subject):
        return self.accounts.plan_of(account, subject)

    cdef Account* decide(
        self,
        Subject* subject,
        InlineRules inline_rules,
        int64_t now_ms,
        bint require_policy,
        bint full,
        const Terms* terms = NULL,
    ) except NULL:
        # Judges the attempt; the decision is in self.judge. The visitor stands in for an account
        # that does not exist.
        cdef Account* account = self.accounts.find(subject)
        if inline_rules is not None:
            self.accounts.lend(account, inline_rules)
        self.accounts.prefetch_for(account, subject)
        self.accounts.locate(account, subject)
        self.judge.decide(
            self.accounts,
            account,
            self.plan_of(account, subject),
            inline_rules,
            subject,
            now_ms,
            require_policy,
            full,
            terms != NULL and terms.recorded,
            now_ms if terms == NULL or terms.event_ms == NO_TIME else terms.event_ms,
        )
        return account

    cdef int commit(
        self,
        Subject* subject,
        InlineRules inline_rules,
        const RequestKey* key,
        const Terms* terms,
        int64_t now_ms,
        bint require_policy,
        bint full,
        Committed* committed,
    ) except -1:
        # Judges the attempt and, if it is allowed, counts and journals it; a denial is journalled.
        # Without terms it counts now and for good.
        cdef const RequestRow* row = self.remembered(key, now_ms)
        cdef Account* account
        cdef uint32_t places
        cdef LimitResult shadow
        cdef Slice shadow_etag
        cdef bint is_shadowed = False
        if row != NULL:
            self.answer_again(subject, inline_rules, row, now_ms, committed)
            return 0
        if terms == NULL:
            terms = &self.plain
        if terms.event_ms != NO_TIME:
            require_event_time(terms.event_ms, now_ms)
        account = self.decide(
            subject,
            inline_rules,
            now_ms,
            require_policy,
            full,
            terms,
        )
        memset(committed, 0, sizeof(Committed))
        if self.judge.decision.outcome != OUTCOME_ALLOWED:
            self.record_denial(subject, now_ms)
            return 0
        if self.denials is not None and self.judge.shadowed_count and not terms.recorded:
            is_shadowed = self.judge.shadowed(now_ms, &shadow, &shadow_etag)
        # From here on the attempt counts. What may be refused comes first.
        if terms.hold_ms:
            self.past.require_hold_room(account)
        account = self.accounts.make(subject)
        self.recorder.intern(subject)
        places = self.keep_inline_kinds(account, inline_rules, now_ms)
        self.accounts.count_for_good(
            account, subject, now_ms if terms.event_ms == NO_TIME else terms.event_ms, now_ms
        )
        self.record_commit(account, subject, key, terms, places, now_ms, committed)
        if is_shadowed:
            self.denials.note(subject, shadow.reason, &shadow, shadow_etag, NO_TIME, now_ms, True)
        if account.watch:
            self.tell(account)
        if terms.hold_ms:
            self.tell_hold(committed.position)
        if full and (terms.recorded or terms.hold_ms):
            self.judge.restate(
                self.accounts,
                account,
                self.plan_of(account, subject),
                inline_rules,
                subject,
                now_ms,
            )
        return 0

    cdef int answer_again(
        self,
        Subject* subject,
        InlineRules inline_rules,
        const RequestRow* row,
        int64_t now_ms,
        Committed* committed,
    ) except -1:
        # The answer to a repeated request: what it was given, with the statuses of now.
        committed.position = row.position
        committed.sequence = row.sequence
        committed.replayed = True
        decide_ms = row.decide_ms
        self.usage(subject, inline_rules, now_ms)
        self.judge.answer_again(decide_ms)
        return 0

    cdef int usage(
        self, Subject* subject, InlineRules inline_rules, int64_t now_ms
    ) except -1:
        # How the counters of a template stand; the statuses are in self.judge.
        cdef Account* account = self.accounts.find(subject)
        if inline_rules is not None:
            self.accounts.lend(account, inline_rules)
        self.accounts.locate(account, subject)
        self.judge.usage(
            self.accounts,
            account,
            self.plan_of(account, subject),
            inline_rules,
            subject,
            now_ms,
        )
        return 0

    # ------------------------------------------------------------ attempts that may be taken back

    cdef Account* visit(self, const Subject* subject) except NULL:
        # An empty account under the attempt's account's policies.
        self.accounts.leave()
        self.accounts.touch(&self.accounts.visitor, subject.account)
        return &self.accounts.visitor

    cdef int borrow_ids(self, Account* account, Subject* subject) noexcept:
        # Makes the attempt countable without interning: names that are unknown get ids that no
        # name ever has, good until what was counted under them is taken back.
        cdef int dimension
        self.accounts.locate(account, subject)
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            if subject.names[dimension].id == 0:
                subject.names[dimension].id = <uint32_t>0xFFFFFFFE - dimension
        return 0

    cdef uint32_t keep_inline_kinds(
        self, Account* account, InlineRules inline_rules, int64_t now_ms
    ) except? 0:
        # Makes the account keep the inline limits' kinds, journals those that are new, and returns
        # their places (bit per place, from bit 1).
        cdef Event event
        cdef Rule rule
        cdef int slot
        cdef uint32_t place
        cdef uint32_t places = 0
        if inline_rules is None:
            return 0
        self.accounts.require_inline_room(account, inline_rules, now_ms)
        for rule in inline_rules.counting:
            slot = self.accounts.state_of(account, rule.row.kind)
            if slot >= 0:
                # Before another takes its place.
                account.states[slot].last_used_ms = now_ms
        for rule in inline_rules.counting:
            slot = self.accounts.state_of(account, rule.row.kind)
            if slot < 0 or account.states[slot].lent:
                place = self.accounts.place_for_inline(account, now_ms)
                memset(&event, 0, sizeof(Event))
                event.type = EVENT_INLINE_KIND
                event.account = self.recorder.journalled_id(account.name_id)
                event.time_ms = now_ms
                event.previous_account = account.last_position
                event.place = place
                event.body = slice_of(rule.kind.definition)
                note_event(account, self.recorder.append(&event))
                self.accounts.put_inline(account, rule.kind, now_ms, place)
            slot = self.accounts.state_of(account, rule.row.kind)
            places |= <uint32_t>1 << account.states[slot].inline_place
        return places & ~<uint32_t>1

    # ------------------------------------------------------------ request ids

    cdef const RequestRow* remembered(self, const RequestKey* key, int64_t now_ms) except? NULL:
        # What was allowed under the id within the retention, NULL when nothing was. Raises
        # InvalidArgument when something else was asked under it.
        cdef const RequestRow* row
        if not key.given:
            return NULL
        requests_expire(&self.requests, now_ms - RETENTION_MS + 1, FORGET_AT_ONCE)
        row = requests_find(&self.requests, &key.request)
        if row != NULL and row.decide_ms <= now_ms - RETENTION_MS:
            # Those decided before it are as old: forget them all, and then there is none.
            requests_expire(&self.requests, now_ms - RETENTION_MS + 1, self.requests.size)
            row = NULL
        if row == NULL:
            if self.requests.size >= REQUEST_IDS_MAX:
                raise ResourceExhausted(
                    "TOO_MANY_REQUEST_IDS",
                    f"{REQUEST_IDS_MAX} request ids are remembered, which is the ceiling; commit"
                    " without a request_id or wait until older ones pass their retention",
                )
            return NULL
        if not same_digest(&row.payload, &key.payload):
            raise InvalidArgument(
                "REQUEST_ID_REUSED",
                "request_id: it was used for another request within the last 24 hours; use a"
                " fresh one for each send, and the same one only to repeat the same send",
                violations=(
                    FieldViolation("request_id", "used for another request; use a fresh one"),
                ),
            )
        if row.position and is_undone(&self.past.fates, row.position):
            raise FailedPrecondition(
                "COMMIT_UNDONE",
                "request_id: what was committed under it was cancelled or has lapsed, so the id is"
                " spent; use a fresh one to send after all",
            )
        return row

    cdef int remember_batch(
        self, Subject* subject, const RequestKey* key, int64_t now_ms
    ) except -1:
        # Remembers what a batch was asked under its id, once one of its recipients is counted.
        cdef Event event
        if not key.given or requests_find(&self.requests, &key.request) != NULL:
            return 0
        memset(&event, 0, sizeof(Event))
        event.type = EVENT_BATCH_HEAD
        event.account = self.recorder.journalled_id(subject.account.id)
        event.time_ms = now_ms
        event.request = key.request
        event.payload = key.payload
        return self.remember(&event, self.recorder.append(&event))

    # ------------------------------------------------------------ journal

    cdef int record_commit(
        self,
        Account* account,
        Subject* subject,
        const RequestKey* key,
        const Terms* terms,
        uint32_t inline_places,
        int64_t now_ms,
        Committed* committed,
    ) except -1:
        # Journals a counted attempt and gives it its place in the account's order.
        cdef Event event
        self.recorder.fill_event(&event, subject, now_ms)
        event.type = EVENT_COMMIT
        event.sequence = account.sequence + 1
        event.inline_places = inline_places
        event.recorded = terms.recorded
        event.hold_ms = terms.hold_ms
        if terms.event_ms != NO_TIME:
            event.counts_ms = terms.event_ms
        event.previous_account = account.last_position
        event.previous_contact = account.contacts.rows[subject.contact_index].last_position
        if subject.present & (1 << DIMENSION_ADDRESS):
            event.previous_address = account.addresses.rows[subject.address_index].last_position
        if key.given:
            event.has_request = True
            event.derived = key.derived
            event.request = key.request
            event.payload = key.payload
        committed.position = self.recorder.append(&event)
        committed.sequence = event.sequence
        self.settle(account, subject, &event, committed.position)
        if key.given:
            self.remember(&event, committed.position)
        if terms.hold_ms:
            self.past.hold(account, committed.position, now_ms + terms.hold_ms)
        return 0

    cdef int settle(
        self, Account* account, Subject* subject, const Event* event, uint64_t position
    ) except -1:
        # Where a commit stands among those of its account, the same live and in replay.
        account.sequence = event.sequence
        note_event(account, position)
        account.contacts.rows[subject.contact_index].last_position = position
        if event.present & (1 << DIMENSION_ADDRESS):
            account.addresses.rows[subject.address_index].last_position = position
        return 0

    cdef int record_denial(self, Subject* subject, int64_t now_ms) except -1:
        # Journals a denied attempt, as the newest of its account's denials, and tells the
        # restrictions log of it.
        cdef const Decision* decision = &self.judge.decision
        cdef Account* account
        self.recorder.intern(subject)
        account = self.accounts.make(subject)
        self.recorder.denial(account, subject, decision, now_ms)
        if self.denials is not None:
            self.denials.note(
                subject,
                decision.reason,
                &decision.results[decision.binding] if decision.binding >= 0 else NULL,
                self.judge.binding_etag(),
                decision.retry_ms,
                now_ms,
                False,
            )
            self.denials.position = account.last_denial
        return 0

    # ------------------------------------------------------------ what becomes of commits

    cdef int tell(self, Account* account) except -1:
        # Something in a watched account has changed. Only the first change is told, until somebody
        # looks again.
        if account.watch == WATCH_NEXT and self.on_change is not None:
            account.watch = WATCH_TOLD
            self.on_change(account.name_id)
        return 0

    cdef int tell_hold(self, uint64_t position) except -1:
        # The commit at this position is held from now on.
        if self.on_hold is not None and self.past.fates.due[0].position == position:
            self.on_hold()
        return 0

    cdef int lapse_due(self, int64_t now_ms) except -1:
        # Every hold that has ended by now_ms lapses, each at its end.
        return self.lapse_some(now_ms, <uint32_t>-1)

    cdef int lapse_some(self, int64_t now_ms, uint32_t most) except -1:
        # The same for so many of them, the earliest first.
        cdef const FateRow* row
        cdef Subject subject
        cdef uint64_t position
        while most:
            most -= 1
            position = fates_due(&self.past.fates, now_ms)
            if position == 0:
                return 0
            row = fates_find(&self.past.fates, position)
            memset(&subject, 0, sizeof(Subject))
            self.past.name_of(row.account, &subject.account)
            self.record_fate(self.accounts.make(&subject), position, FATE_LAPSED, row.at_ms)
        return 0

    cdef int record_fate(
        self, Account* account, uint64_t commit, int fate, int64_t now_ms
    ) except -1:
        # Journals what becomes of a commit and makes it so; FATE_COUNTED confirms a held one.
        cdef Event event
        memset(&event, 0, sizeof(Event))
        event.type = EVENT_CONFIRM if fate == FATE_COUNTED else EVENT_UNDO
        event.account = self.recorder.journalled_id(account.name_id)
        event.time_ms = now_ms
        event.previous_account = account.last_position
        event.commit = commit
        event.fate = fate
        if fate == FATE_COUNTED:
            self.past.confirm(account, commit)
        else:
            self.past.undo(account, commit, fate, now_ms)
        note_event(account, self.recorder.append(&event))
        if account.watch:
            self.tell(account)
        return 0

    # ------------------------------------------------------------ replay

    cdef int apply(self, const Event* event, uint64_t position, object on_revision) except -1:
        cdef Subject subject
        if event.type == EVENT_NAME:
            return self.apply_name(event)
        self.recorder.last_event_ms = max(self.recorder.last_event_ms, event.time_ms)
        if event.type == EVENT_REVISION:
            return self.apply_revision(event, on_revision)
        if event.type == EVENT_DENIAL:
            self.denial_replayed(event, position)
        if event.type == EVENT_BATCH_HEAD:
            self.forget_before(event.time_ms)
            return self.remember(event, position)
        memset(&subject, 0, sizeof(Subject))
        self.past.name_of(event.account, &subject.account)
        return self.apply_to(self.accounts.make(&subject), event, position, True)

    cdef int apply_revision(self, const Event* event, object on_revision) except -1:
        on_revision(
            PyBytes_FromStringAndSize(<const char*>event.body.data, event.body.size),
            event.time_ms,
        )
        return 0

    cdef int denial_replayed(self, const Event* event, uint64_t position) except -1:
        # Tells the restrictions log of a denial that it may have missed.
        cdef Name account
        if self.denials is not None:
            self.past.name_of(event.account, &account)
            self.denials.replayed(account.text, position)
        return 0

    cdef int apply_to(
        self, Account* account, const Event* event, uint64_t position, bint shared
    ) except -1:
        # Makes so what an event says of its account, and, unless that is known already, what it
        # says of its commit that is not kept with the account.
        if event.type == EVENT_DENIAL:
            account.last_denial = position
            account.unimaged_count += 1
            return 0
        if event.type == EVENT_COMMIT:
            return self.apply_commit(account, event, position, shared)
        if event.type == EVENT_INLINE_KIND:
            self.apply_inline_kind(account, event)
        elif event.type == EVENT_OPT_OUTS:
            self.accounts.opt_out(account, event.body, event.place, position)
        elif not shared:
            self.past.uncount_at(account, event)
        elif event.type == EVENT_CONFIRM:
            self.past.confirm(account, event.commit)
        else:
            self.past.undo(account, event.commit, event.fate, event.time_ms)
        if event.apart:
            account.unimaged_count += 1
        else:
            note_event(account, position)
        return 0

    cdef int apply_name(self, const Event* event) except -1:
        cdef uint64_t hash = siphash64(
            &self.accounts.keys.name, event.body.data, event.body.size
        )
        if (
            names_insert(&self.accounts.names, event.body, hash) != event.name_id
            or event.name_id != self.recorder.named_up_to + 1
        ):
            raise DataLoss("JOURNAL_CORRUPT", f"name {event.name_id} is defined out of order")
        self.recorder.named_up_to = event.name_id
        return 0

    cdef int apply_commit(
        self, Account* account, const Event* event, uint64_t position, bint shared
    ) except -1:
        cdef Subject subject
        self.past.subject_of(event, account, &subject)
        if event.sequence != account.sequence + 1:
            raise DataLoss(
                "JOURNAL_CORRUPT",
                f"an account's commit {event.sequence} follows its commit {account.sequence}",
            )
        self.accounts.count_for_good(account, &subject, event.counts_ms, event.time_ms)
        if event.inline_places:
            self.accounts.mark_inline_used(account, event.inline_places, event.time_ms)
        self.settle(account, &subject, event, position)
        if shared:
            if event.has_request:
                self.forget_before(event.time_ms)
                self.remember(event, position)
            if event.hold_ms:
                self.past.hold(account, position, event.time_ms + event.hold_ms)
        return 0

    cdef int remember(self, const Event* event, uint64_t position) except -1:
        # Remembers the request id of a commit, or of a batch's head.
        cdef RequestRow row
        row.request = event.request
        row.payload = event.payload
        row.position = position if event.type == EVENT_COMMIT else 0
        row.sequence = event.sequence
        row.decide_ms = event.time_ms
        return requests_remember(&self.requests, &row)

    cdef int apply_inline_kind(self, Account* account, const Event* event) except -1:
        cdef Kind kind = self.define_kind(
            PyBytes_FromStringAndSize(<const char*>event.body.data, event.body.size)
        )
        if not 0 < event.place <= INLINE_KINDS_MAX:
            raise DataLoss("JOURNAL_CORRUPT", f"an inline kind is kept in place {event.place}")
        return self.accounts.put_inline(account, kind, event.time_ms, event.place)

    cdef void forget_before(self, int64_t now_ms) noexcept:
        requests_expire(&self.requests, now_ms - RETENTION_MS + 1, self.requests.size)
