# Policies tried on attempts of the past.

from libc.stdint cimport int64_t

from limiter._accounts cimport Account
from limiter._core cimport Core
from limiter._names cimport NameTable
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
    cdef int64_t start_ms      # only attempts from here on are reported ...
    cdef int64_t end_ms        # ... up to here
    cdef int64_t now_ms        # of the newest attempt
    cdef readonly int64_t attempt_count
    cdef readonly int64_t denied_count
    cdef readonly int64_t not_evaluated_count

    cdef void make_ready(self, TraceRows rows, Py_ssize_t start, int count) noexcept
    cdef void prefetch_counters(self, Account* account, const Subject* subject) noexcept
    cdef int try_one(self, Subject* subject, Account* found, int64_t now_ms) except -1
    cdef int find_binding(self, Account* account, int64_t now_ms) except -2
    cdef int report(
        self, Account* account, Subject* subject, int64_t now_ms, int binding
    ) except -1
