# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What an account has attempted, denied attempts included, and what became of it.

In flow the newest positions of an account; out flow its events, the oldest first. They are found by
walking back along the account's two chains side by side, and kept as they are packed until they are
taken. What always holds: a walk goes on where it stopped, so it can be taken in small steps while
the account goes on; what comes after its beginning is not part of it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from limiter import bounds
from limiter.errors import DataLoss, ResourceExhausted
from limiter._core cimport Core
from limiter._event cimport (
    EVENT_COMMIT,
    EVENT_CONFIRM,
    EVENT_DENIAL,
    EVENT_UNDO,
    Event,
    event_read,
)
from limiter._fates cimport FATE_CANCELLED
from limiter._messages cimport NEVER_MS
from limiter._types cimport REASON_OPTED_OUT

cdef enum:
    CHUNK_BYTES = 65536
    # What stands behind an event: its position and its size.
    TRAILER_BYTES = 12


@cython.final
cdef class Recollection:
    """Remembers an account of `core`, up to `end_ms` (exclusive). Attempts before `first_ms` do not
    matter, unless fewer than `quiet_ms` lie between them and what follows. Keeps up to `bytes_max`
    of events."""

    def __cinit__(
        self,
        Core core not None,
        str account not None,
        int64_t first_ms,
        int64_t quiet_ms,
        int64_t end_ms,
        uint64_t bytes_max=bounds.SIMULATION_HISTORY_BYTES_MAX,
    ):
        self.core = core
        self.first_ms = first_ms
        self.quiet_ms = quiet_ms
        self.end_ms = end_ms
        self.bytes_max = bytes_max
        self.next_event, self.next_denial = core.last_events(account)
        self.earliest_ms = NEVER_MS
        self.oldest_ms = NEVER_MS
        self.awaited = set()
        self.is_walked = self.next_event == 0 and self.next_denial == 0

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.chunk_count):
            free(self.chunks[i].data)
        free(self.chunks)

    @property
    def since_ms(self):
        """From which instant on everything is remembered; None where that is everything ever, or
        all that matters."""
        return self.oldest_ms if self.is_lost else None

    def walk(self, uint32_t most):
        """Reads up to so many events back; whether that was the end. Raises ResourceExhausted, and
        DataLoss for what is no event."""
        while most and not self.is_walked:
            self.visit(max(self.next_event, self.next_denial))
            most -= 1
        return self.is_walked

    cdef int visit(self, uint64_t position) except -1:
        # Reads the newest event that was not read yet.
        cdef Event event
        cdef bytes packed = self.core.past.read(position)
        if packed is None:
            self.is_walked = self.is_lost = True
            return 0
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(packed)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(packed)
        if event_read(data, size, position, &event) == 0:
            raise DataLoss(
                "JOURNAL_CORRUPT", f"the journal holds no event at {position} where another says so"
            )
        if (
            event.time_ms < self.first_ms
            and (self.earliest_ms == NEVER_MS or self.earliest_ms - event.time_ms >= self.quiet_ms)
        ):
            self.is_walked = True
            return 0
        if event.type == EVENT_DENIAL:
            self.next_denial = event.previous_denial
        else:
            self.next_event = event.previous_account
        self.is_walked = self.next_event == 0 and self.next_denial == 0
        self.oldest_ms = event.time_ms
        self.earliest_ms = min(self.earliest_ms, event.time_ms)
        if event.type == EVENT_COMMIT:
            self.earliest_ms = min(self.earliest_ms, event.counts_ms)
        if self.matters(&event):
            self.keep(data, size, position)
        return 0

    cdef bint matters(self, const Event* event) noexcept:
        # Whether it is to be tried, or tells of what became of a commit.
        if event.time_ms >= self.end_ms:
            return False
        if event.type == EVENT_COMMIT:
            self.has_holds |= event.hold_ms != 0
            return True
        if event.type == EVENT_DENIAL:
            # No policy lets somebody be written to who has opted out.
            return event.reason != REASON_OPTED_OUT
        # Holds lapse by themselves.
        if event.type == EVENT_CONFIRM or (
            event.type == EVENT_UNDO and event.fate == FATE_CANCELLED
        ):
            self.awaited.add(event.commit)
            return True
        return False

    cdef int keep(self, const uint8_t* packed, uint32_t size, uint64_t position) except -1:
        cdef uint32_t needed = size + TRAILER_BYTES
        cdef Chunk* chunk
        if needed > CHUNK_BYTES or self.kept_bytes + needed > self.bytes_max:
            raise ResourceExhausted(
                "HISTORY_TOO_LONG",
                f"the account's attempts take more than the {self.bytes_max} bytes that are"
                " remembered at once; set start_time, later if it is set already",
            )
        if (
            self.chunk_count == 0
            or self.chunks[self.chunk_count - 1].size + needed > CHUNK_BYTES
        ):
            self.add_chunk()
        chunk = &self.chunks[self.chunk_count - 1]
        memcpy(chunk.data + chunk.size, packed, size)
        memcpy(chunk.data + chunk.size + size, &position, 8)
        memcpy(chunk.data + chunk.size + size + 8, &size, 4)
        chunk.size += needed
        self.kept_bytes += needed
        return 0

    cdef int add_chunk(self) except -1:
        cdef Chunk* chunks
        cdef uint32_t capacity
        if self.chunk_count == self.chunk_capacity:
            capacity = 2 * self.chunk_capacity + 16
            chunks = <Chunk*>realloc(self.chunks, capacity * sizeof(Chunk))
            if chunks == NULL:
                raise MemoryError
            self.chunks = chunks
            self.chunk_capacity = capacity
        self.chunks[self.chunk_count].data = <uint8_t*>malloc(CHUNK_BYTES)
        self.chunks[self.chunk_count].size = 0
        if self.chunks[self.chunk_count].data == NULL:
            raise MemoryError
        self.chunk_count += 1
        return 0

    cdef bint take_oldest(self, Event* event, uint64_t* position) except -1:
        # Takes the oldest event that is kept, of which no slice may be used; False when none is.
        cdef Chunk* chunk
        cdef uint32_t size
        if self.chunk_count == 0:
            return False
        chunk = &self.chunks[self.chunk_count - 1]
        memcpy(&size, chunk.data + chunk.size - 4, 4)
        memcpy(position, chunk.data + chunk.size - TRAILER_BYTES, 8)
        chunk.size -= size + TRAILER_BYTES
        if event_read(chunk.data + chunk.size, size, position[0], event) == 0:
            raise AssertionError("an event cannot be read that could be read before")
        if chunk.size == 0:
            free(chunk.data)
            self.chunk_count -= 1
        return True
