# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Who has opted out of one account's messages: exact sets of digests.

In flow the entries of journal events; out flows, for a digest, whether it is in the set. Rows stay
in the order in which they were noted, so that a list of them can be paged through while it changes.
Who opts in again leaves an empty row behind; when half are empty all are moved together.

The body of an event is a count (4 bytes, little end first) and so many entries (who, digest). Older
journals have what was sent in the clear behind those that were added, sealed, which is opaque here.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from limiter.errors import DataLoss
from limiter._siphash cimport same_digest


cdef void opt_outs_free(OptOuts* opt_outs) noexcept nogil:
    free(opt_outs.rows)
    free(opt_outs.slots)


cdef OptOutRow* find_row(
    const OptOuts* opt_outs, uint32_t who, const Digest* digest
) noexcept nogil:
    cdef uint32_t slot
    cdef OptOutRow* row
    if opt_outs.slot_count == 0:
        return NULL
    slot = <uint32_t>digest.low & (opt_outs.slot_count - 1)
    while opt_outs.slots[slot]:
        row = &opt_outs.rows[opt_outs.slots[slot] - 1]
        if row.who == who and same_digest(&row.digest, digest):
            return row
        slot = (slot + 1) & (opt_outs.slot_count - 1)
    return NULL


cdef const OptOutRow* opt_outs_find(
    const OptOuts* opt_outs, uint32_t who, const Digest* digest
) noexcept nogil:
    # The row of who has opted out, NULL when they have not. Valid until the set changes.
    return find_row(opt_outs, who, digest)


cdef uint32_t opt_outs_after(
    const OptOuts* opt_outs, uint64_t position, uint32_t place
) noexcept nogil:
    # The index of the first row behind an entry, whether that is still in the set or not.
    cdef uint32_t low = 0
    cdef uint32_t high = opt_outs.row_count
    cdef uint32_t middle
    cdef const OptOutRow* row
    while low < high:
        middle = low + (high - low) // 2
        row = &opt_outs.rows[middle]
        if row.position < position or (row.position == position and row.place <= place):
            low = middle + 1
        else:
            high = middle
    return low


cdef void fill_slot(OptOuts* opt_outs, uint32_t index) noexcept nogil:
    cdef uint32_t slot = <uint32_t>opt_outs.rows[index].digest.low & (opt_outs.slot_count - 1)
    while opt_outs.slots[slot]:
        slot = (slot + 1) & (opt_outs.slot_count - 1)
    opt_outs.slots[slot] = index + 1


cdef int make_room(OptOuts* opt_outs) except -1:
    # Makes room for more rows: by moving those that count together where half do not, else by
    # growing. The table is never more than three quarters full.
    cdef uint32_t capacity = opt_outs.capacity
    cdef uint32_t slot_count = opt_outs.slot_count or 16
    cdef uint32_t filled = 0
    cdef uint32_t i
    cdef uint32_t* slots
    cdef OptOutRow* rows
    if capacity == 0 or opt_outs.count > capacity // 2:
        capacity = capacity + (capacity >> 1) + 8
    while <uint64_t>capacity * 4 > <uint64_t>slot_count * 3:
        slot_count *= 2
    slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    rows = <OptOutRow*>realloc(opt_outs.rows, capacity * sizeof(OptOutRow))
    if rows != NULL:
        opt_outs.rows = rows
    if slots == NULL or rows == NULL:
        free(slots)
        raise MemoryError
    free(opt_outs.slots)
    opt_outs.slots = slots
    opt_outs.slot_count = slot_count
    opt_outs.capacity = capacity
    for i in range(opt_outs.row_count):
        if rows[i].who != WHO_NOBODY:
            rows[filled] = rows[i]
            fill_slot(opt_outs, filled)
            filled += 1
    opt_outs.row_count = filled
    return 0


cdef int add(
    OptOuts* opt_outs, uint32_t who, const Digest* digest, uint64_t position, uint32_t place
) except -1:
    cdef OptOutRow* row
    if find_row(opt_outs, who, digest) != NULL:
        return 0
    if opt_outs.row_count == opt_outs.capacity:
        make_room(opt_outs)
    row = &opt_outs.rows[opt_outs.row_count]
    row.digest = digest[0]
    row.position = position
    row.place = place
    row.who = who
    fill_slot(opt_outs, opt_outs.row_count)
    opt_outs.row_count += 1
    opt_outs.count += 1
    return 0


cdef uint32_t entry_count(Slice body) noexcept nogil:
    cdef const uint8_t* at = body.data
    return (
        at[0] | (<uint32_t>at[1] << 8) | (<uint32_t>at[2] << 16) | (<uint32_t>at[3] << 24)
    )


cdef uint32_t entries_size(Slice body) noexcept nogil:
    # The bytes of a body up to what is sealed; 0 for one that is malformed.
    cdef uint64_t size
    if body.size < COUNT_BYTES:
        return 0
    size = COUNT_BYTES + <uint64_t>entry_count(body) * ENTRY_BYTES
    return <uint32_t>size if size <= body.size else 0


cdef int opt_outs_apply(
    OptOuts* opt_outs, Slice body, bint adds, uint64_t position
) except -1:
    # Makes so what an event says, live and in replay. Raises DataLoss for one that is malformed.
    cdef uint32_t size = entries_size(body)
    cdef uint32_t count = entry_count(body) if size else 0
    cdef const uint8_t* at = body.data + COUNT_BYTES
    cdef OptOutRow* row
    cdef Digest digest
    cdef uint32_t i
    for i in range(count):
        if at[0] != WHO_CONTACT and at[0] != WHO_ADDRESS:
            size = 0
            break
        memcpy(&digest, at + 1, sizeof(Digest))
        if adds:
            add(opt_outs, at[0], &digest, position, i)
        else:
            row = find_row(opt_outs, at[0], &digest)
            if row != NULL:
                row.who = WHO_NOBODY
                opt_outs.count -= 1
        at += ENTRY_BYTES
    if size == 0:
        raise DataLoss("JOURNAL_CORRUPT", "a list of who has opted out is malformed")
    return 0


cdef int opt_outs_restore(OptOuts* opt_outs, const OptOutRow* rows, uint32_t count) except -1:
    # Fills an empty set with rows as they were; `rows` may be unaligned.
    cdef uint32_t slot_count = 16
    cdef uint32_t i
    while <uint64_t>count * 4 > <uint64_t>slot_count * 3:
        slot_count *= 2
    opt_outs.slots = <uint32_t*>calloc(slot_count, sizeof(uint32_t))
    opt_outs.rows = <OptOutRow*>malloc(count * sizeof(OptOutRow))
    if opt_outs.slots == NULL or opt_outs.rows == NULL:
        raise MemoryError
    memcpy(opt_outs.rows, rows, count * sizeof(OptOutRow))
    opt_outs.slot_count = slot_count
    opt_outs.capacity = count
    opt_outs.row_count = count
    for i in range(count):
        if opt_outs.rows[i].who != WHO_NOBODY:
            fill_slot(opt_outs, i)
            opt_outs.count += 1
    return 0
