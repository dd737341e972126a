# Whose bytes are dealt with next.

from libc.stdint cimport uint64_t

cdef class Taker:
    # What takes turns: a session.
    cdef uint64_t lane         # stands for the account that it last asked for; 0 = none yet
    cdef bint is_lined_up

    cdef int go_on(self) except -1

cdef class Turns:
    cdef public double turn_s  # what one turn of the loop may take ...
    cdef public double part_s  # ... and how much of it one taker at once
    cdef readonly size_t kept_bytes   # that have come and wait, of all takers
    cdef dict lines            # of takers who wait, by lane; a deque each
    cdef double spent_s        # of this turn by those who did not have to wait
    cdef double until_s        # when the one who is served has had enough
    cdef bint is_scheduled

    cdef bint may_begin(self, Taker taker) noexcept
    cdef double begin(self) noexcept
    cdef int end(self, double begun_s) except -1
    cdef bint is_over(self) noexcept
    cdef int line_up(self, Taker taker) except -1
    cdef int schedule(self) except -1

cdef double monotonic_s() noexcept nogil
