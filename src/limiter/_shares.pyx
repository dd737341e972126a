# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Who fills the journal's open group, once that is half of what may wait.

In: the events that wait, and the account that wants to add to them. Out: a refusal, if it holds
more than its share already. So one account cannot take the room of all: what is left is kept for
those who hold less than the average.

What always holds: below half of the room nobody is refused and nothing is added up; each event is
looked at once.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from limiter import bounds, errors
from limiter._core cimport Core
from limiter._event cimport event_account, event_size
from limiter._subject cimport Name
from limiter._types cimport Slice

cdef enum:
    ROWS_MIN = 256


@cython.final
cdef class Shares:
    """The shares of the accounts of one core."""

    def __cinit__(self, Core core not None):
        self.core = core

    def __dealloc__(self):
        free(self.rows)

    cdef int admit(self, Slice account) except -1:
        # Raises OverShare if the account holds more than its share of what waits. Where it is
        # alone, its share is half of the room: others may come.
        cdef Name name
        cdef const Share* row
        cdef uint64_t held
        text = account.data[: account.size]
        self.add_up()
        self.core.accounts.name_in(text, &name)
        if name.id == 0:
            return 0
        row = self.row_of(name.id)
        held = row.size if row.account else 0
        if held * max(self.count, <uint32_t>2) > self.core.recorder.buffer.size:
            raise errors.OverShare(
                "OVERLOADED",
                "much is waiting for the journal, and most of it is this account's; nothing was "
                "done",
                retry_after_ms=bounds.RETRY_AFTER_MS,
            )
        return 0

    cdef int add_up(self) except -1:
        # Brings the shares up to what waits now.
        cdef const uint8_t* events = self.core.recorder.buffer.data
        cdef uint32_t size = self.core.recorder.buffer.size
        cdef uint32_t account
        cdef Share* row
        if self.rows == NULL or self.group != self.core.recorder.buffer.group:
            self.group = self.core.recorder.buffer.group
            self.offset = self.count = 0
            if self.rows != NULL:
                memset(self.rows, 0, self.row_count * sizeof(Share))
        while self.offset < size:
            if 2 * self.count >= self.row_count:
                self.grow()
            account = event_account(events + self.offset)
            if account:
                row = self.row_of(account)
                if row.account == 0:
                    row.account = account
                    self.count += 1
                row.size += event_size(events + self.offset)
            self.offset += event_size(events + self.offset)
        return 0

    cdef int grow(self) except -1:
        cdef Share* old = self.rows
        cdef uint32_t old_count = self.row_count
        cdef uint32_t count = max(2 * old_count, <uint32_t>ROWS_MIN)
        cdef Share* rows = <Share*>calloc(count, sizeof(Share))
        cdef uint32_t i
        if rows == NULL:
            raise MemoryError
        self.rows = rows
        self.row_count = count
        for i in range(old_count):
            if old[i].account:
                self.row_of(old[i].account)[0] = old[i]
        free(old)
        return 0

    cdef Share* row_of(self, uint32_t account) noexcept nogil:
        # The account's row, or the free one where it would be.
        cdef uint32_t i = account * <uint32_t>2654435761
        while True:
            i &= self.row_count - 1
            if self.rows[i].account == account or self.rows[i].account == 0:
                return &self.rows[i]
            i += 1
