# Timestamps and Durations of the wire: seconds and nanoseconds <-> milliseconds.

from libc.stdint cimport int64_t, uint8_t

from limiter._types cimport Slice

cdef struct Moment:
    # One of either as it arrived.
    bint given
    int64_t seconds
    int64_t nanos

cdef const uint8_t* parse_moment(Slice message, Moment* moment) noexcept nogil
cdef int64_t instant_ms(const Moment* moment) noexcept nogil
cdef int64_t duration_ms(const Moment* moment, int64_t most_ms) noexcept nogil
