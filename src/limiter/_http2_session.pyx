# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""HTTP/2 as an asyncio protocol: bytes of a socket in, requests by stream out, and back.

libnghttp2 keeps the protocol's state. Bytes of the socket go into its session, whose callbacks
call what a server overrides here (`open_stream` to `close_stream`); what the session has to say is
collected and written once when all bytes that came together are dealt with. Where that would take
too long, they are kept, and dealt with a part at a time when it is the session's turn.

What always holds: a client that does not read stops being read from, so that what it costs is
bounded; nobody may send more control frames than an honest client would; a fault inside a callback
ends this session alone.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free
from libc.stdint cimport UINT64_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

import logging
import time

from limiter import bounds
from limiter._http2_bytes cimport bytes_append, bytes_drop
from limiter._http2_frames cimport frames_begin, frames_take, is_between
from limiter._http2_memory cimport session_memory
from limiter._http2_turns cimport Taker, Turns, monotonic_s
from limiter._nghttp2 cimport *

_log = logging.getLogger(__name__)

cdef uint32_t HEADER_BYTES_MAX = bounds.HEADER_LIST_BYTES_MAX
cdef uint32_t STREAMS_MAX = bounds.CONNECTION_STREAMS_MAX
cdef int32_t STREAM_WINDOW_BYTES = bounds.STREAM_WINDOW_BYTES
cdef int32_t CONNECTION_WINDOW_BYTES = bounds.CONNECTION_WINDOW_BYTES
cdef size_t CONTINUATIONS_MAX = bounds.HEADER_CONTINUATIONS_MAX
cdef double CONTROL_FRAMES_MAX = bounds.CONTROL_FRAMES_MAX
cdef double CONTROL_FRAMES_PER_S = bounds.CONTROL_FRAMES_PER_S
cdef size_t KEPT_BYTES_MAX = bounds.KEPT_BYTES_MAX
cdef size_t CONNECTION_KEPT_BYTES = bounds.CONNECTION_KEPT_BYTES

cdef enum:
    WRITE_BYTES = 262144       # goes to the transport in one piece
    STEP_BYTES = 8192          # are dealt with between two looks at the time

# What the transports of all sessions read into: what it holds is dealt with at once.
cdef bytearray _shared_buffer = bytearray(bounds.READ_BUFFER_BYTES)


# Sessions that were ended for too many control frames.
cdef uint64_t _flood_count = 0


def flood_count():
    """How many clients of the process were ended for too many control frames."""
    return _flood_count


# ---------------------------------------------------------------- nghttp2's callbacks


cdef int on_begin_headers(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    cdef Session self = <Session>user_data
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        self.open_stream(frame.hd.stream_id)
        return 0
    except BaseException as fault:
        return self.fail(fault)


cdef int on_header(
    nghttp2_session* session, const nghttp2_frame* frame,
    const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
    uint8_t flags, void* user_data,
) noexcept:
    cdef Session self = <Session>user_data
    cdef void* stream = self.stream_of(frame.hd.stream_id)
    if stream == NULL or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        self.take_header(stream, name, name_size, value, value_size)
        return 0
    except BaseException as fault:
        return self.fail(fault)


cdef int on_frame_recv(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef void* stream
    cdef uint8_t type = frame.hd.type
    try:
        if type == NGHTTP2_HEADERS or type == NGHTTP2_DATA:
            stream = self.stream_of(frame.hd.stream_id)
            if stream == NULL:
                return 0
            if type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
                self.headers_complete(stream)
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                self.request_ended(stream)
            return 0
        if type == NGHTTP2_SETTINGS:
            self.greeted = True
        elif type == NGHTTP2_GOAWAY:
            self.lingers = True
        return 0
    except BaseException as fault:
        return self.fail(fault)


cdef int on_data_chunk_recv(
    nghttp2_session* session, uint8_t flags, int32_t stream_id,
    const uint8_t* data, size_t size, void* user_data,
) noexcept:
    cdef Session self = <Session>user_data
    try:
        self.take_data(self.stream_of(stream_id), data, size)
        return 0
    except BaseException as fault:
        return self.fail(fault)


cdef int on_frame_send(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    # A response that ends before its request has ended: the rest is not wanted.
    cdef Session self = <Session>user_data
    cdef void* stream
    if frame.hd.type == NGHTTP2_GOAWAY and frame.goaway.error_code != NGHTTP2_NO_ERROR:
        self.lingers = True
    if frame.hd.type != NGHTTP2_HEADERS and frame.hd.type != NGHTTP2_DATA:
        return 0
    self.has_said = True
    if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream = self.stream_of(frame.hd.stream_id)
        if stream != NULL and not self.has_request_ended(stream):
            self.has_cut_off = True
            return nghttp2_submit_rst_stream(
                session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR
            )
        # Who takes answers may also ask and cancel a lot.
        self.calm = min(CONTROL_FRAMES_MAX, self.calm + 1)
    return 0


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
) noexcept:
    cdef Session self = <Session>user_data
    cdef void* stream = self.stream_of(stream_id)
    if stream == NULL:
        return 0
    try:
        return self.close_stream(stream)
    except BaseException as fault:
        return self.fail(fault)


cdef ssize_t on_body_wanted(
    nghttp2_session* session, int32_t stream_id, uint8_t* out, size_t room,
    uint32_t* flags, nghttp2_data_source* source, void* user_data,
) noexcept:
    # Gives nghttp2 what may be sent of a response.
    cdef Session self = <Session>user_data
    cdef BodyEnd end = END_NOT_YET
    cdef size_t size
    try:
        size = self.read_body(self.stream_of(stream_id), out, room, &end)
    except BaseException as fault:
        return self.fail(fault)
    if end == END_WITH_TRAILERS:
        flags[0] = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
    elif end == END_OF_STREAM:
        flags[0] = NGHTTP2_DATA_FLAG_EOF
    elif size == 0:
        return NGHTTP2_ERR_DEFERRED
    return <ssize_t>size


cdef nghttp2_session_callbacks* make_callbacks() except NULL:
    cdef nghttp2_session_callbacks* made = NULL
    if nghttp2_session_callbacks_new(&made) != 0:
        raise MemoryError
    nghttp2_session_callbacks_set_on_begin_headers_callback(made, on_begin_headers)
    nghttp2_session_callbacks_set_on_header_callback(made, on_header)
    nghttp2_session_callbacks_set_on_frame_recv_callback(made, on_frame_recv)
    nghttp2_session_callbacks_set_on_frame_send_callback(made, on_frame_send)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, on_data_chunk_recv)
    nghttp2_session_callbacks_set_on_stream_close_callback(made, on_stream_close)
    return made


cdef nghttp2_option* make_option() except NULL:
    cdef nghttp2_option* made = NULL
    if nghttp2_option_new(&made) != 0:
        raise MemoryError
    # Who reads slowly is written to slowly: see Session.consume_stream.
    nghttp2_option_set_no_auto_window_update(made, 1)
    nghttp2_option_set_no_closed_streams(made, 1)
    # Cancelled calls are counted here, against those that were not: see Session.is_calm.
    nghttp2_option_set_stream_reset_rate_limit(made, UINT64_MAX, UINT64_MAX)
    nghttp2_option_set_max_continuations(made, CONTINUATIONS_MAX)
    return made


# For the life of the process.
cdef nghttp2_session_callbacks* _callbacks = make_callbacks()
cdef nghttp2_option* _option = make_option()


cdef class Session(Taker):
    """One client of a server that overrides what is done with its requests."""

    def __cinit__(self, *_arguments):
        self.turns = Turns()
        self.calm = CONTROL_FRAMES_MAX
        self.calm_s = self.opened_s = self.active_s = time.monotonic()

    def __dealloc__(self):
        nghttp2_session_del(self.session)
        free(self.out.data)
        self.drop_kept(self.kept.size)

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport):
        """A client is there."""
        self.transport = transport
        self.peer = transport.get_extra_info("peername")
        channel = transport.get_extra_info("ssl_object")
        self.is_tls = channel is not None
        # An empty one stands for none that was verified.
        self.peer_certificate = transport.get_extra_info("peercert") or None
        self.open_session()
        if self.is_tls and channel.selected_alpn_protocol() != "h2":
            # As HTTP/2 demands of both sides.
            self.part(NGHTTP2_INADEQUATE_SECURITY)
        self.flush()

    def get_buffer(self, sizehint):
        """Where to read into."""
        return _shared_buffer

    def buffer_updated(self, Py_ssize_t size):
        """So many bytes have come."""
        self.take_bytes(<const uint8_t*>PyByteArray_AS_STRING(_shared_buffer), size)

    def data_received(self, bytes data not None):
        """The same, from an event loop that reads into buffers of its own."""
        self.take_bytes(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int take_bytes(self, const uint8_t* data, size_t size) except -1:
        cdef double begun_s
        cdef size_t taken
        if self.kept.size or not self.turns.may_begin(self):
            # Where very much waits already, nobody waits any more: memory comes first.
            if self.kept.size or self.turns.kept_bytes <= KEPT_BYTES_MAX:
                self.active_s = monotonic_s()
                return self.keep(data, size)
        begun_s = self.active_s = self.turns.begin()
        taken = self.deal_with(data, size)
        if taken < size:
            self.keep(data + taken, size - taken)
        self.flush()
        return self.turns.end(begun_s)

    cdef int keep(self, const uint8_t* data, size_t size) except -1:
        # It is dealt with when it is the session's turn.
        bytes_append(&self.kept, data, size)
        self.turns.kept_bytes += size
        if (
            not self.is_held_back
            and self.transport is not None
            and (
                self.kept.size > CONNECTION_KEPT_BYTES or self.turns.kept_bytes > KEPT_BYTES_MAX
            )
        ):
            self.is_held_back = True
            self.transport.pause_reading()
        return self.turns.line_up(self)

    cdef void drop_kept(self, size_t size) noexcept:
        # Forgets the first bytes of what is kept.
        bytes_drop(&self.kept, size)
        self.turns.kept_bytes -= size
        if self.kept.size == 0:
            free(self.kept.data)
            memset(&self.kept, 0, sizeof(self.kept))

    cdef int go_on(self) except -1:
        # It is the session's turn.
        cdef size_t taken
        if self.closing or self.transport is None:
            self.drop_kept(self.kept.size)
            return 0
        if self.paused:
            # Its turn comes once the client has read.
            return 0
        self.begin()
        self.read_on()
        if self.kept.size:
            taken = self.deal_with(self.kept.data, self.kept.size)
            self.drop_kept(taken)
        if self.kept.size:
            self.turns.line_up(self)
        else:
            self.read_again()
        return self.flush()

    cdef int read_again(self) except -1:
        # All that came is dealt with.
        if self.is_held_back and not self.paused and self.transport is not None:
            self.is_held_back = False
            self.transport.resume_reading()
        return 0

    cdef size_t deal_with(self, const uint8_t* data, size_t size) except? 0:
        # Takes what has come, as far as there is time; returns how much that was.
        cdef size_t step
        cdef size_t taken = 0
        frames_begin(&self.frames)
        self.begin()
        while taken < size and not self.closing:
            if taken and self.turns.is_over():
                break
            step = frames_take(&self.frames, data + taken, min(size - taken, <size_t>STEP_BYTES))
            self.feed(data + taken, step)
            taken += step
        if is_between(&self.frames):
            self.unfinished_s = 0
        elif self.frames.has_begun or self.unfinished_s == 0:
            self.unfinished_s = self.active_s
        return size if self.closing else taken

    cdef int feed(self, const uint8_t* data, size_t size) except -1:
        # The bytes that `frames` has just looked at.
        global _flood_count
        cdef ssize_t taken
        if (self.frames.costly or self.frames.pings) and not self.is_calm():
            _flood_count += 1
            return self.part(NGHTTP2_ENHANCE_YOUR_CALM)
        self.reading = True
        taken = nghttp2_session_mem_recv(self.session, data, size)
        self.reading = False
        if self.fault is not None:
            fault, self.fault = self.fault, None
            _log.error("a connection failed", exc_info=fault)
            return self.part(NGHTTP2_INTERNAL_ERROR)
        if taken < 0:
            # Not HTTP/2, or more than the session takes.
            return self.part(NGHTTP2_PROTOCOL_ERROR)
        if (
            self.frames.suspect_id
            and self.stream_of(self.frames.suspect_id) == NULL
            # Once a stream was ended before the client did, more of it may be under way.
            and not self.has_cut_off
        ):
            return self.part(NGHTTP2_STREAM_CLOSED)
        return 0

    def eof_received(self):
        """The client has hung up."""
        return False

    def connection_lost(self, error):
        """Nobody is there any more."""
        self.closing = True
        self.transport = None
        self.drop_kept(self.kept.size)

    def pause_writing(self):
        """The client reads too slowly: neither write nor read until it has caught up."""
        self.paused = True
        self.paused_s = time.monotonic()
        self.transport.pause_reading()

    def resume_writing(self):
        """The client has caught up."""
        self.paused = False
        self.paused_s = 0
        self.is_held_back = True
        if self.kept.size or self.waits_turn:
            # What has waited goes first.
            self.turns.line_up(self)
        if self.kept.size == 0:
            self.read_again()
        self.flush()

    def ping(self):
        """Asks whether the client is still there; that it answers shows in `active_s`."""
        if not self.closing:
            self.check(nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL))
            self.flush()

    # ------------------------------------------------------------ the end of a session

    def announce_shutdown(self):
        """Asks the client to send no more calls; those that it has sent meanwhile are answered."""
        if not self.closing:
            self.check(nghttp2_submit_shutdown_notice(self.session))
            self.flush()

    def shut_down(self, uint32_t error_code=0):
        """Takes no more calls and closes once those under way are answered."""
        if self.closing:
            return
        self.check(
            nghttp2_submit_goaway(
                self.session,
                NGHTTP2_FLAG_NONE,
                nghttp2_session_get_last_proc_stream_id(self.session),
                error_code,
                NULL,
                0,
            )
        )
        self.flush()

    cdef int part(self, uint32_t error_code) except -1:
        # Tells the client why, and closes.
        nghttp2_session_terminate_session(self.session, error_code)
        self.flush()
        return self.close()

    cdef int close(self) except -1:
        # Once what is written already has gone out.
        if self.closing or self.transport is None:
            return 0
        self.closing = True
        self.closing_s = time.monotonic()
        if self.lingers and not self.paused and self.transport.can_write_eof():
            # To close with something unread would keep the client from reading why: what it still
            # sends is thrown away, until it hangs up or has had its time.
            self.transport.write_eof()
        else:
            self.transport.close()
        return 0

    def abort(self):
        """Closes at once."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    # ------------------------------------------------------------ what a server overrides

    cdef int begin(self) except -1:
        # Bytes have come; all that they hold comes before the next call of this.
        return 0

    cdef int open_stream(self, int32_t stream_id) except -1:
        # A request begins.
        return 0

    cdef int take_header(
        self, void* stream, const uint8_t* name, size_t name_size,
        const uint8_t* value, size_t value_size,
    ) except -1:
        # One field of its header; `stream` is what was attached to it.
        return 0

    cdef int headers_complete(self, void* stream) except -1:
        # All of its header has come.
        return 0

    cdef int take_data(self, void* stream, const uint8_t* data, size_t size) except -1:
        # Part of its body; NULL for a stream that is gone.
        return 0

    cdef int request_ended(self, void* stream) except -1:
        # Nothing more comes of it.
        return 0

    cdef bint has_request_ended(self, void* stream) noexcept:
        # Whether that was said of it.
        return True

    cdef int close_stream(self, void* stream) except -1:
        # It is over, one way or another.
        return 0

    cdef size_t read_body(
        self, void* stream, uint8_t* out, size_t room, BodyEnd* end
    ) except? 0:
        # Writes what can be sent of its response, nothing until `resume` if there is nothing now;
        # says whether that was all, after having given the trailers if there are any.
        end[0] = END_OF_STREAM
        return 0

    cdef bint refill(self) except -1:
        # All was sent, and `is_thirsty` was set: whether there is more to say now.
        return False

    cdef int read_on(self) except -1:
        # It is the session's turn: what else of it has waited for that.
        return 0

    # ------------------------------------------------------------ what it asks of the session

    cdef void* stream_of(self, int32_t stream_id) noexcept:
        # What is attached; NULL for a stream that is gone.
        return nghttp2_session_get_stream_user_data(self.session, stream_id)

    cdef int attach_stream(self, int32_t stream_id, void* stream) except -1:
        return self.check(nghttp2_session_set_stream_user_data(self.session, stream_id, stream))

    cdef void detach_stream(self, int32_t stream_id) noexcept:
        nghttp2_session_set_stream_user_data(self.session, stream_id, NULL)

    cdef int respond(
        self, int32_t stream_id, const nghttp2_nv* fields, size_t count, bint has_body
    ) except -1:
        # Sends the header of a response; with a body, `read_body` is asked for it.
        cdef nghttp2_data_provider provider
        provider.source.ptr = NULL
        provider.read_callback = on_body_wanted
        return self.check(
            nghttp2_submit_response(
                self.session, stream_id, fields, count, &provider if has_body else NULL
            )
        )

    cdef int trail(self, int32_t stream_id, const nghttp2_nv* fields, size_t count) except -1:
        # Sends the trailers of a response, behind its body.
        return self.check(nghttp2_submit_trailer(self.session, stream_id, fields, count))

    cdef int resume(self, int32_t stream_id) except -1:
        # `read_body` has something again.
        return self.check(nghttp2_session_resume_data(self.session, stream_id))

    cdef int consume_connection(self, size_t size) except -1:
        # The client may send so much more on all streams together.
        return self.check(nghttp2_session_consume_connection(self.session, size))

    cdef int consume_stream(self, int32_t stream_id, size_t size) except -1:
        # The client may send so much more on this stream.
        return self.check(nghttp2_session_consume_stream(self.session, stream_id, size))

    cdef int open_session(self) except -1:
        cdef nghttp2_settings_entry[3] entries
        entries[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        entries[0].value = STREAMS_MAX
        entries[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        entries[1].value = STREAM_WINDOW_BYTES
        entries[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        entries[2].value = HEADER_BYTES_MAX
        self.check(
            nghttp2_session_server_new3(
                &self.session, _callbacks, <void*>self, _option, session_memory()
            )
        )
        self.check(nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, entries, 3))
        return self.check(
            nghttp2_session_set_local_window_size(
                self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW_BYTES
            )
        )

    cdef int flush(self) except -1:
        # Writes all that the session has to say, as far as the client reads it.
        cdef const uint8_t* data
        cdef ssize_t size
        if self.transport is None or self.closing:
            return 0
        while not self.paused:
            size = nghttp2_session_mem_send(self.session, &data)
            if size < 0:
                fault, self.fault = self.fault, None
                _log.error(
                    "a session failed: %s", nghttp2_strerror(<int>size).decode(), exc_info=fault
                )
                self.abort()
                return 0
            if size:
                bytes_append(&self.out, data, size)
            if self.out.size and (size == 0 or self.out.size >= WRITE_BYTES):
                self.transport.write(
                    PyBytes_FromStringAndSize(<const char*>self.out.data, self.out.size)
                )
                self.out.size = 0
            if size == 0 and not (self.is_thirsty and self.refill()):
                break
        if not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(
            self.session
        ):
            return self.close()
        return 0

    # ------------------------------------------------------------ faults and floods

    cdef int check(self, Py_ssize_t code) except -1:
        if code < 0:
            raise RuntimeError(f"nghttp2: {nghttp2_strerror(<int>code).decode()}")
        return 0

    cdef int fail(self, object fault) noexcept:
        # Inside a callback: the session stops, and the fault is told behind it.
        self.fault = fault
        return NGHTTP2_ERR_CALLBACK_FAILURE

    cdef bint is_calm(self) noexcept:
        # Counts frames that cost us more than the client. An honest one sends few of them; but a
        # ping for each reply, by which clients measure the path, is one too.
        self.calm -= self.frames.costly + self.frames.pings
        if self.frames.pings and self.has_said:
            self.has_said = False
            self.calm += 1
        if self.calm < 0:
            self.calm = min(
                CONTROL_FRAMES_MAX,
                self.calm + (self.active_s - self.calm_s) * CONTROL_FRAMES_PER_S,
            )
            self.calm_s = self.active_s
        return self.calm >= 0
