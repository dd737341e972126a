# An account's past: its recorded commits, which of them count no longer, and what that leaves.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._accounts cimport Account, Accounts
from limiter._counters cimport Counter, CounterKey, KindState
from limiter._event cimport Event, EventBuffer
from limiter._fates cimport FateTable
from limiter._kinds cimport KindRules
from limiter._subject cimport Name, Subject

cdef struct Restore:
    # What a look ahead has changed in one counter, for the look back.
    int slot                   # of the kind's state in the account
    CounterKey key
    Counter saved              # of one of messages or runs: as it was; owned
    uint32_t index             # of a distinct counter: this member's ...
    int64_t latest_ms          # ... latest instant, as it was

cdef int require_event_time(int64_t event_ms, int64_t now_ms) except -1
cdef bint counts_in(const KindRules* kind, const Subject* subject) noexcept
cdef bint key_in(const KindRules* kind, const Subject* subject, CounterKey* key) noexcept

cdef class Past:
    cdef Accounts accounts
    cdef FateTable fates
    cdef EventBuffer* buffer   # borrowed from the core: the group that is being filled
    cdef bytes replayed        # the events of the group that is being replayed, else None
    cdef object history        # reads events of groups that were taken or recorded
    cdef uint64_t last_number  # of the group that was read from last
    cdef uint64_t near_number  # of the group that is kept at hand, 0 = none
    cdef bytes near            # its events

    cdef Account* ahead        # whose holds are taken to have lapsed, NULL = nobody's
    cdef uint32_t lapsed_count  # so many of its holds, the first ones
    cdef int64_t ahead_now_ms  # the instant that is looked ahead from
    cdef Counter** watched     # owned; the only counters that matter; none of them = all do
    cdef uint32_t watched_count
    cdef uint32_t watched_capacity
    cdef Restore* restores     # owned; in the order of the changes
    cdef uint32_t restore_count
    cdef uint32_t restore_capacity

    # --- recorded events
    cdef bytes read(self, uint64_t position)
    cdef bytes read_near(self, uint64_t position)
    cdef bint event_at(self, uint64_t position, Event* event) except -1
    cdef bint commit_at(self, uint64_t position, Event* event) except -1
    cdef bint is_commit(self, uint64_t position, uint32_t account, Event* event) except -1
    cdef int name_of(self, uint32_t id, Name* name) except -1
    cdef int subject_of(self, const Event* event, Account* account, Subject* subject) except -1

    # --- holds and undos
    cdef int require_hold_room(self, const Account* account) except -1
    cdef int require_undo_room(self, uint64_t position) except -1
    cdef int hold(self, Account* account, uint64_t position, int64_t lapse_ms) except -1
    cdef int note_hold(self, Account* account, uint64_t position, int64_t lapse_ms) except -1
    cdef int confirm(self, Account* account, uint64_t position) except -1
    cdef int undo(self, Account* account, uint64_t position, int fate, int64_t at_ms) except -1
    cdef int uncount_at(self, Account* account, const Event* event) except -1
    cdef void unhold(self, Account* account, uint64_t position) noexcept
    cdef int uncount(
        self, Account* account, const Event* event, uint64_t position, int64_t now_ms
    ) except -1
    cdef int move_back(
        self,
        Account* account,
        int slot,
        const CounterKey* key,
        Counter* counter,
        const Event* event,
        const Subject* subject,
        uint64_t position,
        int64_t now_ms,
    ) except -1
    cdef int64_t latest_other_ms(
        self,
        Account* account,
        KindState* state,
        const CounterKey* key,
        const Event* event,
        const Subject* subject,
        uint64_t position,
        int64_t now_ms,
    ) except? -2

    cdef bint is_lost(self, int64_t first_ms) except -1

    # --- looking ahead
    cdef int watch(self, Counter* counter) except -1
    cdef int look_ahead(self, Account* account, int64_t now_ms) except -1
    cdef int64_t next_lapse_ms(self) noexcept
    cdef int lapse_next(self) except -1
    cdef int look_back(self) except -1
    cdef bint is_watched(self, const Counter* counter) noexcept
    cdef int save(
        self, int slot, const CounterKey* key, const Counter* counter, uint32_t index,
        int64_t latest_ms,
    ) except -1
