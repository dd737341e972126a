# The distinct contacts (or addresses) counted under one key: who is inside the window, exactly.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._calendar cimport WindowRules

cdef struct Seen:
    int64_t at_ms
    uint32_t index

cdef struct Bucket:
    # The members whose latest send lies in [start_ms, end_ms), and some who have moved on since.
    int64_t start_ms
    int64_t end_ms
    uint32_t* indices          # owned
    uint32_t size
    uint32_t capacity

cdef struct DenseSet:
    int64_t* latest_ms         # owned; [index] latest counted send, valid where the bit is set
    uint64_t* members          # owned; bitset over dense indices
    uint32_t universe          # indices that both have room for, a multiple of 64
    uint32_t heap_size
    uint32_t heap_capacity
    uint32_t heap_live         # heap entries that are their member's latest
    Seen* heap                 # owned; the edge of the window: everything up to frontier_ms
    int64_t frontier_ms
    Bucket* buckets            # owned; ring of buckets behind the frontier, in time order
    uint32_t bucket_head
    uint32_t bucket_count
    uint32_t bucket_capacity   # power of two
    uint32_t sweep_position
    uint64_t listed            # indices in all buckets, those who moved on included

cdef struct DistinctCounter:
    uint32_t live              # members inside the window as of the last expiry
    uint32_t capacity          # room of the sparse form
    int64_t* sparse_at_ms      # owned; sorted; its block also holds sparse_indices
    uint32_t* sparse_indices
    DenseSet* dense            # owned; NULL while sparse

cdef void distinct_free(DistinctCounter* counter) noexcept nogil
cdef void distinct_prefetch(const DistinctCounter* counter) noexcept nogil
cdef int64_t distinct_add(
    DistinctCounter* counter, WindowRules* window, int64_t at_ms, uint32_t index, bint fresh
) except -2 nogil
cdef int distinct_expire(DistinctCounter* counter, int64_t first_ms) except -1 nogil
cdef int distinct_restore(
    DistinctCounter* counter, WindowRules* window, uint32_t index, int64_t before_ms
) except -1 nogil
cdef uint32_t distinct_members(DistinctCounter* counter, Seen* out) noexcept nogil
cdef int64_t distinct_latest_ms(const DistinctCounter* counter, uint32_t index) noexcept nogil
cdef int64_t distinct_oldest_ms(DistinctCounter* counter, uint32_t except_index) except? -2 nogil
cdef int64_t distinct_passing_ms(
    DistinctCounter* counter,
    WindowRules* window,
    int64_t from_ms,
    uint32_t index,
    int64_t room,
) except? -2 nogil
