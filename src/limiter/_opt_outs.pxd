# Who has opted out of one account's messages.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from limiter._siphash cimport Digest
from limiter._types cimport Slice

cdef enum:
    # Who a row is about; numbers are journalled.
    WHO_NOBODY = 0             # who was in the row has opted in again
    WHO_CONTACT = 1
    WHO_ADDRESS = 2

cdef struct OptOutRow:
    Digest digest
    uint64_t position          # of the event that noted it ...
    uint32_t place             # ... and which of its entries it is
    uint32_t who

cdef struct OptOuts:
    OptOutRow* rows            # owned; in the order in which they were noted
    uint32_t* slots            # owned; index of a row plus one, 0 = free
    uint32_t row_count         # rows, those of nobody among them
    uint32_t capacity
    uint32_t slot_count        # a power of two, or 0
    uint32_t count             # who has opted out

cdef void opt_outs_free(OptOuts* opt_outs) noexcept nogil
cdef const OptOutRow* opt_outs_find(
    const OptOuts* opt_outs, uint32_t who, const Digest* digest
) noexcept nogil
cdef uint32_t opt_outs_after(
    const OptOuts* opt_outs, uint64_t position, uint32_t place
) noexcept nogil
cdef uint32_t entries_size(Slice body) noexcept nogil
cdef int opt_outs_apply(
    OptOuts* opt_outs, Slice body, bint adds, uint64_t position
) except -1
cdef int opt_outs_restore(OptOuts* opt_outs, const OptOutRow* rows, uint32_t count) except -1

cdef enum:
    COUNT_BYTES = 4            # of the count that opens a body
    ENTRY_BYTES = 17           # who, and the digest
