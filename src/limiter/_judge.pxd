# Judging one attempt against every limit that applies to it, at one instant.

from libc.stdint cimport int64_t, uint32_t

from limiter._accounts cimport Account, Accounts
from limiter._calendar cimport ZoneRules
from limiter._counters cimport Counter, KindState
from limiter._kinds cimport BoundPlan, InlineRules, RuleRow
from limiter._subject cimport Subject
from limiter._types cimport Decision, LimitResult

cdef enum Question:
    # What is asked of the limits.
    ASK_DECISION               # may this attempt go?
    ASK_USAGE                  # how do the counters of this template stand?

cdef struct Weighed:
    # One limit held against one attempt.
    const RuleRow* rule
    KindState* state           # NULL while an inline kind is not kept yet, and for hours
    Counter* counter           # NULL when nothing was counted under the key
    bint evaluated             # false when a field is missing
    bint counted               # the limit's counter would count the attempt
    bint inside                # distinct: already a member
    bint fits
    uint32_t index             # distinct: the member's index
    const ZoneRules* zone      # hours: where they hold for the attempt
    int64_t max_count          # in force at the instant
    int64_t used               # before the attempt
    int64_t need               # what the attempt adds if it is counted

cdef class Judge:
    cdef Weighed* weighed      # owned
    cdef LimitResult* results  # owned
    cdef int capacity          # room in both
    cdef int count
    cdef int shadowed_count    # SHADOW limits that did not fit: they would have denied the attempt
    cdef bint has_limits       # after usage(): a policy, maybe an unlimited one, or inline limits
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
    ) except -1
    cdef void answer_again(self, int64_t decide_ms) noexcept
    cdef int reject(self, int64_t now_ms, int64_t retry_ms, bint full) except -1
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
    cdef int64_t retry_ms(self, int64_t now_ms) except? -2
    cdef int find_binding(self, int64_t now_ms, int enforcement) except -2
    cdef int find_shadowed(self, int64_t now_ms) except -2
    cdef int report(self, int64_t now_ms, bint allowed, Question question) except -1
    cdef int report_one(self, int i, int64_t now_ms, bint allowed, Question question) except -1
    cdef int show(self, int64_t now_ms, bint full) except -1
    cdef int reserve(self, int count) except -1
