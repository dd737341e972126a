# Counters of kinds that an account has just begun to keep, filled from its past.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._accounts cimport Account, Filler
from limiter._counters cimport KindState
from limiter._event cimport Event
from limiter._past cimport Past
from limiter._recorder cimport Recorder
from limiter._subject cimport Subject

cdef class Rebuild(Filler):
    cdef Past past
    cdef Recorder recorder
    cdef uint32_t at_once      # events that are read while a call waits
    cdef bint patient          # everything is filled at once, however long it takes
    cdef bint defers           # counters are filled by whoever brings the account back
    cdef dict waiting          # ids of the accounts with counters to fill, in order
    cdef uint32_t round_id     # the account that the present round comes to next; 0 = no round
    cdef object wake           # called when there is something to do

    cdef bint is_filling(self, uint32_t id, object definitions) except -1
    cdef int begin_round(self) except -1
    cdef int visit_next(self) except -1
    cdef Account* bound(self, uint32_t id) except? NULL
    cdef uint64_t next_position(self, const Account* account) noexcept nogil
    cdef uint32_t walk(self, Account* account, int64_t now_ms, uint32_t most) except? 0xFFFFFFFF
    cdef int count_event(
        self, Account* account, const Event* event, uint64_t position, int64_t now_ms
    ) except -1
    cdef int count_in(
        self, KindState* state, const Event* event, const Subject* subject, int64_t now_ms
    ) except -1
    cdef int lose(self, Account* account, uint64_t position) noexcept
