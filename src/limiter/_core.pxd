# The state machine: decides, counts, packs journal events, replays them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._accounts cimport Account, Accounts
from limiter._denials cimport DenialBuffer
from limiter._event cimport Event
from limiter._judge cimport Judge
from limiter._kinds cimport BoundPlan, InlineRules
from limiter._past cimport Past
from limiter._rebuild cimport Rebuild
from limiter._recorder cimport Recorder
from limiter._requests cimport RequestRow, RequestTable
from limiter._siphash cimport Digest
from limiter._subject cimport Subject
from limiter._types cimport Attempt

cdef struct RequestKey:
    # Under which id something is asked, and what.
    bint given
    bint derived               # from a batch's id
    Digest request
    Digest payload

cdef struct Terms:
    # How a commit counts.
    bint recorded              # it has gone out already: whatever the limits say
    int64_t event_ms           # when that was, NO_TIME = now
    int64_t hold_ms            # for how long it is held, 0 = not at all

cdef struct Committed:
    # Where an allowed attempt stands.
    uint64_t position          # of its event; 0 = it was denied
    int64_t sequence
    bint replayed

cdef class Core:
    cdef Accounts accounts
    cdef Past past
    cdef Judge judge
    cdef readonly Rebuild rebuild
    cdef Recorder recorder     # its last_event_ms is the latest instant of all
    cdef RequestTable requests
    cdef DenialBuffer denials  # what is denied, for the restrictions log; None where there is none
    cdef object define_kind
    cdef object on_change      # is told which watched account has changed; None without watchers
    cdef object on_hold        # is told when a hold ends before all others; None while it need not
    cdef Terms plain           # of a commit that counts now and for good

    # --- attempts
    cdef int prepare(self, const Attempt* attempt, Subject* subject) except -1
    cdef BoundPlan plan_of(self, Account* account, Subject* subject)
    cdef Account* decide(
        self,
        Subject* subject,
        InlineRules inline_rules,
        int64_t now_ms,
        bint require_policy,
        bint full,
        const Terms* terms = *,
    ) except NULL
    cdef int commit(
        self,
        Subject* subject,
        InlineRules inline_rules,
        const RequestKey* key,
        const Terms* terms,
        int64_t now_ms,
        bint require_policy,
        bint full,
        Committed* committed,
    ) except -1
    cdef int answer_again(
        self,
        Subject* subject,
        InlineRules inline_rules,
        const RequestRow* row,
        int64_t now_ms,
        Committed* committed,
    ) except -1
    cdef int usage(
        self, Subject* subject, InlineRules inline_rules, int64_t now_ms
    ) except -1

    # --- attempts that may be taken back
    cdef Account* visit(self, const Subject* subject) except NULL
    cdef int borrow_ids(self, Account* account, Subject* subject) noexcept
    cdef uint32_t keep_inline_kinds(
        self, Account* account, InlineRules inline_rules, int64_t now_ms
    ) except? 0

    # --- request ids
    cdef const RequestRow* remembered(self, const RequestKey* key, int64_t now_ms) except? NULL
    cdef int remember_batch(
        self, Subject* subject, const RequestKey* key, int64_t now_ms
    ) except -1

    # --- journal
    cdef int record_commit(
        self,
        Account* account,
        Subject* subject,
        const RequestKey* key,
        const Terms* terms,
        uint32_t inline_places,
        int64_t now_ms,
        Committed* committed,
    ) except -1
    cdef int settle(
        self, Account* account, Subject* subject, const Event* event, uint64_t position
    ) except -1
    cdef int remember(self, const Event* event, uint64_t position) except -1
    cdef int record_denial(self, Subject* subject, int64_t now_ms) except -1

    # --- what becomes of commits
    cdef int tell(self, Account* account) except -1
    cdef int tell_hold(self, uint64_t position) except -1
    cdef int lapse_due(self, int64_t now_ms) except -1
    cdef int lapse_some(self, int64_t now_ms, uint32_t most) except -1
    cdef int record_fate(
        self, Account* account, uint64_t commit, int fate, int64_t now_ms
    ) except -1

    # --- replay
    cdef int apply(self, const Event* event, uint64_t position, object on_revision) except -1
    cdef int apply_name(self, const Event* event) except -1
    cdef int apply_revision(self, const Event* event, object on_revision) except -1
    cdef int denial_replayed(self, const Event* event, uint64_t position) except -1
    cdef int apply_to(
        self, Account* account, const Event* event, uint64_t position, bint shared
    ) except -1
    cdef int apply_commit(
        self, Account* account, const Event* event, uint64_t position, bint shared
    ) except -1
    cdef int apply_inline_kind(self, Account* account, const Event* event) except -1
    cdef void forget_before(self, int64_t now_ms) noexcept
