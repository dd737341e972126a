# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ramps: the maximum of a cap as a function of the instant.

In flow days and counts under a zone's rules; out flow the maximum at an instant and the instant at
which it changes next. A day begins where the calendar windows have it begin. What always holds: a
maximum is never above the cap's own.
"""

from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t

from limiter._calendar cimport Zone, day_of, day_start_ms
from limiter._messages cimport NEVER_MS


cdef void find_step(RampRules* ramp, int64_t at_ms) noexcept nogil:
    # Lays down what holds at at_ms, and how long, for daily steps.
    cdef int64_t day = day_of(ramp.zone, at_ms)
    cdef int64_t days = max(0, day - ramp.start_day)
    ramp.cached_max_count = min(ramp.ceiling_count, ramp.start_count + ramp.step_count * days)
    ramp.cached_from_ms = day_start_ms(ramp.zone, day)
    ramp.cached_until_ms = day_start_ms(ramp.zone, max(day, ramp.start_day) + 1)
    if ramp.step_count == 0 or ramp.cached_max_count == ramp.ceiling_count:
        ramp.cached_until_ms = NEVER_MS


cdef void find_tier(RampRules* ramp, int64_t at_ms) noexcept nogil:
    # The same for tiers: nothing is allowed before the first one.
    cdef int low = 0
    cdef int high = ramp.tier_count
    cdef int middle
    while low < high:
        middle = (low + high) >> 1
        if ramp.tiers[middle].start_ms <= at_ms:
            low = middle + 1
        else:
            high = middle
    ramp.cached_from_ms = 0
    ramp.cached_max_count = 0
    if low:
        ramp.cached_from_ms = ramp.tiers[low - 1].start_ms
        ramp.cached_max_count = min(ramp.ceiling_count, ramp.tiers[low - 1].max_count)
    ramp.cached_until_ms = ramp.tiers[low].start_ms if low < ramp.tier_count else NEVER_MS


cdef void find(RampRules* ramp, int64_t at_ms) noexcept nogil:
    if ramp.cached_from_ms <= at_ms < ramp.cached_until_ms:
        return
    if ramp.tiers != NULL:
        find_tier(ramp, at_ms)
    else:
        find_step(ramp, at_ms)


cdef int64_t ramp_max_count(RampRules* ramp, int64_t at_ms) noexcept nogil:
    # The maximum that is in force at at_ms.
    find(ramp, at_ms)
    return ramp.cached_max_count


cdef int64_t ramp_until_ms(RampRules* ramp, int64_t at_ms) noexcept nogil:
    # The first instant after at_ms at which the maximum may change, NEVER_MS when it stays.
    find(ramp, at_ms)
    return ramp.cached_until_ms


cdef class Ramp:
    """How a cap's maximum grows up to `ceiling_count`; make one by `Ramp.daily` or `Ramp.tiers`."""

    def __dealloc__(self):
        free(self.rules.tiers)

    @staticmethod
    def daily(
        Zone zone not None,
        int64_t ceiling_count,
        int64_t start_day,
        int64_t start_count,
        int64_t step_count,
    ):
        """`start_count` up to and on `start_day` (days since 1970-01-01), and `step_count` more on
        each day after it."""
        if start_count < 0 or step_count < 0 or ceiling_count < 0:
            raise ValueError("a ramp does not go below zero")
        cdef Ramp ramp = Ramp.__new__(Ramp)
        ramp.zone = zone
        ramp.rules.zone = &zone.rules
        ramp.rules.ceiling_count = ceiling_count
        ramp.rules.start_day = start_day
        ramp.rules.start_count = start_count
        ramp.rules.step_count = step_count
        ramp.identity = (zone.name, ceiling_count, start_day, start_count, step_count)
        return ramp

    @staticmethod
    def tiers(Zone zone not None, int64_t ceiling_count, tiers):
        """`tiers` are (first day, maximum), in the order of their days."""
        cdef Ramp ramp = Ramp.__new__(Ramp)
        cdef int64_t day
        cdef int64_t max_count
        cdef RampTier* tier
        ramp.zone = zone
        ramp.rules.zone = &zone.rules
        ramp.rules.ceiling_count = ceiling_count
        ramp.rules.tiers = <RampTier*>calloc(len(tiers) + 1, sizeof(RampTier))
        if ramp.rules.tiers == NULL:
            raise MemoryError
        for day, max_count in tiers:
            if max_count < 0:
                raise ValueError("a ramp does not go below zero")
            tier = &ramp.rules.tiers[ramp.rules.tier_count]
            tier.start_ms = day_start_ms(&zone.rules, day)
            tier.max_count = max_count
            if ramp.rules.tier_count and tier.start_ms < (tier - 1).start_ms:
                raise ValueError("tiers come in the order of their days")
            ramp.rules.tier_count += 1
        ramp.identity = (zone.name, ceiling_count, tuple(tiers))
        return ramp

    def max_count(self, int64_t at_ms):
        """The maximum that is in force at `at_ms`."""
        return ramp_max_count(&self.rules, at_ms)
