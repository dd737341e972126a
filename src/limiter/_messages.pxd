# The messages counted under one key of one MESSAGES counter.

from libc.stdint cimport int64_t, uint16_t, uint32_t

from limiter._calendar cimport WindowRules

cdef enum:
    NEVER_MS = 0x7FFFFFFFFFFFFFFF

cdef struct Entry:
    int64_t at_ms              # instant of the send; for a sum, the newest one in it
    int64_t count              # messages

cdef struct Ring:
    # A queue of entries in time order. There are fewer than 2 ** 15: none but the exact ones, or
    # one for each part of a window.
    Entry* entries             # owned
    uint16_t head              # where the oldest entry lies
    uint16_t size
    uint16_t capacity          # power of two, 0 before the first push

cdef struct MessageCounter:
    int64_t used               # messages in both rings
    Ring newest                # the newest instants, exact
    Ring* older                # owned; sums of what came before, NULL until there are any

cdef struct Summed:
    # Messages of one pause that are no longer kept one by one, as far as they belong to one run.
    int64_t count
    int64_t first_ms
    int64_t latest_ms

cdef struct Addition:
    # What one messages_add changed, for messages_undo.
    int64_t count
    Entry summed               # the instant that left the exact ring; count 0 when none did
    int64_t merged_into_ms     # instant of the sum it joined, NEVER_MS when it began a new one
    int64_t used_before        # of a pause: its run ...
    Summed older_before        # ... and what was only summed, before the addition

# Of rings, for whoever keeps instants in one.
cdef int ring_push(Ring* ring, int64_t at_ms, int64_t count) except -1 nogil
cdef uint32_t ring_place(const Ring* ring, int64_t at_ms) noexcept nogil
cdef int ring_insert(Ring* ring, uint32_t place, int64_t at_ms, int64_t count) except -1 nogil
cdef int ring_copy(Ring* ring, const Ring* original) except -1 nogil

cdef inline Entry* entry_at(const Ring* ring, uint32_t position) noexcept nogil:
    # The entry `position` places behind the oldest.
    return &ring.entries[(ring.head + position) & (ring.capacity - 1)]

cdef inline void ring_pop(Ring* ring) noexcept nogil:
    ring.head = (ring.head + 1) & (ring.capacity - 1)
    ring.size -= 1

cdef void messages_free(MessageCounter* counter) noexcept nogil
cdef int messages_copy(MessageCounter* counter, const MessageCounter* original) except -1 nogil
cdef int messages_add(
    MessageCounter* counter,
    WindowRules* window,
    int64_t at_ms,
    int64_t count,
    Addition* addition,
) except -1 nogil
cdef void messages_undo(MessageCounter* counter, const Addition* addition) noexcept nogil
cdef void messages_remove(
    MessageCounter* counter, WindowRules* window, int64_t at_ms, int64_t count
) noexcept nogil
cdef void messages_expire(MessageCounter* counter, int64_t first_ms) noexcept nogil
cdef int64_t messages_oldest_ms(const MessageCounter* counter) noexcept nogil
cdef int64_t messages_passing_ms(
    MessageCounter* counter, WindowRules* window, int64_t from_ms, int64_t room
) noexcept nogil
