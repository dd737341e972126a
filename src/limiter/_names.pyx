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
from limiter._room cimport more_room
from limiter._types cimport Slice

cdef uint32_t NAMES_MAX = bounds.NAMES_MAX

cdef enum:
    ROWS_STEP = 64
    SLOTS_FIRST = 128

    # Of a piece of texts: the first one of a table, and the largest.
    TEXTS_BYTES_FIRST = 1 << 8
    TEXTS_BYTES = 1 << 16


cdef void names_free(NameTable* table) noexcept nogil:
    cdef Texts* texts
    while table.texts != NULL:
        texts = table.texts
        table.texts = texts.former
        free(texts)
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


cdef inline uint32_t free_slot(const NameTable* table, uint64_t hash) noexcept nogil:
    # Where a name goes that has no slot yet.
    cdef uint32_t slot = <uint32_t>hash & (table.slot_count - 1)
    while table.slots[slot]:
        slot = (slot + 1) & (table.slot_count - 1)
    return slot


cdef int grow_slots(NameTable* table) except -1 nogil:
    # Doubles the slots, so that they are never more than three quarters full.
    cdef uint32_t slot_count = table.slot_count * 2 if table.slot_count else SLOTS_FIRST
    cdef uint32_t* slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    cdef uint32_t i
    if slots == NULL:
        with gil:
            raise MemoryError
    free(table.slots)
    table.slots = slots
    table.slot_count = slot_count
    for i in range(table.size):
        table.slots[free_slot(table, table.rows[i].hash)] = i + 1
    return 0


cdef int grow_rows(NameTable* table) except -1 nogil:
    cdef uint32_t capacity = more_room(table.capacity, ROWS_STEP)
    cdef NameRow* rows = <NameRow*>realloc(table.rows, capacity * sizeof(NameRow))
    if rows == NULL:
        with gil:
            raise MemoryError
    table.rows = rows
    table.capacity = capacity
    return 0


cdef uint8_t* room_for_text(NameTable* table, uint32_t size) except NULL nogil:
    # Where a text of so many bytes goes, which is taken once `used` says so.
    cdef Texts* texts = table.texts
    cdef uint32_t capacity
    if texts == NULL or texts.used + size > texts.capacity:
        capacity = TEXTS_BYTES_FIRST if texts == NULL else min(2 * texts.capacity, TEXTS_BYTES)
        capacity = max(capacity, size)
        texts = <Texts*>malloc(sizeof(Texts) + capacity)
        if texts == NULL:
            with gil:
                raise MemoryError
        texts.former = table.texts
        texts.used = 0
        texts.capacity = capacity
        table.texts = texts
    return <uint8_t*>(texts + 1) + texts.used


cdef uint32_t names_insert(NameTable* table, Slice text, uint64_t hash) except 0 nogil:
    # The id of a name, a new one if it is unknown.
    cdef uint8_t* text_place
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
        grow_rows(table)
    if (table.size + 1) * <uint64_t>4 > table.slot_count * <uint64_t>3:
        grow_slots(table)
    text_place = room_for_text(table, text.size)
    memcpy(text_place, text.data, text.size)
    table.texts.used += text.size
    row = &table.rows[table.size]
    row.text = text_place
    row.hash = hash
    row.size = text.size
    table.size += 1
    table.slots[free_slot(table, hash)] = table.size
    return table.size
