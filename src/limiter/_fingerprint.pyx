# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Whether two accounts are the same: a number for all that an account holds.

In flow an account of a core; out flow 64 bits that do not hang on how its numbers were given or its
tables are filled. Two accounts with the same past have the same number, whether one was kept in
memory or brought back from an image; with different ones, in practice, never.
"""

from libc.stdlib cimport free, malloc
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter._accounts cimport Account
from limiter._core cimport Core
from limiter._counters cimport (
    PACKED_PARTS,
    Counter,
    CounterKey,
    KindState,
    expire,
    key_part,
)
from limiter._distinct cimport DistinctCounter, Seen, distinct_members
from limiter._index cimport DenseIndex
from limiter._kinds cimport Kind, KindRules
from limiter._messages cimport Ring, entry_at
from limiter._opt_outs cimport WHO_NOBODY
from limiter._siphash cimport Digest, SipKey, siphash64
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    MEASURE_ADDRESSES,
    MEASURE_MESSAGES,
    MEASURE_RUN,
)

cdef uint64_t mark(uint64_t first, uint64_t second, uint64_t third, uint64_t fourth) noexcept nogil:
    cdef uint64_t[4] words
    cdef SipKey key
    words[0] = first
    words[1] = second
    words[2] = third
    words[3] = fourth
    key.k0 = 0x6C696D6974657200
    key.k1 = 0x66696E6765727072
    return siphash64(&key, <const unsigned char*>words, sizeof(words))


cdef const Digest* digest_at(const DenseIndex* index, uint32_t number) noexcept nogil:
    return &index.rows[number].digest


cdef uint64_t key_mark(
    const KindRules* kind, const CounterKey* key, const Account* account
) noexcept nogil:
    # Of a counter's key, with digests for numbers.
    cdef uint64_t result = mark(kind.measure, kind.per_count, 0, 0)
    cdef const Digest* digest
    cdef uint32_t part
    cdef int i
    if kind.per_count > PACKED_PARTS:
        # Numbers are in it, but no longer to be told: accounts that hold such counters compare
        # only by their counts.
        return result
    for i in range(kind.per_count):
        part = key_part(key, i)
        if kind.per[i] == DIMENSION_CONTACT or kind.per[i] == DIMENSION_ADDRESS:
            digest = digest_at(
                &account.contacts if kind.per[i] == DIMENSION_CONTACT else &account.addresses,
                part - 1,
            )
            result = mark(result, i, digest.low, digest.high)
        else:
            result = mark(result, i, part, 0)
    return result


cdef uint64_t ring_mark(const Ring* ring, uint64_t key) noexcept nogil:
    cdef uint64_t result = 0
    cdef uint32_t i
    for i in range(ring.size):
        result += mark(key, <uint64_t>entry_at(ring, i).at_ms, <uint64_t>entry_at(ring, i).count, 0)
    return result


cdef uint64_t members_mark(
    DistinctCounter* counter, const DenseIndex* index, uint64_t key
) except? 0 nogil:
    cdef Seen* seen
    cdef const Digest* digest
    cdef uint64_t result = 0
    cdef uint32_t i
    if counter.live == 0:
        return 0
    seen = <Seen*>malloc(counter.live * sizeof(Seen))
    if seen == NULL:
        with gil:
            raise MemoryError
    for i in range(distinct_members(counter, seen)):
        digest = digest_at(index, seen[i].index)
        result += mark(key, <uint64_t>seen[i].at_ms, digest.low, digest.high)
    free(seen)
    return result


cdef uint64_t counter_mark(
    const KindRules* kind, Counter* counter, const Account* account, uint64_t key
) except? 0 nogil:
    cdef uint64_t result
    if kind.measure == MEASURE_MESSAGES:
        result = ring_mark(&counter.messages.newest, key)
        if counter.messages.older != NULL:
            result += ring_mark(counter.messages.older, mark(key, 1, 0, 0))
        return result
    if kind.measure == MEASURE_RUN:
        return ring_mark(&counter.pause.newest, key)
    return members_mark(
        &counter.distinct,
        &account.addresses if kind.measure == MEASURE_ADDRESSES else &account.contacts,
        key,
    )


cdef uint64_t state_mark(
    KindState* state, const Account* account, int64_t now_ms
) except? 0 nogil:
    cdef const KindRules* kind = state.kind
    cdef uint64_t result = 0
    cdef CounterKey none
    cdef uint32_t i
    memset(&none, 0, sizeof(none))
    if kind.per_count == 0:
        expire(state, &state.single, now_ms)
        return counter_mark(kind, &state.single, account, key_mark(kind, &none, account))
    for i in range(state.keyed_capacity):
        if state.keyed[i].key.low == 0 and state.keyed[i].key.high == 0:
            continue
        expire(state, &state.keyed[i].counter, now_ms)
        result += counter_mark(
            kind,
            &state.keyed[i].counter,
            account,
            key_mark(kind, &state.keyed[i].key, account),
        )
    return result


cdef uint64_t opt_outs_mark(const Account* account) noexcept nogil:
    cdef uint64_t result = 0
    cdef uint32_t i
    if account.opt_outs == NULL:
        return 0
    for i in range(account.opt_outs.row_count):
        if account.opt_outs.rows[i].who != WHO_NOBODY:
            result += mark(
                account.opt_outs.rows[i].who,
                account.opt_outs.rows[i].digest.low,
                account.opt_outs.rows[i].digest.high,
                account.opt_outs.rows[i].position,
            )
    return result


def fingerprint(Core core not None, uint32_t account_id, int64_t now_ms):
    """The number of the account with that name id as of now_ms, None where there is none. An
    account that is away is brought into memory."""
    cdef Account* account = core.accounts.fetch(account_id)
    cdef KindState* state
    cdef uint64_t result
    cdef uint64_t definition
    cdef bytes text
    cdef int slot
    if account == NULL:
        return None
    result = mark(<uint64_t>account.sequence, account.last_position, account.last_denial, 0)
    result += opt_outs_mark(account)
    for slot in range(account.state_count):
        state = &account.states[slot]
        if state.lent:
            continue
        text = (<Kind>state.kind.kind).definition
        definition = hash_of(text)
        result += mark(definition, state_mark(state, account, now_ms), state.inline_place, 0)
    return result


cdef uint64_t hash_of(bytes text):
    cdef SipKey key
    cdef const unsigned char* data = text
    key.k0 = 0
    key.k1 = 0
    return siphash64(&key, data, len(text))
