# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counts of what was denied, by limit, account and day.

In flow denials; out flow rows. A contact is counted once in a row, exactly: the pairs of a row and
a contact's dense index are remembered.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

from limiter.errors import ResourceExhausted
from limiter._kinds cimport RuleRow

cdef void tally_free(Tally* tally) noexcept nogil:
    cdef int i
    free(tally.rows)
    free(tally.slots)
    for i in range(CONTACT_SETS):
        free(tally.contacts[i].slots)
    free(tally.days)


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    # Multiplicative hashing: the high bits hang on all bits of the value.
    value *= <uint64_t>0x9E3779B97F4A7C15
    return value ^ (value >> 32)


cdef inline uint64_t hash_of(const RuleRow* rule, uint32_t account, int32_t day) noexcept nogil:
    return mixed(mixed(<uint64_t>rule) ^ (<uint64_t>account << 32 | <uint32_t>day))


cdef int grow_rows(Tally* tally) except -1:
    # Room for more rows: twice as many, in a table that is half full at most.
    cdef uint32_t capacity = 2 * tally.row_capacity if tally.row_capacity else 64
    cdef TallyRow* rows = <TallyRow*>realloc(tally.rows, capacity * sizeof(TallyRow))
    cdef uint32_t* slots = <uint32_t*>calloc(2 * capacity, sizeof(uint32_t))
    cdef uint32_t slot
    cdef uint32_t i
    if rows != NULL:
        tally.rows = rows
    if rows == NULL or slots == NULL:
        free(slots)
        raise MemoryError
    free(tally.slots)
    tally.slots = slots
    tally.slot_count = 2 * capacity
    tally.row_capacity = capacity
    for i in range(tally.row_count):
        slot = hash_of(rows[i].rule, rows[i].account, rows[i].day) & (tally.slot_count - 1)
        while slots[slot]:
            slot = (slot + 1) & (tally.slot_count - 1)
        slots[slot] = i + 1
    return 0


cdef TallyRow* tally_row(
    Tally* tally, const RuleRow* rule, uint32_t account, int32_t day
) except NULL:
    # The row of a limit, an account and a day, a new one if there is none. Valid until the next one
    # is asked for.
    cdef TallyRow* row
    cdef uint32_t slot
    if tally.row_count == tally.row_capacity:
        grow_rows(tally)
    slot = hash_of(rule, account, day) & (tally.slot_count - 1)
    while tally.slots[slot]:
        row = &tally.rows[tally.slots[slot] - 1]
        if row.rule == rule and row.account == account and row.day == day:
            return row
        slot = (slot + 1) & (tally.slot_count - 1)
    if tally.row_count >= tally.rows_max:
        raise ResourceExhausted(
            "TOO_MANY_ROWS",
            f"the denials make {tally.rows_max} rows of a limit, an account and a day, which is the"
            " ceiling; simulate fewer days or fewer accounts at once",
        )
    row = &tally.rows[tally.row_count]
    row.rule = rule
    row.account = account
    row.day = day
    row.denied_count = 0
    row.binding_count = 0
    row.contact_count = 0
    tally.row_count += 1
    tally.slots[slot] = tally.row_count
    return row


cdef int grow_contacts(ContactSet* contacts) except -1:
    cdef uint32_t slot_count = 2 * contacts.slot_count if contacts.slot_count else 8
    cdef uint64_t* slots = <uint64_t*>calloc(slot_count, sizeof(uint64_t))
    cdef uint32_t slot
    cdef uint32_t i
    if slots == NULL:
        raise MemoryError
    for i in range(contacts.slot_count):
        if contacts.slots[i]:
            slot = <uint32_t>mixed(contacts.slots[i]) & (slot_count - 1)
            while slots[slot]:
                slot = (slot + 1) & (slot_count - 1)
            slots[slot] = contacts.slots[i]
    free(contacts.slots)
    contacts.slots = slots
    contacts.slot_count = slot_count
    return 0


cdef int tally_contact(Tally* tally, TallyRow* row, uint32_t index) except -1:
    # Counts the contact in the row unless it is counted there already.
    cdef uint64_t pair = (<uint64_t>(row - tally.rows) + 1) << 32 | index
    cdef uint64_t hash = mixed(pair)
    # By the high bits, since the low ones say where in the set.
    cdef ContactSet* contacts = &tally.contacts[(hash >> 40) % CONTACT_SETS]
    cdef uint32_t slot
    if 2 * (contacts.count + 1) > contacts.slot_count:
        grow_contacts(contacts)
    slot = <uint32_t>hash & (contacts.slot_count - 1)
    while contacts.slots[slot]:
        if contacts.slots[slot] == pair:
            return 0
        slot = (slot + 1) & (contacts.slot_count - 1)
    contacts.slots[slot] = pair
    contacts.count += 1
    row.contact_count += 1
    return 0


cdef DayRow* tally_day(Tally* tally, int32_t day) except NULL:
    # The row of a day, which is not before that of any other. Valid until the next day.
    cdef DayRow* days
    cdef uint32_t capacity
    if tally.day_count and tally.days[tally.day_count - 1].day == day:
        return &tally.days[tally.day_count - 1]
    if tally.day_count == tally.day_capacity:
        capacity = 2 * tally.day_capacity + 32
        days = <DayRow*>realloc(tally.days, capacity * sizeof(DayRow))
        if days == NULL:
            raise MemoryError
        tally.days = days
        tally.day_capacity = capacity
    days = &tally.days[tally.day_count]
    days.day = day
    days.attempt_count = 0
    days.denied_count = 0
    tally.day_count += 1
    return days
