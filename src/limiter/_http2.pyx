# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""gRPC over HTTP/2 as an asyncio protocol: frames in, calls out, and back.

libnghttp2 keeps the protocol's state, we keep the calls. Bytes of the socket go into the session,
whose callbacks fill streams; a complete request of a hot method goes to the HotHandler without a
Python object of its own, any other to the server's Python handlers. What the session has to say is
collected and written once when all bytes that came together are dealt with.

What always holds: a client that does not read stops being read from, so that what it costs is
bounded; nobody may send more control frames than an honest client would; a stream outlives its
connection only for the groups that it waits for, and answers nobody then.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport calloc, free, realloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

import logging
import time

from limiter import bounds
from limiter._nghttp2 cimport *

_log = logging.getLogger(__name__)

cdef size_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef size_t HEADER_BYTES_MAX = bounds.HEADER_LIST_BYTES_MAX
cdef size_t HELD_BYTES_MAX = bounds.STREAM_UNREAD_BYTES_MAX
cdef uint32_t STREAMS_MAX = bounds.CONNECTION_STREAMS_MAX
cdef int32_t STREAM_WINDOW_BYTES = bounds.STREAM_WINDOW_BYTES
cdef int32_t CONNECTION_WINDOW_BYTES = bounds.CONNECTION_WINDOW_BYTES
cdef double CONTROL_FRAMES_MAX = bounds.CONTROL_FRAMES_MAX
cdef double CONTROL_FRAMES_PER_S = bounds.CONTROL_FRAMES_PER_S

cdef enum:
    PREFIX_BYTES = 5           # of a gRPC message: compressed or not, size
    WRITE_BYTES = 262144       # goes to the transport in one piece
    COMPACT_BYTES = 65536      # sent bytes that a reply's buffer keeps at most
    TRAILERS_MAX = 64

# What the transports of all connections read into: what it holds is dealt with at once.
cdef bytearray _shared_buffer = bytearray(bounds.READ_BUFFER_BYTES)


# ---------------------------------------------------------------- growing bytes


cdef int bytes_append(Bytes* bytes, const void* data, size_t size) except -1:
    cdef size_t capacity
    cdef uint8_t* grown
    if bytes.size + size > bytes.capacity:
        capacity = max(bytes.size + size, 2 * bytes.capacity, 64)
        grown = <uint8_t*>realloc(bytes.data, capacity)
        if grown == NULL:
            raise MemoryError
        bytes.data = grown
        bytes.capacity = capacity
    memcpy(bytes.data + bytes.size, data, size)
    bytes.size += size
    return 0


cdef void bytes_drop(Bytes* bytes, size_t size) noexcept:
    # Forgets the first bytes.
    bytes.size -= size
    memmove(bytes.data, bytes.data + size, bytes.size)


cdef void stream_release(Stream* stream) noexcept:
    # Gives one reference back.
    stream.references -= 1
    if stream.references:
        return
    Py_XDECREF(stream.head)
    Py_XDECREF(stream.call)
    Py_XDECREF(stream.trailers)
    free(stream.received.data)
    free(stream.reply.data)
    free(stream)


# ---------------------------------------------------------------- header fields


cdef inline bint same(const uint8_t* text, size_t size, bytes expected) noexcept:
    return (
        size == <size_t>PyBytes_GET_SIZE(expected)
        and memcmp(text, PyBytes_AS_STRING(expected), size) == 0
    )


cdef inline nghttp2_nv field(bytes name, bytes value) noexcept:
    cdef nghttp2_nv nv
    nv.name = <uint8_t*>PyBytes_AS_STRING(name)
    nv.namelen = PyBytes_GET_SIZE(name)
    nv.value = <uint8_t*>PyBytes_AS_STRING(value)
    nv.valuelen = PyBytes_GET_SIZE(value)
    nv.flags = NGHTTP2_NV_FLAG_NONE
    return nv


cdef bint is_grpc_type(const uint8_t* value, size_t size) noexcept:
    # `application/grpc`, alone or with a suffix or parameters.
    cdef bytes expected = b"application/grpc"
    cdef size_t length = PyBytes_GET_SIZE(expected)
    return (
        size >= length
        and memcmp(value, PyBytes_AS_STRING(expected), length) == 0
        and (size == length or value[length] == c'+' or value[length] == c';')
    )


cdef int64_t timeout_ns(const uint8_t* value, size_t size) noexcept:
    # The value of `grpc-timeout`: up to eight digits and a unit; -1 when it is not one.
    cdef int64_t count = 0
    cdef size_t i
    if not 2 <= size <= 9:
        return -1
    for i in range(size - 1):
        if not c'0' <= value[i] <= c'9':
            return -1
        count = 10 * count + value[i] - c'0'
    if value[size - 1] == c'n':
        return count
    if value[size - 1] == c'u':
        return count * 1_000
    if value[size - 1] == c'm':
        return count * 1_000_000
    if value[size - 1] == c'S':
        return count * 1_000_000_000
    # Longer ones are cut at a year, which no 64-bit clock runs over.
    if value[size - 1] == c'M':
        return min(count, 525_600) * 60_000_000_000
    if value[size - 1] == c'H':
        return min(count, 8_760) * 3_600_000_000_000
    return -1


# ---------------------------------------------------------------- the session's callbacks


cdef int on_begin_headers(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    cdef Connection connection = <Connection>user_data
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        connection.open_stream(frame.hd.stream_id)
        return 0
    except BaseException as fault:
        return connection.fail(fault)


cdef int on_header(
    nghttp2_session* session, const nghttp2_frame* frame,
    const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
    uint8_t flags, void* user_data,
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream = connection.stream_of(frame.hd.stream_id)
    if stream == NULL or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        connection.take_header(stream, name, name_size, value, value_size)
        return 0
    except BaseException as fault:
        return connection.fail(fault)


cdef int on_frame_recv(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream
    cdef uint8_t type = frame.hd.type
    try:
        if type == NGHTTP2_HEADERS or type == NGHTTP2_DATA:
            stream = connection.stream_of(frame.hd.stream_id)
            if type == NGHTTP2_DATA and frame.hd.length == 0:
                connection.spend_calm()
            if stream == NULL:
                return 0
            if type == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
                connection.headers_complete(stream)
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                stream.received_end = True
                connection.deliver(stream)
            return 0
        if type == NGHTTP2_SETTINGS:
            connection.greeted = True
        if not (frame.hd.flags & NGHTTP2_FLAG_ACK and type != NGHTTP2_RST_STREAM):
            if type == NGHTTP2_PING or type == NGHTTP2_SETTINGS or type == NGHTTP2_RST_STREAM:
                connection.spend_calm()
        return 0
    except BaseException as fault:
        return connection.fail(fault)


cdef int on_data_chunk_recv(
    nghttp2_session* session, uint8_t flags, int32_t stream_id,
    const uint8_t* data, size_t size, void* user_data,
) noexcept:
    cdef Connection connection = <Connection>user_data
    try:
        connection.take_data(connection.stream_of(stream_id), data, size)
        return 0
    except BaseException as fault:
        return connection.fail(fault)


cdef int on_frame_send(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    # A response that ends before its request has ended: the rest is not wanted.
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream
    if (
        frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA
    ) and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream = connection.stream_of(frame.hd.stream_id)
        if stream != NULL and not stream.received_end:
            return nghttp2_submit_rst_stream(
                session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR
            )
    return 0


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef Stream* stream = connection.stream_of(stream_id)
    if stream == NULL:
        return 0
    try:
        return connection.close_stream(stream)
    except BaseException as fault:
        return connection.fail(fault)


cdef ssize_t read_reply(
    nghttp2_session* session, int32_t stream_id, uint8_t* out, size_t room,
    uint32_t* flags, nghttp2_data_source* source, void* user_data,
) noexcept:
    # Gives the session what may be sent of a reply.
    cdef Stream* stream = <Stream*>source.ptr
    cdef size_t size = min(room, <size_t>(stream.sendable - stream.sent))
    cdef uint64_t end = stream.reply_start + stream.reply.size
    if size:
        memcpy(out, stream.reply.data + (stream.sent - stream.reply_start), size)
        stream.sent += size
        if stream.sent - stream.reply_start > COMPACT_BYTES or stream.sent == end:
            bytes_drop(&stream.reply, <size_t>(stream.sent - stream.reply_start))
            stream.reply_start = stream.sent
    if stream.answered and stream.sent == end:
        flags[0] = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        if submit_trailers(session, stream) != 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    elif size == 0:
        stream.deferred = True
        return NGHTTP2_ERR_DEFERRED
    return size


cdef int fill_fields(nghttp2_nv* fields, object rows) except -1:
    # `fields` has room for TRAILERS_MAX; returns how many there are.
    cdef int count = 0
    for name, value in rows:
        if count == TRAILERS_MAX:
            break
        fields[count] = field(name, value)
        count += 1
    return count


cdef int submit_trailers(nghttp2_session* session, Stream* stream) noexcept:
    cdef nghttp2_nv[TRAILERS_MAX] fields
    cdef int count = 1
    if stream.trailers == NULL:
        fields[0] = field(b"grpc-status", b"0")
        fields[0].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    else:
        try:
            count = fill_fields(fields, <object>stream.trailers)
        except Exception:
            _log.exception("trailers that are no pairs of bytes")
            return -1
    return nghttp2_submit_trailer(session, stream.id, fields, count)


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
    # Who reads slowly is written to slowly: see Connection.consume.
    nghttp2_option_set_no_auto_window_update(made, 1)
    nghttp2_option_set_no_closed_streams(made, 1)
    return made


# For the life of the process.
cdef nghttp2_session_callbacks* _callbacks = make_callbacks()
cdef nghttp2_option* _option = make_option()


cdef class HotHandler:
    """Answers the calls that have no Python handler; this one knows none."""

    def leave(self, Connection connection not None):
        """The server stops: ends the calls that would not end by themselves."""

    cdef int method_of(self, const uint8_t* path, size_t size) noexcept:
        # The number of a hot method, 0 when it is none.
        return 0

    cdef int begin(self) except -1:
        # Bytes have come that may hold calls: all of them are decided at one instant.
        return 0

    cdef int receive(self, Connection connection, Stream* stream) except -1:
        # More of a hot stream has come, or its end.
        return 0


@cython.final
cdef class Connection:
    """One client. `server` makes calls of what is not hot: `open_call(connection, stream_id, path,
    metadata, timeout_s)` gives an object with `receive(message)`, `half_close()` and `cancel()`, or
    None when it has answered already; and it is told of `opened(connection)` and
    `closed(connection)`."""

    def __cinit__(self, server, HotHandler hot not None):
        self.server = server
        self.hot = hot
        self.calm = CONTROL_FRAMES_MAX
        self.calm_s = self.opened_s = self.active_s = time.monotonic()

    def __dealloc__(self):
        nghttp2_session_del(self.session)
        free(self.out.data)

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport):
        """A client is there."""
        self.transport = transport
        self.peer = transport.get_extra_info("peername")
        self.open_session()
        self.server.opened(self)
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
        cdef ssize_t taken
        if self.closing:
            return 0
        self.active_s = time.monotonic()
        self.hot.begin()
        self.reading = True
        taken = nghttp2_session_mem_recv(self.session, data, size)
        self.reading = False
        if self.fault is not None:
            fault, self.fault = self.fault, None
            _log.error("a connection failed", exc_info=fault)
            nghttp2_session_terminate_session(self.session, NGHTTP2_INTERNAL_ERROR)
        elif taken < 0:
            # Not HTTP/2, or out of memory: nothing that could be answered.
            self.flush()
            self.abort()
            return 0
        return self.flush()

    def eof_received(self):
        """The client sends no more; answers to it may still be under way."""
        return False

    def connection_lost(self, error):
        """Nobody is there any more."""
        self.closing = True
        while self.streams != NULL:
            self.close_stream(self.streams)
        self.transport = None
        self.server.closed(self)

    def pause_writing(self):
        """The client reads too slowly: neither write nor read until it has caught up."""
        self.paused = True
        self.transport.pause_reading()

    def resume_writing(self):
        """The client has caught up."""
        self.paused = False
        self.transport.resume_reading()
        self.flush()

    # ------------------------------------------------------------ the server's side

    def send(self, int32_t stream_id, object headers, object message):
        """Sends initial metadata, if that has not gone out yet, and a message unless it is None.
        Returns how many bytes wait to be sent; 0 for a stream that is gone."""
        cdef Stream* stream = self.stream_of(stream_id)
        if stream == NULL or stream.answered:
            return 0
        if not stream.started:
            self.submit(stream, headers)
        if message is not None:
            self.add_reply(
                stream, <const uint8_t*>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message)
            )
            self.release(stream, stream.reply_start + stream.reply.size)
        self.flush_unless_reading()
        return stream.reply.size if self.stream_of(stream_id) != NULL else 0

    def end(self, int32_t stream_id, object headers, object trailers):
        """Ends a call with these trailers; `headers` go before if they have not yet."""
        cdef Stream* stream = self.stream_of(stream_id)
        if stream == NULL or stream.answered:
            return
        if not stream.started and headers:
            self.submit(stream, headers)
        self.finish(stream, trailers)
        self.flush_unless_reading()

    def took(self, int32_t stream_id, size_t size):
        """The handler has taken a message of so many bytes: the client may send as much again."""
        cdef Stream* stream = self.stream_of(stream_id)
        if stream == NULL:
            return
        size = min(size + PREFIX_BYTES, stream.held)
        stream.held -= size
        self.check(nghttp2_session_consume_stream(self.session, stream_id, size))
        self.flush_unless_reading()

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

    def abort(self):
        """Closes at once."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def flush_unless_reading(self):
        """Writes what there is, unless that comes anyway when all that was read is dealt with."""
        if not self.reading:
            self.flush()

    # ------------------------------------------------------------ streams: what comes in

    cdef int open_session(self) except -1:
        cdef nghttp2_settings_entry[3] entries
        entries[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        entries[0].value = STREAMS_MAX
        entries[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        entries[1].value = STREAM_WINDOW_BYTES
        entries[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        entries[2].value = HEADER_BYTES_MAX
        self.check(
            nghttp2_session_server_new2(&self.session, _callbacks, <void*>self, _option)
        )
        self.check(nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, entries, 3))
        return self.check(
            nghttp2_session_set_local_window_size(
                self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW_BYTES
            )
        )

    cdef Stream* stream_of(self, int32_t stream_id) noexcept:
        # NULL for a stream that is gone.
        return <Stream*>nghttp2_session_get_stream_user_data(self.session, stream_id)

    cdef Stream* open_stream(self, int32_t stream_id) except NULL:
        cdef Stream* stream = <Stream*>calloc(1, sizeof(Stream))
        if stream == NULL:
            raise MemoryError
        stream.references = 1
        stream.id = stream_id
        stream.connection = <PyObject*>self
        stream.next = self.streams
        if self.streams != NULL:
            self.streams.previous = stream
        self.streams = stream
        self.stream_count += 1
        self.check(nghttp2_session_set_stream_user_data(self.session, stream_id, stream))
        return stream

    cdef int close_stream(self, Stream* stream) except -1:
        # The stream has ended, one way or another.
        call = None
        if stream.call != NULL:
            call = <object>stream.call
        nghttp2_session_set_stream_user_data(self.session, stream.id, NULL)
        if stream.previous != NULL:
            stream.previous.next = stream.next
        else:
            self.streams = stream.next
        if stream.next != NULL:
            stream.next.previous = stream.previous
        stream.connection = NULL
        self.stream_count -= 1
        stream_release(stream)
        if call is not None:
            call.cancel()
        return 0

    cdef int take_header(
        self, Stream* stream, const uint8_t* name, size_t name_size,
        const uint8_t* value, size_t value_size,
    ) except -1:
        cdef int64_t timeout
        stream.header_bytes += name_size + value_size + 32
        if stream.header_bytes > HEADER_BYTES_MAX:
            return 0
        if name[0] == c':':
            if same(name, name_size, b":path"):
                stream.method = self.hot.method_of(value, value_size)
                if stream.method == 0:
                    head = [value[:value_size]]
                    Py_INCREF(head)
                    stream.head = <PyObject*>head
            elif same(name, name_size, b":method"):
                stream.is_post = same(value, value_size, b"POST")
            return 0
        if same(name, name_size, b"content-type"):
            stream.is_grpc = is_grpc_type(value, value_size)
        elif same(name, name_size, b"grpc-timeout"):
            timeout = timeout_ns(value, value_size)
            if timeout >= 0:
                stream.deadline_ns = time.monotonic_ns() + timeout
        elif same(name, name_size, b"grpc-encoding"):
            if same(value, value_size, b"gzip"):
                stream.encoding = ENCODING_GZIP
            elif not same(value, value_size, b"identity"):
                stream.encoding = ENCODING_UNKNOWN
        elif stream.head != NULL:
            (<list>stream.head).append((name[:name_size], value[:value_size]))
        return 0

    cdef int headers_complete(self, Stream* stream) except -1:
        # All that is known of a request before its messages.
        if stream.header_bytes > HEADER_BYTES_MAX:
            return self.refuse(stream, b"431")
        if not stream.is_post:
            return self.refuse(stream, b"405")
        if not stream.is_grpc:
            return self.refuse(stream, b"415")
        if stream.encoding == ENCODING_UNKNOWN:
            return self.finish(stream, self.server.unknown_encoding())
        if stream.method:
            return 0
        head = <list>stream.head
        timeout_s = None
        if stream.deadline_ns:
            timeout_s = (stream.deadline_ns - time.monotonic_ns()) / 1e9
        call = self.server.open_call(self, stream.id, head[0], head[1:], timeout_s)
        if call is not None:
            Py_INCREF(call)
            stream.call = <PyObject*>call
        return 0

    cdef int take_data(self, Stream* stream, const uint8_t* data, size_t size) except -1:
        # Part of a stream's messages; `stream` may be gone.
        self.check(nghttp2_session_consume_connection(self.session, size))
        if stream == NULL:
            return 0
        if stream.answered:
            # Nobody reads it any more. The client learns so when the answer is out.
            return self.check(nghttp2_session_consume_stream(self.session, stream.id, size))
        bytes_append(&stream.received, data, size)
        stream.held += size
        if stream.received.size >= PREFIX_BYTES:
            if message_size(stream.received.data) > MESSAGE_BYTES_MAX:
                return self.finish(
                    stream, self.server.too_large(message_size(stream.received.data))
                )
        return self.deliver(stream)

    cdef int deliver(self, Stream* stream) except -1:
        # Hands on what is complete.
        cdef size_t size
        cdef size_t offset = 0
        if stream.answered:
            return 0
        if stream.method:
            return self.hot.receive(self, stream)
        if stream.call == NULL:
            return 0
        call = <object>stream.call
        while stream.received.size - offset >= PREFIX_BYTES:
            size = message_size(stream.received.data + offset)
            if size > MESSAGE_BYTES_MAX:
                return self.finish(stream, self.server.too_large(size))
            if stream.received.size - offset - PREFIX_BYTES < size:
                break
            call.receive(
                stream.received.data[offset],
                stream.encoding == ENCODING_GZIP,
                PyBytes_FromStringAndSize(
                    <const char*>stream.received.data + offset + PREFIX_BYTES, size
                ),
            )
            offset += PREFIX_BYTES + size
        bytes_drop(&stream.received, offset)
        # A message that is not complete must not wait for room; complete ones hold it.
        if stream.held <= HELD_BYTES_MAX + stream.received.size:
            self.consume(stream, min(stream.held, stream.received.size))
        if stream.received_end:
            call.half_close(stream.received.size == 0)
        return 0

    cdef int consume(self, Stream* stream, size_t size) except -1:
        # So much of what was received makes room for more.
        stream.held -= size
        return self.check(nghttp2_session_consume_stream(self.session, stream.id, size))

    # ------------------------------------------------------------ streams: what goes out

    cdef int refuse(self, Stream* stream, bytes status) except -1:
        # Answers a request that is no gRPC with an HTTP status.
        cdef nghttp2_nv[1] fields
        fields[0] = field(b":status", status)
        stream.answered = stream.started = True
        return self.check(nghttp2_submit_response(self.session, stream.id, fields, 1, NULL))

    cdef int add_reply(self, Stream* stream, const uint8_t* data, size_t size) except -1:
        # Adds one message to a reply; it is sent once it is released.
        cdef uint8_t[PREFIX_BYTES] prefix
        prefix[0] = 0
        prefix[1] = <uint8_t>(size >> 24)
        prefix[2] = <uint8_t>(size >> 16)
        prefix[3] = <uint8_t>(size >> 8)
        prefix[4] = <uint8_t>size
        bytes_append(&stream.reply, prefix, PREFIX_BYTES)
        return bytes_append(&stream.reply, data, size)

    cdef int release(self, Stream* stream, uint64_t offset) except -1:
        # Everything up to an offset of the reply may be sent.
        stream.sendable = max(stream.sendable, offset)
        if not stream.started:
            return self.submit(stream, None)
        return self.resume(stream)

    cdef int resume(self, Stream* stream) except -1:
        if stream.deferred:
            stream.deferred = False
            self.check(nghttp2_session_resume_data(self.session, stream.id))
        return 0

    cdef int submit(self, Stream* stream, object headers) except -1:
        # The response's headers; its messages and trailers follow.
        cdef nghttp2_nv[TRAILERS_MAX + 2] fields
        cdef nghttp2_data_provider provider
        cdef int count = 2
        fields[0] = field(b":status", b"200")
        fields[1] = field(b"content-type", b"application/grpc")
        if headers:
            count += fill_fields(fields + 2, headers)
        provider.source.ptr = stream
        provider.read_callback = read_reply
        stream.started = True
        return self.check(
            nghttp2_submit_response(self.session, stream.id, fields, count, &provider)
        )

    cdef int finish(self, Stream* stream, object trailers) except -1:
        # Ends the response once all that was released is sent; without trailers, with status OK.
        cdef nghttp2_nv[TRAILERS_MAX + 2] fields
        cdef int count
        stream.answered = True
        if trailers is not None:
            Py_INCREF(trailers)
            stream.trailers = <PyObject*>trailers
        if stream.started:
            return self.resume(stream)
        if trailers is None or stream.reply.size:
            return self.submit(stream, None)
        stream.started = True
        fields[0] = field(b":status", b"200")
        fields[1] = field(b"content-type", b"application/grpc")
        count = 2 + fill_fields(fields + 2, trailers)
        return self.check(
            nghttp2_submit_response(self.session, stream.id, fields, count, NULL)
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
                _log.error("a session failed: %s", nghttp2_strerror(<int>size).decode())
                self.abort()
                return 0
            if size:
                bytes_append(&self.out, data, size)
            if self.out.size and (size == 0 or self.out.size >= WRITE_BYTES):
                self.transport.write(
                    PyBytes_FromStringAndSize(<const char*>self.out.data, self.out.size)
                )
                self.out.size = 0
            if size == 0:
                break
        if not nghttp2_session_want_read(self.session) and not nghttp2_session_want_write(
            self.session
        ):
            self.closing = True
            self.transport.close()
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

    cdef int spend_calm(self) except -1:
        # A frame that costs us more than the client. An honest one sends few of them.
        cdef double now_s
        self.calm -= 1
        if self.calm >= 0:
            return 0
        now_s = time.monotonic()
        self.calm = min(CONTROL_FRAMES_MAX, (now_s - self.calm_s) * CONTROL_FRAMES_PER_S) - 1
        self.calm_s = now_s
        if self.calm < 0:
            self.check(
                nghttp2_session_terminate_session(self.session, NGHTTP2_ENHANCE_YOUR_CALM)
            )
        return 0


cdef inline size_t message_size(const uint8_t* prefix) noexcept:
    return (
        <size_t>prefix[1] << 24 | <size_t>prefix[2] << 16 | <size_t>prefix[3] << 8 | prefix[4]
    )
