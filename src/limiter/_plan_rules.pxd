# The limits that a plan keeps, by whom they tell apart.

from libc.stdint cimport int64_t, uint64_t

from limiter._calendar cimport ZoneRules
from limiter._kinds cimport BoundPlan, InlineRules, RuleRow
from limiter._plan_counters cimport PlanCounters
from limiter._subject cimport Subject
from limiter._weighed cimport Weighed

cdef enum Reach:
    # Whose attempts a limit may treat differently at one instant.
    REACH_ALL                  # nobody's
    REACH_LANE                 # those in other zones, or whom it does not apply to
    REACH_STRANGERS            # those whom its counter has inside
    REACH_PERSON               # everybody's

cdef struct Ruling:
    const RuleRow* rule        # borrowed; enforced
    int slot                   # of its kind in the plan's counters, -1 = no counter
    int reach
    int condition              # bit of Person.applies, -1 = it applies to all
    int membership             # bit of Person.members, -1 = it has no members

cdef class PlanRules:
    cdef BoundPlan plan        # keeps the rules alive
    cdef InlineRules inline_rules
    cdef PlanCounters counters
    cdef Ruling* rulings       # owned; in the order of the statuses
    cdef int count
    cdef int distinct_count    # rulings with members
    cdef bint by_zone          # whether the zone of the contact matters
    cdef bint for_lanes        # whether any ruling is for lanes
    cdef bint for_persons      # whether any is for persons
    cdef bint has_limits       # a policy, maybe an unlimited one, or inline limits

    cdef int add(self, const RuleRow* rule, const Subject* subject) except -1
    cdef uint64_t applying(self, const Subject* subject) noexcept
    cdef uint64_t memberships(
        self, const Subject* subject, uint64_t applies, int64_t at_ms, int64_t* until_ms
    ) except? 0xFFFFFFFFFFFFFFFF
    cdef int weigh(
        self, const Ruling* ruling, const Subject* subject, int64_t at_ms, Weighed* w
    ) except -1
    cdef bint is_for(self, const Ruling* ruling, uint64_t applies) noexcept
    cdef int64_t one_passing_ms(
        self, const Ruling* ruling, const Subject* subject, int64_t at_ms
    ) except? -2
    cdef int64_t all_passing_ms(self, const Subject* subject, int64_t at_ms) except? -2
    cdef int64_t lane_passing_ms(
        self, const Subject* stranger, uint64_t applies, uint64_t members, int64_t at_ms
    ) except? -2
    cdef int64_t person_passing_ms(
        self, const Subject* subject, uint64_t applies, int64_t at_ms
    ) except? -2
    cdef int binding_reason(
        self, const Subject* subject, uint64_t applies, int64_t at_ms
    ) except -1

cdef PlanRules plan_rules(
    BoundPlan plan, InlineRules inline_rules, PlanCounters counters, const Subject* subject
)
