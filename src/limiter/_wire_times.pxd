# Timestamps and Durations of the wire: seconds and nanoseconds <-> milliseconds.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from limiter._protobuf cimport (
    message_field_size, put_head, put_varint_field, varint_field_size,
)
from limiter._types cimport NO_TIME, Slice

cdef struct Moment:
    # One of either as it arrived.
    bint given
    int64_t seconds
    int64_t nanos

cdef const uint8_t* parse_moment(Slice message, Moment* moment) noexcept nogil
cdef int64_t instant_ms(const Moment* moment) noexcept nogil
cdef int64_t duration_ms(const Moment* moment, int64_t most_ms) noexcept nogil

# Writers of a Timestamp; NO_TIME is left out.

cdef inline size_t timestamp_size(int64_t at_ms) noexcept nogil:
    # Instants are 1970 or later, so nothing is rounded towards an earlier second.
    return varint_field_size(at_ms // 1000) + varint_field_size(at_ms % 1000 * 1_000_000)

cdef inline size_t time_field_size(int64_t at_ms) noexcept nogil:
    return message_field_size(timestamp_size(at_ms)) if at_ms != NO_TIME else 0

cdef inline uint8_t* put_time_field(uint8_t* at, uint32_t number, int64_t at_ms) noexcept nogil:
    if at_ms == NO_TIME:
        return at
    at = put_head(at, number, timestamp_size(at_ms))
    at = put_varint_field(at, 1, at_ms // 1000)
    return put_varint_field(at, 2, at_ms % 1000 * 1_000_000)
