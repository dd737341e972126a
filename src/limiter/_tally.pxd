# What was denied: counts by limit, account and day, with the contacts that it concerns.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from limiter._kinds cimport RuleRow

cdef struct TallyRow:
    # What one limit denied one account on one day.
    const RuleRow* rule        # borrowed
    uint32_t account           # name id
    int32_t day                # since 1970-01-01, in UTC
    int64_t denied_count       # attempts that did not fit
    int64_t binding_count      # those of them for which it was the last one to pass
    int64_t contact_count      # different contacts that they were to

cdef struct DayRow:
    # All that was tried on one day.
    int32_t day
    int64_t attempt_count
    int64_t denied_count

cdef enum:
    # So that none of them grows for longer than a moment.
    CONTACT_SETS = 128

cdef struct ContactSet:
    # Pairs of a row and a contact.
    uint64_t* slots            # owned; open addressing, (row + 1) << 32 | index, 0 = free
    uint32_t count
    uint32_t slot_count        # power of two

cdef struct Tally:
    TallyRow* rows             # owned; in the order of their first denials
    uint32_t row_count
    uint32_t row_capacity
    uint32_t rows_max          # ceiling
    uint32_t* slots            # owned; open addressing, row + 1, 0 = free
    uint32_t slot_count        # power of two
    ContactSet[CONTACT_SETS] contacts  # each in one of them, by its hash
    DayRow* days               # owned; in order
    uint32_t day_count
    uint32_t day_capacity

cdef void tally_free(Tally* tally) noexcept nogil
cdef TallyRow* tally_row(
    Tally* tally, const RuleRow* rule, uint32_t account, int32_t day
) except NULL
cdef int tally_contact(Tally* tally, TallyRow* row, uint32_t index) except -1
cdef DayRow* tally_day(Tally* tally, int32_t day) except NULL
