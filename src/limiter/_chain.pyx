# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The events of one account that its image does not know yet.

In flow the position of the newest one; out flow the events, the oldest first. They are found by
walking back, since each names the one before it. May be read by any thread: what is recorded does
not change.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from limiter.errors import DataLoss
from limiter._event cimport OFFSET_BITS, Event, event_read

cdef enum:
    TRAILER_BYTES = 12         # position and size, behind each event


@cython.final
cdef class Chain:
    """Empty until it is read, and again once everything is taken."""

    def __dealloc__(self):
        free(self.data)

    cdef int read(self, object history, uint64_t newest, uint64_t until) except -1:
        # Reads back from the newest event to the one behind `until`. Raises DataLoss where one of
        # them is not kept.
        cdef uint64_t position = newest
        cdef uint64_t number
        cdef uint64_t last_number = 0
        cdef bytes group
        while position > until:
            number = position >> OFFSET_BITS
            if number == last_number:
                # Where there is a second one there may be many.
                group = history.group(number)
                if group is None:
                    raise self.lost(position)
                position = self.walk(
                    <const uint8_t*>PyBytes_AS_STRING(group),
                    PyBytes_GET_SIZE(group),
                    0,
                    position,
                    until,
                )
                continue
            last_number = number
            group = history.event(position)
            if group is None:
                raise self.lost(position)
            position = self.walk(
                <const uint8_t*>PyBytes_AS_STRING(group),
                PyBytes_GET_SIZE(group),
                position & ((1 << OFFSET_BITS) - 1),
                position,
                until,
            )
        return 0

    cdef uint64_t walk(
        self,
        const uint8_t* data,
        size_t size,
        uint64_t start,
        uint64_t position,
        uint64_t until,
    ) except? 0:
        # Keeps the events that lie in these bytes, of one group from the offset `start` on, and
        # returns the position of the next one, which does not.
        cdef uint64_t number = position >> OFFSET_BITS
        cdef uint64_t offset
        cdef int length = 1
        cdef Event event
        with nogil:
            while position > until and position >> OFFSET_BITS == number:
                offset = position & ((1 << OFFSET_BITS) - 1)
                if offset < start or offset - start >= size:
                    break
                length = event_read(
                    data + (offset - start), size - (offset - start), position, &event
                )
                if length == 0:
                    break
                self.keep(data + (offset - start), <uint32_t>length, position)
                if event.previous_account >= position:
                    length = 0
                    break
                position = event.previous_account
        if length == 0:
            raise DataLoss(
                "JOURNAL_CORRUPT",
                f"journal group {number} holds no event where another one says so",
            )
        return position

    cdef int keep(self, const uint8_t* packed, uint32_t size, uint64_t position) except -1 nogil:
        cdef size_t needed = self.size + size + TRAILER_BYTES
        cdef uint8_t* data
        if needed > self.capacity:
            data = <uint8_t*>realloc(self.data, needed + (needed >> 1) + 256)
            if data == NULL:
                with gil:
                    raise MemoryError
            self.data = data
            self.capacity = needed + (needed >> 1) + 256
        memcpy(self.data + self.size, packed, size)
        memcpy(self.data + self.size + size, &position, 8)
        memcpy(self.data + self.size + size + 8, &size, 4)
        self.size = needed
        self.count += 1
        return 0

    cdef bint take_oldest(self, Event* event, uint64_t* position) except -1:
        # Takes the oldest event that is left, valid until more is read; False when none is.
        cdef uint32_t size
        if self.size == 0:
            return False
        memcpy(&size, self.data + self.size - 4, 4)
        memcpy(position, self.data + self.size - TRAILER_BYTES, 8)
        self.size -= size + TRAILER_BYTES
        if event_read(self.data + self.size, size, position[0], event) == 0:
            raise AssertionError("an event cannot be read that could be read before")
        return True

    cdef object lost(self, uint64_t position):
        return DataLoss(
            "JOURNAL_GAP",
            f"the journal does not reach back to group {position >> OFFSET_BITS}, which an account"
            " needs whose image is older",
        )
