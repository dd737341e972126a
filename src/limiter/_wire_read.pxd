# From the protobuf bytes of the hot requests to plain C structs.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from limiter._types cimport Attempt, Recipient, Slice
from limiter._wire_faults cimport Fault
from limiter._wire_times cimport Moment

cdef enum:
    # Slots for inline limits in a Request; bounds.INLINE_LIMITS_MAX may not exceed it.
    INLINE_SLOTS = 16

cdef enum:
    # The request messages, as row numbers of the field table.
    KIND_CHECK = 0
    KIND_COMMIT = 1
    KIND_CHECK_BATCH = 2
    KIND_COMMIT_BATCH = 3
    KIND_GET_USAGE = 4
    KIND_PLAN = 5
    KIND_COUNT = 6

cdef struct Request:
    # One decoded hot request. Every slice borrows from the request's bytes.
    Attempt attempt
    Slice[INLINE_SLOTS] inline_limits  # serialized Limit messages, not looked into
    int inline_count           # may exceed INLINE_SLOTS only before validation
    int view                   # 0 when unset
    Slice request_id
    int atomicity              # 0 when unset
    bint exclude_duplicates
    bint exclude_opt_outs
    bint recorded              # mode RECORD
    int64_t event_ms           # NO_TIME when unset
    int64_t hold_ms            # 0 when unset
    int64_t spread_ms          # of a plan, 0 when unset
    Recipient* recipients      # owned by the Decoder, which reuses it for its next request
    uint32_t recipient_count

cdef struct RawTerms:
    # How a commit counts, and over how long a plan is spread, as it arrived.
    int mode                   # 0 when unset
    Moment event_time
    Moment hold_duration
    Moment spread_duration

cdef class Decoder:
    # Decodes one request at a time. The request is valid until the next call, and only while the
    # caller keeps the bytes alive.
    cdef Request request
    cdef RawTerms terms
    cdef uint32_t recipient_capacity   # slots behind request.recipients

    # Each reads and validates one request message into self.request, or raises InvalidArgument.
    cdef int check(self, const uint8_t* data, size_t size) except -1
    cdef int commit(self, const uint8_t* data, size_t size) except -1
    cdef int check_batch(self, const uint8_t* data, size_t size) except -1
    cdef int commit_batch(self, const uint8_t* data, size_t size) except -1
    cdef int usage(self, const uint8_t* data, size_t size) except -1
    # A plan is long: it is decoded without the GIL.
    cdef int plan(self, const uint8_t* data, size_t size) except -1

    # The two halves of the above: the wire level alone, and the rules of the fields.
    cdef int parse(self, int kind, const uint8_t* data, size_t size) except -1
    cdef int validate(self, int kind) except -1

    cdef int examine(
        self, int kind, const uint8_t* data, size_t size, Fault* fault
    ) noexcept nogil
    cdef int grow_recipients(self) noexcept nogil
    cdef int parse_request(
        self, int kind, const uint8_t* data, const uint8_t* end, Fault* fault
    ) noexcept nogil
    cdef int parse_recipient_field(self, int kind, Slice message, Fault* fault) noexcept nogil
    cdef int validate_terms(self, Fault* fault) noexcept nogil
    cdef int validate_request(self, int kind, Fault* fault) noexcept nogil
