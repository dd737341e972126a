# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What became of commits: which are held, until when, and which were cancelled or have lapsed.

A commit is known by its position in the journal. One that simply counts has no row, so that this
costs nothing to whoever uses neither holds nor cancels. A heap says which hold ends next; entries
of holds that have ended otherwise are passed over, and swept before they outnumber the others.
"""

from libc.stdlib cimport calloc, free, malloc, realloc
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    SWEEP_SLACK = 64


cdef void fates_free(FateTable* table) noexcept nogil:
    free(table.rows)
    free(table.due)
    free(table.undone)


cdef inline uint32_t home_of(const FateTable* table, uint64_t position) noexcept nogil:
    return <uint32_t>((position * <uint64_t>0x9E3779B97F4A7C15) >> 32) & (table.capacity - 1)


cdef inline FateRow* place_of(const FateTable* table, uint64_t position) noexcept nogil:
    # The commit's row, or the free one where it would go.
    cdef uint32_t place = home_of(table, position)
    while table.rows[place].position and table.rows[place].position != position:
        place = (place + 1) & (table.capacity - 1)
    return &table.rows[place]


cdef FateRow* fates_find(const FateTable* table, uint64_t position) noexcept nogil:
    # The commit's row, NULL when it simply counts.
    cdef FateRow* row
    if table.size == 0:
        return NULL
    row = place_of(table, position)
    return row if row.position else NULL


cdef bint is_undone(const FateTable* table, uint64_t position) noexcept nogil:
    cdef const FateRow* row = fates_find(table, position)
    return row != NULL and row.fate != FATE_HELD


cdef int grow(FateTable* table) except -1 nogil:
    cdef FateRow* old = table.rows
    cdef uint32_t old_capacity = table.capacity
    cdef uint32_t capacity = old_capacity * 2 if old_capacity else 16
    cdef uint32_t i
    cdef FateRow* rows = <FateRow*>calloc(capacity, sizeof(FateRow))
    if rows == NULL:
        with gil:
            raise MemoryError
    table.rows = rows
    table.capacity = capacity
    for i in range(old_capacity):
        if old[i].position:
            place_of(table, old[i].position)[0] = old[i]
    free(old)
    return 0


cdef FateRow* make_row(FateTable* table, uint64_t position, uint32_t account) except NULL nogil:
    cdef FateRow* row = fates_find(table, position)
    if row != NULL:
        return row
    if (table.size + 1) * <uint64_t>4 > table.capacity * <uint64_t>3:
        grow(table)
    row = place_of(table, position)
    row.position = position
    row.account = account
    row.fate = FATE_COUNTED
    table.size += 1
    return row


cdef void remove_row(FateTable* table, FateRow* row) noexcept nogil:
    # Frees a row and moves back whatever had to go past it.
    cdef uint32_t mask = table.capacity - 1
    cdef uint32_t hole = <uint32_t>(row - table.rows)
    cdef uint32_t place = hole
    cdef uint32_t home
    while True:
        place = (place + 1) & mask
        if table.rows[place].position == 0:
            break
        home = home_of(table, table.rows[place].position)
        if ((place - home) & mask) >= ((place - hole) & mask):
            table.rows[hole] = table.rows[place]
            hole = place
    table.rows[hole].position = 0
    table.size -= 1


# ---------------------------------------------------------------- holds


cdef inline bint ends_before(const DueRow* first, const DueRow* second) noexcept nogil:
    # Holds that end at one instant end in the order in which they were made.
    return first.lapse_ms < second.lapse_ms or (
        first.lapse_ms == second.lapse_ms and first.position < second.position
    )


cdef void sink(FateTable* table, uint32_t place) noexcept nogil:
    cdef DueRow row = table.due[place]
    cdef uint32_t child = 2 * place + 1
    while child < table.due_size:
        if child + 1 < table.due_size and ends_before(&table.due[child + 1], &table.due[child]):
            child += 1
        if not ends_before(&table.due[child], &row):
            break
        table.due[place] = table.due[child]
        place = child
        child = 2 * place + 1
    table.due[place] = row


cdef inline bint is_held(const FateTable* table, uint64_t position) noexcept nogil:
    cdef const FateRow* row = fates_find(table, position)
    return row != NULL and row.fate == FATE_HELD


cdef void sweep(FateTable* table) noexcept nogil:
    # Drops the entries of holds that have ended.
    cdef uint32_t kept = 0
    cdef uint32_t place
    for place in range(table.due_size):
        if is_held(table, table.due[place].position):
            table.due[kept] = table.due[place]
            kept += 1
    table.due_size = kept
    place = kept // 2
    while place:
        place -= 1
        sink(table, place)


cdef int push_due(FateTable* table, int64_t lapse_ms, uint64_t position) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t place
    cdef uint32_t parent
    cdef DueRow row
    cdef DueRow* due
    if table.due_size == table.due_capacity:
        capacity = table.due_capacity * 2 if table.due_capacity else 16
        due = <DueRow*>realloc(table.due, capacity * sizeof(DueRow))
        if due == NULL:
            with gil:
                raise MemoryError
        table.due = due
        table.due_capacity = capacity
    row.lapse_ms = lapse_ms
    row.position = position
    place = table.due_size
    table.due_size += 1
    while place:
        parent = (place - 1) // 2
        if not ends_before(&row, &table.due[parent]):
            break
        table.due[place] = table.due[parent]
        place = parent
    table.due[place] = row
    return 0


cdef int fates_hold(
    FateTable* table, uint64_t position, uint32_t account, int64_t lapse_ms
) except -1 nogil:
    # The commit counts until lapse_ms, unless something else becomes of it.
    cdef FateRow* row = make_row(table, position, account)
    row.fate = FATE_HELD
    row.at_ms = lapse_ms
    table.held_count += 1
    if table.due_size > 2 * table.held_count + SWEEP_SLACK:
        sweep(table)
    return push_due(table, lapse_ms, position)


cdef void fates_confirm(FateTable* table, uint64_t position) noexcept nogil:
    # A held commit counts for good.
    table.held_count -= 1
    remove_row(table, fates_find(table, position))


cdef uint64_t fates_due(FateTable* table, int64_t now_ms) noexcept nogil:
    # The held commit that has lapsed first by now_ms; 0 when none has.
    while table.due_size and table.due[0].lapse_ms <= now_ms:
        if is_held(table, table.due[0].position):
            return table.due[0].position
        table.due_size -= 1
        table.due[0] = table.due[table.due_size]
        if table.due_size:
            sink(table, 0)
    return 0


# ---------------------------------------------------------------- undone


cdef int note_undone(FateTable* table, uint64_t position) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t i
    cdef uint64_t* undone
    if table.undone_size == table.undone_capacity:
        capacity = table.undone_capacity * 2 if table.undone_capacity else 16
        undone = <uint64_t*>malloc(capacity * sizeof(uint64_t))
        if undone == NULL:
            with gil:
                raise MemoryError
        for i in range(table.undone_size):
            undone[i] = table.undone[(table.undone_head + i) & (table.undone_capacity - 1)]
        free(table.undone)
        table.undone = undone
        table.undone_head = 0
        table.undone_capacity = capacity
    i = (table.undone_head + table.undone_size) & (table.undone_capacity - 1)
    table.undone[i] = position
    table.undone_size += 1
    return 0


cdef int fates_undo(
    FateTable* table, uint64_t position, uint32_t account, int fate, int64_t at_ms
) except -1 nogil:
    # The commit, held or not, counts no longer.
    cdef FateRow* row = make_row(table, position, account)
    table.held_count -= row.fate == FATE_HELD
    row.fate = fate
    row.at_ms = at_ms
    return note_undone(table, position)


cdef void fates_forget(FateTable* table, int64_t before_ms, uint32_t most) noexcept nogil:
    # Forgets commits that were undone before before_ms, the oldest first, at most so many at once.
    cdef FateRow* row
    while table.undone_size and most:
        row = fates_find(table, table.undone[table.undone_head])
        if row.at_ms >= before_ms:
            return
        remove_row(table, row)
        table.undone_head = (table.undone_head + 1) & (table.undone_capacity - 1)
        table.undone_size -= 1
        table.forgotten_count += 1
        most -= 1
