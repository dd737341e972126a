# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Pauses: how many messages have gone in a row, and when the next may.

A run is a series of messages with no gap of the pause's duration or more between neighbours. While
the newest run has `after_count` messages the next may only go the duration after the last; then it
begins a run of its own. An attempt of several messages goes whole: all of them join the run, so it
must have room for all. A run is kept for the whole account, whichever policies let its messages go,
so it may grow beyond `after_count`.

What always holds: `used` is the length of the newest run, and 0 from the duration after its last
message on. The newest EXACT_INSTANTS instants are kept one by one, so that a message can be put in
between or taken out and the run then told anew. Messages behind them are only summed as far as they
are part of a run that reaches there: such a run is no shorter than any `after_count`. Nothing is
let go before two durations have passed since the last message, for one that is put in late may
still join what went before it.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter._calendar cimport WindowRules
from limiter._messages cimport (
    NEVER_MS,
    Addition,
    Entry,
    Summed,
    entry_at,
    ring_copy,
    ring_insert,
    ring_place,
    ring_pop,
    ring_push,
)

cdef uint32_t EXACT_INSTANTS = bounds.EXACT_INSTANTS


cdef void pause_free(PauseCounter* counter) noexcept nogil:
    free(counter.newest.entries)
    free(counter.older)


cdef int pause_copy(PauseCounter* counter, const PauseCounter* original) except -1 nogil:
    # A counter of its own that holds the same.
    memset(counter, 0, sizeof(PauseCounter))
    counter.used = original.used
    ring_copy(&counter.newest, &original.newest)
    if original.older != NULL:
        counter.older = <Summed*>malloc(sizeof(Summed))
        if counter.older == NULL:
            with gil:
                raise MemoryError
        counter.older[0] = original.older[0]
    return 0


cdef int64_t pause_latest_ms(const PauseCounter* counter) noexcept nogil:
    # The instant of the last message, NEVER_MS when there is none.
    if counter.newest.size == 0:
        return NEVER_MS
    return entry_at(&counter.newest, counter.newest.size - 1).at_ms


cdef int64_t pause_earliest_ms(const PauseCounter* counter) noexcept nogil:
    # The instant of the oldest message that is kept, NEVER_MS when there is none.
    if counter.newest.size == 0:
        return NEVER_MS
    if counter.older != NULL and counter.older.count:
        return counter.older.first_ms
    return entry_at(&counter.newest, 0).at_ms


cdef int sum_oldest(PauseCounter* counter, const WindowRules* window) except -1 nogil:
    # Moves the oldest instant to those that are only summed.
    cdef Entry* oldest = entry_at(&counter.newest, 0)
    if counter.older == NULL:
        counter.older = <Summed*>calloc(1, sizeof(Summed))
        if counter.older == NULL:
            with gil:
                raise MemoryError
    if oldest.at_ms - counter.older.latest_ms >= window.duration_ms:
        counter.older.count = 0
    if counter.older.count == 0:
        counter.older.first_ms = oldest.at_ms
    counter.older.count += oldest.count
    counter.older.latest_ms = oldest.at_ms
    ring_pop(&counter.newest)
    return 0


cdef int pause_add(
    PauseCounter* counter,
    WindowRules* window,
    int64_t at_ms,
    int64_t count,
    Addition* addition,
) except -1 nogil:
    # Counts `count` messages at at_ms, to which the counter was brought and which is not before any
    # counted earlier; `addition` is what pause_undo needs to take exactly that back, last first.
    cdef Ring* newest = &counter.newest
    addition.count = count
    addition.summed.count = 0
    addition.used_before = counter.used
    memset(&addition.older_before, 0, sizeof(Summed))
    if counter.older != NULL:
        addition.older_before = counter.older[0]
    if newest.size and entry_at(newest, newest.size - 1).at_ms == at_ms:
        entry_at(newest, newest.size - 1).count += count
    else:
        ring_push(newest, at_ms, count)
        if newest.size > EXACT_INSTANTS:
            addition.summed = entry_at(newest, 0)[0]
            sum_oldest(counter, window)
    counter.used += count
    return 0


cdef void pause_undo(PauseCounter* counter, const Addition* addition) noexcept nogil:
    # Takes the last addition that is not undone yet back, to the state before it.
    cdef Ring* newest = &counter.newest
    cdef Entry* tail = entry_at(newest, newest.size - 1)
    tail.count -= addition.count
    if tail.count == 0:
        newest.size -= 1
    if addition.summed.count:
        # The ring has room: the entry left it in this very addition.
        newest.head = (newest.head - 1) & (newest.capacity - 1)
        newest.size += 1
        entry_at(newest, 0)[0] = addition.summed
    counter.used = addition.used_before
    if counter.older != NULL:
        counter.older[0] = addition.older_before


cdef void pause_expire(
    PauseCounter* counter, WindowRules* window, int64_t now_ms
) noexcept nogil:
    # Brings the counter to now_ms, which is not before any instant it has been brought to.
    cdef int64_t latest_ms = pause_latest_ms(counter)
    if latest_ms == NEVER_MS or now_ms - latest_ms < window.duration_ms:
        return
    counter.used = 0
    if now_ms - latest_ms >= 2 * window.duration_ms:
        counter.newest.size = 0
        free(counter.older)
        counter.older = NULL


cdef int64_t pause_first_ms(
    const PauseCounter* counter, const WindowRules* window, int64_t now_ms
) noexcept nogil:
    # Where the newest run began; now_ms when there is none.
    cdef int64_t first_ms = now_ms
    cdef uint32_t place = counter.newest.size
    while place:
        if first_ms - entry_at(&counter.newest, place - 1).at_ms >= window.duration_ms:
            return first_ms
        place -= 1
        first_ms = entry_at(&counter.newest, place).at_ms
    if (
        counter.older != NULL
        and counter.older.count
        and first_ms - counter.older.latest_ms < window.duration_ms
    ):
        return counter.older.first_ms
    return first_ms


cdef void tell_run(PauseCounter* counter, WindowRules* window, int64_t now_ms) noexcept nogil:
    # Counts the newest run anew from what is kept.
    cdef int64_t first_ms = pause_first_ms(counter, window, now_ms)
    cdef uint32_t place = counter.newest.size
    counter.used = 0
    while place and first_ms <= entry_at(&counter.newest, place - 1).at_ms:
        place -= 1
        counter.used += entry_at(&counter.newest, place).count
    if place == 0 and counter.older != NULL and first_ms <= counter.older.latest_ms:
        counter.used += counter.older.count


cdef int pause_put_in(
    PauseCounter* counter, WindowRules* window, int64_t at_ms, int64_t count, int64_t now_ms
) except -1 nogil:
    # Counts messages that went at at_ms, which may lie before others; the counter stands at now_ms.
    cdef Ring* newest = &counter.newest
    cdef uint32_t place
    if counter.older != NULL and counter.older.count and at_ms <= counter.older.latest_ms:
        # What is that old can only make a run longer that is long enough.
        if counter.older.first_ms - at_ms < window.duration_ms:
            counter.older.count += count
            counter.older.first_ms = min(counter.older.first_ms, at_ms)
    else:
        place = ring_place(newest, at_ms)
        if place < newest.size and entry_at(newest, place).at_ms == at_ms:
            # One entry for an instant: an undo takes out of one what may have been put in by turns.
            entry_at(newest, place).count += count
        else:
            ring_insert(newest, place, at_ms, count)
        if newest.size > EXACT_INSTANTS:
            sum_oldest(counter, window)
    tell_run(counter, window, now_ms)
    return 0


cdef void pause_take_out(
    PauseCounter* counter, WindowRules* window, int64_t at_ms, int64_t count, int64_t now_ms
) noexcept nogil:
    # Takes messages that were counted at at_ms out again; the counter stands at now_ms. What has
    # left it already is passed over.
    cdef Ring* newest = &counter.newest
    cdef uint32_t place = newest.size
    cdef Entry* entry
    while place and entry_at(newest, place - 1).at_ms > at_ms:
        place -= 1
    if place and entry_at(newest, place - 1).at_ms == at_ms:
        place -= 1
        entry = entry_at(newest, place)
        entry.count -= min(count, entry.count)
        if entry.count == 0:
            newest.size -= 1
            while place < newest.size:
                entry_at(newest, place)[0] = entry_at(newest, place + 1)[0]
                place += 1
    elif place == 0 and counter.older != NULL and at_ms <= counter.older.latest_ms:
        counter.older.count -= min(count, counter.older.count)
    tell_run(counter, window, now_ms)


cdef int64_t pause_passing_ms(
    const PauseCounter* counter, const WindowRules* window, int64_t from_ms, int64_t room
) noexcept nogil:
    # The earliest instant from from_ms on at which at most `room` messages are in the run, nothing
    # else being sent; NEVER_MS when room is negative.
    return pause_passing_behind_ms(counter, window, from_ms, room, 0, NEVER_MS)


cdef int64_t pause_passing_behind_ms(
    const PauseCounter* counter,
    const WindowRules* window,
    int64_t from_ms,
    int64_t room,
    int64_t behind_count,
    int64_t behind_ms,
) noexcept nogil:
    # The same, `behind_count` of the messages counted at behind_ms, the last instant, going along
    # with the attempt, whenever that goes.
    cdef uint32_t place = counter.newest.size
    cdef int64_t run_count = counter.used - behind_count
    if room < behind_count:
        return NEVER_MS
    if run_count <= 0 or run_count + behind_count <= room:
        return from_ms
    # The last instant of the run that does not go along.
    if (
        behind_count
        and entry_at(&counter.newest, place - 1).at_ms == behind_ms
        and entry_at(&counter.newest, place - 1).count == behind_count
    ):
        place -= 1
    if place == 0:
        return max(from_ms, counter.older.latest_ms + window.duration_ms)
    return max(from_ms, entry_at(&counter.newest, place - 1).at_ms + window.duration_ms)
