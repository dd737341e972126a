# From decisions in plain C structs to the protobuf bytes of the hot responses.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._types cimport Decision, LimitResult, Slice

cdef class OutBuffer:
    # One growing run of response bytes, owned by the buffer.
    cdef uint8_t* data
    cdef size_t size           # bytes written
    cdef size_t capacity       # bytes behind data
    cdef readonly uint32_t shard  # the first four digits of every commit_id

    # Each appends whole messages or fields. `position` 0 means that nothing was committed, so that
    # commit_id and sequence are left out. VIEW_FULL adds every limit's status.
    cdef int check_response(self, const Decision* decision, int view) except -1
    cdef int commit_response(
        self, const Decision* decision, int view, uint64_t position, int64_t sequence, bint replayed
    ) except -1
    # One entry of `results`: of who was decided, and of who was not.
    cdef int batch_result(
        self,
        Slice reference,
        const Decision* decision,
        int view,
        uint64_t position,
        int64_t sequence,
        bint replayed,
    ) except -1
    cdef int batch_left_out(self, Slice reference, bint opted_out) except -1
    cdef int batch_counts(
        self, int64_t accepted, int64_t denied, int64_t duplicate, int64_t opted_out
    ) except -1
    cdef int usage_response(self, const LimitResult* results, int count) except -1
    # What a WatchUsageResponse has beside: all but its time, and that by itself.
    cdef int watch_outcome(self, bint allowed, int64_t retry_ms) except -1
    cdef int watch_time(self, int64_t at_ms) except -1

    # The bytes so far; the buffer is empty afterwards.
    cdef bytes take(self)
    # Forgets the bytes so far: for a response that was given up half-way.
    cdef void reset(self) noexcept

    cdef uint8_t* reserve(self, size_t size) except NULL
