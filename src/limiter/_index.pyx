# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Dense indices for the contacts and addresses of one account.

A digest is random already, so its low bits address the table directly. An index, once given, stays:
bitsets and rings refer to it. Indices exist in memory only; what is journalled is the digest.
"""

from libc.stdlib cimport free, realloc, calloc
from libc.stdint cimport uint32_t, uint64_t

from limiter._prefetch cimport prefetch
from limiter._siphash cimport Digest, same_digest


cdef void index_free(DenseIndex* index) noexcept nogil:
    free(index.rows)
    free(index.slots)


cdef void index_prefetch(const DenseIndex* index, const Digest* digest) noexcept nogil:
    # Has the place loaded where index_find will look first.
    if index.slot_count:
        prefetch(&index.slots[<uint32_t>digest.low & (index.slot_count - 1)])


cdef uint32_t index_find(const DenseIndex* index, const Digest* digest) noexcept nogil:
    # The digest's index, or NO_INDEX.
    cdef uint32_t slot
    cdef uint32_t found
    if index.slot_count == 0:
        return NO_INDEX
    slot = <uint32_t>digest.low & (index.slot_count - 1)
    while True:
        found = index.slots[slot]
        if found == 0:
            return NO_INDEX
        if same_digest(&index.rows[found - 1].digest, digest):
            return found - 1
        slot = (slot + 1) & (index.slot_count - 1)


cdef int grow_slots(DenseIndex* index) except -1 nogil:
    # Doubles the table, so that it is never more than three quarters full.
    cdef uint32_t slot_count = index.slot_count * 2 if index.slot_count else 8
    cdef uint32_t* slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    cdef uint32_t i
    cdef uint32_t slot
    if slots == NULL:
        with gil:
            raise MemoryError
    for i in range(index.size):
        slot = <uint32_t>index.rows[i].digest.low & (slot_count - 1)
        while slots[slot]:
            slot = (slot + 1) & (slot_count - 1)
        slots[slot] = i + 1
    free(index.slots)
    index.slots = slots
    index.slot_count = slot_count
    return 0


cdef int grow_rows(DenseIndex* index) except -1 nogil:
    cdef uint32_t capacity = index.capacity + (index.capacity >> 1) if index.capacity else 4
    cdef IndexRow* rows = <IndexRow*>realloc(index.rows, capacity * sizeof(IndexRow))
    if rows == NULL:
        with gil:
            raise MemoryError
    index.rows = rows
    index.capacity = capacity
    return 0


cdef uint32_t index_append(DenseIndex* index, const Digest* digest) except? 0xFFFFFFFF nogil:
    # The index of a digest that has none yet.
    cdef uint32_t slot
    if index.size == index.capacity:
        grow_rows(index)
    if (index.size + 1) * <uint64_t>4 > index.slot_count * <uint64_t>3:
        grow_slots(index)
    slot = <uint32_t>digest.low & (index.slot_count - 1)
    while index.slots[slot]:
        slot = (slot + 1) & (index.slot_count - 1)
    index.rows[index.size].digest = digest[0]
    index.rows[index.size].last_position = 0
    index.slots[slot] = index.size + 1
    index.size += 1
    return index.size - 1


cdef void index_remove_last(DenseIndex* index) noexcept nogil:
    # Takes the newest number back. No other digest's search passes its slot: all of them were
    # placed before it, here and in every table it was moved to.
    cdef uint32_t slot = <uint32_t>index.rows[index.size - 1].digest.low & (index.slot_count - 1)
    while index.slots[slot] != index.size:
        slot = (slot + 1) & (index.slot_count - 1)
    index.slots[slot] = 0
    index.size -= 1
