# Windows of time: rolling durations, and calendar units under a zone's own rules.

from libc.stdint cimport int64_t

cdef enum:
    UNIT_HOUR = 1
    UNIT_DAY = 2
    UNIT_WEEK = 3
    UNIT_MONTH = 4

cdef struct ZoneRules:
    int64_t* transition_ms     # owned by Zone; sorted instants at which the offset changes
    int64_t* offset_ms         # owned by Zone; count + 1 offsets, [i] holds before transition [i]
    int count

cdef struct WindowRules:
    int64_t duration_ms        # > 0: rolling; 0: calendar
    const ZoneRules* zone      # borrowed from the Zone that the Window keeps alive; NULL if rolling
    int unit
    int count                  # calendar units in the window, the current one included
    int64_t cached_from_ms     # the calendar unit met last ...
    int64_t cached_until_ms    # ... holds for instants in [from, until)
    int64_t cached_first_ms    # ... and the window's first instant there

cdef int64_t window_first_ms(WindowRules* window, int64_t at_ms) noexcept nogil
cdef int64_t window_exit_ms(WindowRules* window, int64_t sent_ms) noexcept nogil
cdef void unit_bounds(
    const ZoneRules* zone, int unit, int64_t at_ms, int64_t* start_ms, int64_t* end_ms
) noexcept nogil

# What else looks at the clock asks these.
cdef int offset_number(const ZoneRules* zone, int64_t at_ms) noexcept nogil
cdef int64_t day_of(const ZoneRules* zone, int64_t at_ms) noexcept nogil
cdef int64_t day_start_ms(const ZoneRules* zone, int64_t day) noexcept nogil

cdef int64_t unit_start_ms(WindowRules* window, int64_t at_ms) noexcept nogil

cdef class Zone:
    cdef ZoneRules rules
    cdef readonly str name

cdef class Window:
    cdef WindowRules rules
    cdef readonly Zone zone
