# Which request ids were allowed, and what was asked and answered under them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._siphash cimport Digest

cdef struct RequestRow:
    Digest request             # of account, namespace and id
    Digest payload             # of what was asked
    uint64_t position          # of the commit's event, 0 for a batch's head
    int64_t sequence
    int64_t decide_ms

cdef struct RequestTable:
    RequestRow* rows           # owned; ring in time order
    uint32_t* slots            # owned; open addressing, place in rows + 1, 0 = free
    uint64_t head              # number of the oldest row; its place is head modulo capacity
    uint32_t size
    uint32_t capacity          # power of two
    uint32_t slot_count        # power of two

cdef void requests_free(RequestTable* table) noexcept nogil
cdef const RequestRow* requests_find(
    const RequestTable* table, const Digest* request
) noexcept nogil
cdef int requests_remember(RequestTable* table, const RequestRow* row) except -1 nogil
cdef void requests_expire(RequestTable* table, int64_t before_ms, uint32_t most) noexcept nogil
