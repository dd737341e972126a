# One HTTP/2 connection of a gRPC server, and its streams.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from limiter._http2_bytes cimport Bytes
from limiter._http2_session cimport Session
from limiter._http2_turns cimport Turns

cdef enum Encoding:
    ENCODING_IDENTITY
    ENCODING_GZIP
    ENCODING_UNKNOWN

cdef struct Stream:
    # One call. The connection holds one reference, and so does each group that it waits for.
    uint32_t references
    int32_t id
    PyObject* connection       # borrowed; NULL once the stream is closed
    Stream* next               # of the connection
    Stream* previous
    # --- what was asked
    int method                 # hot: its number; 0 = a Python handler answers
    int refusal                # the HTTP status of what is no gRPC; 0 = it is
    Encoding encoding
    bint is_post
    bint is_grpc
    bint received_end
    bint is_counted            # by the hot handler, among the streams that are open
    bint is_stalled            # the hot handler reads on once its replies have gone out
    bint is_parked             # ... or once an account is in memory
    bint waits_turn            # the hot handler reads on when it is the connection's turn
    size_t header_bytes
    int64_t deadline_ns        # on the monotonic clock; 0 = none
    double unfinished_s        # since when the rest of a message is missing; 0 = none is
    PyObject* head             # owned list [path, (name, value), ...]; NULL for a hot call
    PyObject* call             # owned; what the server made of a cold call, or NULL
    PyObject* credential       # owned; of a hot call: a Guard, why there is none, or NULL
    PyObject* span             # owned; of a traced hot call: `traceparent` as bytes, then its span
    Bytes received             # framed messages that were not taken yet
    size_t held                # bytes received that the client may not replace yet
    # --- what is answered; offsets count from the first byte of the response
    Bytes reply                # framed messages from offset reply_start on
    uint64_t reply_start
    uint64_t sent
    uint64_t sendable          # up to where it may be sent
    uint64_t unsettled         # replies that wait for a group
    bint started               # the response's headers are submitted
    bint answered              # nothing more is added; trailers follow
    bint deferred              # the session asks no more until it is told to
    PyObject* trailers         # owned list of (name, value), NULL = grpc-status 0

cdef void stream_release(Stream* stream) noexcept

cdef class HotHandler:
    # Answers the calls that are no Python handler's.
    cdef bint is_traced        # keeps what a caller says of his trace
    cdef readonly Turns turns  # of its connections
    cdef int method_of(self, const uint8_t* path, size_t size) noexcept
    cdef int begin(self) except -1
    cdef int opened(self, Connection connection, Stream* stream) except -1
    cdef void closed(self, Stream* stream) noexcept
    cdef int identify(
        self, Connection connection, Stream* stream, const uint8_t* shown, size_t size
    ) except -1
    cdef int receive(self, Connection connection, Stream* stream) except -1
    cdef int expire(self, Connection connection, Stream* stream) except -1

cdef class Connection(Session):
    cdef Stream* streams
    cdef HotHandler hot
    cdef object server
    cdef readonly int stream_count
    cdef readonly double called_s    # when a call last began or ended
    cdef readonly size_t unread_bytes   # parts of requests that are not complete
    cdef readonly size_t unsent_bytes   # of replies
    cdef Bytes shown                # the last value of `authorization` of a hot call ...
    cdef object guard               # ... and the Guard for it, or None
    cdef int32_t turn_id            # of the last stream that had its turn

    # --- what hot calls are answered by
    cdef int add_reply(self, Stream* stream, const uint8_t* data, size_t size) except -1
    cdef int release(self, Stream* stream, uint64_t offset) except -1
    cdef int finish(self, Stream* stream, object trailers) except -1
    cdef int consume(self, Stream* stream, size_t size) except -1
    cdef void drop_received(self, Stream* stream, size_t size) noexcept
    cdef int wait_for_turn(self, Stream* stream) except -1

    cdef Stream* call_of(self, int32_t stream_id) noexcept
    cdef int deliver(self, Stream* stream) except -1
    cdef int refuse(self, Stream* stream) except -1
    cdef int submit(self, Stream* stream, object headers) except -1
    cdef int wake(self, Stream* stream) except -1
    cdef int add_trailers(self, Stream* stream) except -1
