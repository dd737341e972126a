# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Message counters: how many messages lie in a window, and when room returns.

Whether a cap of N is full, and until when, hangs on the N newest entries. So a counter keeps its
newest EXACT_INSTANTS instants as they are and sums older ones in buckets of a fraction of the
window: such a sum leaves as a whole at its newest instant's exit, late by at most one bucket and
never early.

A calendar counter sums by unit, since all sends of one unit leave together.

Sends come in time order, but for those that are recorded late, which find their place among the
others, and any of them may be taken back. Once one was taken out of the exact instants there are
fewer of those than could be; a sum is never parted again.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter._calendar cimport WindowRules, unit_start_ms, window_exit_ms, window_first_ms

cdef uint32_t EXACT_INSTANTS = bounds.EXACT_INSTANTS

cdef enum:
    RING_MAX = 1 << 15         # places of a ring


cdef int ring_push(Ring* ring, int64_t at_ms, int64_t count) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t i
    cdef Entry* entries
    if ring.size == ring.capacity:
        capacity = ring.capacity * 2 if ring.capacity else 1
        if capacity > RING_MAX:
            with gil:
                raise OverflowError("a window has more parts than bounds allow")
        entries = <Entry*>malloc(capacity * sizeof(Entry))
        if entries == NULL:
            with gil:
                raise MemoryError
        for i in range(ring.size):
            entries[i] = entry_at(ring, i)[0]
        free(ring.entries)
        ring.entries = entries
        ring.head = 0
        ring.capacity = capacity
    ring.size += 1
    cdef Entry* last = entry_at(ring, ring.size - 1)
    last.at_ms = at_ms
    last.count = count
    return 0


cdef uint32_t ring_place(const Ring* ring, int64_t at_ms) noexcept nogil:
    # How many entries lie before at_ms.
    cdef uint32_t low = 0
    cdef uint32_t high = ring.size
    cdef uint32_t middle
    while low < high:
        middle = (low + high) >> 1
        if entry_at(ring, middle).at_ms < at_ms:
            low = middle + 1
        else:
            high = middle
    return low


cdef int ring_insert(Ring* ring, uint32_t place, int64_t at_ms, int64_t count) except -1 nogil:
    cdef uint32_t i
    ring_push(ring, at_ms, count)
    for i in range(ring.size - 1, place, -1):
        entry_at(ring, i)[0] = entry_at(ring, i - 1)[0]
    entry_at(ring, place).at_ms = at_ms
    entry_at(ring, place).count = count
    return 0


cdef void ring_remove(Ring* ring, uint32_t place) noexcept nogil:
    cdef uint32_t i
    for i in range(place, ring.size - 1):
        entry_at(ring, i)[0] = entry_at(ring, i + 1)[0]
    ring.size -= 1


cdef int ring_copy(Ring* ring, const Ring* original) except -1 nogil:
    cdef uint32_t i
    memset(ring, 0, sizeof(Ring))
    for i in range(original.size):
        ring_push(ring, entry_at(original, i).at_ms, entry_at(original, i).count)
    return 0


cdef void messages_free(MessageCounter* counter) noexcept nogil:
    free(counter.newest.entries)
    if counter.older != NULL:
        free(counter.older.entries)
        free(counter.older)


cdef int messages_copy(MessageCounter* counter, const MessageCounter* original) except -1 nogil:
    # A counter of its own that holds the same.
    memset(counter, 0, sizeof(MessageCounter))
    counter.used = original.used
    ring_copy(&counter.newest, &original.newest)
    if original.older != NULL:
        require_older(counter)
        ring_copy(counter.older, original.older)
    return 0


cdef inline int64_t width_of(const WindowRules* window) noexcept nogil:
    # How long the instants of one sum may lie apart.
    return (window.duration_ms + EXACT_INSTANTS - 1) // EXACT_INSTANTS


cdef int require_older(MessageCounter* counter) except -1 nogil:
    if counter.older == NULL:
        counter.older = <Ring*>calloc(1, sizeof(Ring))
        if counter.older == NULL:
            with gil:
                raise MemoryError
    return 0


cdef int sum_oldest(
    MessageCounter* counter, WindowRules* window, Addition* addition
) except -1 nogil:
    # Moves the oldest exact instant into the sum of its bucket.
    cdef int64_t width_ms = width_of(window)
    cdef Entry* oldest = entry_at(&counter.newest, 0)
    cdef Entry* tail
    addition.summed = oldest[0]
    require_older(counter)
    if counter.older.size:
        tail = entry_at(counter.older, counter.older.size - 1)
        if tail.at_ms // width_ms == oldest.at_ms // width_ms:
            addition.merged_into_ms = tail.at_ms
            tail.at_ms = oldest.at_ms
            tail.count += oldest.count
            ring_pop(&counter.newest)
            return 0
    ring_push(counter.older, oldest.at_ms, oldest.count)
    ring_pop(&counter.newest)
    return 0


cdef int add_to_sum(
    MessageCounter* counter, WindowRules* window, int64_t at_ms, int64_t count
) except -1 nogil:
    # Adds an instant that lies behind the exact ones to the sum of its bucket.
    cdef int64_t bucket = at_ms // width_of(window)
    cdef uint32_t place
    require_older(counter)
    place = ring_place(counter.older, at_ms)
    if place < counter.older.size and (
        entry_at(counter.older, place).at_ms // width_of(window) == bucket
    ):
        entry_at(counter.older, place).count += count
        return 0
    if place and entry_at(counter.older, place - 1).at_ms // width_of(window) == bucket:
        entry_at(counter.older, place - 1).at_ms = at_ms
        entry_at(counter.older, place - 1).count += count
        return 0
    return ring_insert(counter.older, place, at_ms, count)


cdef int add_late(
    MessageCounter* counter,
    WindowRules* window,
    int64_t at_ms,
    int64_t count,
    Addition* addition,
) except -1 nogil:
    # Counts messages that may lie before some that are counted already.
    cdef Ring* newest = &counter.newest
    cdef uint32_t place = ring_place(newest, at_ms)
    counter.used += count
    if place < newest.size and entry_at(newest, place).at_ms == at_ms:
        entry_at(newest, place).count += count
        return 0
    if (
        counter.older != NULL
        and counter.older.size
        and at_ms <= entry_at(counter.older, counter.older.size - 1).at_ms
    ) or (place == 0 and newest.size >= EXACT_INSTANTS and window.duration_ms > 0):
        return add_to_sum(counter, window, at_ms, count)
    ring_insert(newest, place, at_ms, count)
    if newest.size > EXACT_INSTANTS and window.duration_ms > 0:
        sum_oldest(counter, window, addition)
    return 0


cdef int messages_add(
    MessageCounter* counter,
    WindowRules* window,
    int64_t at_ms,
    int64_t count,
    Addition* addition,
) except -1 nogil:
    # Counts `count` messages at at_ms; `addition` is what messages_undo needs to take exactly that
    # back, last addition first, unless it was late.
    cdef Entry* tail
    addition.count = count
    addition.summed.count = 0
    addition.merged_into_ms = NEVER_MS
    if window.duration_ms == 0:
        at_ms = unit_start_ms(window, at_ms)
    if counter.newest.size:
        tail = entry_at(&counter.newest, counter.newest.size - 1)
        if tail.at_ms == at_ms:
            tail.count += count
            counter.used += count
            return 0
        if tail.at_ms > at_ms:
            return add_late(counter, window, at_ms, count, addition)
    elif counter.older != NULL and counter.older.size:
        return add_late(counter, window, at_ms, count, addition)
    ring_push(&counter.newest, at_ms, count)
    counter.used += count
    if counter.newest.size > EXACT_INSTANTS and window.duration_ms > 0:
        sum_oldest(counter, window, addition)
    return 0


cdef void messages_undo(MessageCounter* counter, const Addition* addition) noexcept nogil:
    # Takes the last addition that is not undone yet back, to the state before it.
    cdef Entry* tail = entry_at(&counter.newest, counter.newest.size - 1)
    tail.count -= addition.count
    counter.used -= addition.count
    if tail.count == 0:
        counter.newest.size -= 1
    if addition.summed.count == 0:
        return
    tail = entry_at(counter.older, counter.older.size - 1)
    if addition.merged_into_ms == NEVER_MS:
        counter.older.size -= 1
    else:
        tail.at_ms = addition.merged_into_ms
        tail.count -= addition.summed.count
    # The ring has room: the entry left it in this very addition.
    counter.newest.head = (counter.newest.head - 1) & (counter.newest.capacity - 1)
    counter.newest.size += 1
    entry_at(&counter.newest, 0)[0] = addition.summed


cdef void messages_remove(
    MessageCounter* counter, WindowRules* window, int64_t at_ms, int64_t count
) noexcept nogil:
    # Takes `count` messages at at_ms back, which were counted at any time and have not left.
    cdef Ring* ring = &counter.newest
    cdef uint32_t place
    if window.duration_ms == 0:
        at_ms = unit_start_ms(window, at_ms)
    place = ring_place(ring, at_ms)
    if place == ring.size or entry_at(ring, place).at_ms != at_ms:
        ring = counter.older
        if ring == NULL:
            return
        # The sum of a bucket stands at the newest instant that was ever in it.
        place = ring_place(ring, at_ms)
        if place == ring.size or (
            entry_at(ring, place).at_ms // width_of(window) != at_ms // width_of(window)
        ):
            return
    if entry_at(ring, place).count < count:
        return
    counter.used -= count
    entry_at(ring, place).count -= count
    if entry_at(ring, place).count == 0:
        ring_remove(ring, place)


cdef void messages_expire(MessageCounter* counter, int64_t first_ms) noexcept nogil:
    # Lets go what lies before first_ms, the window's first instant now.
    cdef Ring* older = counter.older
    if older != NULL:
        while older.size and entry_at(older, 0).at_ms < first_ms:
            counter.used -= entry_at(older, 0).count
            ring_pop(older)
        if older.size == 0:
            free(older.entries)
            free(older)
            counter.older = NULL
    while counter.newest.size and entry_at(&counter.newest, 0).at_ms < first_ms:
        counter.used -= entry_at(&counter.newest, 0).count
        ring_pop(&counter.newest)


cdef int64_t messages_oldest_ms(const MessageCounter* counter) noexcept nogil:
    # The oldest instant that still counts, NEVER_MS when there is none.
    if counter.older != NULL and counter.older.size:
        return entry_at(counter.older, 0).at_ms
    if counter.newest.size:
        return entry_at(&counter.newest, 0).at_ms
    return NEVER_MS


cdef int64_t messages_passing_ms(
    MessageCounter* counter, WindowRules* window, int64_t from_ms, int64_t room
) noexcept nogil:
    # The earliest instant from from_ms on at which at most `room` messages are inside,
    # nothing else being sent; NEVER_MS when room is negative.
    cdef int64_t first_ms = window_first_ms(window, from_ms)
    cdef int64_t left = counter.used
    cdef int64_t last_ms = NEVER_MS
    cdef uint32_t older_size = counter.older.size if counter.older != NULL else 0
    cdef uint32_t i
    cdef Entry* entry
    if room < 0:
        return NEVER_MS
    for i in range(older_size + counter.newest.size):
        entry = (
            entry_at(counter.older, i)
            if i < older_size
            else entry_at(&counter.newest, i - older_size)
        )
        if entry.at_ms >= first_ms:
            if left <= room:
                break
            last_ms = entry.at_ms
        left -= entry.count
    return from_ms if last_ms == NEVER_MS else window_exit_ms(window, last_ms)
