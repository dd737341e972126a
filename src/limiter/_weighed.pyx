# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One limit held against one attempt: when it would fit, why it does not, what stands there.

In flow a limit and what its counter holds, as a Weighed; out flow instants, counts and reasons.
Nothing is changed here.
"""

from libc.stdint cimport int64_t, uint32_t

from limiter import bounds
from limiter._calendar cimport window_exit_ms, window_first_ms
from limiter._distinct cimport distinct_latest_ms, distinct_oldest_ms, distinct_passing_ms
from limiter._hours cimport hours_opening_ms
from limiter._index cimport NO_INDEX
from limiter._kinds cimport RuleRow
from limiter._messages cimport NEVER_MS, messages_oldest_ms, messages_passing_ms
from limiter._pause cimport (
    pause_first_ms,
    pause_latest_ms,
    pause_passing_behind_ms,
    pause_passing_ms,
)
from limiter._ramp cimport ramp_max_count, ramp_until_ms
from limiter._types cimport (
    MEASURE_ADDRESSES,
    MEASURE_CONTACTS,
    MEASURE_MESSAGES,
    MEASURE_RUN,
    NO_TIME,
    REASON_ADDRESS_CAP,
    REASON_CONTACT_CAP,
    REASON_HOURS,
    REASON_MESSAGE_CAP,
    REASON_MESSAGE_COUNT_OVER_MAX,
    REASON_PAUSE,
)

cdef int64_t RETRY_HORIZON_MS = bounds.RETRY_HORIZON_MS


cdef int64_t passing_under_ms(const Weighed* w, int64_t max_count, int64_t from_ms) except? -2:
    # The earliest instant from from_ms on at which the attempt fits this cap or pause under a
    # maximum that stays as it is.
    cdef int64_t room = max_count - w.need
    if max_count == 0:
        return NEVER_MS
    if w.rule.kind.measure == MEASURE_MESSAGES:
        if w.counter == NULL:
            return from_ms if room >= 0 else NEVER_MS
        return messages_passing_ms(&w.counter.messages, w.rule.kind.window, from_ms, room)
    if w.rule.kind.measure == MEASURE_RUN:
        if w.counter == NULL:
            return from_ms if room >= 0 else NEVER_MS
        return pause_passing_ms(&w.counter.pause, w.rule.kind.window, from_ms, room)
    if w.counter == NULL:
        return from_ms
    return distinct_passing_ms(
        &w.counter.distinct, w.rule.kind.window, from_ms, w.index, max_count - 1
    )


cdef int64_t passing_ms(const Weighed* w, int64_t from_ms) except? -2:
    # The earliest instant from from_ms on at which the attempt fits this limit.
    cdef int64_t at_ms = from_ms
    cdef int64_t until_ms
    cdef int64_t passing
    if w.rule.hours != NULL:
        return hours_opening_ms(w.rule.hours, w.zone, from_ms)
    if w.rule.ramp == NULL:
        return passing_under_ms(w, w.rule.max_count, from_ms)
    while at_ms - from_ms <= RETRY_HORIZON_MS:
        until_ms = ramp_until_ms(w.rule.ramp, at_ms)
        passing = passing_under_ms(w, ramp_max_count(w.rule.ramp, at_ms), at_ms)
        if passing < until_ms or until_ms == NEVER_MS:
            return passing
        at_ms = until_ms
    return NEVER_MS


cdef int64_t passing_together_ms(
    const Weighed* w, const Weighed* alone, int64_t now_ms, int64_t from_ms
) except? -2:
    # The same for one recipient of a batch, those before it counted at now_ms and going along
    # whenever it goes: beside all that the account has sent in `w`, and in `alone` without that.
    # What was sent earlier leaves the windows first, so up to the batch's own exit the counter in
    # `w` tells; from then on the batch stands alone.
    cdef int64_t at_ms
    cdef int64_t needed
    if w.rule.hours != NULL:
        return passing_ms(w, from_ms)
    if w.rule.kind.measure == MEASURE_RUN:
        if w.counter == NULL or alone.used + w.need > w.rule.max_count:
            return passing_ms(w, from_ms) if alone.used == 0 else NEVER_MS
        return pause_passing_behind_ms(
            &w.counter.pause,
            w.rule.kind.window,
            from_ms,
            w.rule.max_count - w.need,
            alone.used,
            now_ms,
        )
    at_ms = passing_ms(w, from_ms)
    if at_ms < window_exit_ms(w.rule.kind.window, now_ms) or at_ms == NEVER_MS:
        return at_ms
    needed = max(1, 1 if alone.inside else alone.used + alone.need)
    if w.rule.ramp == NULL:
        return at_ms if needed <= w.rule.max_count else NEVER_MS
    while ramp_max_count(w.rule.ramp, at_ms) < needed:
        at_ms = ramp_until_ms(w.rule.ramp, at_ms)
        if at_ms - from_ms > RETRY_HORIZON_MS:
            return NEVER_MS
    return at_ms


cdef int denial_reason(const Weighed* w) noexcept:
    if w.rule.hours != NULL:
        return REASON_HOURS
    if w.rule.max_count == 0:
        return REASON_MESSAGE_COUNT_OVER_MAX
    if w.rule.kind.measure == MEASURE_CONTACTS:
        return REASON_CONTACT_CAP
    if w.rule.kind.measure == MEASURE_ADDRESSES:
        return REASON_ADDRESS_CAP
    if w.need > w.rule.max_count:
        return REASON_MESSAGE_COUNT_OVER_MAX
    return REASON_PAUSE if w.rule.kind.measure == MEASURE_RUN else REASON_MESSAGE_CAP


cdef int64_t first_to_leave_ms(const Weighed* w, bint counts_now, int64_t now_ms) except? -2:
    # The instant in the counter with whose exit its count falls, the attempt at now_ms included if
    # it counts; NEVER_MS when there is none.
    cdef int64_t oldest = NEVER_MS
    if w.counter != NULL:
        if w.rule.kind.measure == MEASURE_MESSAGES:
            oldest = messages_oldest_ms(&w.counter.messages)
        elif w.rule.kind.measure == MEASURE_RUN:
            # A run ends as a whole, with its last message.
            if counts_now:
                return now_ms
            return pause_latest_ms(&w.counter.pause) if w.used else NEVER_MS
        else:
            oldest = distinct_oldest_ms(
                &w.counter.distinct, w.index if counts_now else <uint32_t>NO_INDEX
            )
    return min(oldest, now_ms) if counts_now else oldest


cdef int64_t used_count(const Weighed* w, bint counts_now) noexcept:
    # What stands in the counter, the attempt included if it counts.
    cdef int64_t used
    if w.rule.kind.measure == MEASURE_MESSAGES:
        return w.counter.messages.used + (w.need if counts_now else 0)
    if w.rule.kind.measure == MEASURE_RUN:
        return w.counter.pause.used + (w.need if counts_now else 0)
    used = w.counter.distinct.live
    if counts_now and distinct_latest_ms(&w.counter.distinct, w.index) == NEVER_MS:
        used += 1
    return used


cdef int64_t most_count(const RuleRow* rule, int64_t now_ms) noexcept:
    # The maximum that is in force at now_ms; hours have none.
    if rule.hours != NULL:
        return 0
    return rule.max_count if rule.ramp == NULL else ramp_max_count(rule.ramp, now_ms)


cdef int64_t counted_since_ms(const Weighed* w, int64_t now_ms) noexcept:
    # When counting began, if that is inside the window; else NO_TIME. A run reaches back as far as
    # a message before its first one would have joined it.
    cdef int64_t since_ms = w.state.since_ms if w.state != NULL else now_ms
    cdef int64_t end_ms = now_ms
    if w.rule.kind.measure == MEASURE_RUN and w.used:
        end_ms = pause_first_ms(&w.counter.pause, w.rule.kind.window, now_ms)
    return since_ms if since_ms > window_first_ms(w.rule.kind.window, end_ms) else NO_TIME
