# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Request ids: a repeat within the retention counts nothing and gets the same answer.

Rows lie in a ring in the order of their decisions, which is the order in which they are forgotten;
an open-addressing table finds them by digest. Forgetting one shifts its table's neighbours back,
so that there are no tombstones and a look-up stays short however long the service runs.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._siphash cimport Digest, same_digest


cdef void requests_free(RequestTable* table) noexcept nogil:
    free(table.rows)
    free(table.slots)


cdef inline uint32_t home_of(const RequestTable* table, uint32_t place) noexcept nogil:
    return <uint32_t>table.rows[place].request.low & (table.slot_count - 1)


cdef inline uint32_t slot_of(const RequestTable* table, const Digest* request) noexcept nogil:
    # The slot that holds the request, or the free one where it would go.
    cdef uint32_t slot = <uint32_t>request.low & (table.slot_count - 1)
    while table.slots[slot] and not same_digest(
        &table.rows[table.slots[slot] - 1].request, request
    ):
        slot = (slot + 1) & (table.slot_count - 1)
    return slot


cdef const RequestRow* requests_find(
    const RequestTable* table, const Digest* request
) noexcept nogil:
    # What is remembered under a request's digest, NULL when nothing is.
    cdef uint32_t slot
    if table.size == 0:
        return NULL
    slot = slot_of(table, request)
    if table.slots[slot] == 0:
        return NULL
    return &table.rows[table.slots[slot] - 1]


cdef int grow(RequestTable* table) except -1 nogil:
    cdef uint32_t capacity = table.capacity * 2 if table.capacity else 64
    cdef RequestRow* rows = <RequestRow*>malloc(capacity * sizeof(RequestRow))
    cdef uint32_t* slots = <uint32_t*>calloc(capacity * 2, sizeof(uint32_t))
    cdef uint64_t number
    cdef uint32_t place
    if rows == NULL or slots == NULL:
        free(rows)
        free(slots)
        with gil:
            raise MemoryError
    for number in range(table.head, table.head + table.size):
        rows[number & (capacity - 1)] = table.rows[number & (table.capacity - 1)]
    free(table.rows)
    free(table.slots)
    table.rows = rows
    table.slots = slots
    table.capacity = capacity
    table.slot_count = capacity * 2
    for number in range(table.head, table.head + table.size):
        place = <uint32_t>(number & (capacity - 1))
        table.slots[slot_of(table, &rows[place].request)] = place + 1
    return 0


cdef int requests_remember(RequestTable* table, const RequestRow* row) except -1 nogil:
    # Remembers a request that is not in the table yet.
    cdef uint32_t place
    if table.size == table.capacity:
        grow(table)
    place = <uint32_t>((table.head + table.size) & (table.capacity - 1))
    table.rows[place] = row[0]
    table.slots[slot_of(table, &row.request)] = place + 1
    table.size += 1
    return 0


cdef void unlink(RequestTable* table, uint32_t slot) noexcept nogil:
    # Frees a slot and moves back whatever had to go past it.
    cdef uint32_t mask = table.slot_count - 1
    cdef uint32_t hole = slot
    cdef uint32_t home
    while True:
        slot = (slot + 1) & mask
        if table.slots[slot] == 0:
            break
        home = home_of(table, table.slots[slot] - 1)
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            table.slots[hole] = table.slots[slot]
            hole = slot
    table.slots[hole] = 0


cdef void requests_expire(RequestTable* table, int64_t before_ms, uint32_t most) noexcept nogil:
    # Forgets requests decided before before_ms, the oldest first, at most so many at once.
    cdef const RequestRow* oldest
    while table.size and most:
        oldest = &table.rows[table.head & (table.capacity - 1)]
        if oldest.decide_ms >= before_ms:
            return
        unlink(table, slot_of(table, &oldest.request))
        table.head += 1
        table.size -= 1
        most -= 1
