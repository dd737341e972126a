# Maxima that grow with the days.

from libc.stdint cimport int64_t

from limiter._calendar cimport Zone, ZoneRules

cdef struct RampTier:
    int64_t start_ms           # the tier's first instant
    int64_t max_count

cdef struct RampRules:
    const ZoneRules* zone      # borrowed from the Zone that the Ramp keeps alive
    int64_t ceiling_count      # the cap's own maximum
    int64_t start_day          # of the daily steps, in days since 1970-01-01
    int64_t start_count
    int64_t step_count
    RampTier* tiers            # owned by the Ramp; in order; NULL where there are daily steps
    int tier_count
    int64_t cached_from_ms     # the maximum met last ...
    int64_t cached_until_ms    # ... holds for instants in [from, until)
    int64_t cached_max_count

cdef int64_t ramp_max_count(RampRules* ramp, int64_t at_ms) noexcept nogil
cdef int64_t ramp_until_ms(RampRules* ramp, int64_t at_ms) noexcept nogil

cdef class Ramp:
    cdef RampRules rules
    cdef readonly Zone zone
    cdef readonly tuple identity  # all that the ramp says
