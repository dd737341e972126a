# The hot methods under the native transport.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._core cimport Core
from limiter._guard cimport Guard
from limiter._hot cimport Decider
from limiter._http2 cimport Connection, HotHandler, Stream
from limiter._spread cimport Spread

cdef struct Waiter:
    Stream* stream             # holds a reference
    uint64_t offset            # of its reply: up to here it may be sent then
    uint64_t count             # replies among that
    double begun_s             # when the first of their requests came

cdef class Group:
    cdef HotCalls calls
    cdef uint64_t number
    cdef Waiter* waiters       # owned
    cdef size_t size
    cdef size_t capacity

    cdef int add(self, Stream* stream, uint64_t count) except -1
    cdef int settle_one(self, const Waiter* waiter, object failure, double now_s) except -1

cdef class Parked:
    cdef HotCalls calls
    cdef uint32_t account      # that they wait for
    cdef Stream** streams      # owned, and a reference to each
    cdef size_t size
    cdef size_t capacity

    cdef int add(self, Stream* stream) except -1

cdef class HotCalls(HotHandler):
    cdef Decider decider       # None while there is no engine
    cdef Core core
    cdef object committer
    cdef object clock
    cdef object absence        # why there is no engine
    cdef object gate           # who lets callers in; None where nobody is asked
    cdef object faults         # what turns exceptions into trailers
    cdef Group group           # the newest that somebody waits for
    cdef uint64_t kicked       # the newest that is on its way to the disk, waited for or not
    cdef int64_t now_ms        # of the bytes that are being dealt with; -1 = not asked yet
    cdef bint draining
    cdef readonly size_t stream_count   # CommitStreams that are open
    cdef object arrivals       # brings accounts into memory
    cdef dict parked           # the calls that wait for one, by account
    cdef size_t parked_count
    cdef Spread times          # how long answers took, a row for each method; None unless observed
    cdef object tracer         # makes spans of calls; None unless they are traced

    cdef int64_t instant(self) except -1
    cdef Guard guard_of(self, Connection connection, Stream* stream)
    cdef int admit(self) except -1
    cdef bint is_full(self) noexcept
    cdef int answer_unary(self, Connection connection, Stream* stream) except -1
    cdef int answer_stream(self, Connection connection, Stream* stream) except -1
    cdef bint decide(
        self, Connection connection, Stream* stream, int method, size_t size
    ) except -1
    cdef bint pending(self, Stream* stream) noexcept
    cdef int require_one_message(self, Stream* stream) except -1
    cdef int wait_for_group(self, Stream* stream, uint64_t count) except -1
    cdef int kick(self) except -1
    cdef int park(self, Stream* stream, uint32_t account) except -1
    cdef int begin_span(self, Stream* stream) except -1
    cdef int tell_span(self, Stream* stream) except -1
    cdef int end_span(self, Stream* stream) except -1
    cdef void answered(
        self, int method, uint64_t count, double begun_s, double now_s
    ) noexcept
