# Judging one attempt against every limit that applies to it, at one instant.

from libc.stdint cimport int64_t, uint32_t

from limiter._accounts cimport Account, Accounts
from limiter._kinds cimport BoundPlan, InlineRules, RuleRow
from limiter._past cimport Past
from limiter._subject cimport Subject
from limiter._types cimport Decision, LimitResult, Slice
from limiter._weighed cimport Weighed

cdef enum Question:
    # What is asked of the limits.
    ASK_DECISION               # may this attempt go?
    ASK_USAGE                  # how do the counters of this template stand?
    ASK_RECORD                 # it has gone: what does it exceed?

cdef class Judge:
    cdef Weighed* weighed      # owned
    cdef LimitResult* results  # owned
    cdef int capacity          # room in both
    cdef int count
    cdef int unfit_count       # limits that did not fit
    cdef int shadowed_count    # SHADOW limits that did not fit: they would have denied the attempt
    cdef bint has_limits       # after usage(): a policy, maybe an unlimited one, or inline limits
    cdef Past past             # of the core; looks ahead to when holds lapse
    cdef Decision decision     # its results borrow from `results`

    cdef int decide(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
        bint require_policy,
        bint full,
        bint recorded = *,
        int64_t at_ms = *,
    ) except -1
    cdef int conclude(
        self,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
        bint require_policy,
        bint recorded = *,
        int64_t at_ms = *,
    ) except -1
    cdef int restate(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
    ) except -1
    cdef void answer_again(self, int64_t decide_ms) noexcept
    cdef int reject(
        self, Account* account, int64_t now_ms, int64_t retry_ms, bint full
    ) except -1
    cdef const RuleRow* lacking_rule(
        self, BoundPlan plan, InlineRules inline_rules, const Subject* subject, int* dimension
    ) noexcept
    cdef int require_fields(
        self, BoundPlan plan, InlineRules inline_rules, const Subject* subject, int recipient
    ) except -1
    cdef int usage(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
    ) except -1
    cdef int64_t batch_passing_ms(self, Judge empty, int64_t now_ms, int64_t from_ms) except? -2

    cdef int weigh(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
        Question question,
    ) except -1
    cdef int weigh_one(
        self,
        Account* account,
        int slot,
        const RuleRow* rule,
        const Subject* subject,
        int64_t now_ms,
        Question question,
    ) except -1
    cdef int hold_against(
        self, Weighed* w, const Subject* subject, int64_t now_ms
    ) except -1
    cdef int64_t all_passing_ms(self, int64_t now_ms, int64_t from_ms) except? -2
    cdef int foresee_passing(self, Account* account, int64_t now_ms) except -1
    cdef int foresee_resets(self, Account* account, int64_t now_ms, bint allowed) except -1
    cdef bint watch_all(self) except -1
    cdef void judge_recorded(self, int64_t at_ms, int64_t now_ms) noexcept
    cdef void note_exceeded(self, const Subject* subject) noexcept
    cdef int find_binding(self, int64_t now_ms, int enforcement) except -2
    cdef int find_shadowed(self, int64_t now_ms) except -2
    cdef bint shadowed(self, int64_t now_ms, LimitResult* result, Slice* etag) except -1
    cdef Slice binding_etag(self) noexcept
    cdef int report(
        self, Account* account, int64_t now_ms, bint allowed, Question question
    ) except -1
    cdef int report_one(self, int i, int64_t now_ms, bint allowed, Question question) except -1
    cdef int show(self, Account* account, int64_t now_ms, bint full) except -1
    cdef int reserve(self, int count) except -1
