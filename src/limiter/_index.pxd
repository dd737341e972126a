# Dense numbering of digests: the first one met is 0, the next 1, and so on, inside one account.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from limiter._siphash cimport Digest

cdef enum:
    NO_INDEX = 0xFFFFFFFF

cdef struct IndexRow:
    # Side by side, because who is found is then counted: one cache miss for both.
    Digest digest
    uint64_t last_position     # in the journal, of the newest event; 0 = none

cdef struct DenseIndex:
    IndexRow* rows             # owned; [index]
    uint8_t* slots             # owned; open addressing, index + 1, 0 = free, slot_bytes each
    uint32_t size              # digests numbered so far
    uint32_t capacity          # room in rows
    uint32_t slot_count        # power of two, 0 before the first insertion
    uint32_t slot_bytes        # as few as hold the number of any slot

cdef void index_free(DenseIndex* index) noexcept nogil
cdef void index_prefetch(const DenseIndex* index, const Digest* digest) noexcept nogil
cdef uint32_t index_find(const DenseIndex* index, const Digest* digest) noexcept nogil
cdef int index_reserve(DenseIndex* index, uint32_t count) except -1 nogil
cdef uint32_t index_append(DenseIndex* index, const Digest* digest) except? 0xFFFFFFFF nogil
cdef int index_restore(DenseIndex* index, const IndexRow* rows, uint32_t size) except -1 nogil
cdef void index_remove_last(DenseIndex* index) noexcept nogil
