# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Whose bytes are dealt with next, when more has come than one turn of the event loop should take.

In: sessions that have something to deal with, each with the lane of the account that it asks for.
Out: the order in which they go on. As long as little comes, whatever comes is dealt with where it
comes, and nobody waits. Once that has taken as long as one turn may, the rest lines up; from the
next turn on the lanes go on one after the other, a part of a turn each, however many sessions there
are in one. Who comes by a lane that has a line joins it; who comes by another is served at once.

What always holds: while others wait nobody is served for longer than a part of a turn and what he
has begun; whoever waits is served before any other lane is served twice; sessions of a lane go on
in the order in which they lined up.
"""

cimport cython
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import asyncio
import logging
from collections import deque

from limiter import bounds

_log = logging.getLogger(__name__)

# What may have been spent of a turn before anybody is told when it ends: little enough to be left
# out, and enough for a quiet server never to ask.
cdef double UNTOLD_S = 0.0001


cdef double monotonic_s() noexcept nogil:
    # The clock of Python's time.monotonic.
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class Taker:
    """Who takes turns."""

    cdef int go_on(self) except -1:
        # It is its turn.
        return 0


@cython.final
cdef class Turns:
    """The turns of one server's sessions; belongs to one event loop. `turn_s` and `part_s` are in
    seconds."""

    def __cinit__(self):
        self.turn_s = bounds.TURN_MS_MAX / 1000
        self.part_s = bounds.TURN_PART_MS_MAX / 1000
        self.lines = {}

    @property
    def waiting_count(self):
        """Sessions that wait for their turn."""
        return sum([len(line) for line in self.lines.values()])

    # ------------------------------------------------------------ who does not have to wait

    cdef bint may_begin(self, Taker taker) noexcept:
        # Whether somebody may be served where he comes.
        return self.spent_s < self.turn_s and not (self.lines and taker.lane in self.lines)

    cdef double begin(self) noexcept:
        # Somebody is served where he comes; gives what `end` wants to know.
        cdef double now_s = monotonic_s()
        self.until_s = now_s + self.turn_s - self.spent_s
        return now_s

    cdef int end(self, double begun_s) except -1:
        # He has been served.
        self.spent_s += monotonic_s() - begun_s
        if self.spent_s > UNTOLD_S:
            return self.schedule()
        return 0

    cdef bint is_over(self) noexcept:
        # Whether the one who is served has had enough, and others go on.
        return monotonic_s() >= self.until_s

    # ------------------------------------------------------------ who has to

    cdef int line_up(self, Taker taker) except -1:
        # He goes on when it is his turn.
        if taker.is_lined_up:
            return 0
        line = self.lines.get(taker.lane)
        if line is None:
            line = self.lines[taker.lane] = deque()
        line.append(taker)
        taker.is_lined_up = True
        return self.schedule()

    cdef int schedule(self) except -1:
        if not self.is_scheduled:
            self.is_scheduled = True
            asyncio.get_running_loop().call_soon(self.take)
        return 0

    def take(self):
        """Called by the event loop, once in each of its turns: the next ones go on."""
        cdef Taker taker
        cdef double now_s = monotonic_s()
        cdef double end_s = now_s + self.turn_s
        self.is_scheduled = False
        self.spent_s = 0
        while self.lines:
            lane = next(iter(self.lines))
            line = self.lines.pop(lane)
            taker = line.popleft()
            if line:
                self.lines[lane] = line
            taker.is_lined_up = False
            self.until_s = now_s + self.part_s
            try:
                taker.go_on()
            except Exception:
                _log.exception("a connection failed")
                (<object>taker).abort()
            now_s = monotonic_s()
            if now_s >= end_s:
                break
        if self.lines:
            self.schedule()
