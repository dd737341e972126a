# The accounts in memory: names, bindings, counters, dense indices.

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._counters cimport CounterKey, KindState, Undo
from limiter._index cimport DenseIndex
from limiter._kinds cimport Binding, BoundPlan, InlineRules, Kind, KindRules
from limiter._names cimport NameTable
from limiter._opt_outs cimport OptOuts
from limiter._subject cimport Keys, Name, Subject
from limiter._types cimport Slice

cdef struct HoldRow:
    int64_t lapse_ms
    uint64_t position          # of the commit

cdef enum:
    # Who is told when what an account's limits say changes.
    WATCH_NOBODY = 0
    WATCH_NEXT = 1             # the next change
    WATCH_TOLD = 2             # it has been told, and nobody has looked since

cdef struct Account:
    # What every decision reads comes first, so that it lies in two or three lines of the cache.
    uint32_t name_id
    uint32_t epoch             # of the policies that the binding is of
    PyObject* binding          # owned reference, NULL before the first touch
    PyObject* transition       # owned; while counters of the binding's kinds are being filled
    OptOuts* opt_outs          # owned; NULL while nobody ever opted out
    KindState* states          # owned; the binding's kinds, then those that are only inline
    uint8_t bound_count
    uint8_t state_count
    uint8_t building_count     # kinds of which not everything is counted yet
    uint8_t inline_count       # kinds kept for inline limits, whether the binding has them too
    uint8_t lent_count         # kinds that are only lent
    uint8_t watch              # whether somebody is told of changes; see WATCH_NOBODY
    uint8_t is_used            # since a sweep has passed
    uint8_t is_being_imaged    # an image of it is on its way to the disk
    DenseIndex contacts
    int64_t sequence           # commits so far
    uint64_t last_position     # of its newest event that is not a denial, 0 = none
    DenseIndex addresses
    uint64_t last_denial       # position of its newest denial, 0 = none
    HoldRow* holds             # owned; the commits that are held, in the order of their lapses
    uint32_t hold_count
    uint32_t hold_capacity
    uint32_t unimaged_count    # events since its newest image
    uint32_t pin_count         # of those who rely on its staying in memory
    uint64_t counted_bytes     # of memory, as of the last time it was looked

cdef struct Absence:
    # What is known of an account that is not in memory.
    uint64_t last_position     # of its newest event that is not a denial, 0 = as its image says
    uint64_t last_denial       # of its newest denial, 0 = as its image says
    uint32_t unimaged_count    # events since its newest image

cdef class Carrier:
    # Brings accounts back into memory that have left it.
    cdef Account* bring(self, uint32_t id) except? NULL

cdef class Filler:
    # Fills the counters of kinds that an account has just begun to keep.
    cdef int fill(self, Account* account) except -1

cdef class Accounts:
    cdef Filler filler
    cdef Carrier carrier       # None where accounts never leave memory
    cdef Keys keys
    cdef NameTable names
    cdef Account** by_name     # owned; [name id], NULL where no account has that name
    cdef uint32_t by_name_capacity
    cdef Absence* absences     # owned; [name id] of what is known of accounts that are away
    cdef uint32_t absence_capacity
    cdef uint32_t imaged_names  # accounts with ids up to this may have an image
    cdef bint defers           # whether a call for an account that is away is put off
    cdef readonly uint64_t count
    cdef uint32_t epoch
    cdef object bind
    cdef Undo* undo            # owned; the rows of attempts that are not final yet
    cdef uint32_t undo_size
    cdef uint32_t undo_capacity
    cdef Account visitor       # stands in for an account that does not exist yet

    cdef BoundPlan plan_of(self, Account* account, const Subject* subject)
    cdef void name_in(self, bytes text, Name* name) noexcept
    cdef Account* known(self, uint32_t id) noexcept nogil
    cdef bint is_away(self, uint32_t id) noexcept nogil
    cdef int require_here(self, uint32_t id) except -1
    cdef Account* fetch(self, uint32_t id) except? NULL
    cdef int reserve(self, uint32_t id) except -1
    cdef int seat(self, Account* account) except -1
    cdef Account* unseat(self, uint32_t id) noexcept
    cdef Absence* absence_of(self, uint32_t id) except NULL
    cdef void forget_absence(self, uint32_t id) noexcept
    cdef Account* find(self, const Subject* subject) except NULL
    cdef Account* make(self, Subject* subject) except NULL
    cdef int touch(self, Account* account, Name name) except -1
    cdef int state_of(self, const Account* account, const KindRules* kind) noexcept nogil
    cdef KindState* inline_at(self, const Account* account, uint32_t place) noexcept nogil
    cdef int require_inline_room(
        self, const Account* account, InlineRules rules, int64_t now_ms
    ) except -1
    cdef uint32_t place_for_inline(self, const Account* account, int64_t now_ms) noexcept
    cdef int put_inline(
        self, Account* account, Kind kind, int64_t now_ms, uint32_t place
    ) except -1
    cdef void drop_inline(self, Account* account, KindState* state) noexcept
    cdef int lend(self, Account* account, InlineRules rules) except -1
    cdef int begin_kind(self, Account* account, Kind kind) except -1
    cdef int require_filled(self, const Account* account, InlineRules rules) except -1
    cdef int change_over(self, Account* account, object former) except -1
    cdef int fill(self, Account* account, object former=*) except -1
    cdef void drop_state(self, Account* account, KindState* state) noexcept
    cdef void drop_lent(self, Account* account, InlineRules but) noexcept
    cdef void prefetch_for(self, const Account* account, const Subject* subject) noexcept nogil
    cdef int opt_out(self, Account* account, Slice body, bint adds, uint64_t position) except -1
    cdef void locate(self, const Account* account, Subject* subject) noexcept nogil
    cdef int count_attempt(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms, Undo* undo
    ) except -1
    cdef int count_tentatively(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms
    ) except -1
    cdef int count_for_good(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms
    ) except -1
    cdef bint has_tentatively_counted(
        self, int slot, const CounterKey* key, uint32_t index
    ) noexcept nogil
    cdef void take_back_all(self, Account* account) except *
    cdef void mark_inline_used(
        self, Account* account, uint32_t places, int64_t now_ms
    ) noexcept nogil
    cdef void leave(self) noexcept

cdef inline void note_event(Account* account, uint64_t position) noexcept nogil:
    # The account's newest event that is no denial is at this position.
    account.last_position = position
    account.unimaged_count += 1

cdef bint is_opted_out(const Account* account, const Subject* subject) noexcept nogil
cdef void account_free(Account* account) noexcept
cdef void settle_binding(Account* account) noexcept
