# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Interned names: accounts, channels, campaigns, agents and the like get small ids.

Ids are given in order from 1; 0 is no name. The journal defines each name before its first use
there, so that an event can carry the id and still stand alone.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from limiter import bounds
from limiter.errors import ResourceExhausted
from limiter._prefetch cimport prefetch
from limiter._types cimport Slice

cdef uint32_t NAMES_MAX = bounds.NAMES_MAX


cdef void names_free(NameTable* table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.size):
        free(table.rows[i].text)
    free(table.rows)
    free(table.slots)


cdef void names_prefetch(const NameTable* table, uint64_t hash) noexcept nogil:
    # Has the place loaded where names_find will look first.
    if table.slot_count:
        prefetch(&table.slots[<uint32_t>hash & (table.slot_count - 1)])


cdef uint32_t names_find(const NameTable* table, Slice text, uint64_t hash) noexcept nogil:
    # The id of a name, 0 when it is unknown.
    cdef uint32_t slot
    cdef const NameRow* row
    if table.slot_count == 0:
        return 0
    slot = <uint32_t>hash & (table.slot_count - 1)
    while table.slots[slot]:
        row = &table.rows[table.slots[slot] - 1]
        if (
            row.hash == hash
            and row.size == text.size
            and memcmp(row.text, text.data, text.size) == 0
        ):
            return table.slots[slot]
        slot = (slot + 1) & (table.slot_count - 1)
    return 0


cdef int grow(NameTable* table) except -1 nogil:
    cdef uint32_t capacity = table.capacity * 2 if table.capacity else 64
    cdef uint32_t slot_count = capacity * 2
    cdef uint32_t i
    cdef uint32_t slot
    cdef uint32_t* slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    cdef NameRow* rows = <NameRow*>realloc(table.rows, capacity * sizeof(NameRow))
    if rows != NULL:
        table.rows = rows
    if rows == NULL or slots == NULL:
        free(slots)
        with gil:
            raise MemoryError
    for i in range(table.size):
        slot = <uint32_t>rows[i].hash & (slot_count - 1)
        while slots[slot]:
            slot = (slot + 1) & (slot_count - 1)
        slots[slot] = i + 1
    free(table.slots)
    table.slots = slots
    table.slot_count = slot_count
    table.capacity = capacity
    return 0


cdef uint32_t names_insert(NameTable* table, Slice text, uint64_t hash) except 0 nogil:
    # The id of a name, a new one if it is unknown.
    cdef uint32_t slot
    cdef uint8_t* copy
    cdef NameRow* row
    cdef uint32_t found = names_find(table, text, hash)
    if found:
        return found
    if table.size >= NAMES_MAX:
        with gil:
            raise ResourceExhausted(
                "TOO_MANY_NAMES",
                f"the service knows {NAMES_MAX} distinct account, campaign and other names,"
                " which is its ceiling; use fewer distinct values",
            )
    if table.size == table.capacity:
        grow(table)
    copy = <uint8_t*>malloc(text.size + 1)
    if copy == NULL:
        with gil:
            raise MemoryError
    memcpy(copy, text.data, text.size)
    row = &table.rows[table.size]
    row.hash = hash
    row.text = copy
    row.size = text.size
    slot = <uint32_t>hash & (table.slot_count - 1)
    while table.slots[slot]:
        slot = (slot + 1) & (table.slot_count - 1)
    table.size += 1
    table.slots[slot] = table.size
    return table.size
