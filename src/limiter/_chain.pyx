# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The events of one account that its image does not know yet.

In flow the position of the newest one; out flow the events, the oldest first. They are found by
walking back, since each names the one before it. May be read by any thread: what is recorded does
not change.
"""

cimport cython
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

    cdef int read(self, object events_of, uint64_t newest, uint64_t until) except -1:
        # Reads back from the newest event to the one behind `until`; `events_of(number)` gives the
        # packed events of a group. Raises DataLoss where one of them is not kept.
        cdef uint64_t position = newest
        cdef const uint8_t[::1] events
        while position > until:
            found = events_of(position >> OFFSET_BITS)
            if found is None or len(found) == 0:
                raise self.lost(position)
            events = found
            position = self.walk(&events[0], events.shape[0], position, until)
        return 0

    cdef uint64_t walk(
        self, const uint8_t* data, size_t size, uint64_t position, uint64_t until
    ) except? 0:
        # Keeps the events that lie in these bytes of a group, and returns the position of the next
        # one, which does not.
        cdef uint64_t number = position >> OFFSET_BITS
        cdef uint64_t offset
        cdef int length = 1
        cdef Event event
        with nogil:
            while position > until and position >> OFFSET_BITS == number:
                offset = position & ((1 << OFFSET_BITS) - 1)
                length = 0
                if offset < size:
                    length = event_read(data + offset, size - offset, position, &event)
                if length == 0 or event.previous_account >= position:
                    length = 0
                    break
                self.keep(data + offset, <uint32_t>length, position)
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
