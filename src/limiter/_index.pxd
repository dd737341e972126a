# Dense numbering of digests: the first one met is 0, the next 1, and so on, inside one account.

from libc.stdint cimport uint32_t, uint64_t

from limiter._siphash cimport Digest

cdef enum:
    NO_INDEX = 0xFFFFFFFF

cdef struct DenseIndex:
    Digest* digests            # owned; [index]
    uint64_t* last_positions   # owned; [index] journal position of the newest event, 0 = none
    uint32_t* slots            # owned; open addressing, index + 1, 0 = free
    uint32_t size              # digests numbered so far
    uint32_t capacity          # room in digests and last_positions
    uint32_t slot_count        # power of two, 0 before the first insertion

cdef void index_free(DenseIndex* index) noexcept nogil
cdef uint32_t index_find(const DenseIndex* index, const Digest* digest) noexcept nogil
cdef uint32_t index_append(DenseIndex* index, const Digest* digest) except? 0xFFFFFFFF nogil
cdef void index_remove_last(DenseIndex* index) noexcept nogil
