# The client's side of HTTP/2, made for load: calls without a Python object of their own.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from limiter._http2_bytes cimport Bytes
from limiter._load_histogram cimport Histogram
from limiter._load_population cimport Population
from limiter._nghttp2 cimport nghttp2_nv, nghttp2_session

cdef enum:
    # gRPC's status codes, and one for calls that ended without any.
    STATUS_COUNT = 18
    NO_STATUS = 17

cdef struct Template:
    # A framed message whose account, contacts and request id are written anew for each call.
    uint8_t* data              # owned; NULL when there is none
    size_t size
    size_t account_at          # of the digits of the account's number
    size_t contact_at          # of the digits of the first contact's number, ...
    size_t contact_stride      # ... and how far apart contacts are
    uint32_t contact_count
    size_t id_at               # of the digits of the request id; 0 = none

cdef struct Call:
    # One stream of a connection, used again and again.
    uint32_t number            # in its connection
    int32_t id                 # of the HTTP/2 stream; 0 = none is open
    Bytes request              # framed messages
    size_t sent                # bytes of them
    bint ended                 # nothing follows what is in `request`
    bint deferred              # the session asks no more until it is told to
    Bytes reply                # what came and was not read yet
    int status                 # -1 = not known yet
    int64_t* begun_ns          # owned ring: when each call without a reply was due
    uint32_t first             # index of the oldest
    uint32_t waiting           # how many

cdef class Load:
    cdef Template commit
    cdef Template check
    cdef Population accounts
    cdef Population contacts
    cdef uint64_t check_below  # a random number below it makes a Check
    cdef uint32_t touched      # accounts that were addressed once, in order, at first
    cdef uint64_t request_id
    cdef object commit_path
    cdef object check_path
    cdef object authority
    cdef readonly bint batching
    cdef readonly bint streaming
    cdef readonly uint32_t stream_count
    cdef readonly uint32_t depth        # calls of one stream under way
    cdef int64_t interval_ps            # between two calls; 0 = as fast as answers come
    cdef int64_t pace_start_ns          # 0 = not started yet
    cdef uint64_t paced                 # calls that were due since then
    cdef uint64_t sent_max
    cdef int64_t now_ns                 # of the bytes that are being dealt with
    cdef readonly bint stopped
    cdef list connections
    cdef size_t turn                    # whose turn it is to send
    # --- what has happened
    cdef readonly Histogram latencies
    cdef readonly uint64_t sent         # calls
    cdef readonly uint64_t answered     # calls, in any way
    cdef readonly uint64_t allowed      # decisions
    cdef readonly uint64_t denied
    cdef readonly uint64_t work         # what was asked for, as one number
    cdef uint64_t[STATUS_COUNT] failed  # calls, by status
    cdef readonly object first_failure
    cdef readonly uint64_t lost         # connections

    cdef int add_template(self, Template* template, bytes message, dict places) except -1
    cdef bint due(self, int64_t* begun_ns) noexcept
    cdef Template* choose(self) noexcept
    cdef void write(self, const Template* template, uint8_t* out) noexcept
    cdef int finish_one(self, Call* call, const uint8_t* reply, size_t size) except -1
    cdef int fail_one(self, Call* call, int status) noexcept

cdef class LoadConnection:
    cdef Load load
    cdef nghttp2_session* session
    cdef object transport
    cdef Call* calls           # owned
    cdef uint32_t* idle        # owned stack of the numbers of calls that can take one more
    cdef uint32_t idle_count
    cdef uint64_t waiting      # requests without a reply
    cdef bint paused
    cdef bint gone
    cdef Bytes out
    cdef object fault

    cdef int open_session(self) except -1
    cdef int begin(self, int64_t begun_ns) except -1
    cdef int open_stream(self, Call* call, bint is_check) except -1
    cdef int fill(self) except -1
    cdef int take_data(self, Call* call, const uint8_t* data, size_t size) except -1
    cdef int close_call(self, Call* call) except -1
    cdef void free_slot(self, Call* call) noexcept
    cdef int flush(self) except -1
    cdef int fail(self, object fault) noexcept
