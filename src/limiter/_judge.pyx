# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Judging one attempt against every limit that applies to it, at one instant.

In flow an account's counters, the rules of its plan and the attempt; out flows one Decision with
every limit's status. Nothing is counted here (counters only let go what has left their windows),
so a Check and the Commit that follows it at the same instant come from the same lines.

An attempt is held against each limit as if the limit's counter counted it. It fits a MESSAGES cap
iff used + message_count <= max, a distinct one iff it is inside already or used + 1 <= max; a
maximum of zero denies everything. It fits a pause iff the run has room for all its messages, and
hours iff they are open.
"""

cimport cython
from libc.stdlib cimport free, realloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import FieldViolation, InvalidArgument
from limiter._accounts cimport Account, Accounts
from limiter._calendar cimport window_exit_ms, window_first_ms
from limiter._counters cimport expire, find_counter
from limiter._distinct cimport distinct_latest_ms
from limiter._hours cimport hours_open, zone_of
from limiter._index cimport NO_INDEX
from limiter._kinds cimport (
    DIFFERS,
    FIRST_MISSING,
    MATCHES,
    BoundPlan,
    InlineRules,
    RuleRow,
    matching,
)
from limiter._messages cimport NEVER_MS
from limiter._ramp cimport ramp_max_count
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_COUNT,
    ENFORCEMENT_ENFORCED,
    ENFORCEMENT_SHADOW,
    MEASURE_CONTACTS,
    MEASURE_MESSAGES,
    MEASURE_RUN,
    NO_TIME,
    OUTCOME_ALLOWED,
    OUTCOME_DENIED,
    REASON_BATCH_REJECTED,
    REASON_NO_POLICY,
    REASON_NOT_EVALUATED,
    REASON_OPTED_OUT,
    REASON_POLICY_REQUIRED,
    REASON_WITHIN_LIMITS,
    LimitResult,
    Slice,
)
from limiter._weighed cimport (
    counted_since_ms,
    denial_reason,
    first_to_leave_ms,
    most_count,
    passing_ms,
    passing_together_ms,
    used_count,
)

cdef int64_t RETRY_HORIZON_MS = bounds.RETRY_HORIZON_MS

_FIELD_NAMES = (
    "contact",
    "address",
    "channel",
    "resource",
    "campaign",
    "agent",
    "team",
    "source",
    "category",
)


cdef object missing_field(const RuleRow* rule, int dimension, int recipient):
    # The error for an attempt that lacks what an enforced limit needs; `recipient` is its place
    # in a batch, -1 when it stands alone.
    cdef str limit_id = rule.limit_id.data[: rule.limit_id.size].decode()
    cdef str policy = rule.policy.data[: rule.policy.size].decode()
    place = "attempt"
    if recipient >= 0 and dimension <= DIMENSION_ADDRESS:
        place = f"recipients[{recipient}]"
    field = f"{place}.{_FIELD_NAMES[dimension]}"
    where = f"limit {limit_id!r} of {policy}" if policy else f"inline limit {limit_id!r}"
    description = f"required by {where}; set it, or the limit cannot be checked"
    return InvalidArgument(
        "MISSING_FIELD",
        f"{field}: {description}",
        violations=(FieldViolation(field, description),),
        metadata={"field": field, "policy": policy, "limit_id": limit_id},
    )


cdef int first_missing(const RuleRow* rule, const Subject* subject, Question question) noexcept:
    # The index of a dimension that the limit needs and the attempt lacks; -1 when there is none,
    # -2 when the limit does not apply.
    cdef int verdict = matching(rule.applies_to, subject)
    cdef uint32_t lacking
    cdef int dimension
    if verdict == DIFFERS:
        return -2
    if question != ASK_USAGE:
        if verdict <= FIRST_MISSING:
            return FIRST_MISSING - verdict
        lacking = rule.kind.needs & ~subject.present
    else:
        # A template need not say whom it is to: only what keys the counter counts.
        lacking = 0
        for dimension in range(rule.kind.per_count):
            lacking |= <uint32_t>1 << rule.kind.per[dimension]
        lacking &= ~subject.present
    if lacking == 0 and question != ASK_USAGE:
        verdict = matching(rule.kind.counts, subject)
        return FIRST_MISSING - verdict if verdict <= FIRST_MISSING else -1
    for dimension in range(DIMENSION_COUNT):
        if lacking & (<uint32_t>1 << dimension):
            return dimension
    return -1


@cython.final
cdef class Judge:
    def __dealloc__(self):
        free(self.weighed)
        free(self.results)

    cdef int reserve(self, int count) except -1:
        cdef Weighed* weighed
        cdef LimitResult* results
        if count <= self.capacity:
            return 0
        weighed = <Weighed*>realloc(self.weighed, count * sizeof(Weighed))
        if weighed != NULL:
            self.weighed = weighed
        results = <LimitResult*>realloc(self.results, count * sizeof(LimitResult))
        if results != NULL:
            self.results = results
        if weighed == NULL or results == NULL:
            raise MemoryError
        self.capacity = count
        return 0

    cdef int weigh_one(
        self,
        Account* account,
        int slot,
        const RuleRow* rule,
        const Subject* subject,
        int64_t now_ms,
        Question question,
    ) except -1:
        # Holds one limit against the attempt; a limit that does not apply leaves no row.
        cdef int lacking = first_missing(rule, subject, question)
        cdef Weighed* w = &self.weighed[self.count]
        if lacking == -2:
            return 0
        if lacking >= 0 and question == ASK_DECISION and rule.enforcement == ENFORCEMENT_ENFORCED:
            raise missing_field(rule, lacking, -1)
        memset(w, 0, sizeof(Weighed))
        w.rule = rule
        w.state = &account.states[slot] if slot >= 0 else NULL
        w.evaluated = lacking < 0
        w.index = NO_INDEX
        self.count += 1
        if not w.evaluated:
            return 0
        self.hold_against(w, subject, now_ms)
        self.unfit_count += not w.fits
        self.shadowed_count += not w.fits and rule.enforcement == ENFORCEMENT_SHADOW
        return 0

    cdef int hold_against(
        self, Weighed* w, const Subject* subject, int64_t now_ms
    ) except -1:
        # Finds out where the limit stands and whether the attempt fits.
        cdef const RuleRow* rule = w.rule
        if rule.hours != NULL:
            w.zone = zone_of(rule.hours, subject.zone)
            w.fits = hours_open(rule.hours, w.zone, now_ms)
            return 0
        w.max_count = rule.max_count
        if rule.ramp != NULL:
            w.max_count = ramp_max_count(rule.ramp, now_ms)
        w.counted = matching(rule.kind.counts, subject) == MATCHES
        w.need = subject.message_count
        if w.state != NULL:
            w.counter = find_counter(w.state, subject)
        if w.counter != NULL:
            expire(w.state, w.counter, now_ms)
        if rule.kind.measure == MEASURE_MESSAGES:
            w.used = w.counter.messages.used if w.counter != NULL else 0
        elif rule.kind.measure == MEASURE_RUN:
            w.used = w.counter.pause.used if w.counter != NULL else 0
        else:
            w.index = (
                subject.contact_index
                if rule.kind.measure == MEASURE_CONTACTS
                else subject.address_index
            )
            w.need = 1
            if w.counter != NULL:
                w.used = w.counter.distinct.live
                w.inside = distinct_latest_ms(&w.counter.distinct, w.index) != NEVER_MS
                w.need = not w.inside
        w.fits = w.max_count > 0 and (w.inside or w.need <= w.max_count - w.used)
        return 0

    cdef int weigh(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
        Question question,
    ) except -1:
        # Holds every limit of the plan, then the inline ones, against the attempt.
        cdef int i
        cdef int inline_count = inline_rules.count if inline_rules is not None else 0
        self.reserve(plan.count + inline_count)
        self.count = 0
        self.shadowed_count = 0
        self.unfit_count = 0
        for i in range(plan.count):
            self.weigh_one(account, plan.slots[i], plan.rows[i], subject, now_ms, question)
        for i in range(inline_count):
            self.weigh_one(
                account,
                accounts.state_of(account, inline_rules.rows[i].kind),
                inline_rules.rows[i],
                subject,
                now_ms,
                question,
            )
        return 0

    cdef int64_t all_passing_ms(self, int64_t now_ms, int64_t from_ms) except? -2:
        # The earliest instant from from_ms on at which all enforced limits pass together: each
        # round moves on to the latest of their next passing instants, until none moves.
        cdef int64_t at_ms = from_ms
        cdef int64_t next_ms
        cdef int i
        while True:
            next_ms = at_ms
            for i in range(self.count):
                if (
                    self.weighed[i].evaluated
                    and self.weighed[i].rule.enforcement == ENFORCEMENT_ENFORCED
                ):
                    next_ms = max(next_ms, passing_ms(&self.weighed[i], at_ms))
            if next_ms - now_ms > RETRY_HORIZON_MS:
                return NO_TIME
            if next_ms == at_ms:
                return at_ms
            at_ms = next_ms

    cdef bint watch_all(self) except -1:
        # Has the past watch the counters of all limits; whether there are any.
        cdef int i
        for i in range(self.count):
            if self.weighed[i].counter != NULL:
                self.past.watch(self.weighed[i].counter)
        return self.past.watched_count != 0

    cdef int foresee_passing(self, Account* account, int64_t now_ms) except -1:
        # Finds when each limit that does not fit passes, and when all do, the account's holds
        # lapsing one after the other: what the counters say holds up to the next lapse.
        cdef int64_t from_ms = now_ms
        cdef int64_t until_ms
        cdef int64_t at_ms
        cdef bint done = False
        cdef int i
        cdef Weighed* w
        self.watch_all()
        self.past.look_ahead(account, now_ms)
        try:
            while not done:
                until_ms = self.past.next_lapse_ms()
                done = True
                for i in range(self.count):
                    w = &self.weighed[i]
                    if w.fits or not w.evaluated or w.passes_ms:
                        continue
                    at_ms = passing_ms(w, from_ms)
                    if at_ms < until_ms or until_ms == NEVER_MS:
                        w.passes_ms = at_ms
                    else:
                        done = False
                if self.decision.retry_ms == NO_TIME:
                    at_ms = self.all_passing_ms(now_ms, from_ms)
                    if at_ms < until_ms:
                        self.decision.retry_ms = at_ms
                    done = done and at_ms < until_ms and at_ms != NO_TIME
                if until_ms == NEVER_MS:
                    return 0
                if not done:
                    self.past.lapse_next()
                    from_ms = until_ms
        finally:
            self.past.look_back()
        return 0

    cdef int find_binding(self, int64_t now_ms, int enforcement) except -2:
        # Of the limits with this enforcement that do not fit, the one that passes last; ties by
        # precedence of reasons, then by order. -1 when all fit.
        cdef int binding = -1
        cdef int64_t latest_ms = 0
        cdef int64_t at_ms
        cdef int i
        cdef Weighed* w
        for i in range(self.count):
            w = &self.weighed[i]
            if w.fits or not w.evaluated or w.rule.enforcement != enforcement:
                continue
            at_ms = w.passes_ms or passing_ms(w, now_ms)
            if (
                binding < 0
                or at_ms > latest_ms
                or (
                    at_ms == latest_ms
                    and denial_reason(w) < denial_reason(&self.weighed[binding])
                )
            ):
                binding = i
                latest_ms = at_ms
        return binding

    cdef int find_shadowed(self, int64_t now_ms) except -2:
        # After decide(): the SHADOW limit that would bind if all of them were enforced, as an index
        # into `weighed` and, once it is reported, into `results`; -1 when they let the attempt go.
        return self.find_binding(now_ms, ENFORCEMENT_SHADOW) if self.shadowed_count else -1

    cdef bint shadowed(self, int64_t now_ms, LimitResult* result, Slice* etag) except -1:
        # After decide() that allowed the attempt, and before it is counted: whether a SHADOW limit
        # would have denied it, and where the one that would have bound it stands.
        cdef LimitResult told
        cdef int i = self.find_shadowed(now_ms)
        if i < 0:
            return False
        # What the reply tells of the limit stays as it is.
        told = self.results[i]
        self.report_one(i, now_ms, False, ASK_DECISION)
        result[0] = self.results[i]
        self.results[i] = told
        # It went: there is nothing to wait for.
        result.reset_ms = NO_TIME
        etag[0] = self.weighed[i].rule.etag
        return True

    cdef Slice binding_etag(self) noexcept:
        # After decide(): the version of the policy whose limit binds.
        cdef Slice none
        if self.decision.binding >= 0:
            return self.weighed[self.decision.binding].rule.etag
        none.data = NULL
        none.size = 0
        return none

    cdef int report(
        self, Account* account, int64_t now_ms, bint allowed, Question question
    ) except -1:
        # Writes every limit's status, as it stands once the decision has been carried out.
        cdef int i
        for i in range(self.count):
            self.report_one(i, now_ms, allowed, question)
        if account.hold_count:
            self.foresee_resets(account, now_ms, allowed)
        return 0

    cdef int foresee_resets(self, Account* account, int64_t now_ms, bint allowed) except -1:
        # Of the statuses that are written: a count may fall at the lapse of a hold already.
        cdef int64_t lapse_ms
        cdef int64_t oldest
        cdef bint done = False
        cdef int i
        cdef Weighed* w
        cdef LimitResult* result
        if not self.watch_all():
            return 0
        self.past.look_ahead(account, now_ms)
        try:
            while not done and self.past.next_lapse_ms() != NEVER_MS:
                lapse_ms = self.past.next_lapse_ms()
                self.past.lapse_next()
                done = True
                for i in range(self.count):
                    w = &self.weighed[i]
                    result = &self.results[i]
                    # What is not set is before every lapse.
                    if w.counter == NULL or result.reset_ms <= lapse_ms:
                        continue
                    if used_count(w, allowed and w.counted) < result.used_count:
                        result.reset_ms = lapse_ms
                        continue
                    # Somebody may have gone back to an instant that leaves earlier.
                    oldest = first_to_leave_ms(w, allowed and w.counted, now_ms)
                    result.reset_ms = max(lapse_ms, window_exit_ms(w.rule.kind.window, oldest))
                    done = False
        finally:
            self.past.look_back()
        return 0

    cdef int report_one(self, int i, int64_t now_ms, bint allowed, Question question) except -1:
        cdef Weighed* w = &self.weighed[i]
        cdef LimitResult* result = &self.results[i]
        cdef bint counts_now = allowed and w.counted
        cdef int64_t oldest
        result.policy = w.rule.policy
        result.limit_id = w.rule.limit_id
        result.enforcement = w.rule.enforcement
        result.max_count = w.max_count if w.evaluated else most_count(w.rule, now_ms)
        result.reason = REASON_NOT_EVALUATED
        result.exceeded = False
        result.used_count = 0
        result.remaining_count = 0
        result.reset_ms = NO_TIME
        result.counted_since_ms = NO_TIME
        if not w.evaluated:
            return 0
        result.reason = REASON_WITHIN_LIMITS if w.fits else denial_reason(w)
        result.exceeded = not w.fits
        if w.rule.hours != NULL:
            # They count nothing.
            return 0
        if question == ASK_USAGE:
            result.exceeded = w.used > w.max_count
        result.used_count = w.used + (w.need if counts_now else 0)
        result.remaining_count = max(0, w.max_count - result.used_count)
        oldest = first_to_leave_ms(w, counts_now, now_ms)
        if oldest != NEVER_MS:
            result.reset_ms = window_exit_ms(w.rule.kind.window, oldest)
        result.counted_since_ms = counted_since_ms(w, now_ms)
        return 0

    cdef int show(self, Account* account, int64_t now_ms, bint full) except -1:
        # Writes the statuses that the view shows: the binding limit's, or all.
        if full:
            self.report(account, now_ms, self.decision.outcome == OUTCOME_ALLOWED, ASK_DECISION)
        elif self.decision.binding >= 0 and account.hold_count:
            # A look ahead is one for all limits.
            self.report(account, now_ms, False, ASK_DECISION)
        elif self.decision.binding >= 0:
            self.report_one(self.decision.binding, now_ms, False, ASK_DECISION)
        self.decision.results = self.results
        self.decision.result_count = self.count if full else 0
        return 0

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
        bint recorded=False,
        int64_t at_ms=0,
    ) except -1:
        # Fills self.decision, with all statuses if `full`. Raises InvalidArgument when an enforced
        # limit lacks a field. What was `recorded` went out at at_ms and is allowed in any case.
        self.weigh(
            accounts,
            account,
            plan,
            inline_rules,
            subject,
            now_ms,
            ASK_RECORD if recorded else ASK_DECISION,
        )
        self.conclude(
            account, plan, inline_rules, subject, now_ms, require_policy, recorded, at_ms
        )
        return self.show(account, now_ms, full)

    cdef int conclude(
        self,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
        bint require_policy,
        bint recorded=False,
        int64_t at_ms=0,
    ) except -1:
        # After weigh(): fills self.decision, all but the statuses.
        cdef Decision* decision = &self.decision
        decision.decide_ms = now_ms
        decision.retry_ms = NO_TIME
        decision.binding = -1
        if recorded:
            self.judge_recorded(at_ms, now_ms)
        elif self.unfit_count and not subject.opted_out:
            if account.hold_count:
                self.foresee_passing(account, now_ms)
            decision.binding = self.find_binding(now_ms, ENFORCEMENT_ENFORCED)
        decision.outcome = OUTCOME_ALLOWED
        decision.reason = REASON_WITHIN_LIMITS
        if subject.opted_out and not recorded:
            # Whatever the limits say, and for good.
            decision.outcome = OUTCOME_DENIED
            decision.reason = REASON_OPTED_OUT
        elif decision.binding >= 0:
            decision.outcome = OUTCOME_DENIED
            decision.reason = denial_reason(&self.weighed[decision.binding])
            if account.hold_count == 0:
                decision.retry_ms = self.all_passing_ms(now_ms, now_ms)
        elif not plan.has_policy:
            if require_policy and not recorded:
                decision.outcome = OUTCOME_DENIED
                decision.reason = REASON_POLICY_REQUIRED
            elif inline_rules is None or inline_rules.count == 0:
                decision.reason = REASON_NO_POLICY
        if recorded:
            self.note_exceeded(subject)
        elif decision.binding < 0:
            # Of limits that do not deny it is only foreseen.
            decision.retry_ms = NO_TIME
        return 0

    cdef void judge_recorded(self, int64_t at_ms, int64_t now_ms) noexcept:
        # What went out so early that a window has passed over it adds nothing there; whether it
        # went within the hours is told by the instant at which it went.
        cdef int i
        cdef Weighed* w
        self.shadowed_count = 0
        for i in range(self.count):
            w = &self.weighed[i]
            if not w.evaluated:
                continue
            if w.rule.hours != NULL:
                w.fits = hours_open(w.rule.hours, w.zone, at_ms)
            elif at_ms < window_first_ms(w.rule.kind.window, now_ms):
                w.fits = w.used <= w.max_count
            self.shadowed_count += not w.fits and w.rule.enforcement == ENFORCEMENT_SHADOW

    cdef void note_exceeded(self, const Subject* subject) noexcept:
        # A recorded message is allowed for the reason that it should not have gone: that somebody
        # has opted out, or the one that comes first among those of the enforced limits which it
        # exceeds, if there are any.
        cdef int reason = 0
        cdef int i
        for i in range(self.count):
            if (
                self.weighed[i].evaluated
                and not self.weighed[i].fits
                and self.weighed[i].rule.enforcement == ENFORCEMENT_ENFORCED
                and (reason == 0 or denial_reason(&self.weighed[i]) < reason)
            ):
                reason = denial_reason(&self.weighed[i])
        if subject.opted_out:
            reason = REASON_OPTED_OUT
        if reason:
            self.decision.reason = reason

    cdef int restate(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
    ) except -1:
        # After decide() in full, the attempt being counted: how the counts stand now. What it
        # exceeded stays as it was told.
        cdef int i
        cdef int reason
        cdef bint exceeded
        self.weigh(accounts, account, plan, inline_rules, subject, now_ms, ASK_RECORD)
        for i in range(self.count):
            reason = self.results[i].reason
            exceeded = self.results[i].exceeded
            self.report_one(i, now_ms, False, ASK_RECORD)
            self.results[i].reason = reason
            self.results[i].exceeded = exceeded
        if account.hold_count:
            self.foresee_resets(account, now_ms, False)
        self.decision.results = self.results
        return 0

    cdef void answer_again(self, int64_t decide_ms) noexcept:
        # After usage(): the decision that a repeated request was given at decide_ms.
        self.decision.outcome = OUTCOME_ALLOWED
        self.decision.reason = REASON_WITHIN_LIMITS if self.has_limits else REASON_NO_POLICY
        self.decision.binding = -1
        self.decision.retry_ms = NO_TIME
        self.decision.decide_ms = decide_ms
        self.decision.results = self.results
        self.decision.result_count = self.count

    cdef int reject(
        self, Account* account, int64_t now_ms, int64_t retry_ms, bint full
    ) except -1:
        # After decide(): the attempt's whole batch is rejected, and could go at retry_ms.
        if self.decision.outcome == OUTCOME_ALLOWED:
            self.decision.outcome = OUTCOME_DENIED
            self.decision.reason = REASON_BATCH_REJECTED
            self.show(account, now_ms, full)
        self.decision.retry_ms = retry_ms
        return 0

    cdef const RuleRow* lacking_rule(
        self, BoundPlan plan, InlineRules inline_rules, const Subject* subject, int* dimension
    ) noexcept:
        # The first enforced limit that needs a field which the attempt lacks, and which one; NULL
        # when none does.
        cdef int i
        cdef const RuleRow* rule
        cdef int inline_count = inline_rules.count if inline_rules is not None else 0
        for i in range(plan.count + inline_count):
            rule = plan.rows[i] if i < plan.count else inline_rules.rows[i - plan.count]
            if rule.enforcement == ENFORCEMENT_ENFORCED:
                dimension[0] = first_missing(rule, subject, ASK_DECISION)
                if dimension[0] >= 0:
                    return rule
        return NULL

    cdef int require_fields(
        self, BoundPlan plan, InlineRules inline_rules, const Subject* subject, int recipient
    ) except -1:
        # Raises InvalidArgument when an enforced limit needs a field that the attempt lacks;
        # `recipient` is its place in a batch.
        cdef int dimension
        cdef const RuleRow* rule = self.lacking_rule(plan, inline_rules, subject, &dimension)
        if rule != NULL:
            raise missing_field(rule, dimension, recipient)
        return 0

    cdef int usage(
        self,
        Accounts accounts,
        Account* account,
        BoundPlan plan,
        InlineRules inline_rules,
        const Subject* subject,
        int64_t now_ms,
    ) except -1:
        # Fills self.results with how the counters of a template stand, nothing being sent.
        self.weigh(accounts, account, plan, inline_rules, subject, now_ms, ASK_USAGE)
        self.has_limits = plan.has_policy or (inline_rules is not None and inline_rules.count > 0)
        return self.report(account, now_ms, False, ASK_USAGE)

    cdef int64_t batch_passing_ms(self, Judge empty, int64_t now_ms, int64_t from_ms) except? -2:
        # After both weighed the same recipient of a batch, those before it counted at now_ms, here
        # beside all that the account has sent and in `empty` alone: the earliest instant from
        # from_ms on at which it passes; NO_TIME when there is none.
        cdef int64_t at_ms = from_ms
        cdef int64_t next_ms
        cdef int i
        cdef Weighed* w
        while True:
            next_ms = at_ms
            for i in range(self.count):
                w = &self.weighed[i]
                if not w.evaluated or w.rule.enforcement != ENFORCEMENT_ENFORCED:
                    continue
                next_ms = max(
                    next_ms, passing_together_ms(w, &empty.weighed[i], now_ms, at_ms)
                )
                if next_ms - now_ms > RETRY_HORIZON_MS:
                    return NO_TIME
            if next_ms == at_ms:
                return at_ms
            at_ms = next_ms
