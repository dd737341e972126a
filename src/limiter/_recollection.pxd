# What an account has attempted, read back from the journal.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._core cimport Core
from limiter._event cimport Event

cdef struct Chunk:
    uint8_t* data              # owned; events, each with its position and its size behind it
    uint32_t size

cdef class Recollection:
    cdef Core core             # whose account it is
    cdef uint64_t next_event   # where the walk goes on: in the chain of what is no denial ...
    cdef uint64_t next_denial  # ... and in that of denials; 0 = at its end
    cdef int64_t first_ms      # nothing earlier matters, if the account then paused for quiet_ms
    cdef int64_t quiet_ms
    cdef int64_t end_ms        # nothing from here on matters
    cdef int64_t earliest_ms   # the earliest instant at which anything met so far counts
    cdef int64_t oldest_ms     # of the oldest event met so far
    cdef bint is_walked
    cdef bint is_lost          # the journal does not reach back to the account's first event
    cdef bint has_holds
    cdef set awaited           # positions of the commits that something became of
    cdef Chunk* chunks         # owned
    cdef uint32_t chunk_count
    cdef uint32_t chunk_capacity
    cdef uint64_t kept_bytes
    cdef uint64_t bytes_max

    cdef int visit(self, uint64_t position) except -1
    cdef bint matters(self, const Event* event) noexcept
    cdef int keep(self, const uint8_t* packed, uint32_t size, uint64_t position) except -1
    cdef int add_chunk(self) except -1
    cdef bint take_oldest(self, Event* event, uint64_t* position) except -1
