# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hot methods under the native transport: request bytes of a stream to its reply, and groups.

A call is decided in the callback that completes it, straight from the connection's buffer to the
stream's reply. The reply to an allowed commit then waits for its group; when that is on disk, all
calls of the group are answered together, with one write per connection.

What always holds: the same as under grpc.aio (see `limiter.service.decision`): a decision is one
step, what is decided is journalled whether or not its client is still there, a call past its
deadline is not decided, and what cannot be taken in is refused before any work. A CommitStream is
not refused but read no further, which slows its client down. What comes faster than it can be
decided waits for its turn, so that other accounts have theirs; see `limiter._http2_turns`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport free, realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

import time

from limiter import bounds, errors
from limiter._guard cimport Guard
from limiter._hot cimport (
    METHOD_CHECK,
    METHOD_CHECK_BATCH,
    METHOD_COMMIT,
    METHOD_COMMIT_BATCH,
    METHOD_GET_USAGE,
)
from limiter._http2 cimport (
    ENCODING_GZIP,
    Connection,
    HotHandler,
    Stream,
    stream_release,
)
from limiter._http2_bytes cimport bytes_append
from limiter._http2_fields cimport PREFIX_BYTES, message_size, same
from limiter._http2_turns cimport monotonic_s
from limiter._spread cimport Spread

cdef size_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef size_t PENDING_BYTES_MAX = bounds.PENDING_JOURNAL_BYTES_MAX
cdef uint64_t WINDOW_MAX = bounds.STREAM_WINDOW_MAX
cdef size_t PARKED_MAX = bounds.PARKED_CALLS_MAX
cdef size_t STREAMS_MAX = bounds.CONCURRENT_STREAMS_MAX
cdef size_t UNSENT_BYTES_MAX = bounds.CONNECTION_UNSENT_BYTES_MAX
cdef uint64_t STREAM_UNSENT_BYTES_MAX = bounds.STREAM_UNREAD_BYTES_MAX

cdef enum:
    METHOD_COMMIT_STREAM = 100
    STEP_MESSAGES = 8          # of a stream are decided between two looks at the time

cdef bytes SERVICE_PATH = b"/limiter.v1.DecisionService/"

# The methods by their rows in what is observed.
_METHODS = ("CommitStream", "Check", "Commit", "CheckBatch", "CommitBatch", "GetUsage")


cdef inline int row_of(int method) noexcept nogil:
    return 0 if method == METHOD_COMMIT_STREAM else method


def hot_methods():
    """The names of the methods in the order of the rows of `HotCalls.observe`."""
    return _METHODS


@cython.final
cdef class Group:
    """The calls that wait for one group of the journal."""

    def __cinit__(self, HotCalls calls not None, uint64_t number):
        self.calls = calls
        self.number = number

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.size):
            stream_release(self.waiters[i].stream)
        free(self.waiters)

    cdef int add(self, Stream* stream, uint64_t count) except -1:
        # So many more of the stream's replies, all that it has, may be sent when this settles.
        cdef Waiter* waiter
        cdef size_t capacity
        cdef Waiter* waiters
        if self.size and self.waiters[self.size - 1].stream == stream:
            # The calls of a stream come in runs.
            waiter = &self.waiters[self.size - 1]
        else:
            if self.size == self.capacity:
                capacity = 2 * self.capacity + 64
                waiters = <Waiter*>realloc(self.waiters, capacity * sizeof(Waiter))
                if waiters == NULL:
                    raise MemoryError
                self.waiters = waiters
                self.capacity = capacity
            waiter = &self.waiters[self.size]
            self.size += 1
            waiter.stream = stream
            waiter.count = 0
            waiter.begun_s = (<Connection>stream.connection).active_s
            stream.references += 1
        waiter.count += count
        waiter.offset = stream.reply_start + stream.reply.size
        stream.unsettled += count
        return 0

    def settle(self, future):
        """Called when the group is on disk, or when nobody knows whether it is."""
        cdef size_t i
        cdef Connection connection
        cdef Stream* stream
        cdef double begun_s = self.calls.turns.begin()
        cdef double now_s = 0 if self.calls.times is None else begun_s
        failure = future.exception()
        touched = []
        for i in range(self.size):
            stream = self.waiters[i].stream
            if stream.connection == NULL:
                continue
            connection = <Connection>stream.connection
            if not connection.dirty:
                connection.dirty = True
                touched.append(connection)
            self.settle_one(&self.waiters[i], failure, now_s)
        for connection in touched:
            connection.dirty = False
            connection.flush()
        self.calls.turns.end(begun_s)

    cdef int settle_one(self, const Waiter* waiter, object failure, double now_s) except -1:
        cdef Stream* stream = waiter.stream
        cdef Connection connection = <Connection>stream.connection
        stream.unsettled -= waiter.count
        if failure is not None:
            # What was not released is not known to be durable, and is not told.
            connection.unsent_bytes -= stream.reply.size
            stream.reply.size = <size_t>(stream.sendable - stream.reply_start)
            connection.unsent_bytes += stream.reply.size
            return connection.finish(stream, self.calls.faults.trailers_of(failure))
        self.calls.answered(stream.method, waiter.count, waiter.begun_s, now_s)
        if stream.method != METHOD_COMMIT_STREAM:
            stream.sendable = waiter.offset
            return connection.finish(stream, None)
        connection.release(stream, waiter.offset)
        if not stream.answered:
            self.calls.begin()
            self.calls.receive(connection, stream)
        return 0


@cython.final
cdef class Parked:
    """The calls that wait for one account to be in memory."""

    def __cinit__(self, HotCalls calls not None, uint32_t account):
        self.calls = calls
        self.account = account

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.size):
            stream_release(self.streams[i])
        free(self.streams)

    cdef int add(self, Stream* stream) except -1:
        cdef size_t capacity
        cdef Stream** streams
        if self.size == self.capacity:
            capacity = 2 * self.capacity + 4
            streams = <Stream**>realloc(self.streams, capacity * sizeof(Stream*))
            if streams == NULL:
                raise MemoryError
            self.streams = streams
            self.capacity = capacity
        self.streams[self.size] = stream
        self.size += 1
        stream.references += 1
        stream.is_parked = True
        return 0

    def go_on(self, failure):
        """Called when the account is in memory, or with why it cannot be brought there."""
        cdef size_t i
        cdef Connection connection
        cdef Stream* stream
        self.calls.parked_count -= self.size
        if self.calls.parked.get(self.account) is self:
            del self.calls.parked[self.account]
        self.calls.begin()
        touched = []
        for i in range(self.size):
            stream = self.streams[i]
            stream.is_parked = False
            if stream.connection == NULL or stream.answered:
                continue
            connection = <Connection>stream.connection
            if not connection.dirty:
                connection.dirty = True
                touched.append(connection)
            if failure is not None:
                connection.finish(stream, self.calls.faults.trailers_of(failure))
            else:
                self.calls.receive(connection, stream)
        for connection in touched:
            connection.dirty = False
            connection.flush()


@cython.final
cdef class HotCalls(HotHandler):
    """Decides for one server. `faults` turns an exception into trailers (`trailers_of`) and a
    compressed message into a plain one (`inflated`). Answers UNAVAILABLE until it is attached."""

    def __cinit__(self, faults):
        self.faults = faults
        self.absence = errors.Unavailable("JOURNAL_UNAVAILABLE", "the server is starting")
        self.now_ms = -1
        self.parked = {}

    def attach(self, engine):
        """Decides with this Engine from now on."""
        self.core = engine.pending
        self.decider = engine.decider
        self.committer = engine.committer
        self.clock = engine.clock
        self.gate = engine.gate
        self.arrivals = engine.arrivals
        self.group = None
        self.kicked = 0

    def detach(self, absence):
        """Answers every call with `absence` from now on."""
        self.decider = self.core = self.committer = self.group = None
        self.parked = {}
        self.absence = absence

    def drain(self):
        """Begins to end the CommitStreams: nothing more of them is read."""
        self.draining = True

    def observe(self, Spread times not None):
        """Counts how long answers take, in nanoseconds, from now on: each in the row of its
        method. Raises ValueError unless there are as many rows as `hot_methods`."""
        if times.row_count != len(_METHODS):
            raise ValueError(f"{times.row_count} rows for {len(_METHODS)} methods")
        self.times = times

    def trace(self, tracer not None):
        """Has each call made a span from now on: `begin(method, parent)` gives one or None,
        `decided(span, outcome, reason)` and `end(span, trailers, is_answered)` go on with it."""
        self.tracer = tracer
        self.is_traced = True

    def leave(self, Connection connection not None):
        """Ends the connection's CommitStreams: what they have decided is answered."""
        cdef Stream* stream = connection.streams
        while stream != NULL:
            if stream.method == METHOD_COMMIT_STREAM and not stream.answered:
                connection.finish(stream, self.faults.trailers_of(draining()))
            stream = stream.next
        connection.flush()

    def has_streams(self):
        """Whether CommitStreams are open, and their callers are asked who they are."""
        return self.stream_count > 0 and self.gate is not None

    def look(self, Connection connection not None):
        """Ends the connection's CommitStreams whose keys have ended: what they have decided is
        answered."""
        cdef Stream* stream = connection.streams
        cdef int64_t now_ms
        if stream == NULL or self.gate is None:
            return
        now_ms = self.clock.now_ms()
        while stream != NULL:
            if stream.method == METHOD_COMMIT_STREAM and not stream.answered:
                try:
                    self.guard_of(connection, stream).admit(0, now_ms)
                except Exception as error:
                    connection.finish(stream, self.faults.trailers_of(error))
            stream = stream.next
        connection.flush()

    # ------------------------------------------------------------ what the connection asks

    cdef int method_of(self, const uint8_t* path, size_t size) noexcept:
        cdef size_t length = PyBytes_GET_SIZE(SERVICE_PATH)
        if size <= length or memcmp(path, PyBytes_AS_STRING(SERVICE_PATH), length) != 0:
            return 0
        path += length
        size -= length
        if same(path, size, b"Commit"):
            return METHOD_COMMIT
        if same(path, size, b"Check"):
            return METHOD_CHECK
        if same(path, size, b"CommitStream"):
            return METHOD_COMMIT_STREAM
        if same(path, size, b"CommitBatch"):
            return METHOD_COMMIT_BATCH
        if same(path, size, b"CheckBatch"):
            return METHOD_CHECK_BATCH
        if same(path, size, b"GetUsage"):
            return METHOD_GET_USAGE
        return 0

    cdef int begin(self) except -1:
        self.now_ms = -1
        return 0

    cdef int opened(self, Connection connection, Stream* stream) except -1:
        if self.tracer is not None:
            self.begin_span(stream)
        if stream.method != METHOD_COMMIT_STREAM:
            return 0
        # A stream may stay without a message as long as it likes.
        stream.unfinished_s = 0
        if self.stream_count >= STREAMS_MAX:
            return connection.finish(
                stream, self.faults.trailers_of(overloaded("too many streams are open"))
            )
        stream.is_counted = True
        self.stream_count += 1
        return 0

    cdef void closed(self, Stream* stream) noexcept:
        self.stream_count -= stream.is_counted
        if stream.span != NULL:
            self.end_span(stream)

    # ------------------------------------------------------------ what is observed

    cdef void answered(
        self, int method, uint64_t count, double begun_s, double now_s
    ) noexcept:
        # So many calls of a method, or messages of a stream, have their answer; `now_s` is 0 for
        # the present.
        cdef int row = row_of(method)
        if self.times is None or row >= self.times.row_count:
            return
        if now_s == 0:
            now_s = monotonic_s()
        self.times.add(row, <int64_t>((now_s - begun_s) * 1e9), count)

    cdef int begin_span(self, Stream* stream) except -1:
        # A call begins: what its caller says of his trace gives way to its span.
        parent = None if stream.span == NULL else <object>stream.span
        span = self.tracer.begin(_METHODS[row_of(stream.method)], parent)
        Py_XDECREF(stream.span)
        stream.span = NULL
        if span is not None:
            Py_INCREF(span)
            stream.span = <PyObject*>span
        return 0

    cdef int tell_span(self, Stream* stream) except -1:
        # An attempt is decided.
        if stream.method == METHOD_COMMIT or stream.method == METHOD_CHECK:
            self.tracer.decided(
                <object>stream.span,
                self.core.judge.decision.outcome,
                self.core.judge.decision.reason,
            )
        return 0

    cdef int end_span(self, Stream* stream) except -1:
        # A call is over. One that was refused before it began has none.
        span = <object>stream.span
        if not isinstance(span, bytes):
            trailers = None if stream.trailers == NULL else <object>stream.trailers
            self.tracer.end(span, trailers, stream.answered)
        return 0

    cdef int expire(self, Connection connection, Stream* stream) except -1:
        # What is decided is answered, in its time; nothing more is.
        if stream.unsettled and stream.method != METHOD_COMMIT_STREAM:
            return 0
        return connection.finish(stream, self.faults.deadline_exceeded())

    cdef int identify(
        self, Connection connection, Stream* stream, const uint8_t* shown, size_t size
    ) except -1:
        # A connection's calls show the same again and again: it is looked up once, and the guard
        # says whether it is still good.
        if self.gate is None:
            return 0
        if stream.credential != NULL:
            found = self.gate.twice()
        elif (
            connection.guard is not None
            and size
            and connection.shown.size == size
            and memcmp(connection.shown.data, shown, size) == 0
            and (<Guard>connection.guard).ended is None
        ):
            found = connection.guard
        else:
            connection.guard = None
            connection.shown.size = 0
            try:
                found = connection.guard = self.gate.guard_of_header(shown[:size])
                bytes_append(&connection.shown, shown, size)
            except Exception as error:
                found = error
        Py_XDECREF(stream.credential)
        Py_INCREF(found)
        stream.credential = <PyObject*>found
        return 0

    cdef Guard guard_of(self, Connection connection, Stream* stream):
        # What guards the call; None where nobody is asked. Raises what it is to end with.
        if self.gate is None:
            return None
        if stream.credential == NULL:
            # Nothing is shown but, perhaps, a certificate, which is that of the connection.
            if (
                connection.shown.size
                or connection.guard is None
                or (<Guard>connection.guard).ended is not None
            ):
                # What fails leaves nothing behind that the next call could be taken for.
                connection.guard = None
                connection.shown.size = 0
                connection.guard = self.gate.guard_of_peer(connection.peer_certificate)
            found = connection.guard
            Py_INCREF(found)
            stream.credential = <PyObject*>found
        found = <object>stream.credential
        if not isinstance(found, Guard):
            raise found.with_traceback(None)
        return <Guard>found

    cdef int receive(self, Connection connection, Stream* stream) except -1:
        try:
            if stream.method == METHOD_COMMIT_STREAM:
                return self.answer_stream(connection, stream)
            return self.answer_unary(connection, stream)
        except errors.Away as away:
            try:
                return self.park(stream, away.account_id)
            except errors.ResourceExhausted as error:
                return connection.finish(stream, self.faults.trailers_of(error))
        except Exception as error:
            return connection.finish(stream, self.faults.trailers_of(error))

    # ------------------------------------------------------------ deciding

    cdef int64_t instant(self) except -1:
        # One for all calls that came with the same bytes.
        if self.now_ms < 0:
            self.now_ms = self.clock.now_ms()
        return self.now_ms

    cdef bint is_full(self) noexcept:
        return self.core is not None and self.core.recorder.buffer.size > PENDING_BYTES_MAX

    cdef int admit(self) except -1:
        # Raises unless one more call can be decided.
        if self.decider is None:
            raise self.absence.with_traceback(None)
        if self.is_full():
            raise overloaded("too much is waiting for the journal")
        return 0

    cdef bint pending(self, Stream* stream) noexcept:
        # Whether a whole message waits to be decided.
        return (
            stream.received.size >= PREFIX_BYTES
            and stream.received.size - PREFIX_BYTES >= message_size(stream.received.data)
        )

    cdef int require_one_message(self, Stream* stream) except -1:
        if (
            stream.received.size < PREFIX_BYTES
            or stream.received.size - PREFIX_BYTES != message_size(stream.received.data)
        ):
            raise errors.InvalidArgument(
                "MALFORMED_REQUEST", "a call of this method takes exactly one message"
            )
        return 0

    cdef int answer_unary(self, Connection connection, Stream* stream) except -1:
        connection.consume(stream, stream.held)
        if not stream.received_end:
            if stream.received.size > MESSAGE_BYTES_MAX + PREFIX_BYTES:
                self.require_one_message(stream)
            return 0
        self.require_one_message(stream)
        if stream.deadline_ns and time.monotonic_ns() >= stream.deadline_ns:
            return connection.finish(stream, self.faults.deadline_exceeded())
        if connection.unsent_bytes > UNSENT_BYTES_MAX:
            raise overloaded("replies wait to be read")
        self.admit()
        must_wait = self.decide(
            connection, stream, stream.method, message_size(stream.received.data)
        )
        if stream.span != NULL:
            self.tell_span(stream)
        if must_wait:
            connection.add_reply(stream, self.decider.out.data, self.decider.out.size)
            return self.wait_for_group(stream, 1)
        connection.add_reply(stream, self.decider.out.data, self.decider.out.size)
        self.answered(stream.method, 1, connection.active_s, 0)
        if stream.method == METHOD_COMMIT or stream.method == METHOD_COMMIT_BATCH:
            self.kick()
        stream.sendable = stream.reply_start + stream.reply.size
        return connection.finish(stream, None)

    cdef int answer_stream(self, Connection connection, Stream* stream) except -1:
        # Decides what has come, as far as the window and the journal have room.
        cdef size_t size
        cdef size_t count = 0
        if self.draining:
            return connection.finish(stream, self.faults.trailers_of(draining()))
        if stream.is_parked:
            return 0
        try:
            while self.pending(stream):
                count += 1
                if count % STEP_MESSAGES == 0 and connection.turns.is_over():
                    return connection.wait_for_turn(stream)
                if stream.deadline_ns and time.monotonic_ns() >= stream.deadline_ns:
                    return connection.finish(stream, self.faults.deadline_exceeded())
                if stream.unsettled >= WINDOW_MAX:
                    return 0
                if stream.sendable - stream.sent > STREAM_UNSENT_BYTES_MAX:
                    stream.is_stalled = True
                    return 0
                if self.is_full():
                    return self.wait_for_group(stream, 0)
                self.admit()
                size = message_size(stream.received.data)
                try:
                    must_wait = self.decide(connection, stream, METHOD_COMMIT, size)
                except errors.OverShare:
                    return self.wait_for_group(stream, 0)
                connection.add_reply(stream, self.decider.out.data, self.decider.out.size)
                connection.drop_received(stream, PREFIX_BYTES + size)
                stream.unfinished_s = connection.active_s if stream.received.size else 0
                connection.consume(stream, min(stream.held, PREFIX_BYTES + size))
                if must_wait:
                    self.wait_for_group(stream, 1)
                    continue
                self.kick()
                if stream.unsettled:
                    # Replies come in the order of requests: behind those that wait.
                    self.wait_for_group(stream, 1)
                else:
                    connection.release(stream, stream.reply_start + stream.reply.size)
                    self.answered(METHOD_COMMIT_STREAM, 1, connection.active_s, 0)
        except errors.Away:
            raise
        except Exception as error:
            return connection.finish(stream, self.faults.trailers_of(error))
        if stream.received_end:
            if stream.received.size:
                return connection.finish(
                    stream,
                    self.faults.trailers_of(
                        errors.InvalidArgument(
                            "MALFORMED_REQUEST", "the stream ends within a message"
                        )
                    ),
                )
            return connection.finish(stream, None)
        return 0

    cdef bint decide(
        self, Connection connection, Stream* stream, int method, size_t size
    ) except -1:
        # Decides the first message; the reply is in the decider. Whether it has to wait.
        cdef Guard guard = self.guard_of(connection, stream)
        cdef bint must_wait
        if stream.received.data[0] == 0:
            must_wait = self.decider.answer(
                method, stream.received.data + PREFIX_BYTES, size, self.instant(), guard
            )
            connection.lane = self.decider.lane()
            return must_wait
        plain = self.faults.inflated(
            stream.encoding == ENCODING_GZIP,
            PyBytes_FromStringAndSize(
                <const char*>stream.received.data + PREFIX_BYTES, size
            ),
        )
        must_wait = self.decider.answer(
            method,
            <const uint8_t*>PyBytes_AS_STRING(plain),
            PyBytes_GET_SIZE(plain),
            self.instant(),
            guard,
        )
        connection.lane = self.decider.lane()
        return must_wait

    # ------------------------------------------------------------ groups

    cdef int wait_for_group(self, Stream* stream, uint64_t count) except -1:
        # The stream's replies up to now are sent when all that is appended by now is durable.
        cdef uint64_t number = self.core.recorder.buffer.group
        cdef Group group = self.group
        if group is None or group.number != number:
            group = Group(self, number)
            self.committer.wait().add_done_callback(group.settle)
            if self.core.recorder.buffer.count:
                # Others may join it until the journal takes what was appended. One that a repeat
                # alone waits for is nobody else's: it may be settled before its number is taken.
                self.group = group
                self.kicked = number
        return group.add(stream, count)

    cdef int park(self, Stream* stream, uint32_t account) except -1:
        # The stream's call is decided once the account is in memory.
        cdef Parked parked = self.parked.get(account)
        if self.parked_count >= PARKED_MAX:
            raise overloaded("too many calls wait for accounts to be brought into memory")
        if parked is None:
            parked = self.parked[account] = Parked(self, account)
            self.arrivals.when_here(account, parked.go_on)
        self.parked_count += 1
        return parked.add(stream)

    cdef int kick(self) except -1:
        # Has a denial written that nobody waits for.
        if self.core.recorder.buffer.count and self.kicked != self.core.recorder.buffer.group:
            self.committer.kick()
            self.kicked = self.core.recorder.buffer.group
        return 0


def overloaded(why):
    """What refuses a call that cannot be taken in now."""
    return errors.ResourceExhausted(
        "OVERLOADED", f"{why}; nothing was done", retry_after_ms=bounds.RETRY_AFTER_MS
    )


def draining():
    """What ends a stream when the server stops."""
    return errors.Unavailable(
        "DRAINING", "the server is stopping: repeat what has no reply with the same request_id"
    )
