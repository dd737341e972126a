# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Policies tried on attempts of the past: what would they have denied?

In flow attempts in the order of their times; out flow counts. They are judged by the same lines as
live ones, against a core of the simulation's own, and one that is allowed is counted there. What
always holds:

- a denied attempt counts nowhere, as if it had been denied live;
- nothing outside of the simulation changes. Events are journalled in memory, if at all: where
  commits are taken back, as a core finds from its journal where that leaves a person;
- an attempt that lacks a field which a limit needs is tried without that limit, and reported.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter import bounds
from limiter._accounts cimport Account, Accounts
from limiter._core cimport Core, Terms
from limiter._counters cimport keyed_prefetch, state_release
from limiter._event cimport EVENT_COMMIT, EVENT_CONFIRM, EVENT_UNDO, Event
from limiter._fates cimport FATE_CANCELLED, FATE_COUNTED, FATE_HELD, FateRow, fates_find
from limiter._hours cimport ZoneTable
from limiter._index cimport NO_INDEX, index_append
from limiter._judge cimport ASK_RECORD, Judge
from limiter._names cimport names_find, names_prefetch
from limiter._past cimport Past
from limiter._prefetch cimport prefetch
from limiter._recollection cimport Recollection
from limiter._subject cimport Name, Subject, subject_from
from limiter._tally cimport DayRow, TallyRow, tally_contact, tally_day, tally_free, tally_row
from limiter._trace cimport TraceRow, TraceRows
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CHANNEL,
    DIMENSION_COUNT,
    ENFORCEMENT_ENFORCED,
    ENFORCEMENT_GOAL,
    NO_TIME,
)
from limiter._weighed cimport Weighed

cdef int64_t DAY_MS = bounds.DAY_MS
# Events that are journalled are kept in groups of about this size.
cdef uint32_t GROUP_BYTES = 64 * 1024


cdef bint is_known(const Subject* subject) noexcept nogil:
    # Whether everybody and everything that the located attempt names has an index or an id.
    cdef int dimension
    if subject.contact_index == NO_INDEX:
        return False
    if subject.present & (1 << DIMENSION_ADDRESS) and subject.address_index == NO_INDEX:
        return False
    for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
        if subject.present & (<uint32_t>1 << dimension) and subject.names[dimension].id == 0:
            return False
    return True


class OutOfOrder(Exception):
    """A row is earlier than the one before it. `line` is where it begins."""

    def __init__(self, line):
        super().__init__(f"line {line} is earlier than the one before it")
        self.line = line


@cython.final
cdef class Simulation:
    """Tries attempts. `core` is nobody else's, and empty. Only attempts from `start_ms` up to
    `end_ms` (exclusive) are reported, in up to `rows_max` rows; earlier ones count all the same.
    """

    def __cinit__(
        self,
        Core core not None,
        int64_t start_ms,
        int64_t end_ms,
        uint32_t rows_max=bounds.SIMULATION_ROWS_MAX,
    ):
        self.core = core
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.tally.rows_max = rows_max
        self.plain.event_ms = NO_TIME
        self.relived = {}

    def __dealloc__(self):
        tally_free(&self.tally)

    # ------------------------------------------------------------ the outside

    def try_rows(self, TraceRows rows not None):
        """Tries the rows. Raises OutOfOrder for one that is earlier than the one before it, and
        ResourceExhausted; the simulation is of no use then."""
        cdef const TraceRow* row
        cdef Py_ssize_t start
        cdef int count
        cdef int i
        for start in range(0, rows.count, SUBJECTS_AHEAD):
            count = <int>min(rows.count - start, SUBJECTS_AHEAD)
            self.make_ready(rows, start, count)
            for i in range(count):
                row = &rows.rows[start + i]
                if row.time_ms < self.now_ms:
                    raise OutOfOrder(row.line)
                self.now_ms = row.time_ms
                if row.time_ms < self.end_ms:
                    self.try_one(&self.subjects[i], self.found[i], row.time_ms, &self.plain)

    def recall(self, Recollection recollection not None, journal not None, find_zone not None):
        """Before anything is tried: has the simulation live through what was remembered of another
        core. `journal` keeps groups of events: `add(number, events)`, `event(position)`; see
        `Core.recall_from`. `find_zone` is as for `TraceReader`."""
        self.core.accounts.keys = recollection.core.accounts.keys
        self.zones = ZoneTable(find_zone)
        if recollection.has_holds or recollection.awaited:
            self.journal = journal
            self.core.recall_from(journal)
            self.keep_group()

    def try_events(self, Recollection recollection not None, uint32_t most):
        """Lives through up to so many events, the oldest first; whether those were the last. Raises
        ResourceExhausted; the simulation is of no use then."""
        cdef Event event
        cdef uint64_t position
        while most:
            if not recollection.take_oldest(&event, &position):
                return True
            self.relive(recollection, &event, position)
            most -= 1
        if self.core.recorder.buffer.size > GROUP_BYTES:
            self.keep_group()
        return False

    def release(self, uint32_t most):
        """Lets go of up to so many counters; whether those were the last. Nothing can be tried any
        more. What is left goes with the simulation, at once."""
        cdef Accounts accounts = self.core.accounts
        cdef Account* account
        cdef int slot
        cdef uint32_t id
        for id in range(accounts.by_name_capacity):
            account = accounts.by_name[id]
            if account == NULL:
                continue
            for slot in range(account.state_count):
                most -= state_release(&account.states[slot], most)
                if most == 0:
                    return False
        return True

    def rows(self, uint32_t start, uint32_t most):
        """Up to so many rows of what was denied, from one on, as (policy, limit_id, enforcement,
        account, day, denied_count, binding_count, denied_contact_count); days since 1970-01-01 in
        UTC."""
        cdef const TallyRow* row
        cdef uint32_t i
        found = []
        for i in range(start, min(self.tally.row_count, start + most)):
            row = &self.tally.rows[i]
            found.append((
                row.rule.policy.data[: row.rule.policy.size].decode(),
                row.rule.limit_id.data[: row.rule.limit_id.size].decode(),
                row.rule.enforcement,
                self.account_name(row.account),
                row.day,
                row.denied_count,
                row.binding_count,
                row.contact_count,
            ))
        return found

    def days(self):
        """What was tried, as (day, attempt_count, denied_count), in order."""
        cdef const DayRow* row
        cdef uint32_t i
        found = []
        for i in range(self.tally.day_count):
            row = &self.tally.days[i]
            found.append((row.day, row.attempt_count, row.denied_count))
        return found

    def account_name(self, uint32_t id):
        """The name of the account with that id."""
        row = &self.core.accounts.names.rows[id - 1]
        return row.text[: row.size].decode()

    # ------------------------------------------------------------ attempts

    cdef void make_ready(self, TraceRows rows, Py_ssize_t start, int count) noexcept:
        # Digests and ids of some rows, and what they will be judged by loaded side by side: what
        # each step looks at, the step before it has asked for.
        cdef Accounts accounts = self.core.accounts
        cdef Subject* subject
        cdef int i
        for i in range(count):
            subject = &self.subjects[i]
            subject_from(
                &rows.rows[start + i].attempt, &accounts.keys, &self.no_names, subject
            )
            subject.zone = rows.rows[start + i].zone
            names_prefetch(&accounts.names, subject.account.hash)
        for i in range(count):
            subject = &self.subjects[i]
            subject.account.id = names_find(
                &accounts.names, subject.account.text, subject.account.hash
            )
            self.found[i] = accounts.known(subject.account.id)
            if self.found[i] != NULL:
                prefetch(self.found[i])
        for i in range(count):
            if self.found[i] != NULL:
                accounts.prefetch_for(self.found[i], &self.subjects[i])
        for i in range(count):
            if self.found[i] != NULL:
                accounts.locate(self.found[i], &self.subjects[i])
                self.prefetch_counters(self.found[i], &self.subjects[i])

    cdef void prefetch_counters(self, Account* account, const Subject* subject) noexcept:
        cdef int slot
        for slot in range(account.state_count):
            if account.states[slot].kind.per_count:
                keyed_prefetch(&account.states[slot], subject)

    cdef int try_one(
        self, Subject* subject, Account* found, int64_t now_ms, const Terms* terms
    ) except -1:
        # Judges an attempt, counts it if it is allowed, and reports it. `found` is the account in
        # which it was located, NULL where that did not exist. Leaves in self.committed where its
        # event is, 0 where there is none.
        cdef Core core = self.core
        cdef Judge judge = core.judge
        cdef Account* account = core.accounts.make(subject)
        cdef int binding = -1
        self.committed.position = 0
        if account != found or not is_known(subject):
            # A row between may have made known what was not.
            core.accounts.locate(account, subject)
        judge.weigh(
            core.accounts,
            account,
            core.plan_of(account, subject),
            None,
            subject,
            now_ms,
            ASK_RECORD,
        )
        if judge.unfit_count:
            binding = self.find_binding(account, now_ms)
        if now_ms >= self.start_ms:
            self.report(account, subject, now_ms, binding)
        if binding >= 0:
            return 0
        return self.count(account, subject, now_ms, terms)

    cdef int count(
        self, Account* account, Subject* subject, int64_t now_ms, const Terms* terms
    ) except -1:
        # Counts a located attempt, and journals it if that is needed.
        cdef Core core = self.core
        core.recorder.intern(subject)
        core.accounts.count_for_good(
            account, subject, now_ms if terms.event_ms == NO_TIME else terms.event_ms, now_ms
        )
        if self.journal is not None:
            core.record_commit(
                account, subject, &self.no_key, terms, 0, now_ms, &self.committed
            )
        return 0

    cdef int find_binding(self, Account* account, int64_t now_ms) except -2:
        # After weighing: the enforced limit that passes last, -1 when they let the attempt go.
        cdef Judge judge = self.core.judge
        cdef int unfit = -1
        cdef int unfit_count = 0
        cdef int i
        cdef const Weighed* w
        for i in range(judge.count):
            w = &judge.weighed[i]
            if w.evaluated and not w.fits and w.rule.enforcement == ENFORCEMENT_ENFORCED:
                unfit = i
                unfit_count += 1
        if unfit_count < 2:
            return unfit
        if account.hold_count:
            judge.decision.retry_ms = NO_TIME
            judge.foresee_passing(account, now_ms)
        return judge.find_binding(now_ms, ENFORCEMENT_ENFORCED)

    cdef int report(
        self, Account* account, Subject* subject, int64_t now_ms, int binding
    ) except -1:
        # Notes what became of an attempt.
        cdef Judge judge = self.core.judge
        cdef int32_t day = <int32_t>(now_ms // DAY_MS)
        cdef DayRow* tried = tally_day(&self.tally, day)
        cdef TallyRow* row
        cdef const Weighed* w
        cdef bint lacking = False
        cdef int i
        self.attempt_count += 1
        tried.attempt_count += 1
        if binding >= 0:
            self.denied_count += 1
            tried.denied_count += 1
        for i in range(judge.count):
            w = &judge.weighed[i]
            if not w.evaluated:
                lacking = True
                continue
            if w.fits or w.rule.enforcement == ENFORCEMENT_GOAL:
                continue
            if subject.contact_index == NO_INDEX:
                subject.contact_index = index_append(&account.contacts, &subject.contact)
            row = tally_row(&self.tally, w.rule, account.name_id, day)
            row.denied_count += 1
            row.binding_count += i == binding
            tally_contact(&self.tally, row, subject.contact_index)
        self.not_evaluated_count += lacking
        return 0

    # ------------------------------------------------------------ what was recorded

    cdef int relive(
        self, Recollection recollection, const Event* event, uint64_t position
    ) except -1:
        # Lives through one event of another core.
        cdef Subject subject
        cdef Terms terms = self.plain
        if self.journal is not None:
            self.core.lapse_due(event.time_ms)
        if event.type == EVENT_CONFIRM or event.type == EVENT_UNDO:
            return self.settle(event)
        self.put_subject(recollection.core.past, event, &subject)
        self.remembered = self.core.accounts.make(&subject)
        if event.type == EVENT_COMMIT and event.recorded:
            # It went out, whatever limits said.
            terms.recorded = True
            terms.event_ms = event.counts_ms
            self.core.accounts.locate(self.remembered, &subject)
            self.count(self.remembered, &subject, event.time_ms, &terms)
            self.recorded_count += event.time_ms >= self.start_ms
        else:
            terms.hold_ms = event.hold_ms
            if terms.hold_ms:
                self.core.past.require_hold_room(self.remembered)
            self.try_one(&subject, NULL, event.time_ms, &terms)
        if self.committed.position and position in recollection.awaited:
            self.relived[position] = self.committed.position
        return 0

    cdef int put_subject(self, Past past, const Event* event, Subject* subject) except -1:
        # The attempt of an event of another core, as this one knows it.
        cdef int dimension
        cdef Name zone
        past.subject_of(event, NULL, subject)
        subject.keys = &self.core.accounts.keys
        subject.interned = False
        subject.account.id = 0
        for dimension in range(DIMENSION_COUNT):
            subject.names[dimension].id = 0
        subject.zone = NULL
        memset(&subject.zone_name, 0, sizeof(Name))
        if event.zone:
            past.name_of(event.zone, &zone)
            self.zones.put(subject, zone.text, -1)
        return 0

    cdef int settle(self, const Event* event) except -1:
        # What became of a commit becomes of what was made of it here, if it was allowed.
        cdef uint64_t commit = self.relived.pop(event.commit, 0)
        cdef const FateRow* row
        if commit == 0:
            return 0
        row = fates_find(&self.core.past.fates, commit)
        if event.type == EVENT_UNDO:
            if row == NULL or row.fate == FATE_HELD:
                self.core.record_fate(self.remembered, commit, FATE_CANCELLED, event.time_ms)
        elif row != NULL and row.fate == FATE_HELD:
            self.core.record_fate(self.remembered, commit, FATE_COUNTED, event.time_ms)
            # It may be cancelled yet.
            self.relived[event.commit] = commit
        return 0

    cdef int keep_group(self) except -1:
        # Keeps the events of the open group.
        taken = self.core.take_group()
        if taken is not None:
            self.journal.add(taken[0], taken[1])
        return 0
