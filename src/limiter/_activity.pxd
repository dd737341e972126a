# What the decisions of late were: counts for operators, kept beside the decisions.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._judge cimport Judge
from limiter._subject cimport Subject

cdef enum Operation:
    # What asked for a decision.
    OPERATION_CHECK
    OPERATION_COMMIT
    OPERATION_CHECK_BATCH
    OPERATION_COMMIT_BATCH
    OPERATION_COUNT

cdef enum:
    OUTCOMES = 3               # by number
    REASONS = 64               # by number
    SECONDS = 64               # a power of two
    SPANS = 6                  # of the minute for which accounts are counted
    SPAN_MS = 10000
    ACCOUNT_SETS = 128         # a power of two
    ACCOUNT_WAYS = 8
    TEMPLATE_SETS = 32         # a power of two
    TEMPLATE_WAYS = 8
    TEMPLATE_NAMES = 8         # an account, then what is neither contact nor address

cdef struct SecondRow:
    # The decisions of one second.
    int64_t second             # since 1970; whatever else there is is of that one
    uint32_t[4][3] counts      # [operation][outcome]

cdef struct AccountRow:
    # One account within a span.
    uint32_t name_id           # 0 = free
    uint32_t allowed
    uint32_t denied
    uint32_t carried           # at most so many more: what it displaced stood at

cdef struct SpanTable:
    int64_t span               # since 1970; whatever else there is is of that one
    AccountRow[128][8] rows    # [set][way]

cdef struct TemplateRow:
    # Names of an attempt that found a limit nearly full.
    uint32_t[8] name_ids       # 0 = not given; the account's first, 0 = a free row
    int64_t seen_ms

cdef class Activity:
    cdef uint64_t[4][3][64] counts       # [operation][outcome][reason], since the start
    cdef uint64_t[4] replays             # [operation]
    cdef SecondRow[64] seconds           # [second modulo their number]
    cdef SpanTable* spans                # owned; [span modulo their number]
    cdef TemplateRow[32][8] templates    # [set][way]

    cdef void note(
        self, Operation operation, Judge judge, const Subject* subject, bint replayed
    ) noexcept
    cdef void note_account(self, uint32_t name_id, int outcome, int64_t now_ms) noexcept
    cdef void note_fullness(self, Judge judge, const Subject* subject) noexcept
    cdef void note_template(self, const Subject* subject, int64_t now_ms) noexcept
    cdef void forget_names(self) noexcept
