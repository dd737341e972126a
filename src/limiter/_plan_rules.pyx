# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The limits that a plan keeps, by whom they tell apart.

In flow the enforced limits of the attempts and the plan's counters; out flow the earliest instants
at which they pass, nothing more being sent. What always holds: limits are held against attempts by
the same lines as in a decision, so the two cannot disagree.

Which limits treat everybody alike is what makes a plan of many recipients cheap: those are asked
once for all, the next ones once for all in a zone, and those with distinct members once for all
who are not among these. Only what is left is asked about each person.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from limiter.errors import ResourceExhausted
from limiter._calendar cimport window_exit_ms
from limiter._counters cimport expire, find_counter
from limiter._distinct cimport distinct_latest_ms
from limiter._hours cimport zone_of
from limiter._index cimport NO_INDEX
from limiter._kinds cimport DIFFERS, MATCHES, BoundPlan, InlineRules, RuleRow, matching
from limiter._messages cimport NEVER_MS
from limiter._plan_counters cimport PlanCounters
from limiter._ramp cimport ramp_max_count, ramp_until_ms
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    ENFORCEMENT_ENFORCED,
    MEASURE_ADDRESSES,
    MEASURE_CONTACTS,
    MEASURE_MESSAGES,
    MEASURE_RUN,
)
from limiter._weighed cimport Weighed, denial_reason, passing_ms

cdef enum:
    # Bits of Person.applies and of Person.members.
    BITS = 64


cdef object too_many(str which):
    return ResourceExhausted(
        "TOO_MANY_LIMITS",
        f"more than {BITS} enforced limits {which} apply to these attempts, which is more than a"
        " plan keeps apart; plan for one campaign or resource, whose policy has fewer",
    )


cdef PlanRules plan_rules(
    BoundPlan plan, InlineRules inline_rules, PlanCounters counters, const Subject* subject
):
    # The enforced limits that may apply to attempts like `subject`, which is to nobody. Raises
    # ResourceExhausted when they are too many.
    cdef PlanRules rules = PlanRules.__new__(PlanRules)
    cdef int inline_count = inline_rules.count if inline_rules is not None else 0
    cdef int i
    rules.plan = plan
    rules.inline_rules = inline_rules
    rules.counters = counters
    rules.has_limits = plan.has_policy or inline_count > 0
    rules.rulings = <Ruling*>malloc((plan.count + inline_count + 1) * sizeof(Ruling))
    if rules.rulings == NULL:
        raise MemoryError
    for i in range(plan.count + inline_count):
        rules.add(
            plan.rows[i] if i < plan.count else inline_rules.rows[i - plan.count], subject
        )
    return rules


cdef bint is_by_person(const RuleRow* rule) noexcept:
    # Whether each contact or address has a counter of its own.
    cdef int i
    for i in range(rule.kind.per_count):
        if rule.kind.per[i] <= DIMENSION_ADDRESS:
            return True
    return False


cdef int64_t open_ms(const RuleRow* rule, int64_t from_ms) noexcept:
    # The earliest instant from from_ms on at which the limit lets anybody pass.
    cdef int64_t at_ms = from_ms
    if rule.max_count == 0:
        return NEVER_MS
    while rule.ramp != NULL and at_ms != NEVER_MS and ramp_max_count(rule.ramp, at_ms) == 0:
        at_ms = ramp_until_ms(rule.ramp, at_ms)
    return at_ms


@cython.final
cdef class PlanRules:
    def __dealloc__(self):
        free(self.rulings)

    cdef int add(self, const RuleRow* rule, const Subject* subject) except -1:
        cdef Ruling* ruling = &self.rulings[self.count]
        cdef int verdict = matching(rule.applies_to, subject)
        cdef int condition_count = 0
        cdef int i
        if rule.enforcement != ENFORCEMENT_ENFORCED or verdict == DIFFERS:
            return 0
        ruling.rule = rule
        ruling.slot = self.counters.keep(rule.kind) if rule.hours == NULL else -1
        ruling.reach = REACH_ALL
        ruling.condition = -1
        ruling.membership = -1
        if verdict != MATCHES:
            # It hangs on the contact or the address; other fields are there.
            for i in range(self.count):
                condition_count += self.rulings[i].condition >= 0
            if condition_count == BITS:
                raise too_many("with conditions on contacts or addresses")
            ruling.condition = condition_count
            ruling.reach = REACH_LANE
        if rule.hours != NULL:
            if rule.hours.by_recipient:
                ruling.reach = REACH_LANE
                self.by_zone = True
        elif is_by_person(rule):
            ruling.reach = REACH_PERSON
        elif rule.kind.measure != MEASURE_MESSAGES and rule.kind.measure != MEASURE_RUN:
            if self.distinct_count == BITS:
                raise too_many("on distinct contacts or addresses")
            ruling.reach = REACH_STRANGERS
            ruling.membership = self.distinct_count
            self.distinct_count += 1
        self.for_lanes |= ruling.reach == REACH_LANE or ruling.reach == REACH_STRANGERS
        self.for_persons |= ruling.reach == REACH_PERSON
        self.count += 1
        return 0

    cdef uint64_t applying(self, const Subject* subject) noexcept:
        # The conditional limits that apply to the person.
        cdef uint64_t applies = 0
        cdef int i
        cdef const Ruling* ruling
        for i in range(self.count):
            ruling = &self.rulings[i]
            if ruling.condition >= 0 and matching(ruling.rule.applies_to, subject) == MATCHES:
                applies |= <uint64_t>1 << ruling.condition
        return applies

    cdef bint is_for(self, const Ruling* ruling, uint64_t applies) noexcept:
        return ruling.condition < 0 or (applies >> ruling.condition) & 1

    cdef uint64_t memberships(
        self, const Subject* subject, uint64_t applies, int64_t at_ms, int64_t* until_ms
    ) except? 0xFFFFFFFFFFFFFFFF:
        # Which counters have the person inside at at_ms, and until when that stays so.
        cdef uint64_t members = 0
        cdef int64_t latest_ms
        cdef Weighed w
        cdef int i
        cdef const Ruling* ruling
        until_ms[0] = NEVER_MS
        for i in range(self.count):
            ruling = &self.rulings[i]
            if ruling.membership < 0 or not self.is_for(ruling, applies):
                continue
            self.weigh(ruling, subject, at_ms, &w)
            if w.counter == NULL:
                continue
            latest_ms = distinct_latest_ms(&w.counter.distinct, w.index)
            if latest_ms != NEVER_MS:
                members |= <uint64_t>1 << ruling.membership
                until_ms[0] = min(
                    until_ms[0], window_exit_ms(ruling.rule.kind.window, latest_ms)
                )
        return members

    cdef int weigh(
        self, const Ruling* ruling, const Subject* subject, int64_t at_ms, Weighed* w
    ) except -1:
        # Holds the limit against the attempt at at_ms, as far as it takes to tell when it passes.
        memset(w, 0, sizeof(Weighed))
        w.rule = ruling.rule
        w.index = NO_INDEX
        w.need = subject.message_count
        if ruling.slot < 0:
            w.zone = zone_of(ruling.rule.hours, subject.zone)
            return 0
        w.state = &self.counters.states[ruling.slot]
        w.counter = find_counter(w.state, subject)
        if w.counter != NULL:
            expire(w.state, w.counter, at_ms)
        if ruling.rule.kind.measure == MEASURE_CONTACTS:
            w.index = subject.contact_index
        elif ruling.rule.kind.measure == MEASURE_ADDRESSES:
            w.index = subject.address_index
        return 0

    cdef int64_t one_passing_ms(
        self, const Ruling* ruling, const Subject* subject, int64_t at_ms
    ) except? -2:
        cdef Weighed w
        self.weigh(ruling, subject, at_ms, &w)
        return passing_ms(&w, at_ms)

    cdef int64_t all_passing_ms(self, const Subject* subject, int64_t at_ms) except? -2:
        # An instant before which nobody passes, at_ms itself if all may; NEVER_MS when nobody does.
        cdef int64_t latest_ms = at_ms
        cdef int i
        for i in range(self.count):
            if self.rulings[i].reach == REACH_ALL:
                latest_ms = max(
                    latest_ms, self.one_passing_ms(&self.rulings[i], subject, at_ms)
                )
        return latest_ms

    cdef int64_t lane_passing_ms(
        self, const Subject* stranger, uint64_t applies, uint64_t members, int64_t at_ms
    ) except? -2:
        # The same for those in one zone to whom the same limits apply and whom the same counters
        # have inside; `stranger` is an attempt there to somebody who is in none.
        cdef int64_t latest_ms = at_ms
        cdef int i
        cdef const Ruling* ruling
        for i in range(self.count):
            ruling = &self.rulings[i]
            if (
                ruling.reach == REACH_ALL
                or ruling.reach == REACH_PERSON
                or not self.is_for(ruling, applies)
            ):
                continue
            if ruling.membership >= 0 and (members >> ruling.membership) & 1:
                latest_ms = max(latest_ms, open_ms(ruling.rule, at_ms))
            else:
                latest_ms = max(latest_ms, self.one_passing_ms(ruling, stranger, at_ms))
        return latest_ms

    cdef int64_t person_passing_ms(
        self, const Subject* subject, uint64_t applies, int64_t at_ms
    ) except? -2:
        # The same for one person, by what treats each differently.
        cdef int64_t latest_ms = at_ms
        cdef int i
        for i in range(self.count):
            if self.rulings[i].reach == REACH_PERSON and self.is_for(&self.rulings[i], applies):
                latest_ms = max(
                    latest_ms, self.one_passing_ms(&self.rulings[i], subject, at_ms)
                )
        return latest_ms

    cdef int binding_reason(
        self, const Subject* subject, uint64_t applies, int64_t at_ms
    ) except -1:
        # Why the person may not be sent to at at_ms: the reason of the limit that passes last; ties
        # by precedence of reasons, then by order. 0 when all pass.
        cdef int reason = 0
        cdef int64_t last_ms = at_ms
        cdef int64_t passes_ms
        cdef Weighed w
        cdef int i
        for i in range(self.count):
            if not self.is_for(&self.rulings[i], applies):
                continue
            self.weigh(&self.rulings[i], subject, at_ms, &w)
            passes_ms = passing_ms(&w, at_ms)
            if passes_ms > last_ms or (
                passes_ms == last_ms and reason and denial_reason(&w) < reason
            ):
                last_ms = passes_ms
                reason = denial_reason(&w)
        return reason
