# One HTTP/2 session of a server on an asyncio transport.

from libc.stdint cimport int32_t, uint8_t, uint32_t

from limiter._http2_bytes cimport Bytes
from limiter._http2_frames cimport Frames
from limiter._http2_turns cimport Taker, Turns
from limiter._nghttp2 cimport nghttp2_nv, nghttp2_session

cdef enum BodyEnd:
    END_NOT_YET
    END_WITH_TRAILERS          # which were given
    END_OF_STREAM

cdef class Session(Taker):
    cdef nghttp2_session* session   # owned
    cdef object transport
    cdef readonly object peer
    cdef readonly object peer_certificate   # None without TLS or where none was asked for
    cdef readonly bint is_tls
    cdef readonly double active_s   # when something was last received
    cdef readonly double opened_s
    cdef readonly double unfinished_s   # since when a frame or header is coming; 0 = none is
    cdef readonly double paused_s   # since when the transport takes no more; 0 = it does
    cdef readonly double closing_s  # since when the last bytes are going out; 0 = they are not
    cdef readonly bint greeted      # the client has sent its settings
    cdef bint reading               # inside the session's receiving
    cdef bint paused                # the transport takes no more for now
    cdef bint dirty                 # on somebody's list of sessions to flush
    cdef bint closing
    cdef bint has_cut_off           # it has ended a stream before the client did
    cdef bint lingers               # when the session ends the client may still be sending
    cdef bint is_thirsty            # `refill` wants to know when all is sent
    cdef bint has_said              # part of an answer has gone out since the last ping
    cdef Turns turns                # of all sessions of a server
    cdef Bytes kept                 # what has come and waits for its turn
    cdef bint is_held_back          # nothing more is read until that is dealt with
    cdef bint waits_turn            # so does a stream, whose bytes are dealt with
    cdef Frames frames
    cdef double calm                # control frames that it may still send
    cdef double calm_s
    cdef Bytes out
    cdef object fault

    # --- what a server does with requests; streams are its own structs
    cdef int begin(self) except -1
    cdef int open_stream(self, int32_t stream_id) except -1
    cdef int take_header(
        self, void* stream, const uint8_t* name, size_t name_size,
        const uint8_t* value, size_t value_size,
    ) except -1
    cdef int headers_complete(self, void* stream) except -1
    cdef int take_data(self, void* stream, const uint8_t* data, size_t size) except -1
    cdef int request_ended(self, void* stream) except -1
    cdef bint has_request_ended(self, void* stream) noexcept
    cdef int close_stream(self, void* stream) except -1
    cdef size_t read_body(
        self, void* stream, uint8_t* out, size_t room, BodyEnd* end
    ) except? 0
    cdef bint refill(self) except -1
    cdef int read_on(self) except -1

    # --- what it asks of the session
    cdef void* stream_of(self, int32_t stream_id) noexcept
    cdef int attach_stream(self, int32_t stream_id, void* stream) except -1
    cdef void detach_stream(self, int32_t stream_id) noexcept
    cdef int respond(
        self, int32_t stream_id, const nghttp2_nv* fields, size_t count, bint has_body
    ) except -1
    cdef int trail(self, int32_t stream_id, const nghttp2_nv* fields, size_t count) except -1
    cdef int resume(self, int32_t stream_id) except -1
    cdef int consume_connection(self, size_t size) except -1
    cdef int consume_stream(self, int32_t stream_id, size_t size) except -1
    cdef int flush(self) except -1
    cdef int part(self, uint32_t error_code) except -1
    cdef int close(self) except -1

    cdef int take_bytes(self, const uint8_t* data, size_t size) except -1
    cdef int keep(self, const uint8_t* data, size_t size) except -1
    cdef void drop_kept(self, size_t size) noexcept
    cdef size_t deal_with(self, const uint8_t* data, size_t size) except? 0
    cdef int read_again(self) except -1
    cdef int feed(self, const uint8_t* data, size_t size) except -1
    cdef int open_session(self) except -1
    cdef int check(self, Py_ssize_t code) except -1
    cdef int fail(self, object fault) noexcept
    cdef bint is_calm(self) noexcept
