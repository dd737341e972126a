# Policies tried on attempts of the past.

from libc.stdint cimport int64_t, uint64_t

from limiter._accounts cimport Account
from limiter._core cimport Committed, Core, RequestKey, Terms
from limiter._event cimport Event
from limiter._hours cimport ZoneTable
from limiter._names cimport NameTable
from limiter._past cimport Past
from limiter._recollection cimport Recollection
from limiter._subject cimport Subject
from limiter._tally cimport Tally
from limiter._trace cimport TraceRows

cdef enum:
    # Attempts that are made ready side by side, so that memory is waited for once.
    SUBJECTS_AHEAD = 16

cdef class Simulation:
    cdef Core core             # of its own
    cdef Tally tally
    cdef Subject[SUBJECTS_AHEAD] subjects
    cdef Account* found[SUBJECTS_AHEAD]  # where they were located; NULL = nowhere yet
    cdef NameTable no_names    # empty: names are looked up later than digests are made
    cdef ZoneTable zones       # that recorded attempts name
    cdef Account* remembered   # the account of recorded attempts
    cdef object journal        # of its own, None where none is needed
    cdef dict relived          # commits that something became of: their positions there, and here
    cdef RequestKey no_key     # nothing is asked under an id
    cdef Terms plain           # of an attempt that counts now and for good
    cdef Committed committed   # where the last attempt stands; its position is 0 if nowhere
    cdef int64_t start_ms      # only attempts from here on are reported ...
    cdef int64_t end_ms        # ... up to here
    cdef int64_t now_ms        # of the newest attempt
    cdef readonly int64_t attempt_count
    cdef readonly int64_t denied_count
    cdef readonly int64_t recorded_count
    cdef readonly int64_t not_evaluated_count

    cdef void make_ready(self, TraceRows rows, Py_ssize_t start, int count) noexcept
    cdef void prefetch_counters(self, Account* account, const Subject* subject) noexcept
    cdef int try_one(
        self, Subject* subject, Account* found, int64_t now_ms, const Terms* terms
    ) except -1
    cdef int count(
        self, Account* account, Subject* subject, int64_t now_ms, const Terms* terms
    ) except -1
    cdef int find_binding(self, Account* account, int64_t now_ms) except -2
    cdef int report(
        self, Account* account, Subject* subject, int64_t now_ms, int binding
    ) except -1
    cdef int relive(
        self, Recollection recollection, const Event* event, uint64_t position
    ) except -1
    cdef int put_subject(self, Past past, const Event* event, Subject* subject) except -1
    cdef int settle(self, const Event* event) except -1
    cdef int keep_group(self) except -1
