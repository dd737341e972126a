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

    cdef uint64_t next_position(self, const Account* account) noexcept nogil
    cdef uint32_t walk(self, Account* account, int64_t now_ms, uint32_t most) except? 0xFFFFFFFF
    cdef int count_event(
        self, Account* account, const Event* event, uint64_t position, int64_t now_ms
    ) except -1
    cdef int count_in(
        self, KindState* state, const Event* event, const Subject* subject, int64_t now_ms
    ) except -1
    cdef int lose(self, Account* account, uint64_t position) noexcept
