# One limit held against one attempt.

from libc.stdint cimport int64_t, uint32_t

from limiter._calendar cimport ZoneRules
from limiter._counters cimport Counter, KindState
from limiter._kinds cimport RuleRow

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
    int64_t passes_ms          # of a limit that does not fit: when it would, NEVER_MS if never

cdef int64_t passing_ms(const Weighed* w, int64_t from_ms) except? -2
cdef int64_t passing_together_ms(
    const Weighed* w, const Weighed* alone, int64_t now_ms, int64_t from_ms
) except? -2
cdef int denial_reason(const Weighed* w) noexcept
cdef int64_t first_to_leave_ms(const Weighed* w, bint counts_now, int64_t now_ms) except? -2
cdef int64_t used_count(const Weighed* w, bint counts_now) noexcept
cdef int64_t most_count(const RuleRow* rule, int64_t now_ms) noexcept
cdef int64_t counted_since_ms(const Weighed* w, int64_t now_ms) noexcept
