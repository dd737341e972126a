# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Dense indices for the contacts and addresses of one account.

A digest is random already, so its low bits address the table directly. An index, once given, stays:
bitsets and rings refer to it. Indices exist in memory only; what is journalled is the digest.

Most accounts are small, and there are very many: a slot takes no more bytes than its table needs,
one of them up to 256 slots. It is read as four and cut, so that no size is told from another by a
branch; hence a table ends in bytes that are no slot's.
"""

from libc.stdlib cimport calloc, free, realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from limiter._prefetch cimport prefetch
from limiter._room cimport more_room
from limiter._siphash cimport Digest, same_digest

cdef enum:
    # Odd numbers of rows leave nothing of the pieces that malloc gives.
    ROWS_FIRST = 3
    ROWS_STEP = 2
    SLOTS_FIRST = 8
    SLOT_BYTES_MAX = 4


cdef inline uint32_t slot_mask(uint32_t slot_bytes) noexcept nogil:
    return <uint32_t>0xFFFFFFFF >> (8 * (SLOT_BYTES_MAX - slot_bytes))


cdef inline uint32_t slot_at(const DenseIndex* index, uint32_t slot) noexcept nogil:
    # The index plus one that a slot holds, 0 when it is free.
    cdef uint32_t held
    memcpy(&held, index.slots + <size_t>slot * index.slot_bytes, SLOT_BYTES_MAX)
    return held & slot_mask(index.slot_bytes)


cdef inline void put_slot(DenseIndex* index, uint32_t slot, uint32_t value) noexcept nogil:
    cdef uint8_t* place = index.slots + <size_t>slot * index.slot_bytes
    cdef uint32_t mask = slot_mask(index.slot_bytes)
    cdef uint32_t held
    memcpy(&held, place, SLOT_BYTES_MAX)
    held = (held & ~mask) | value
    memcpy(place, &held, SLOT_BYTES_MAX)


cdef inline uint32_t first_slot(const DenseIndex* index, const Digest* digest) noexcept nogil:
    return <uint32_t>digest.low & (index.slot_count - 1)


cdef inline uint32_t free_slot(const DenseIndex* index, const Digest* digest) noexcept nogil:
    # Where a digest goes that has no slot yet.
    cdef uint32_t slot = first_slot(index, digest)
    while slot_at(index, slot):
        slot = (slot + 1) & (index.slot_count - 1)
    return slot


cdef void index_free(DenseIndex* index) noexcept nogil:
    free(index.rows)
    free(index.slots)


cdef void index_prefetch(const DenseIndex* index, const Digest* digest) noexcept nogil:
    # Has the place loaded where index_find will look first.
    if index.slot_count:
        prefetch(index.slots + <size_t>first_slot(index, digest) * index.slot_bytes)


cdef uint32_t index_find(const DenseIndex* index, const Digest* digest) noexcept nogil:
    # The digest's index, or NO_INDEX.
    cdef uint32_t slot
    cdef uint32_t found
    if index.slot_count == 0:
        return NO_INDEX
    slot = first_slot(index, digest)
    while True:
        found = slot_at(index, slot)
        if found == 0:
            return NO_INDEX
        if same_digest(&index.rows[found - 1].digest, digest):
            return found - 1
        slot = (slot + 1) & (index.slot_count - 1)


cdef int make_slots(DenseIndex* index, uint32_t slot_count) except -1 nogil:
    # A table of so many slots, in place of the one that is there.
    cdef uint32_t slot_bytes = 1
    cdef uint8_t* slots
    cdef uint32_t i
    while slot_bytes < SLOT_BYTES_MAX and slot_count - 1 > slot_mask(slot_bytes):
        slot_bytes += 1
    slots = <uint8_t*>calloc(
        <size_t>slot_count * slot_bytes + SLOT_BYTES_MAX - slot_bytes, sizeof(uint8_t)
    )
    if slots == NULL:
        with gil:
            raise MemoryError
    free(index.slots)
    index.slots = slots
    index.slot_count = slot_count
    index.slot_bytes = slot_bytes
    for i in range(index.size):
        put_slot(index, free_slot(index, &index.rows[i].digest), i + 1)
    return 0


cdef inline bint is_crowded(uint64_t size, uint64_t slot_count) noexcept nogil:
    # Whether so many digests are too many for a table: more than three quarters of it.
    return size * 4 > slot_count * 3


cdef int make_rows(DenseIndex* index, uint32_t capacity) except -1 nogil:
    cdef IndexRow* rows = <IndexRow*>realloc(index.rows, capacity * sizeof(IndexRow))
    if rows == NULL:
        with gil:
            raise MemoryError
    index.rows = rows
    index.capacity = capacity
    return 0


cdef int index_reserve(DenseIndex* index, uint32_t count) except -1 nogil:
    # Room for `count` digests in an index that has none, so that no addition moves the others.
    cdef uint32_t slot_count = SLOTS_FIRST
    while is_crowded(count, slot_count):
        slot_count *= 2
    make_rows(index, max(count, <uint32_t>1))
    return make_slots(index, slot_count)


cdef uint32_t index_append(DenseIndex* index, const Digest* digest) except? 0xFFFFFFFF nogil:
    # The index of a digest that has none yet.
    if index.size == index.capacity:
        make_rows(
            index,
            more_room(index.capacity, ROWS_STEP) if index.capacity else <uint32_t>ROWS_FIRST,
        )
    if is_crowded(index.size + 1, index.slot_count):
        make_slots(index, index.slot_count * 2 if index.slot_count else <uint32_t>SLOTS_FIRST)
    put_slot(index, free_slot(index, digest), index.size + 1)
    index.rows[index.size].digest = digest[0]
    index.rows[index.size].last_position = 0
    index.size += 1
    return index.size - 1


cdef int index_restore(DenseIndex* index, const IndexRow* rows, uint32_t size) except -1 nogil:
    # Numbers these digests, in their order, in an index that is empty; `rows` may be unaligned.
    cdef uint32_t slot_count = SLOTS_FIRST
    if size == 0:
        return 0
    make_rows(index, size)
    memcpy(index.rows, rows, size * sizeof(IndexRow))
    index.size = size
    while is_crowded(size, slot_count):
        slot_count *= 2
    return make_slots(index, slot_count)


cdef void index_remove_last(DenseIndex* index) noexcept nogil:
    # Takes the newest number back. No other digest's search passes its slot: all of them were
    # placed before it, here and in every table it was moved to.
    cdef uint32_t slot = first_slot(index, &index.rows[index.size - 1].digest)
    while slot_at(index, slot) != index.size:
        slot = (slot + 1) & (index.slot_count - 1)
    put_slot(index, slot, 0)
    index.size -= 1
