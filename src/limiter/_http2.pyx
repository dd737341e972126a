# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""gRPC over HTTP/2: requests of a session in, calls out, and back.

A complete request of a hot method goes to the HotHandler without a Python object of its own, any
other to the server's Python handlers.

What always holds: a call is answered once; a stream outlives its connection only for the groups
that it waits for, and answers nobody then.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport calloc, free
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

import time

from limiter import bounds
from limiter._http2_bytes cimport Bytes, bytes_append, bytes_drop
from limiter._http2_fields cimport (
    PREFIX_BYTES,
    field,
    is_grpc_type,
    message_size,
    same,
    timeout_ns,
    write_prefix,
)
from limiter._http2_memory cimport KEPT_MAX
from limiter._http2_session cimport END_OF_STREAM, END_WITH_TRAILERS, BodyEnd
from limiter._http2_turns cimport Turns
from limiter._nghttp2 cimport (
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    NGHTTP2_NV_FLAG_NO_COPY_VALUE,
    nghttp2_nv,
)

cdef size_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef size_t HEADER_BYTES_MAX = bounds.HEADER_LIST_BYTES_MAX
cdef size_t HELD_BYTES_MAX = bounds.STREAM_UNREAD_BYTES_MAX
cdef size_t CONNECTION_UNREAD_BYTES_MAX = bounds.CONNECTION_UNREAD_BYTES_MAX
cdef size_t UNREAD_BYTES_MAX = bounds.UNREAD_BYTES_MAX
cdef size_t STREAMS_MAX = bounds.OPEN_STREAMS_MAX
cdef double UNFINISHED_S_MAX = bounds.UNFINISHED_MS_MAX / 1000

cdef enum:
    COMPACT_BYTES = 65536      # sent bytes that a reply's buffer keeps at most
    TRAILERS_MAX = 64
    SPARE_BYTES_MAX = 1024     # buffers that a stream may keep for the next call


# Streams that are over, with their buffers: the next calls take them.
cdef Stream* _spare = NULL
cdef size_t _spare_count = 0


cdef Stream* new_stream() except NULL:
    global _spare, _spare_count
    cdef Stream* stream = _spare
    cdef Bytes received
    cdef Bytes reply
    if stream == NULL:
        stream = <Stream*>calloc(1, sizeof(Stream))
        if stream == NULL:
            raise MemoryError
        return stream
    _spare = stream.next
    _spare_count -= 1
    received = stream.received
    reply = stream.reply
    memset(stream, 0, sizeof(Stream))
    stream.received = received
    stream.reply = reply
    stream.received.size = stream.reply.size = 0
    return stream


# Of all connections together.
cdef size_t _unread_bytes = 0
cdef size_t _stream_count = 0


def open_stream_count():
    """Calls that are under way, on all connections of the process."""
    return _stream_count


cdef void stream_release(Stream* stream) noexcept:
    # Gives one reference back.
    global _spare, _spare_count
    stream.references -= 1
    if stream.references:
        return
    Py_XDECREF(stream.head)
    Py_XDECREF(stream.call)
    Py_XDECREF(stream.credential)
    Py_XDECREF(stream.span)
    Py_XDECREF(stream.trailers)
    if (
        _spare_count < KEPT_MAX
        and stream.received.capacity + stream.reply.capacity <= SPARE_BYTES_MAX
    ):
        stream.next = _spare
        _spare = stream
        _spare_count += 1
        return
    free(stream.received.data)
    free(stream.reply.data)
    free(stream)


cdef int fill_fields(nghttp2_nv* fields, object rows) except -1:
    # `fields` has room for TRAILERS_MAX; returns how many there are.
    cdef int count = 0
    for name, value in rows:
        if count == TRAILERS_MAX:
            raise ValueError(f"more than {TRAILERS_MAX} fields of metadata")
        fields[count] = field(name, value)
        count += 1
    return count


cdef class HotHandler:
    """Answers the calls that have no Python handler; this one knows none."""

    def __cinit__(self, *_arguments):
        self.turns = Turns()

    def leave(self, Connection connection not None):
        """The server stops: ends the calls that would not end by themselves."""

    def has_streams(self):
        """Whether calls are open that may stay so for long, on any connection."""
        return False

    def look(self, Connection connection not None):
        """Ends such calls of the connection whose callers are not let in any more."""

    cdef int method_of(self, const uint8_t* path, size_t size) noexcept:
        # The number of a hot method, 0 when it is none.
        return 0

    cdef int begin(self) except -1:
        # Bytes have come that may hold calls: all of them are decided at one instant.
        return 0

    cdef int opened(self, Connection connection, Stream* stream) except -1:
        # A hot call begins.
        return 0

    cdef void closed(self, Stream* stream) noexcept:
        # A hot call is over.
        pass

    cdef int identify(
        self, Connection connection, Stream* stream, const uint8_t* shown, size_t size
    ) except -1:
        # What the caller of a hot method shows as `authorization`.
        return 0

    cdef int receive(self, Connection connection, Stream* stream) except -1:
        # More of a hot stream has come, or its end.
        return 0

    cdef int expire(self, Connection connection, Stream* stream) except -1:
        # A hot call that has no answer yet is past its deadline, or its request does not come.
        return 0


@cython.final
cdef class Connection(Session):
    """One client. `server` makes calls of what is not hot: `open_call(connection, stream_id, path,
    metadata, timeout_s)` gives an object with `receive(message)`, `half_close()` and `cancel()`, or
    None when it has answered already; and it is told of `opened(connection)` and
    `closed(connection)`."""

    def __cinit__(self, server, HotHandler hot not None):
        self.server = server
        self.hot = hot
        self.turns = hot.turns
        self.called_s = time.monotonic()

    def __dealloc__(self):
        free(self.shown.data)

    def connection_made(self, transport):
        """A client is there."""
        Session.connection_made(self, transport)
        self.server.opened(self)

    def connection_lost(self, error):
        """Nobody is there any more."""
        Session.connection_lost(self, error)
        while self.streams != NULL:
            self.close_stream(self.streams)
        self.server.closed(self)

    cdef int begin(self) except -1:
        return self.hot.begin()

    # ------------------------------------------------------------ the server's side

    def send(self, int32_t stream_id, object headers, object message):
        """Sends initial metadata, if that has not gone out yet, and a message unless it is None.
        Returns how many bytes wait to be sent; 0 for a stream that is gone."""
        cdef Stream* stream = self.call_of(stream_id)
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
        cdef Stream* stream = self.call_of(stream_id)
        if stream == NULL or stream.answered:
            return
        if not stream.started and headers:
            self.submit(stream, headers)
        self.finish(stream, trailers)
        self.flush_unless_reading()

    def took(self, int32_t stream_id, size_t size):
        """The handler has taken a message of so many bytes: the client may send as much again."""
        cdef Stream* stream = self.call_of(stream_id)
        if stream == NULL:
            return
        size = min(size + PREFIX_BYTES, stream.held)
        stream.held -= size
        self.consume_stream(stream_id, size)
        self.flush_unless_reading()

    def sweep(self, double now_s):
        """Ends the hot calls that are past their deadline and have no answer yet, and all calls
        whose request stays unfinished."""
        cdef Stream* stream = self.streams
        cdef int64_t now_ns = <int64_t>(now_s * 1e9)
        while stream != NULL:
            if not stream.answered:
                if stream.unfinished_s and now_s - stream.unfinished_s > UNFINISHED_S_MAX:
                    self.finish(stream, self.server.unfinished())
                elif stream.method and stream.deadline_ns and now_ns >= stream.deadline_ns:
                    self.hot.expire(self, stream)
            stream = stream.next
        self.flush()

    def flush_unless_reading(self):
        """Writes what there is, unless that comes anyway when all that was read is dealt with."""
        if not self.reading:
            self.flush()

    # ------------------------------------------------------------ streams: what comes in

    cdef Stream* call_of(self, int32_t stream_id) noexcept:
        # NULL for a stream that is gone.
        return <Stream*>self.stream_of(stream_id)

    cdef int open_stream(self, int32_t stream_id) except -1:
        global _stream_count
        cdef Stream* stream = new_stream()
        stream.references = 1
        stream.id = stream_id
        stream.connection = <PyObject*>self
        stream.next = self.streams
        if self.streams != NULL:
            self.streams.previous = stream
        self.streams = stream
        self.stream_count += 1
        self.called_s = stream.unfinished_s = self.active_s
        _stream_count += 1
        return self.attach_stream(stream_id, stream)

    cdef int close_stream(self, void* closed) except -1:
        global _stream_count
        cdef Stream* stream = <Stream*>closed
        call = None
        if stream.call != NULL:
            call = <object>stream.call
        self.detach_stream(stream.id)
        if stream.previous != NULL:
            stream.previous.next = stream.next
        else:
            self.streams = stream.next
        if stream.next != NULL:
            stream.next.previous = stream.previous
        stream.connection = NULL
        self.stream_count -= 1
        self.called_s = self.active_s
        _stream_count -= 1
        self.drop_received(stream, stream.received.size)
        self.unsent_bytes -= stream.reply.size
        if stream.method:
            self.hot.closed(stream)
        stream_release(stream)
        if call is not None:
            call.cancel()
        return 0

    cdef int take_header(
        self, void* opened, const uint8_t* name, size_t name_size,
        const uint8_t* value, size_t value_size,
    ) except -1:
        cdef Stream* stream = <Stream*>opened
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
        elif stream.method:
            if same(name, name_size, b"authorization"):
                self.hot.identify(self, stream, value, value_size)
            elif self.hot.is_traced and same(name, name_size, b"traceparent"):
                parent = value[:value_size]
                Py_INCREF(parent)
                Py_XDECREF(stream.span)
                stream.span = <PyObject*>parent
        elif stream.head != NULL:
            (<list>stream.head).append((name[:name_size], value[:value_size]))
        return 0

    cdef int headers_complete(self, void* opened) except -1:
        cdef Stream* stream = <Stream*>opened
        if stream.header_bytes > HEADER_BYTES_MAX:
            stream.refusal = 431
        elif not stream.is_post:
            stream.refusal = 405
        elif not stream.is_grpc:
            stream.refusal = 415
        if stream.refusal:
            # Answered when all of it has come.
            return 0
        if stream.encoding == ENCODING_UNKNOWN:
            return self.finish(stream, self.server.unknown_encoding())
        if _stream_count > STREAMS_MAX:
            return self.finish(stream, self.server.too_many())
        if stream.method:
            return self.hot.opened(self, stream)
        head = <list>stream.head
        timeout_s = None
        if stream.deadline_ns:
            timeout_s = (stream.deadline_ns - time.monotonic_ns()) / 1e9
        call = self.server.open_call(self, stream.id, head[0], head[1:], timeout_s)
        if call is not None:
            Py_INCREF(call)
            stream.call = <PyObject*>call
        return 0

    cdef int take_data(self, void* opened, const uint8_t* data, size_t size) except -1:
        global _unread_bytes
        cdef Stream* stream = <Stream*>opened
        self.consume_connection(size)
        if stream == NULL:
            return 0
        if stream.answered or stream.refusal:
            # Nobody reads it. The client learns so when the answer is out.
            return self.consume_stream(stream.id, size)
        bytes_append(&stream.received, data, size)
        stream.held += size
        self.unread_bytes += size
        _unread_bytes += size
        if stream.received.size >= PREFIX_BYTES:
            if message_size(stream.received.data) > MESSAGE_BYTES_MAX:
                return self.finish(
                    stream, self.server.too_large(message_size(stream.received.data))
                )
        self.deliver(stream)
        if self.unread_bytes <= CONNECTION_UNREAD_BYTES_MAX and _unread_bytes <= UNREAD_BYTES_MAX:
            return 0
        # Too much has come of requests that are not complete: this one makes room.
        self.drop_received(stream, stream.received.size)
        return 0 if stream.answered else self.finish(stream, self.server.too_many())

    cdef int request_ended(self, void* opened) except -1:
        cdef Stream* stream = <Stream*>opened
        stream.received_end = True
        stream.unfinished_s = 0
        return self.deliver(stream)

    cdef bint has_request_ended(self, void* opened) noexcept:
        return (<Stream*>opened).received_end

    cdef int deliver(self, Stream* stream) except -1:
        # Hands on what is complete.
        cdef size_t size
        cdef size_t offset = 0
        if stream.answered:
            return 0
        if stream.refusal:
            return self.refuse(stream)
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
        self.drop_received(stream, offset)
        if offset:
            stream.unfinished_s = self.active_s if stream.received.size else 0
        # A message that is not complete must not wait for room; complete ones hold it.
        if stream.held <= HELD_BYTES_MAX + stream.received.size:
            self.consume(stream, min(stream.held, stream.received.size))
        if stream.received_end:
            call.half_close(stream.received.size == 0)
        return 0

    cdef void drop_received(self, Stream* stream, size_t size) noexcept:
        # Forgets the first bytes of what came.
        global _unread_bytes
        bytes_drop(&stream.received, size)
        self.unread_bytes -= size
        _unread_bytes -= size

    cdef int consume(self, Stream* stream, size_t size) except -1:
        # So much of what was received makes room for more.
        stream.held -= size
        return self.consume_stream(stream.id, size)

    # ------------------------------------------------------------ streams: what goes out

    cdef int refuse(self, Stream* stream) except -1:
        # Answers a request that is no gRPC as HTTP does, with a line for people.
        cdef nghttp2_nv[2] fields
        cdef bytes line = b"limiter speaks gRPC: POST with content-type application/grpc\n"
        cdef bytes status = str(stream.refusal).encode()
        fields[0] = field(b":status", status)
        fields[1] = field(b"content-type", b"text/plain")
        stream.answered = stream.started = True
        bytes_append(&stream.reply, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        self.unsent_bytes += stream.reply.size
        stream.sendable = stream.reply.size
        return self.respond(stream.id, fields, 2, True)

    cdef int add_reply(self, Stream* stream, const uint8_t* data, size_t size) except -1:
        # Adds one message to a reply; it is sent once it is released.
        cdef uint8_t[PREFIX_BYTES] prefix
        write_prefix(prefix, size)
        self.unsent_bytes += PREFIX_BYTES + size
        bytes_append(&stream.reply, prefix, PREFIX_BYTES)
        return bytes_append(&stream.reply, data, size)

    cdef int release(self, Stream* stream, uint64_t offset) except -1:
        # Everything up to an offset of the reply may be sent.
        stream.sendable = max(stream.sendable, offset)
        if not stream.started:
            return self.submit(stream, None)
        return self.wake(stream)

    cdef int wake(self, Stream* stream) except -1:
        if stream.deferred:
            stream.deferred = False
            self.resume(stream.id)
        return 0

    cdef int submit(self, Stream* stream, object headers) except -1:
        # The response's headers; its messages and trailers follow.
        cdef nghttp2_nv[TRAILERS_MAX + 2] fields
        cdef int count = 2
        fields[0] = field(b":status", b"200")
        fields[1] = field(b"content-type", b"application/grpc")
        if headers:
            count += fill_fields(fields + 2, headers)
        stream.started = True
        return self.respond(stream.id, fields, count, True)

    cdef int finish(self, Stream* stream, object trailers) except -1:
        # Ends the response once all that was released is sent; without trailers, with status OK.
        cdef nghttp2_nv[TRAILERS_MAX + 2] fields
        cdef int count
        stream.answered = True
        if trailers is not None:
            Py_INCREF(trailers)
            stream.trailers = <PyObject*>trailers
        if stream.started:
            return self.wake(stream)
        if trailers is None or stream.reply.size:
            return self.submit(stream, None)
        stream.started = True
        fields[0] = field(b":status", b"200")
        fields[1] = field(b"content-type", b"application/grpc")
        count = 2 + fill_fields(fields + 2, trailers)
        return self.respond(stream.id, fields, count, False)

    cdef size_t read_body(
        self, void* opened, uint8_t* out, size_t room, BodyEnd* ended
    ) except? 0:
        cdef Stream* stream = <Stream*>opened
        cdef size_t size = min(room, <size_t>(stream.sendable - stream.sent))
        cdef uint64_t end = stream.reply_start + stream.reply.size
        if size:
            memcpy(out, stream.reply.data + (stream.sent - stream.reply_start), size)
            stream.sent += size
            if stream.sent - stream.reply_start > COMPACT_BYTES or stream.sent == end:
                self.unsent_bytes -= <size_t>(stream.sent - stream.reply_start)
                bytes_drop(&stream.reply, <size_t>(stream.sent - stream.reply_start))
                stream.reply_start = stream.sent
        if stream.answered and stream.sent == end:
            if stream.refusal:
                ended[0] = END_OF_STREAM
                return size
            ended[0] = END_WITH_TRAILERS
            self.add_trailers(stream)
        elif size == 0:
            stream.deferred = True
            if stream.is_stalled:
                self.is_thirsty = True
        return size

    cdef bint refill(self) except -1:
        cdef Stream* stream = self.streams
        cdef bint has_more = False
        self.is_thirsty = False
        self.hot.begin()
        while stream != NULL:
            if stream.is_stalled and stream.sent == stream.sendable and not stream.answered:
                stream.is_stalled = False
                self.hot.receive(self, stream)
                has_more = True
            stream = stream.next
        return has_more

    cdef int wait_for_turn(self, Stream* stream) except -1:
        # The hot handler has had enough of the stream for now.
        stream.waits_turn = self.waits_turn = True
        return self.turns.line_up(self)

    cdef int read_on(self) except -1:
        # The streams that wait go on from the one behind the last that has had its turn. They lie
        # in the order of their ids, the largest first.
        cdef Stream* stream
        cdef int32_t last_id = self.turn_id
        cdef bint has_begun = False
        cdef int lap
        if not self.waits_turn:
            return 0
        self.waits_turn = False
        for lap in range(2):
            stream = self.streams
            while stream != NULL:
                if stream.waits_turn and (stream.id < last_id) == (lap == 0):
                    if has_begun and self.turns.is_over():
                        self.waits_turn = True
                        return self.turns.line_up(self)
                    has_begun = True
                    stream.waits_turn = False
                    self.turn_id = stream.id
                    if not stream.answered:
                        self.hot.receive(self, stream)
                stream = stream.next
        return 0

    cdef int add_trailers(self, Stream* stream) except -1:
        cdef nghttp2_nv[TRAILERS_MAX] fields
        cdef int count = 1
        if stream.trailers == NULL:
            fields[0] = field(b"grpc-status", b"0")
            fields[0].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
        else:
            count = fill_fields(fields, <object>stream.trailers)
        return self.trail(stream.id, fields, count)
