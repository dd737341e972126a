# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""From decisions in plain C structs to the protobuf bytes of the hot responses.

In: decisions as the core left them, and where they stand in the journal. Out: the bytes of a
CheckResponse, CommitResponse, CheckBatchResponse, CommitBatchResponse, GetUsageResponse or
WatchUsageResponse in canonical form: fields in the order of their numbers, defaults left out, so
that equal responses are equal bytes.

Every message is measured before it is written, so that its size can stand in front of it and room
is made once. What always holds: a buffer that cannot grow raises MemoryError and keeps what it had.
"""

cimport cython
from libc.stdlib cimport free, malloc, realloc
from cpython.bytes cimport PyBytes_FromStringAndSize

from limiter._protobuf cimport (
    bytes_field_size, message_field_size, put_bytes_field, put_head, put_varint_field,
    varint_field_size,
)
from limiter._types cimport VIEW_FULL
from limiter._wire_times cimport put_time_field, time_field_size

cdef enum:
    # A buffer starts at the smaller size and falls back to it when it had grown beyond the other.
    CAPACITY_MIN = 4096
    CAPACITY_KEPT_MAX = 1048576

cdef enum:
    # Digits of a commit_id: four for the shard, sixteen for the position in its journal.
    SHARD_DIGITS = 4
    POSITION_DIGITS = 16
    COMMIT_ID_SIZE = 20


# Sizes: of the content of each message, without its own tag and size.


cdef size_t status_size(const LimitResult* status) noexcept nogil:
    return (
        bytes_field_size(status.policy.size)
        + bytes_field_size(status.limit_id.size)
        + varint_field_size(status.reason)
        + varint_field_size(status.max_count)
        + varint_field_size(status.used_count)
        + varint_field_size(status.remaining_count)
        + time_field_size(status.reset_ms)
        + time_field_size(status.counted_since_ms)
        + varint_field_size(status.enforcement)
        + varint_field_size(status.exceeded)
    )


cdef size_t decision_size(const Decision* decision, int view) noexcept nogil:
    cdef size_t size = (
        varint_field_size(decision.outcome)
        + varint_field_size(decision.reason)
        + time_field_size(decision.retry_ms)
        + time_field_size(decision.decide_ms)
    )
    cdef int i
    if decision.binding >= 0:
        size += message_field_size(status_size(&decision.results[decision.binding]))
    if view == VIEW_FULL:
        for i in range(decision.result_count):
            size += message_field_size(status_size(&decision.results[i]))
    return size


# Writers: each returns the position behind what it wrote. Room has been made.


cdef uint8_t* put_status_field(
    uint8_t* at, uint32_t number, const LimitResult* status
) noexcept nogil:
    at = put_head(at, number, status_size(status))
    at = put_bytes_field(at, 1, status.policy)
    at = put_bytes_field(at, 2, status.limit_id)
    at = put_varint_field(at, 3, status.reason)
    at = put_varint_field(at, 4, status.max_count)
    at = put_varint_field(at, 5, status.used_count)
    at = put_varint_field(at, 6, status.remaining_count)
    at = put_time_field(at, 7, status.reset_ms)
    at = put_time_field(at, 8, status.counted_since_ms)
    at = put_varint_field(at, 9, status.enforcement)
    return put_varint_field(at, 10, status.exceeded)


cdef uint8_t* put_decision_field(
    uint8_t* at, uint32_t number, const Decision* decision, int view, size_t size
) noexcept nogil:
    cdef int i
    at = put_head(at, number, size)
    at = put_varint_field(at, 1, decision.outcome)
    at = put_varint_field(at, 2, decision.reason)
    if decision.binding >= 0:
        at = put_status_field(at, 3, &decision.results[decision.binding])
    if view == VIEW_FULL:
        for i in range(decision.result_count):
            at = put_status_field(at, 4, &decision.results[i])
    at = put_time_field(at, 5, decision.retry_ms)
    return put_time_field(at, 6, decision.decide_ms)


cdef inline uint8_t* put_hexadecimal(uint8_t* at, uint64_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits):
        at[i] = b"0123456789abcdef"[value >> 4 * (digits - 1 - i) & 15]
    return at + digits


cdef inline uint8_t* put_commit_id_field(
    uint8_t* at, uint32_t number, uint32_t shard, uint64_t position
) noexcept nogil:
    at = put_head(at, number, COMMIT_ID_SIZE)
    at = put_hexadecimal(at, shard, SHARD_DIGITS)
    return put_hexadecimal(at, position, POSITION_DIGITS)


@cython.final
cdef class OutBuffer:
    """Collects the bytes of one response at a time, without a Python face.

    `limiter._wire_inspect` shows what it encodes.
    """

    def __cinit__(self):
        self.shard = 0
        self.size = 0
        self.capacity = CAPACITY_MIN
        self.data = <uint8_t*>malloc(CAPACITY_MIN)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)

    cdef uint8_t* reserve(self, size_t size) except NULL:
        # Makes room for `size` more bytes; returns where they go. The caller then moves self.size.
        cdef size_t needed = self.size + size
        cdef size_t capacity = self.capacity
        cdef void* grown
        if needed > capacity:
            while capacity < needed:
                capacity *= 2
            grown = realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError
            self.data = <uint8_t*>grown
            self.capacity = capacity
        return self.data + self.size

    cdef int check_response(self, const Decision* decision, int view) except -1:
        cdef size_t inner = decision_size(decision, view)
        cdef uint8_t* at = self.reserve(message_field_size(inner))
        self.size = put_decision_field(at, 1, decision, view, inner) - self.data
        return 0

    cdef int commit_response(
        self, const Decision* decision, int view, uint64_t position, int64_t sequence, bint replayed
    ) except -1:
        cdef size_t inner = decision_size(decision, view)
        cdef size_t size = message_field_size(inner) + varint_field_size(replayed)
        if position:
            size += bytes_field_size(COMMIT_ID_SIZE) + varint_field_size(sequence)
        cdef uint8_t* at = self.reserve(size)
        at = put_decision_field(at, 1, decision, view, inner)
        if position:
            at = put_commit_id_field(at, 2, self.shard, position)
            at = put_varint_field(at, 3, sequence)
        self.size = put_varint_field(at, 4, replayed) - self.data
        return 0

    cdef int batch_result(
        self,
        Slice reference,
        const Decision* decision,
        int view,
        uint64_t position,
        int64_t sequence,
        bint replayed,
    ) except -1:
        cdef size_t inner = decision_size(decision, view)
        cdef size_t size = (
            bytes_field_size(reference.size)
            + message_field_size(inner)
            + varint_field_size(replayed)
        )
        if position:
            size += bytes_field_size(COMMIT_ID_SIZE) + varint_field_size(sequence)
        cdef uint8_t* at = self.reserve(message_field_size(size))
        at = put_head(at, 1, size)
        at = put_bytes_field(at, 1, reference)
        at = put_decision_field(at, 2, decision, view, inner)
        if position:
            at = put_commit_id_field(at, 3, self.shard, position)
            at = put_varint_field(at, 5, sequence)
        self.size = put_varint_field(at, 6, replayed) - self.data
        return 0

    cdef int batch_left_out(self, Slice reference, bint opted_out) except -1:
        # Left out because they opted out, or else as a duplicate.
        cdef size_t size = bytes_field_size(reference.size) + varint_field_size(True)
        cdef uint8_t* at = self.reserve(message_field_size(size))
        at = put_head(at, 1, size)
        at = put_bytes_field(at, 1, reference)
        self.size = put_varint_field(at, 7 if opted_out else 4, True) - self.data
        return 0

    cdef int batch_counts(
        self, int64_t accepted, int64_t denied, int64_t duplicate, int64_t opted_out
    ) except -1:
        cdef uint8_t* at = self.reserve(
            varint_field_size(accepted)
            + varint_field_size(denied)
            + varint_field_size(duplicate)
            + varint_field_size(opted_out)
        )
        at = put_varint_field(at, 2, accepted)
        at = put_varint_field(at, 3, denied)
        at = put_varint_field(at, 4, duplicate)
        self.size = put_varint_field(at, 5, opted_out) - self.data
        return 0

    cdef int usage_response(self, const LimitResult* results, int count) except -1:
        cdef size_t size = 0
        cdef int i
        for i in range(count):
            size += message_field_size(status_size(&results[i]))
        cdef uint8_t* at = self.reserve(size)
        for i in range(count):
            at = put_status_field(at, 1, &results[i])
        self.size = at - self.data
        return 0

    cdef int watch_outcome(self, bint allowed, int64_t retry_ms) except -1:
        cdef uint8_t* at = self.reserve(varint_field_size(allowed) + time_field_size(retry_ms))
        at = put_varint_field(at, 2, allowed)
        self.size = put_time_field(at, 3, retry_ms) - self.data
        return 0

    cdef int watch_time(self, int64_t at_ms) except -1:
        cdef uint8_t* at = self.reserve(time_field_size(at_ms))
        self.size = put_time_field(at, 4, at_ms) - self.data
        return 0

    cdef bytes take(self):
        cdef bytes taken = PyBytes_FromStringAndSize(<const char*>self.data, self.size)
        cdef void* shrunk
        self.size = 0
        if self.capacity > CAPACITY_KEPT_MAX:
            # One huge answer does not hold its memory for ever. Where shrinking fails, it does.
            shrunk = realloc(self.data, CAPACITY_MIN)
            if shrunk != NULL:
                self.data = <uint8_t*>shrunk
                self.capacity = CAPACITY_MIN
        return taken

    cdef void reset(self) noexcept:
        self.size = 0
