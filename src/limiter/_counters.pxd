# The counters of one account: one state per kind, keyed by the values of the kind's dimensions.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._distinct cimport DistinctCounter
from limiter._kinds cimport KindRules
from limiter._messages cimport Addition, MessageCounter
from limiter._pause cimport PauseCounter
from limiter._subject cimport Subject

cdef enum:
    PACKED_PARTS = 4           # dimensions of a key that holds their values as they are

cdef struct CounterKey:
    # Up to PACKED_PARTS dimensions exactly (id or index plus one, 32 bits each), more by digest.
    uint64_t low
    uint64_t high

cdef union Counter:
    MessageCounter messages
    DistinctCounter distinct
    PauseCounter pause

cdef struct KeyedCounter:
    CounterKey key             # both zero = free
    Counter counter

cdef struct KindState:
    # What every decision reads comes first.
    KindRules* kind            # borrowed; the account keeps the Kind alive
    Counter single             # of a kind without dimensions
    KeyedCounter* keyed        # owned; open addressing
    uint32_t keyed_size
    uint32_t keyed_capacity    # places; at most three quarters of them are taken
    int64_t since_ms           # everything from here on is counted; 0 = all there ever was
    uint64_t after_position    # commits up to this position are not counted (yet)
    int64_t edge_ms            # while building: no event up to this instant is of interest
    int64_t last_used_ms       # of an inline kind
    uint8_t inline_place       # which of the account's inline kinds this is, from 1; 0 = none
    uint8_t building           # those inside the window still are to be, from the newest on
    uint8_t lent               # it is here for an inline limit that has not counted anything yet

cdef struct Undo:
    # What one count changed, for take_back.
    int slot                   # of the kind's state in the account
    CounterKey key
    Addition addition          # of a message counter or a pause
    uint32_t index             # of a distinct counter ...
    int64_t before_ms          # ... and that member's instant before, NEVER_MS = none

cdef inline bint same_key(const CounterKey* first, const CounterKey* second) noexcept nogil:
    return first.low == second.low and first.high == second.high

cdef inline uint32_t key_part(const CounterKey* key, int part) noexcept nogil:
    # The value of a dimension in a key that holds them as they are.
    return <uint32_t>((key.low if part < 2 else key.high) >> ((part & 1) * 32))

cdef void counter_free(const KindRules* kind, Counter* counter) noexcept nogil
cdef int counter_copy(
    const KindRules* kind, Counter* counter, const Counter* original
) except -1 nogil
cdef uint32_t state_release(KindState* state, uint32_t most) noexcept nogil
cdef void state_free(KindState* state) noexcept nogil
cdef void counter_prefetch(const KindState* state) noexcept nogil
cdef void keyed_prefetch(const KindState* state, const Subject* subject) noexcept nogil
cdef bint key_of(const KindRules* kind, const Subject* subject, CounterKey* key) noexcept nogil
cdef Counter* find_by_key(KindState* state, const CounterKey* key) noexcept nogil
cdef Counter* make_counter(
    KindState* state, const CounterKey* key, int64_t now_ms
) except NULL nogil
cdef Counter* find_counter(KindState* state, const Subject* subject) noexcept nogil
cdef int expire(KindState* state, Counter* counter, int64_t now_ms) except -1 nogil
cdef int count(
    KindState* state, const Subject* subject, int64_t at_ms, int64_t now_ms, Undo* undo
) except -1 nogil
cdef int take_back(KindState* state, const Undo* undo) except -1 nogil
