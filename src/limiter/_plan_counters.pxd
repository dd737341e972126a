# A plan's own counters: what an account's hold, then what the plan sends.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._accounts cimport Account, HoldRow
from limiter._core cimport Core
from limiter._counters cimport CounterKey, KindState, Undo
from limiter._kinds cimport KindRules
from limiter._plan_crowd cimport Crowd
from limiter._siphash cimport Digest
from limiter._subject cimport Subject

cdef struct Lapse:
    # What the lapse of one hold changes in one counter.
    int64_t lapse_ms
    uint64_t position          # of the commit
    int64_t counts_ms          # the instant at which it counts
    int64_t message_count
    int slot                   # of the kind's state in the plan
    CounterKey key
    uint32_t index             # of a distinct counter: the member ...
    int64_t fallback_ms        # ... and where it then stands, NEVER_MS = it is inside no longer
    Digest contact             # whom it went to
    Digest address
    bint has_address

cdef class PlanCounters:
    cdef Core core
    cdef KindState* states     # owned, and their kinds kept alive
    cdef int count
    cdef bint for_persons      # whether any kind has a counter for each contact or address
    cdef HoldRow* holds        # owned; as they are when the plan begins
    cdef uint32_t hold_count
    cdef Lapse* lapses         # owned; in the order in which the holds end
    cdef uint32_t lapse_count
    cdef uint32_t lapse_capacity
    cdef uint32_t next_lapse   # the first that has not been made so
    cdef uint32_t cleared      # rows of states[cleared_slot] that are freed
    cdef int cleared_slot

    cdef int keep(self, const KindRules* kind) except -1
    cdef int begin(self, const Account* account, uint32_t person_count) except -1

    # --- taking over what the account's counters hold
    cdef int take_hold(self, Account* account, uint32_t number, Crowd crowd) except -1
    cdef int append(self, const Lapse* lapse) except -1
    cdef int64_t fallback_ms(
        self, Account* account, const Lapse* lapse, const Subject* subject
    ) except? -2
    cdef bint counts_still(self, uint64_t position, const Lapse* lapse) noexcept
    cdef int64_t take_members(
        self, Account* account, int slot, const Subject* subject, uint32_t from_index,
        Crowd crowd, int64_t most,
    ) except -2
    cdef int take_person(
        self, Account* account, const Subject* subject, Crowd crowd
    ) except -1
    cdef int take_shared(self, Account* account, const Subject* subject) except -1
    cdef int drop_settled(self) except -1

    # --- what the plan sends, and what lapses meanwhile
    cdef int send(self, const Subject* subject, int64_t at_ms) except -1
    cdef void stay(self, int slot, const Undo* undo) noexcept
    cdef int64_t lapses_next_ms(self) noexcept
    cdef const Lapse* lapse(self, int64_t at_ms) except NULL

    cdef bint clear(self, int64_t most) noexcept
