# Interning of low-cardinality names: text -> small id.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from limiter._types cimport Slice

cdef struct NameRow:
    uint64_t hash
    uint8_t* text              # borrowed from the table's texts
    uint32_t size              # bytes

cdef struct Texts:
    # The head of a piece of memory in which names' texts lie behind it, one after the other.
    Texts* former              # owned; the one that was filled before
    uint32_t used              # bytes
    uint32_t capacity

cdef struct NameTable:
    NameRow* rows              # owned; row of id is rows[id - 1]
    uint32_t* slots            # owned; open addressing, id, 0 = free
    Texts* texts               # owned; the one that is being filled
    uint32_t size
    uint32_t capacity
    uint32_t slot_count        # power of two

cdef void names_free(NameTable* table) noexcept nogil
cdef void names_prefetch(const NameTable* table, uint64_t hash) noexcept nogil
cdef uint32_t names_find(const NameTable* table, Slice text, uint64_t hash) noexcept nogil
cdef uint32_t names_insert(NameTable* table, Slice text, uint64_t hash) except 0 nogil
