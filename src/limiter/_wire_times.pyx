# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""Timestamps and Durations of the wire as milliseconds.

In: the bytes of a google.protobuf.Timestamp or Duration. Out: its milliseconds; what is finer is
cut off. Both messages have the same two fields.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from limiter._protobuf cimport DEPTH_MAX, WIRE_VARINT, read_tag, read_varint, skip_unknown

from limiter import bounds

cdef int64_t INSTANT_MS_MIN = bounds.INSTANT_MS_MIN
cdef int64_t INSTANT_MS_MAX = bounds.INSTANT_MS_MAX

cdef enum:
    FIELD_SECONDS = 1
    FIELD_NANOS = 2
    NANOS_PER_MS = 1000000
    NANOS_PER_S = 1000000000


cdef const uint8_t* parse_moment(Slice message, Moment* moment) noexcept nogil:
    # Merges one encoded message into `moment`: later values win. Returns NULL, or where the field
    # starts that is malformed.
    cdef const uint8_t* at = message.data
    cdef const uint8_t* end = at + message.size
    cdef const uint8_t* start
    cdef uint32_t tag = 0
    cdef uint64_t bits = 0
    if not moment.given:
        moment.given = True
        moment.seconds = moment.nanos = 0
    while at < end:
        start = at
        at = read_tag(at, end, &tag)
        if at == NULL:
            return start
        if tag == (FIELD_SECONDS << 3 | WIRE_VARINT):
            at = read_varint(at, end, &bits)
            moment.seconds = <int64_t>bits
        elif tag == (FIELD_NANOS << 3 | WIRE_VARINT):
            at = read_varint(at, end, &bits)
            moment.nanos = <int32_t>bits
        else:
            at = skip_unknown(at, end, tag, DEPTH_MAX - 1)
        if at == NULL:
            return start
    return NULL


cdef int64_t instant_ms(const Moment* moment) noexcept nogil:
    # A Timestamp's instant; -1 when it is none that can be.
    if (
        not INSTANT_MS_MIN // 1000 <= moment.seconds <= INSTANT_MS_MAX // 1000
        or not 0 <= moment.nanos < NANOS_PER_S
    ):
        return -1
    return moment.seconds * 1000 + moment.nanos // NANOS_PER_MS


cdef int64_t duration_ms(const Moment* moment, int64_t most_ms) noexcept nogil:
    # How long a Duration lasts, if that is 1 to most_ms; else -1.
    cdef int64_t whole_ms
    if not 0 <= moment.seconds <= most_ms // 1000 or not 0 <= moment.nanos < NANOS_PER_S:
        return -1
    whole_ms = moment.seconds * 1000 + moment.nanos // NANOS_PER_MS
    if whole_ms == 0 or whole_ms > most_ms or (
        whole_ms == most_ms and moment.nanos % NANOS_PER_MS
    ):
        return -1
    return whole_ms
