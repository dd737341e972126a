# Who fills the journal's open group.

from libc.stdint cimport uint32_t, uint64_t

from limiter._core cimport Core
from limiter._types cimport Slice

cdef struct Share:
    uint32_t account           # name id; 0 = free
    uint32_t size              # bytes of its events in the open group

cdef class Shares:
    cdef Core core
    cdef Share* rows           # owned; open addressing
    cdef uint32_t row_count    # power of two
    cdef uint32_t count        # accounts that have something in the group
    cdef uint64_t group        # that this is about
    cdef uint32_t offset       # up to where its events are added up

    cdef int admit(self, Slice account) except -1
    cdef int add_up(self) except -1
    cdef int grow(self) except -1
    cdef Share* row_of(self, uint32_t account) noexcept nogil
