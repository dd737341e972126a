# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A plan's own counters: what an account's hold, then what the plan sends.

In flow the account's counters, of the kinds and under the keys that the plan's limits read, and its
holds; then the instants at which the plan sends. What always holds: nothing of the account is
changed; a contact, an address and a name have the same number here as there.

Taking over goes on in pieces, between which the account may count. What it counts meanwhile may be
missing here, and nothing else goes wrong by it.

Holds are taken to lapse. What each lapse changes is found beforehand: a member of a distinct
counter falls back to its latest other commit that still counts then, which is found as an undo
finds it, by walking back along its recorded events.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from limiter import bounds
from limiter._accounts cimport Account, HoldRow
from limiter._calendar cimport window_first_ms
from limiter._core cimport Core
from limiter._counters cimport (
    Counter,
    CounterKey,
    KeyedCounter,
    KindState,
    Undo,
    count,
    counter_copy,
    counter_free,
    expire,
    find_by_key,
    key_of,
    make_counter,
    state_free,
)
from limiter._distinct cimport (
    DenseSet,
    DistinctCounter,
    distinct_add,
    distinct_latest_ms,
    distinct_restore,
)
from limiter._event cimport Event
from limiter._fates cimport FATE_HELD, FateRow, fates_find
from limiter._kinds cimport MATCHES, KindRules, matching
from limiter._messages cimport NEVER_MS, messages_remove
from limiter._pause cimport pause_take_out
from limiter._plan_crowd cimport Crowd
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    MEASURE_ADDRESSES,
    MEASURE_MESSAGES,
    MEASURE_RUN,
)

cdef uint32_t WALK_EVENTS_MAX = bounds.UNDO_WALK_EVENTS_MAX
_KINDS_MAX = bounds.KINDS_MAX + bounds.INLINE_LIMITS_MAX


cdef inline bint keyed_by(const KindRules* kind, int dimension) noexcept:
    cdef int i
    for i in range(kind.per_count):
        if kind.per[i] == dimension:
            return True
    return False


cdef bint by_person(const KindRules* kind) noexcept:
    # Whether each contact or address has a counter of its own.
    return keyed_by(kind, DIMENSION_CONTACT) or keyed_by(kind, DIMENSION_ADDRESS)


cdef inline bint is_distinct(const KindRules* kind) noexcept:
    return kind.measure != MEASURE_MESSAGES and kind.measure != MEASURE_RUN


cdef bint counts_in(const KindRules* kind, const Subject* subject) noexcept:
    # Whether counters of this kind count the message.
    return kind.needs & ~subject.present == 0 and matching(kind.counts, subject) == MATCHES


cdef bint key_in(const KindRules* kind, const Subject* subject, CounterKey* key) noexcept:
    # The key that the message is counted under; False when nothing was ever counted there.
    memset(key, 0, sizeof(CounterKey))
    return kind.per_count == 0 or key_of(kind, subject, key)


cdef bint known_in(const KindRules* kind, const Subject* subject, Crowd crowd) noexcept:
    # Whether the account may have a counter for the person: not under a number given out here.
    return not (
        (keyed_by(kind, DIMENSION_CONTACT) and subject.contact_index >= crowd.contact_base)
        or (keyed_by(kind, DIMENSION_ADDRESS) and subject.address_index >= crowd.address_base)
    )


cdef inline uint32_t member_of(const KindRules* kind, const Subject* subject) noexcept:
    if kind.measure == MEASURE_ADDRESSES:
        return subject.address_index
    return subject.contact_index


cdef int64_t add_members(
    KindState* state,
    Counter* counter,
    const DistinctCounter* original,
    uint32_t from_index,
    uint32_t end_index,
    int64_t most,
) except -2:
    # Adds the members of `original` with an index from from_index on and below end_index, so many
    # places at most; returns where to go on, -1 when all are added.
    cdef const DenseSet* dense = original.dense
    cdef uint32_t index
    cdef uint32_t end
    if dense == NULL:
        for index in range(original.live):
            if from_index <= original.sparse_indices[index] < end_index:
                distinct_add(
                    &counter.distinct, state.kind.window, original.sparse_at_ms[index],
                    original.sparse_indices[index], True,
                )
        return -1
    end_index = min(end_index, dense.universe)
    end = <uint32_t>min(<int64_t>end_index, from_index + most)
    for index in range(from_index, end):
        if (dense.members[index >> 6] >> (index & 63)) & 1:
            distinct_add(
                &counter.distinct, state.kind.window, dense.latest_ms[index], index, True
            )
    return -1 if end >= end_index else end


@cython.final
cdef class PlanCounters:
    def __cinit__(self, Core core not None):
        self.core = core
        self.states = <KindState*>calloc(_KINDS_MAX, sizeof(KindState))
        if self.states == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int slot
        for slot in range(self.count):
            state_free(&self.states[slot])
            Py_DECREF(<object>self.states[slot].kind.kind)
        free(self.states)
        free(self.holds)
        free(self.lapses)

    cdef int keep(self, const KindRules* kind) except -1:
        # The slot of a kind, which is kept from now on.
        cdef int slot
        for slot in range(self.count):
            if self.states[slot].kind == kind:
                return slot
        if self.count == _KINDS_MAX:
            raise AssertionError("a plan reads more kinds than an account keeps")
        # Kept alive by hand: an attribute may be gone before the counters are freed.
        Py_INCREF(<object>kind.kind)
        self.states[self.count].kind = <KindRules*>kind
        self.count += 1
        return self.count - 1

    cdef int begin(self, const Account* account, uint32_t person_count) except -1:
        # Once all kinds are kept and before anything is taken over.
        cdef int slot
        cdef int there
        cdef uint32_t capacity = 8
        cdef KindState* state
        while capacity < 2 * (person_count + 1):
            capacity *= 2
        for slot in range(self.count):
            state = &self.states[slot]
            there = self.core.accounts.state_of(account, state.kind)
            # A counter that is not there holds nothing that could lapse.
            state.after_position = account.last_position
            if there >= 0:
                state.after_position = account.states[there].after_position
            if by_person(state.kind):
                self.for_persons = True
                # At once: a table that grows moves all that it holds.
                state.keyed = <KeyedCounter*>calloc(capacity, sizeof(KeyedCounter))
                if state.keyed == NULL:
                    raise MemoryError
                state.keyed_capacity = capacity
        if account.hold_count:
            self.holds = <HoldRow*>malloc(account.hold_count * sizeof(HoldRow))
            if self.holds == NULL:
                raise MemoryError
            memcpy(self.holds, account.holds, account.hold_count * sizeof(HoldRow))
            self.hold_count = account.hold_count
        return 0

    # ------------------------------------------------------------ holds

    cdef int take_hold(self, Account* account, uint32_t number, Crowd crowd) except -1:
        # Finds what the lapse of one hold changes. Counters are watched that the plan may read.
        cdef const HoldRow* hold = &self.holds[number]
        cdef Event event
        cdef Subject subject
        cdef Lapse lapse
        cdef int slot
        cdef const KindRules* kind
        if not self.core.past.commit_at(hold.position, &event):
            return 0
        self.core.past.subject_of(&event, account, &subject)
        memset(&lapse, 0, sizeof(Lapse))
        lapse.lapse_ms = hold.lapse_ms
        lapse.position = hold.position
        lapse.counts_ms = event.counts_ms
        lapse.message_count = event.message_count
        lapse.contact = subject.contact
        lapse.address = subject.address
        lapse.has_address = subject.present & (1 << DIMENSION_ADDRESS) != 0
        for slot in range(self.count):
            kind = self.states[slot].kind
            if (
                hold.position <= self.states[slot].after_position
                or not counts_in(kind, &subject)
                or not key_in(kind, &subject, &lapse.key)
                or not known_in(kind, &subject, crowd)
            ):
                continue
            lapse.slot = slot
            if is_distinct(kind):
                lapse.index = member_of(kind, &subject)
                if lapse.index >= (
                    crowd.address_base
                    if kind.measure == MEASURE_ADDRESSES
                    else crowd.contact_base
                ):
                    continue
                lapse.fallback_ms = self.fallback_ms(account, &lapse, &subject)
            self.append(&lapse)
        return 0

    cdef int append(self, const Lapse* lapse) except -1:
        cdef uint32_t capacity
        cdef Lapse* lapses
        if self.lapse_count == self.lapse_capacity:
            capacity = 2 * self.lapse_capacity + 16
            lapses = <Lapse*>realloc(self.lapses, capacity * sizeof(Lapse))
            if lapses == NULL:
                raise MemoryError
            self.lapses = lapses
            self.lapse_capacity = capacity
        self.lapses[self.lapse_count] = lapse[0]
        self.lapse_count += 1
        return 0

    cdef int64_t fallback_ms(
        self, Account* account, const Lapse* lapse, const Subject* subject
    ) except? -2:
        # The latest instant at which any other commit that still counts when the hold lapses has
        # counted the same member under the same key; NEVER_MS when there is none.
        cdef KindState* state = &self.states[lapse.slot]
        cdef bint by_address = state.kind.measure == MEASURE_ADDRESSES
        cdef int64_t first_ms = window_first_ms(state.kind.window, lapse.lapse_ms)
        cdef int64_t best_ms = -1
        cdef uint32_t walked = 0
        cdef uint64_t at
        cdef Event other
        cdef Subject other_subject
        cdef CounterKey other_key
        if by_address:
            at = account.addresses.rows[subject.address_index].last_position
        else:
            at = account.contacts.rows[subject.contact_index].last_position
        while at > state.after_position and self.core.past.commit_at(at, &other):
            if other.time_ms < first_ms or other.time_ms <= best_ms:
                break
            if walked == WALK_EVENTS_MAX:
                return lapse.counts_ms
            walked += 1
            if (
                at != lapse.position
                and other.counts_ms > best_ms
                and other.counts_ms >= first_ms
                and self.counts_still(at, lapse)
            ):
                self.core.past.subject_of(&other, account, &other_subject)
                if (
                    counts_in(state.kind, &other_subject)
                    and key_in(state.kind, &other_subject, &other_key)
                    and other_key.low == lapse.key.low
                    and other_key.high == lapse.key.high
                ):
                    best_ms = other.counts_ms
            at = other.previous_address if by_address else other.previous_contact
        return best_ms if best_ms >= 0 else NEVER_MS

    cdef bint counts_still(self, uint64_t position, const Lapse* lapse) noexcept:
        # Whether the commit at a position still counts once that hold has lapsed: holds that end at
        # one instant end in the order in which they were made.
        cdef const FateRow* row = fates_find(&self.core.past.fates, position)
        if row == NULL:
            return True
        return row.fate == FATE_HELD and (
            row.at_ms > lapse.lapse_ms
            or (row.at_ms == lapse.lapse_ms and position > lapse.position)
        )

    cdef int drop_settled(self) except -1:
        # Holds that have ended since the plan began do not lapse any more.
        cdef uint32_t i
        cdef const FateRow* row
        for i in range(self.lapse_count):
            row = fates_find(&self.core.past.fates, self.lapses[i].position)
            if row == NULL or row.fate != FATE_HELD:
                self.lapses[i].slot = -1
        return 0

    # ------------------------------------------------------------ taking over

    cdef int64_t take_members(
        self, Account* account, int slot, const Subject* subject, uint32_t from_index,
        Crowd crowd, int64_t most,
    ) except -2:
        # If the kind is a distinct one with one counter for all that is planned, takes members
        # over, so many places of its numbering at most; returns where to go on, -1 when all are
        # there.
        cdef KindState* state = &self.states[slot]
        cdef int there = self.core.accounts.state_of(account, state.kind)
        cdef Counter* original
        cdef CounterKey key
        cdef uint32_t end_index = crowd.contact_base
        if state.kind.measure == MEASURE_ADDRESSES:
            end_index = crowd.address_base
        if (
            there < 0
            or not is_distinct(state.kind)
            or by_person(state.kind)
            or not key_in(state.kind, subject, &key)
        ):
            return -1
        original = find_by_key(&account.states[there], &key)
        if original == NULL:
            return -1
        return add_members(
            state, make_counter(state, &key, 0), &original.distinct, from_index, end_index, most
        )

    cdef int take_person(
        self, Account* account, const Subject* subject, Crowd crowd
    ) except -1:
        # Takes over the counters that one person has of his own.
        cdef int slot
        cdef int there
        cdef KindState* state
        cdef Counter* original
        cdef Counter* counter
        cdef CounterKey key
        for slot in range(self.count):
            state = &self.states[slot]
            if (
                not by_person(state.kind)
                or not known_in(state.kind, subject, crowd)
                or state.kind.needs & ~subject.present
                or not key_in(state.kind, subject, &key)
                or find_by_key(state, &key) != NULL
            ):
                continue
            there = self.core.accounts.state_of(account, state.kind)
            if there < 0:
                continue
            original = find_by_key(&account.states[there], &key)
            if original == NULL:
                continue
            counter = make_counter(state, &key, 0)
            if not is_distinct(state.kind):
                counter_copy(state.kind, counter, original)
                continue
            add_members(
                state, counter, &original.distinct, 0,
                crowd.address_base
                if state.kind.measure == MEASURE_ADDRESSES
                else crowd.contact_base,
                NEVER_MS >> 1,
            )
        return 0

    cdef int take_shared(self, Account* account, const Subject* subject) except -1:
        # Takes over the counters of messages and runs that all share, in one go.
        cdef int slot
        cdef int there
        cdef KindState* state
        cdef Counter* original
        cdef CounterKey key
        for slot in range(self.count):
            state = &self.states[slot]
            there = self.core.accounts.state_of(account, state.kind)
            if (
                there < 0
                or is_distinct(state.kind)
                or by_person(state.kind)
                or not key_in(state.kind, subject, &key)
            ):
                continue
            original = find_by_key(&account.states[there], &key)
            if original != NULL:
                counter_copy(state.kind, make_counter(state, &key, 0), original)
        return 0

    # ------------------------------------------------------------ what the plan does

    cdef int send(self, const Subject* subject, int64_t at_ms) except -1:
        # Counts an attempt; whether a distinct counter has somebody inside now who was not.
        cdef int slot
        cdef bint joined = False
        cdef KindState* state
        cdef Undo undo
        for slot in range(self.count):
            state = &self.states[slot]
            if not counts_in(state.kind, subject):
                continue
            memset(&undo, 0, sizeof(Undo))
            count(state, subject, at_ms, at_ms, &undo)
            if is_distinct(state.kind):
                joined |= undo.before_ms == NEVER_MS
                if undo.before_ms == at_ms and self.lapse_count:
                    self.stay(slot, &undo)
        return joined

    cdef void stay(self, int slot, const Undo* undo) noexcept:
        # A member was sent to at the very instant at which a hold counts: it does not fall back.
        cdef uint32_t i
        cdef Lapse* lapse
        for i in range(self.next_lapse, self.lapse_count):
            lapse = &self.lapses[i]
            if (
                lapse.slot == slot
                and lapse.index == undo.index
                and lapse.key.low == undo.key.low
                and lapse.key.high == undo.key.high
                and lapse.counts_ms == undo.before_ms
            ):
                lapse.fallback_ms = lapse.counts_ms

    cdef int64_t lapses_next_ms(self) noexcept:
        # When the next hold lapses, NEVER_MS when none is left.
        if self.next_lapse == self.lapse_count:
            return NEVER_MS
        return self.lapses[self.next_lapse].lapse_ms

    cdef const Lapse* lapse(self, int64_t at_ms) except NULL:
        # Makes the next lapse so, in one counter: whoever is at its contact or address may be
        # freer.
        cdef Lapse* lapse = &self.lapses[self.next_lapse]
        cdef KindState* state
        cdef Counter* counter
        self.next_lapse += 1
        if lapse.slot < 0:
            return lapse
        state = &self.states[lapse.slot]
        counter = find_by_key(state, &lapse.key)
        if counter == NULL:
            return lapse
        expire(state, counter, at_ms)
        if is_distinct(state.kind):
            if (
                distinct_latest_ms(&counter.distinct, lapse.index) == lapse.counts_ms
                and lapse.fallback_ms != lapse.counts_ms
            ):
                distinct_restore(
                    &counter.distinct, state.kind.window, lapse.index, lapse.fallback_ms
                )
        elif state.kind.measure == MEASURE_RUN:
            pause_take_out(
                &counter.pause, state.kind.window, lapse.counts_ms, lapse.message_count, at_ms
            )
        elif lapse.counts_ms >= window_first_ms(state.kind.window, at_ms):
            messages_remove(
                &counter.messages, state.kind.window, lapse.counts_ms, lapse.message_count
            )
        return lapse

    # ------------------------------------------------------------ the end

    cdef bint clear(self, int64_t most) noexcept:
        # Frees the counters that persons have of their own, so many at most; whether that was all.
        cdef KindState* state
        while self.cleared_slot < self.count:
            state = &self.states[self.cleared_slot]
            while self.cleared < state.keyed_capacity:
                if most == 0:
                    return False
                most -= 1
                if state.keyed[self.cleared].key.low or state.keyed[self.cleared].key.high:
                    counter_free(state.kind, &state.keyed[self.cleared].counter)
                    memset(&state.keyed[self.cleared], 0, sizeof(KeyedCounter))
                self.cleared += 1
            self.cleared = 0
            self.cleared_slot += 1
        return True
