# The runs of messages counted under one key of one pause.

from libc.stdint cimport int64_t

from limiter._calendar cimport WindowRules
from limiter._messages cimport Addition, Ring, Summed

cdef struct PauseCounter:
    int64_t used               # messages of the run as of the last expiry; 0 once its break is over
    Ring newest                # the newest instants, of earlier runs too
    Summed* older              # owned; the messages before those, NULL until there are any

cdef void pause_free(PauseCounter* counter) noexcept nogil
cdef int pause_copy(PauseCounter* counter, const PauseCounter* original) except -1 nogil
cdef int pause_add(
    PauseCounter* counter,
    WindowRules* window,
    int64_t at_ms,
    int64_t count,
    Addition* addition,
) except -1 nogil
cdef void pause_undo(PauseCounter* counter, const Addition* addition) noexcept nogil
cdef void pause_expire(PauseCounter* counter, WindowRules* window, int64_t now_ms) noexcept nogil
cdef int pause_put_in(
    PauseCounter* counter, WindowRules* window, int64_t at_ms, int64_t count, int64_t now_ms
) except -1 nogil
cdef void pause_take_out(
    PauseCounter* counter, WindowRules* window, int64_t at_ms, int64_t count, int64_t now_ms
) noexcept nogil
cdef int64_t pause_first_ms(
    const PauseCounter* counter, const WindowRules* window, int64_t now_ms
) noexcept nogil
cdef int64_t pause_earliest_ms(const PauseCounter* counter) noexcept nogil
cdef int64_t pause_latest_ms(const PauseCounter* counter) noexcept nogil
cdef int64_t pause_passing_ms(
    const PauseCounter* counter, const WindowRules* window, int64_t from_ms, int64_t room
) noexcept nogil
cdef int64_t pause_passing_behind_ms(
    const PauseCounter* counter,
    const WindowRules* window,
    int64_t from_ms,
    int64_t room,
    int64_t behind_count,
    int64_t behind_ms,
) noexcept nogil
