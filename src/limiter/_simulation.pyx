# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Policies tried on attempts of the past: what would they have denied?

In flow attempts in the order of their times; out flow counts. They are judged by the same lines as
live ones, against a core of the simulation's own, and one that is allowed is counted there. What
always holds:

- a denied attempt counts nowhere, as if it had been denied live;
- nothing outside of the simulation changes, and no event is journalled;
- an attempt that lacks a field which a limit needs is tried without that limit, and reported.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t

from limiter import bounds
from limiter._accounts cimport Account, Accounts
from limiter._core cimport Core
from limiter._counters cimport keyed_prefetch
from limiter._index cimport NO_INDEX, index_append
from limiter._judge cimport ASK_RECORD, Judge
from limiter._names cimport names_find, names_prefetch
from limiter._prefetch cimport prefetch
from limiter._subject cimport Subject, subject_from
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
    `end_ms` (exclusive) are reported; earlier ones count all the same."""

    def __cinit__(self, Core core not None, int64_t start_ms, int64_t end_ms):
        self.core = core
        self.start_ms = start_ms
        self.end_ms = end_ms

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
                    self.try_one(&self.subjects[i], self.found[i], row.time_ms)

    def rows(self):
        """What was denied, as (policy, limit_id, enforcement, account, day, denied_count,
        binding_count, denied_contact_count); days since 1970-01-01 in UTC."""
        cdef const TallyRow* row
        cdef uint32_t i
        found = []
        for i in range(self.tally.row_count):
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

    cdef int try_one(self, Subject* subject, Account* found, int64_t now_ms) except -1:
        # Judges an attempt, counts it if it is allowed, and reports it. `found` is the account in
        # which it was located, NULL where that did not exist.
        cdef Core core = self.core
        cdef Judge judge = core.judge
        cdef Account* account = core.accounts.make(subject)
        cdef int binding = -1
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
        core.recorder.intern(subject)
        core.accounts.count_for_good(account, subject, now_ms, now_ms)
        account.sequence += 1
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
