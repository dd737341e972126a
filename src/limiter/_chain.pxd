# Events of one account that its image does not know yet, read back from the journal.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from limiter._event cimport Event

cdef class Chain:
    cdef uint8_t* data         # owned; events with their positions, the newest first
    cdef size_t size
    cdef size_t capacity
    cdef readonly uint32_t count

    cdef int read(self, object events_of, uint64_t newest, uint64_t until) except -1
    cdef bint take_oldest(self, Event* event, uint64_t* position) except -1
    cdef uint64_t walk(
        self, const uint8_t* data, size_t size, uint64_t position, uint64_t until
    ) except? 0
    cdef int keep(self, const uint8_t* packed, uint32_t size, uint64_t position) except -1 nogil
    cdef object lost(self, uint64_t position)
