# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A load on the decision service: connections full of calls, and what became of them.

In: serialized requests as templates, whom they are about, how many may be under way, how fast they
are due. Out: counts of decisions and failures, and a histogram of latencies. A request is a copy of
its template with numbers written into it, a reply is read as far as its outcome; neither is ever a
Python object.

What always holds: a latency counts from when its call was due, not from when there was room to send
it, so that a server that stalls is not measured less; and whatever was sent is counted once as
allowed, denied or failed.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from urllib.parse import unquote_to_bytes

from limiter import bounds
from limiter._http2_bytes cimport Bytes, bytes_append, bytes_drop
from limiter._http2_fields cimport PREFIX_BYTES, message_size
from limiter._http2_memory cimport session_memory
from limiter._load_histogram cimport Histogram
from limiter._load_population cimport Population
from limiter._nghttp2 cimport *
from limiter._protobuf cimport read_bytes, read_tag, read_varint, skip_unknown
from limiter._types cimport OUTCOME_ALLOWED, OUTCOME_DENIED, Slice

cdef enum:
    ACCOUNT_DIGITS = 7
    CONTACT_DIGITS = 7
    ID_DIGITS = 16             # hexadecimal
    WINDOW_BYTES = 16777216    # what a server may send that was not read yet
    COMPACT_BYTES = 16384      # sent bytes that a stream's buffer keeps at most
    FIELD_COUNT = 6
    # Of the replies: Decision in CheckResponse and CommitResponse, its outcome, and the counts of a
    # batch.
    DECISION_TAG = 1 << 3 | 2
    OUTCOME_TAG = 1 << 3
    ACCEPTED_TAG = 2 << 3
    DENIED_TAG = 3 << 3

cdef int64_t PS_PER_S = 1_000_000_000_000

# What the transports of all connections read into: what it holds is dealt with at once.
cdef bytearray _shared_buffer = bytearray(bounds.READ_BUFFER_BYTES)


cdef inline int64_t monotonic_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline void put_decimal(uint8_t* at, uint32_t value, int digits) noexcept nogil:
    cdef int i
    for i in range(digits - 1, -1, -1):
        at[i] = c'0' + value % 10
        value //= 10


cdef inline void put_hexadecimal(uint8_t* at, uint64_t value) noexcept nogil:
    cdef int i
    for i in range(ID_DIGITS - 1, -1, -1):
        at[i] = b"0123456789abcdef"[value & 15]
        value >>= 4


cdef inline nghttp2_nv field(bytes name, bytes value) noexcept:
    # Both must outlive the session: they are not copied.
    cdef nghttp2_nv nv
    nv.name = <uint8_t*>PyBytes_AS_STRING(name)
    nv.namelen = PyBytes_GET_SIZE(name)
    nv.value = <uint8_t*>PyBytes_AS_STRING(value)
    nv.valuelen = PyBytes_GET_SIZE(value)
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    return nv


cdef bint read_counts(
    Slice reply, bint batching, uint64_t* allowed, uint64_t* denied
) noexcept nogil:
    # The decisions that a reply of a batch or of a single call holds; False when it is malformed.
    cdef const uint8_t* at = reply.data
    cdef const uint8_t* end = at + reply.size
    cdef const uint8_t* inside
    cdef const uint8_t* inside_end
    cdef uint32_t tag = 0
    cdef uint64_t value = 0
    cdef Slice message
    allowed[0] = denied[0] = 0
    while at != NULL and at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return False
        if not batching and tag == DECISION_TAG:
            at = read_bytes(at, end, &message)
            if at == NULL:
                return False
            inside = message.data
            inside_end = inside + message.size
            if message.size and inside[0] == OUTCOME_TAG:
                if read_varint(inside + 1, inside_end, &value) == NULL:
                    return False
                allowed[0] += value == OUTCOME_ALLOWED
                denied[0] += value == OUTCOME_DENIED
        elif batching and (tag == ACCEPTED_TAG or tag == DENIED_TAG):
            at = read_varint(at, end, &value)
            if tag == ACCEPTED_TAG:
                allowed[0] += value
            else:
                denied[0] += value
        else:
            at = skip_unknown(at, end, tag, 100)
    return at != NULL


# ---------------------------------------------------------------- the session's callbacks


cdef int on_header(
    nghttp2_session* session, const nghttp2_frame* frame,
    const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size,
    uint8_t flags, void* user_data,
) noexcept:
    cdef LoadConnection connection = <LoadConnection>user_data
    cdef Call* call = <Call*>nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
    if call == NULL or name_size < 11:
        return 0
    if name_size == 11 and memcmp(name, b"grpc-status", 11) == 0:
        if value_size == 1:
            call.status = value[0] - c'0'
        elif value_size == 2:
            call.status = 10 * (value[0] - c'0') + value[1] - c'0'
        if not 0 <= call.status < NO_STATUS:
            call.status = NO_STATUS
    elif name_size == 12 and memcmp(name, b"grpc-message", 12) == 0:
        try:
            if connection.load.first_failure is None:
                connection.load.first_failure = unquote_to_bytes(value[:value_size]).decode(
                    "utf-8", "replace"
                )
        except BaseException as fault:
            return connection.fail(fault)
    return 0


cdef int on_data_chunk_recv(
    nghttp2_session* session, uint8_t flags, int32_t stream_id,
    const uint8_t* data, size_t size, void* user_data,
) noexcept:
    cdef LoadConnection connection = <LoadConnection>user_data
    cdef Call* call = <Call*>nghttp2_session_get_stream_user_data(session, stream_id)
    if call == NULL:
        return 0
    try:
        return connection.take_data(call, data, size)
    except BaseException as fault:
        return connection.fail(fault)


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
) noexcept:
    cdef LoadConnection connection = <LoadConnection>user_data
    cdef Call* call = <Call*>nghttp2_session_get_stream_user_data(session, stream_id)
    if call == NULL:
        return 0
    try:
        return connection.close_call(call)
    except BaseException as fault:
        return connection.fail(fault)


cdef ssize_t read_request(
    nghttp2_session* session, int32_t stream_id, uint8_t* out, size_t room,
    uint32_t* flags, nghttp2_data_source* source, void* user_data,
) noexcept:
    # Gives the session what is to be sent of a request.
    cdef Call* call = <Call*>source.ptr
    cdef size_t size = min(room, call.request.size - call.sent)
    memcpy(out, call.request.data + call.sent, size)
    call.sent += size
    if call.sent == call.request.size:
        call.request.size = call.sent = 0
        if call.ended:
            flags[0] = NGHTTP2_DATA_FLAG_EOF
        elif size == 0:
            call.deferred = True
            return NGHTTP2_ERR_DEFERRED
    elif call.sent > COMPACT_BYTES:
        bytes_drop(&call.request, call.sent)
        call.sent = 0
    return size


cdef nghttp2_session_callbacks* make_callbacks() except NULL:
    cdef nghttp2_session_callbacks* made = NULL
    if nghttp2_session_callbacks_new(&made) != 0:
        raise MemoryError
    nghttp2_session_callbacks_set_on_header_callback(made, on_header)
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, on_data_chunk_recv)
    nghttp2_session_callbacks_set_on_stream_close_callback(made, on_stream_close)
    return made


# For the life of the process.
cdef nghttp2_session_callbacks* _callbacks = make_callbacks()


@cython.final
cdef class Load:
    """What is asked, and what came of it. `commit` and `check` are (path, framed message, places),
    or None for a method that is not asked; with `batching` they are those of batches. `places` are
    the offsets `account`, `contact`, `contact_stride`, `contact_count` and `request_id` (0: none)
    of the digits in the message.

    `check_share` of the calls are Checks. Each connection has `stream_count` streams; with
    `streaming` each of them takes `depth` calls at a time, else one call. `rate` is how many calls
    a second are due; 0 means that each answer is followed by the next call. After `sent_max` calls
    it stops by itself (0: never). `first_id` is the first request id."""

    def __cinit__(
        self,
        *,
        commit,
        check,
        double check_share,
        Population accounts not None,
        Population contacts not None,
        bytes authority not None,
        bint batching,
        bint streaming,
        uint32_t stream_count,
        uint32_t depth,
        double rate,
        uint64_t sent_max,
        uint64_t first_id,
    ):
        if stream_count == 0 or depth == 0 or (depth > 1 and not streaming):
            raise ValueError("a connection needs streams, and only streaming ones have a depth")
        if rate < 0 or not 0 <= check_share <= 1:
            raise ValueError("rate or check_share is out of range")
        if (commit is None and check_share < 1) or (check is None and check_share > 0):
            raise ValueError("a method that is asked needs a message")
        if commit is not None:
            self.commit_path = commit[0]
            self.add_template(&self.commit, commit[1], commit[2])
        if check is not None:
            self.check_path = check[0]
            self.add_template(&self.check, check[1], check[2])
        # The largest share is below every random number that is not asked for.
        self.check_below = <uint64_t>(check_share * 4294967296.0)
        self.accounts = accounts
        self.contacts = contacts
        self.authority = authority
        self.batching = batching
        self.streaming = streaming
        self.stream_count = stream_count
        self.depth = depth
        self.interval_ps = <int64_t>(PS_PER_S / rate) if rate else 0
        self.sent_max = sent_max
        self.request_id = first_id
        self.connections = []
        self.latencies = Histogram()
        if batching:
            # A batch is long enough that whether its account is new makes no difference.
            self.touched = accounts.size

    def __dealloc__(self):
        free(self.commit.data)
        free(self.check.data)

    @property
    def failures(self):
        """Calls that were not decided, by the number of their gRPC status; 17 is none at all."""
        return {
            status: self.failed[status] for status in range(STATUS_COUNT) if self.failed[status]
        }

    @property
    def overdue(self):
        """Calls that should have been sent by now at the rate, and were not."""
        cdef int64_t took_ns = monotonic_ns() - self.pace_start_ns
        if self.interval_ps == 0:
            return 0
        return max(0, int(took_ns * 1000.0 / self.interval_ps) - <int64_t>self.paced)

    @property
    def touched_all(self):
        """Whether every account was addressed at least once."""
        return self.touched == self.accounts.size

    def start(self):
        """Begins to send, on the connections that are there."""
        self.now_ns = self.pace_start_ns = monotonic_ns()
        self.pump()

    def stop(self):
        """Sends no more; what is under way is still answered."""
        cdef LoadConnection connection
        self.stopped = True
        for connection in self.connections:
            connection.half_close()

    def pump(self):
        """Sends what is due, one call a connection in turn."""
        cdef LoadConnection connection
        cdef int64_t begun_ns = 0
        cdef size_t count = len(self.connections)
        cdef size_t without_room = 0
        self.now_ns = monotonic_ns()
        while without_room < count and self.due(&begun_ns):
            self.turn += 1
            connection = <LoadConnection>(self.connections[self.turn % count])
            if connection.idle_count and not connection.gone:
                connection.begin(begun_ns)
                self.paced += 1
                without_room = 0
            else:
                without_room += 1
        for connection in self.connections:
            connection.flush()

    def abandon(self):
        """Counts what is still unanswered as failed, and closes all connections."""
        cdef LoadConnection connection
        for connection in self.connections:
            connection.close()

    cdef bint due(self, int64_t* begun_ns) noexcept:
        # Whether a call is to be sent now, and when it should have been.
        if self.pace_start_ns == 0 or self.stopped:
            return False
        if self.sent_max and self.sent >= self.sent_max:
            return False
        if self.interval_ps == 0:
            begun_ns[0] = self.now_ns
            return True
        begun_ns[0] = self.pace_start_ns + <int64_t>(
            <double>self.paced * <double>self.interval_ps / 1000.0
        )
        return begun_ns[0] <= self.now_ns

    cdef int add_template(self, Template* template, bytes message, dict places) except -1:
        template.size = PyBytes_GET_SIZE(message)
        template.account_at = places["account"]
        template.contact_at = places["contact"]
        template.contact_stride = places["contact_stride"]
        template.contact_count = places["contact_count"]
        template.id_at = places["request_id"]
        if (
            template.contact_count == 0
            or template.account_at + ACCOUNT_DIGITS > template.size
            or template.contact_at
            + (template.contact_count - 1) * template.contact_stride
            + CONTACT_DIGITS > template.size
            or (template.id_at and template.id_at + ID_DIGITS > template.size)
        ):
            raise ValueError("a place lies outside its message")
        template.data = <uint8_t*>malloc(template.size)
        if template.data == NULL:
            raise MemoryError
        memcpy(template.data, PyBytes_AS_STRING(message), template.size)
        return 0

    cdef Template* choose(self) noexcept:
        if self.check_below and (self.accounts.random() >> 32) < self.check_below:
            return &self.check
        return &self.commit

    cdef void write(self, const Template* template, uint8_t* out) noexcept:
        cdef uint32_t account
        cdef uint32_t contact
        cdef uint32_t i
        if self.touched < self.accounts.size:
            account = self.touched
            self.touched += 1
        else:
            account = self.accounts.draw()
        memcpy(out, template.data, template.size)
        put_decimal(out + template.account_at, account, ACCOUNT_DIGITS)
        for i in range(template.contact_count):
            contact = self.contacts.draw()
            put_decimal(
                out + template.contact_at + i * template.contact_stride, contact, CONTACT_DIGITS
            )
            self.work = (self.work ^ (<uint64_t>account << 32 | contact)) * <uint64_t>0x100000001B3
        if template.id_at:
            put_hexadecimal(out + template.id_at, self.request_id)
            self.request_id += 1

    cdef int finish_one(self, Call* call, const uint8_t* reply, size_t size) except -1:
        # The oldest call of a stream was answered with OK.
        cdef Slice message
        cdef uint64_t allowed = 0
        cdef uint64_t denied = 0
        message.data = reply
        message.size = <uint32_t>size
        if not read_counts(message, self.batching, &allowed, &denied) or not allowed + denied:
            if self.first_failure is None:
                self.first_failure = "a reply without an outcome"
            return self.fail_one(call, NO_STATUS)
        self.allowed += allowed
        self.denied += denied
        self.answered += 1
        self.latencies.add(self.now_ns - call.begun_ns[call.first])
        call.first = (call.first + 1) % self.depth
        call.waiting -= 1
        return 0

    cdef int fail_one(self, Call* call, int status) noexcept:
        self.answered += 1
        self.failed[status] += 1
        call.first = (call.first + 1) % self.depth
        call.waiting -= 1
        return 0


@cython.final
cdef class LoadConnection:
    """One connection of a load, an asyncio protocol."""

    def __cinit__(self, Load load not None):
        cdef uint32_t i
        cdef Call* call
        self.load = load
        self.calls = <Call*>calloc(load.stream_count, sizeof(Call))
        self.idle = <uint32_t*>malloc(load.stream_count * load.depth * sizeof(uint32_t))
        if self.calls == NULL or self.idle == NULL:
            raise MemoryError
        for i in range(load.stream_count):
            call = &self.calls[i]
            call.number = i
            call.begun_ns = <int64_t*>malloc(load.depth * sizeof(int64_t))
            if call.begun_ns == NULL:
                raise MemoryError
        # Streams take turns, however deep they are.
        for i in range(load.stream_count * load.depth):
            self.idle[i] = i % load.stream_count
        self.idle_count = load.stream_count * load.depth

    def __dealloc__(self):
        cdef uint32_t i
        nghttp2_session_del(self.session)
        if self.calls != NULL:
            for i in range(self.load.stream_count):
                free(self.calls[i].begun_ns)
                free(self.calls[i].request.data)
                free(self.calls[i].reply.data)
        free(self.calls)
        free(self.idle)
        free(self.out.data)

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport):
        """The server is there."""
        self.transport = transport
        self.open_session()
        self.load.connections.append(self)
        self.flush()

    def get_buffer(self, sizehint):
        """Where to read into."""
        return _shared_buffer

    def buffer_updated(self, Py_ssize_t size):
        """So many bytes have come."""
        cdef ssize_t taken
        if self.gone:
            return
        self.load.now_ns = monotonic_ns()
        taken = nghttp2_session_mem_recv(
            self.session, <const uint8_t*>PyByteArray_AS_STRING(_shared_buffer), size
        )
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        if taken < 0:
            self.transport.abort()
            return
        self.fill()
        self.flush()

    def eof_received(self):
        """The server sends no more."""
        return False

    def connection_lost(self, error):
        """Nobody is there any more: what was not answered never will be."""
        cdef uint32_t i
        if self.gone:
            return
        self.gone = True
        if self.waiting or not self.load.stopped:
            self.load.lost += 1
        for i in range(self.load.stream_count):
            while self.calls[i].waiting:
                self.waiting -= 1
                self.load.fail_one(&self.calls[i], NO_STATUS)

    def pause_writing(self):
        """The server reads too slowly."""
        self.paused = True

    def resume_writing(self):
        """The server has caught up."""
        self.paused = False
        self.flush()

    def close(self):
        """Ends it at once."""
        self.connection_lost(None)
        if self.transport is not None:
            self.transport.abort()

    def half_close(self):
        """Ends the streams that stay open, once what they hold is sent."""
        cdef Call* call
        cdef uint32_t i
        if self.gone or not self.load.streaming:
            return
        for i in range(self.load.stream_count):
            call = &self.calls[i]
            call.ended = True
            if call.id and call.deferred:
                call.deferred = False
                nghttp2_session_resume_data(self.session, call.id)
        self.flush()

    # ------------------------------------------------------------ calls

    cdef int open_session(self) except -1:
        cdef nghttp2_settings_entry[2] entries
        entries[0].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        entries[0].value = WINDOW_BYTES
        entries[1].settings_id = NGHTTP2_SETTINGS_ENABLE_PUSH
        entries[1].value = 0
        if (
            nghttp2_session_client_new3(
                &self.session, _callbacks, <void*>self, NULL, session_memory()
            ) != 0
            or nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, entries, 2) != 0
            or nghttp2_session_set_local_window_size(
                self.session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES
            ) != 0
        ):
            raise MemoryError
        return 0

    cdef int begin(self, int64_t begun_ns) except -1:
        # Sends one call on a stream that has room; there is one.
        cdef Load load = self.load
        cdef Call* call
        cdef const Template* template = load.choose()
        cdef Bytes* request
        self.idle_count -= 1
        call = &self.calls[self.idle[self.idle_count]]
        request = &call.request
        # The bytes of the template, over which its numbers are written.
        bytes_append(request, template.data, template.size)
        load.write(template, request.data + request.size - template.size)
        call.begun_ns[(call.first + call.waiting) % load.depth] = begun_ns
        call.waiting += 1
        self.waiting += 1
        load.sent += 1
        if call.id == 0:
            call.ended = not load.streaming
            return self.open_stream(call, template == &load.check)
        if call.deferred:
            call.deferred = False
            nghttp2_session_resume_data(self.session, call.id)
        return 0

    cdef int open_stream(self, Call* call, bint is_check) except -1:
        cdef nghttp2_nv[FIELD_COUNT] fields
        cdef nghttp2_data_provider provider
        fields[0] = field(b":method", b"POST")
        fields[1] = field(b":scheme", b"http")
        fields[2] = field(b":path", self.load.check_path if is_check else self.load.commit_path)
        fields[3] = field(b":authority", self.load.authority)
        fields[4] = field(b"content-type", b"application/grpc")
        fields[5] = field(b"te", b"trailers")
        provider.source.ptr = call
        provider.read_callback = read_request
        call.status = -1
        call.deferred = False
        call.reply.size = 0
        call.id = nghttp2_submit_request(
            self.session, NULL, fields, FIELD_COUNT, &provider, call
        )
        if call.id < 0:
            raise ConnectionError(
                f"no more streams on a connection: {nghttp2_strerror(call.id).decode()}"
            )
        return 0

    cdef int fill(self) except -1:
        # Sends what is due, as far as this connection has room.
        cdef int64_t begun_ns = 0
        while self.idle_count and self.load.due(&begun_ns):
            self.begin(begun_ns)
            self.load.paced += 1
        return 0

    cdef int take_data(self, Call* call, const uint8_t* data, size_t size) except -1:
        # More of a reply; those of a stream are read as they come.
        cdef size_t offset = 0
        cdef size_t length
        bytes_append(&call.reply, data, size)
        if not self.load.streaming:
            return 0
        while call.reply.size - offset >= PREFIX_BYTES:
            length = message_size(call.reply.data + offset)
            if call.reply.size - offset - PREFIX_BYTES < length or call.waiting == 0:
                break
            self.load.finish_one(call, call.reply.data + offset + PREFIX_BYTES, length)
            self.free_slot(call)
            offset += PREFIX_BYTES + length
        bytes_drop(&call.reply, offset)
        return 0

    cdef int close_call(self, Call* call) except -1:
        # The stream has ended, one way or another.
        cdef Bytes* reply = &call.reply
        cdef int status = NO_STATUS if call.status < 0 else call.status
        call.id = 0
        call.request.size = call.sent = 0
        if not self.load.streaming and status == 0:
            if (
                reply.size >= PREFIX_BYTES
                and reply.data[0] == 0
                and message_size(reply.data) == reply.size - PREFIX_BYTES
            ):
                self.load.finish_one(call, reply.data + PREFIX_BYTES, reply.size - PREFIX_BYTES)
                self.free_slot(call)
                return 0
            status = NO_STATUS
        while call.waiting:
            self.load.fail_one(call, NO_STATUS if status == 0 else status)
            self.free_slot(call)
        return 0

    cdef void free_slot(self, Call* call) noexcept:
        self.waiting -= 1
        self.idle[self.idle_count] = call.number
        self.idle_count += 1

    cdef int flush(self) except -1:
        # Writes all that the session has to say.
        cdef const uint8_t* data
        cdef ssize_t size
        if self.gone or self.paused:
            return 0
        while True:
            size = nghttp2_session_mem_send(self.session, &data)
            if size < 0:
                self.transport.abort()
                return 0
            if size == 0:
                break
            bytes_append(&self.out, data, size)
        if self.out.size:
            self.transport.write(
                PyBytes_FromStringAndSize(<const char*>self.out.data, self.out.size)
            )
            self.out.size = 0
        return 0

    cdef int fail(self, object fault) noexcept:
        # Inside a callback: the session stops, and the fault is told behind it.
        self.fault = fault
        return NGHTTP2_ERR_CALLBACK_FAILURE
