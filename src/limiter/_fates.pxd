# What became of commits after they were decided: those that are held, and those that were undone.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    # The numbers of the API and of the journal. A commit without a row counts, for good.
    FATE_COUNTED = 1
    FATE_HELD = 2
    FATE_CANCELLED = 3
    FATE_LAPSED = 4

cdef struct FateRow:
    uint64_t position          # of the commit; 0 = free
    int64_t at_ms              # when the hold ends, or when it was undone
    uint32_t account           # name id
    int fate

cdef struct DueRow:
    int64_t lapse_ms
    uint64_t position

cdef struct FateTable:
    FateRow* rows              # owned; open addressing by position
    uint32_t size
    uint32_t capacity          # power of two, 0 before the first row
    uint32_t held_count
    DueRow* due                # owned; heap by lapse of all holds, and of some that are none now
    uint32_t due_size
    uint32_t due_capacity
    uint64_t* undone           # owned; ring of the positions of undone commits, oldest undo first
    uint64_t forgotten_count   # undone commits that have left the ring, ever
    uint32_t undone_head
    uint32_t undone_size
    uint32_t undone_capacity   # power of two

cdef void fates_free(FateTable* table) noexcept nogil
cdef FateRow* fates_find(const FateTable* table, uint64_t position) noexcept nogil
cdef bint is_undone(const FateTable* table, uint64_t position) noexcept nogil
cdef int fates_hold(
    FateTable* table, uint64_t position, uint32_t account, int64_t lapse_ms
) except -1 nogil
cdef void fates_confirm(FateTable* table, uint64_t position) noexcept nogil
cdef int fates_undo(
    FateTable* table, uint64_t position, uint32_t account, int fate, int64_t at_ms
) except -1 nogil
cdef uint64_t fates_due(FateTable* table, int64_t now_ms) noexcept nogil
cdef void fates_forget(FateTable* table, int64_t before_ms, uint32_t most) noexcept nogil
