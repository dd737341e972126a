# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the decisions of late were: how many, of whom, against which limits that are nearly full.

In flow decisions as they are made; out flow counts, for metrics and for people who look on. Nothing
is decided by them, nothing is journalled and nothing outlives the process. What always holds:

- a decision costs a few additions and one look at each limit, allocates nothing, and what is
  kept has one size, however many accounts there are;
- counts by operation, outcome and reason are exact; so are those of each of the last 60 seconds;
- the busiest accounts of a minute are found by space saving in sets of eight: an account that makes
  up much of the traffic is among them, and where it displaced another its count is told with what
  it may be short of.

Limits that are nearly full are kept as the names of attempts that met them: where they stand is
asked when somebody wants to know, so that it is never old.
"""

cimport cython
from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcmp, memset

from limiter._core cimport Core
from limiter._judge cimport Judge
from limiter._names cimport NameTable
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CHANNEL,
    DIMENSION_COUNT,
    ENFORCEMENT_ENFORCED,
    MEASURE_RUN,
    OUTCOME_ALLOWED,
)
from limiter._weighed cimport Weighed

OPERATIONS = ("check", "commit", "check_batch", "commit_batch")

_FIELDS = ("account", "channel", "resource", "campaign", "agent", "team", "source", "category")


cdef AccountRow* rows_of(SpanTable* table, uint32_t name_id) noexcept:
    # The set that an account is in, if it is in the table.
    # The upper bits of a product tell neighbouring numbers apart.
    return table.rows[(name_id * <uint32_t>2654435761u >> 16) & (ACCOUNT_SETS - 1)]


cdef void add_row(AccountRow* sum, SpanTable* table, uint32_t name_id) noexcept:
    # Adds what a span knows of an account. Where it is not among a full set's it may have been, and
    # stood at no more than the least of them.
    cdef AccountRow* rows = rows_of(table, name_id)
    cdef uint32_t least_count = <uint32_t>-1
    cdef int i
    for i in range(ACCOUNT_WAYS):
        if rows[i].name_id == name_id:
            sum.allowed += rows[i].allowed
            sum.denied += rows[i].denied
            sum.carried += rows[i].carried
            return
        least_count = min(least_count, rows[i].allowed + rows[i].denied + rows[i].carried)
    sum.carried += least_count


cdef object text_of(const NameTable* names, uint32_t id):
    return names.rows[id - 1].text[: names.rows[id - 1].size].decode()


@cython.final
cdef class Activity:
    """Counts of one process. Instants are those of the decisions, in ms since 1970."""

    def __cinit__(self):
        self.spans = <SpanTable*>calloc(SPANS, sizeof(SpanTable))
        if self.spans == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.spans)

    # ------------------------------------------------------------ what operators ask

    def decisions(self):
        """(operation, outcome, reason, count) of all decisions so far, those that happened; an
        operation is one of `OPERATIONS`, the others are numbers of the API. Repeats of a request
        are none."""
        cdef int operation
        cdef int outcome
        cdef int reason
        return [
            (OPERATIONS[operation], outcome, reason, self.counts[operation][outcome][reason])
            for operation in range(<int>OPERATION_COUNT)
            for outcome in range(OUTCOMES)
            for reason in range(REASONS)
            if self.counts[operation][outcome][reason]
        ]

    def replayed(self):
        """(operation, count) of repeats that were answered as before."""
        cdef int operation
        return [
            (OPERATIONS[operation], self.replays[operation])
            for operation in range(<int>OPERATION_COUNT)
        ]

    def history(self, int64_t now_ms, int count):
        """(second, operation, outcome, count) of the `count` seconds before the one of now_ms, at
        most 60, oldest first: those in which there were decisions."""
        cdef int64_t last = now_ms // 1000
        cdef int64_t second
        cdef SecondRow* row
        cdef int operation
        cdef int outcome
        found = []
        for second in range(last - min(count, 60), last):
            row = &self.seconds[second & (SECONDS - 1)]
            if row.second != second:
                continue
            for operation in range(<int>OPERATION_COUNT):
                for outcome in range(OUTCOMES):
                    if row.counts[operation][outcome]:
                        found.append(
                            (second, OPERATIONS[operation], outcome, row.counts[operation][outcome])
                        )
        return found

    def busiest(self, Core core not None, int64_t now_ms):
        """(account, allowed, denied, at most so many more) of the minute that ends with now_ms, in
        no order; `core` is the one that made the decisions."""
        cdef int64_t last = now_ms // SPAN_MS
        cdef int i
        cdef int j
        cdef int k
        cdef AccountRow seen
        name_ids = set()
        for i in range(SPANS):
            if last - SPANS < self.spans[i].span <= last:
                for j in range(ACCOUNT_SETS):
                    for k in range(ACCOUNT_WAYS):
                        name_ids.add(self.spans[i].rows[j][k].name_id)
        name_ids.discard(0)
        found = []
        for name_id in name_ids:
            memset(&seen, 0, sizeof(AccountRow))
            for i in range(SPANS):
                if last - SPANS < self.spans[i].span <= last:
                    add_row(&seen, &self.spans[i], name_id)
            name = text_of(&core.accounts.names, name_id)
            found.append((name, seen.allowed, seen.denied, seen.carried))
        return found

    def nearly_full(self, Core core not None):
        """The fields of attempts that met a limit which was at least four fifths full, as mappings
        of names to values, the latest first. Limits that are about one person are left out."""
        cdef int i
        cdef int j
        cdef int k
        cdef TemplateRow* row
        found = []
        for i in range(TEMPLATE_SETS):
            for j in range(TEMPLATE_WAYS):
                row = &self.templates[i][j]
                if row.name_ids[0]:
                    fields = {
                        _FIELDS[k]: text_of(&core.accounts.names, row.name_ids[k])
                        for k in range(TEMPLATE_NAMES)
                        if row.name_ids[k]
                    }
                    found.append((row.seen_ms, fields))
        found.sort(key=lambda each: -each[0])
        return [fields for _seen_ms, fields in found]

    # ------------------------------------------------------------ what decisions tell

    cdef void note(
        self, Operation operation, Judge judge, const Subject* subject, bint replayed
    ) noexcept:
        # The judge has decided this attempt.
        cdef int64_t now_ms = judge.decision.decide_ms
        cdef int64_t second = now_ms // 1000
        cdef int outcome = judge.decision.outcome
        cdef SecondRow* row = &self.seconds[second & (SECONDS - 1)]
        if replayed:
            self.replays[<int>operation] += 1
            return
        self.counts[<int>operation][outcome][judge.decision.reason] += 1
        if row.second != second:
            memset(row, 0, sizeof(SecondRow))
            row.second = second
        row.counts[<int>operation][outcome] += 1
        # An account that nothing was counted or journalled of has no number yet.
        if subject.account.id:
            self.note_account(subject.account.id, outcome, now_ms)
            if operation == OPERATION_COMMIT or operation == OPERATION_COMMIT_BATCH:
                self.note_fullness(judge, subject)

    cdef void note_account(self, uint32_t name_id, int outcome, int64_t now_ms) noexcept:
        cdef int64_t span = now_ms // SPAN_MS
        cdef SpanTable* table = &self.spans[span % SPANS]
        cdef AccountRow* rows
        cdef AccountRow* row
        cdef AccountRow* least
        cdef uint32_t least_count = <uint32_t>-1
        cdef uint32_t count
        cdef int i
        if table.span != span:
            memset(table, 0, sizeof(SpanTable))
            table.span = span
        rows = rows_of(table, name_id)
        least = rows
        for i in range(ACCOUNT_WAYS):
            row = &rows[i]
            if row.name_id == name_id:
                row.allowed += outcome == OUTCOME_ALLOWED
                row.denied += outcome != OUTCOME_ALLOWED
                return
            count = row.allowed + row.denied + row.carried
            if count < least_count:
                least_count = count
                least = row
        least.name_id = name_id
        least.carried = least_count
        least.allowed = outcome == OUTCOME_ALLOWED
        least.denied = outcome != OUTCOME_ALLOWED

    cdef void note_fullness(self, Judge judge, const Subject* subject) noexcept:
        # Keeps the attempt's names where it met a limit of many that is at least four fifths full.
        cdef const Weighed* w
        cdef int i
        for i in range(judge.count):
            w = &judge.weighed[i]
            if w.used * 5 < w.max_count * 4 or w.max_count <= 0 or not w.evaluated:
                continue
            if (
                w.rule.enforcement == ENFORCEMENT_ENFORCED
                and w.rule.kind.measure != MEASURE_RUN
                and (w.rule.kind.per_count == 0 or w.rule.kind.per[0] > DIMENSION_ADDRESS)
            ):
                self.note_template(subject, judge.decision.decide_ms)
                return

    cdef void note_template(self, const Subject* subject, int64_t now_ms) noexcept:
        cdef uint32_t[8] name_ids
        cdef uint32_t hash = subject.account.id * <uint32_t>2654435761u
        cdef TemplateRow* rows
        cdef TemplateRow* oldest
        cdef int i
        name_ids[0] = subject.account.id
        for i in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            # What is absent may have a number that is left over.
            name_ids[i - 1] = subject.names[i].id if subject.present >> i & 1 else 0
            hash = (hash ^ name_ids[i - 1]) * <uint32_t>2654435761u
        rows = self.templates[(hash >> 16) & (TEMPLATE_SETS - 1)]
        oldest = rows
        for i in range(TEMPLATE_WAYS):
            if memcmp(rows[i].name_ids, name_ids, sizeof(name_ids)) == 0:
                rows[i].seen_ms = now_ms
                return
            if rows[i].seen_ms < oldest.seen_ms:
                oldest = &rows[i]
        oldest.name_ids = name_ids
        oldest.seen_ms = now_ms

    cdef void forget_names(self) noexcept:
        # Names have other numbers from now on: the state was recovered anew.
        memset(self.spans, 0, SPANS * sizeof(SpanTable))
        memset(self.templates, 0, sizeof(self.templates))
