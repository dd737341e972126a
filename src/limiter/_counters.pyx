# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An account's counters: finding the one that an attempt counts under, counting, taking back.

A kind without dimensions has one counter; any other has a table of them by key. Counters that have
run empty are dropped whenever their table would grow, so a table is at most about twice the size
of what its window holds.
"""

from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter._calendar cimport window_first_ms
from limiter._distinct cimport (
    distinct_add,
    distinct_expire,
    distinct_free,
    distinct_prefetch,
    distinct_restore,
)
from limiter._kinds cimport KindRules
from limiter._messages cimport (
    messages_add,
    messages_copy,
    messages_expire,
    messages_free,
    messages_undo,
)
from limiter._pause cimport (
    pause_add,
    pause_copy,
    pause_expire,
    pause_free,
    pause_put_in,
    pause_undo,
)
from limiter._prefetch cimport prefetch
from limiter._siphash cimport Digest, SipKey, siphash128
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    MEASURE_ADDRESSES,
    MEASURE_MESSAGES,
    MEASURE_RUN,
)


cdef enum:
    KEYED_FIRST = 4            # places of a table


cdef void counter_free(const KindRules* kind, Counter* counter) noexcept nogil:
    if kind.measure == MEASURE_MESSAGES:
        messages_free(&counter.messages)
    elif kind.measure == MEASURE_RUN:
        pause_free(&counter.pause)
    else:
        distinct_free(&counter.distinct)


cdef int counter_copy(
    const KindRules* kind, Counter* counter, const Counter* original
) except -1 nogil:
    # A counter of its own that holds the same; not of a distinct one.
    if kind.measure == MEASURE_MESSAGES:
        return messages_copy(&counter.messages, &original.messages)
    return pause_copy(&counter.pause, &original.pause)


cdef inline bint is_empty(const KindRules* kind, const Counter* counter) noexcept nogil:
    if kind.measure == MEASURE_MESSAGES:
        return counter.messages.used == 0
    if kind.measure == MEASURE_RUN:
        return counter.pause.newest.size == 0
    return counter.distinct.live == 0


cdef inline bint is_free(const KeyedCounter* row) noexcept nogil:
    return row.key.low == 0 and row.key.high == 0


cdef void state_free(KindState* state) noexcept nogil:
    cdef uint32_t i
    counter_free(state.kind, &state.single)
    for i in range(state.keyed_capacity):
        if not is_free(&state.keyed[i]):
            counter_free(state.kind, &state.keyed[i].counter)
    free(state.keyed)


cdef uint32_t state_release(KindState* state, uint32_t most) noexcept nogil:
    # Frees up to so many keyed counters, and returns how many places that were; the state is of no
    # use any more, but to be freed.
    cdef uint32_t done = 0
    while state.keyed_capacity and done < most:
        state.keyed_capacity -= 1
        done += 1
        if not is_free(&state.keyed[state.keyed_capacity]):
            counter_free(state.kind, &state.keyed[state.keyed_capacity].counter)
    return done


cdef bint key_of(const KindRules* kind, const Subject* subject, CounterKey* key) noexcept nogil:
    # The attempt's key; False when one of its values has never been counted.
    cdef uint32_t[12] parts
    cdef int i
    cdef int dimension
    cdef SipKey plain
    cdef Digest digest
    memset(parts, 0, sizeof(parts))
    for i in range(kind.per_count):
        dimension = kind.per[i]
        if dimension == DIMENSION_CONTACT:
            parts[i] = subject.contact_index + 1
        elif dimension == DIMENSION_ADDRESS:
            parts[i] = subject.address_index + 1
        else:
            parts[i] = subject.names[dimension].id
        if parts[i] == 0:
            return False
    if kind.per_count <= PACKED_PARTS:
        key.low = parts[0] | <uint64_t>parts[1] << 32
        key.high = parts[2] | <uint64_t>parts[3] << 32
        return True
    plain.k0 = 0
    plain.k1 = 0
    digest = siphash128(&plain, <const unsigned char*>parts, sizeof(parts))
    key.low = digest.low
    key.high = digest.high
    return True


cdef inline uint32_t first_place(const KindState* state, const CounterKey* key) noexcept nogil:
    # Where a search for the key begins. Multiplicative hashing: the keys are small integers, and
    # the upper bits are the ones that are mixed well.
    cdef uint64_t mixed = (key.low ^ (key.high * <uint64_t>0xC2B2AE3D27D4EB4F)) * (
        <uint64_t>0x9E3779B97F4A7C15
    )
    return <uint32_t>(((mixed >> 32) * state.keyed_capacity) >> 32)


cdef inline uint32_t place_of(const KindState* state, const CounterKey* key) noexcept nogil:
    # Where the key's counter lies, or the free place where it would.
    cdef uint32_t place = first_place(state, key)
    while not is_free(&state.keyed[place]) and not (
        state.keyed[place].key.low == key.low and state.keyed[place].key.high == key.high
    ):
        place += 1
        if place == state.keyed_capacity:
            place = 0
    return place


cdef Counter* find_by_key(KindState* state, const CounterKey* key) noexcept nogil:
    cdef uint32_t place
    if state.kind.per_count == 0:
        return &state.single
    if state.keyed_size == 0:
        return NULL
    place = place_of(state, key)
    return NULL if is_free(&state.keyed[place]) else &state.keyed[place].counter


cdef void counter_prefetch(const KindState* state) noexcept nogil:
    # Has what the only counter of a kind without dimensions owns loaded.
    if state.kind.measure == MEASURE_MESSAGES:
        prefetch(state.single.messages.newest.entries)
    elif state.kind.measure == MEASURE_RUN:
        prefetch(state.single.pause.newest.entries)
    else:
        distinct_prefetch(&state.single.distinct)


cdef void keyed_prefetch(const KindState* state, const Subject* subject) noexcept nogil:
    # Has the place loaded where find_counter will look first, in a kind with dimensions.
    cdef CounterKey key
    if state.keyed_size and key_of(state.kind, subject, &key):
        prefetch(&state.keyed[first_place(state, &key)])


cdef Counter* find_counter(KindState* state, const Subject* subject) noexcept nogil:
    # The counter that the attempt stands under, NULL when nothing was counted there.
    cdef CounterKey key
    if state.kind.per_count and not key_of(state.kind, subject, &key):
        return NULL
    return find_by_key(state, &key)


cdef int expire(KindState* state, Counter* counter, int64_t now_ms) except -1 nogil:
    # Brings the counter to now_ms, which is not before any instant it has seen.
    cdef int64_t first_ms
    if state.kind.measure == MEASURE_RUN:
        pause_expire(&counter.pause, state.kind.window, now_ms)
        return 0
    first_ms = window_first_ms(state.kind.window, now_ms)
    if state.kind.measure == MEASURE_MESSAGES:
        messages_expire(&counter.messages, first_ms)
        return 0
    return distinct_expire(&counter.distinct, first_ms)


cdef int grow(KindState* state, int64_t now_ms) except -1 nogil:
    # Room for more: drops what has run empty, then makes half of the table free.
    cdef KeyedCounter* old = state.keyed
    cdef uint32_t old_capacity = state.keyed_capacity
    cdef uint32_t size = 0
    cdef uint32_t capacity
    cdef uint32_t i
    cdef KeyedCounter* rows
    for i in range(old_capacity):
        if not is_free(&old[i]):
            expire(state, &old[i].counter, now_ms)
            size += not is_empty(state.kind, &old[i].counter)
    capacity = max(2 * (size + 1), <uint32_t>KEYED_FIRST)
    rows = <KeyedCounter*>calloc(capacity, sizeof(KeyedCounter))
    if rows == NULL:
        with gil:
            raise MemoryError
    state.keyed = rows
    state.keyed_capacity = capacity
    state.keyed_size = size
    for i in range(old_capacity):
        if is_free(&old[i]):
            continue
        if is_empty(state.kind, &old[i].counter):
            counter_free(state.kind, &old[i].counter)
        else:
            rows[place_of(state, &old[i].key)] = old[i]
    free(old)
    return 0


cdef Counter* make_counter(
    KindState* state, const CounterKey* key, int64_t now_ms
) except NULL nogil:
    # The counter under a key, a new one if need be.
    cdef uint32_t place
    cdef Counter* found = find_by_key(state, key)
    if found != NULL:
        return found
    if <uint64_t>(state.keyed_size + 1) * 4 > <uint64_t>state.keyed_capacity * 3:
        grow(state, now_ms)
    place = place_of(state, key)
    state.keyed[place].key = key[0]
    state.keyed_size += 1
    return &state.keyed[place].counter


cdef int count(
    KindState* state, const Subject* subject, int64_t at_ms, int64_t now_ms, Undo* undo
) except -1 nogil:
    # Counts the attempt at at_ms, as of now_ms; its indices and name ids are known by now. One that
    # has left the window by now counts nowhere.
    cdef Counter* counter
    cdef bint fresh
    if at_ms < now_ms and at_ms < window_first_ms(state.kind.window, now_ms):
        return 0
    if state.kind.per_count:
        key_of(state.kind, subject, &undo.key)
    counter = make_counter(state, &undo.key, now_ms)
    expire(state, counter, now_ms)
    if state.kind.measure == MEASURE_MESSAGES:
        return messages_add(
            &counter.messages, state.kind.window, at_ms, subject.message_count, &undo.addition
        )
    if state.kind.measure == MEASURE_RUN and at_ms < now_ms:
        return pause_put_in(
            &counter.pause, state.kind.window, at_ms, subject.message_count, now_ms
        )
    if state.kind.measure == MEASURE_RUN:
        return pause_add(
            &counter.pause, state.kind.window, now_ms, subject.message_count, &undo.addition
        )
    undo.index = subject.contact_index
    fresh = subject.fresh_contact
    if state.kind.measure == MEASURE_ADDRESSES:
        undo.index = subject.address_index
        fresh = subject.fresh_address
    undo.before_ms = distinct_add(
        &counter.distinct, state.kind.window, at_ms, undo.index, fresh
    )
    return 0


cdef int take_back(KindState* state, const Undo* undo) except -1 nogil:
    # Takes the last count that is not undone yet back.
    cdef Counter* counter = find_by_key(state, &undo.key)
    if state.kind.measure == MEASURE_MESSAGES:
        messages_undo(&counter.messages, &undo.addition)
        return 0
    if state.kind.measure == MEASURE_RUN:
        pause_undo(&counter.pause, &undo.addition)
        return 0
    return distinct_restore(&counter.distinct, state.kind.window, undo.index, undo.before_ms)
