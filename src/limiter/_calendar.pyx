# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Windows: which instants are inside at a given instant, and when a given send leaves.

In flow zone rules as plain tables of transitions (from a pinned tz database, never from the
machine); out flow instants in milliseconds. What always holds: `first_ms` never decreases as time
goes on, and `exit_ms(s)` is the earliest `t >= s` at which `first_ms(t) > s`.

A calendar unit starts at its first instant: a unit is found from the running maximum of local
time, so a clock that falls back across midnight never re-enters the day before.
"""

from libc.stdlib cimport free, malloc
from libc.stdint cimport int64_t

cdef int64_t HOUR_MS = 3_600_000
cdef int64_t DAY_MS = 86_400_000
# No zone is further than this from UTC, and no change of offset is larger.
cdef int64_t OFFSET_REACH_MS = 26 * 3_600_000


cdef inline int64_t floor_to(int64_t value, int64_t step) noexcept nogil:
    # The largest multiple of `step` that is <= value, for negative values too.
    cdef int64_t rest = value % step
    if rest < 0:
        rest += step
    return value - rest


cdef inline int segment_at(const ZoneRules* zone, int64_t at_ms) noexcept nogil:
    # How many transitions have happened at at_ms: the index of the offset that holds.
    cdef int low = 0
    cdef int high = zone.count
    cdef int middle
    while low < high:
        middle = (low + high) >> 1
        if zone.transition_ms[middle] <= at_ms:
            low = middle + 1
        else:
            high = middle
    return low


cdef int64_t latest_local_ms(const ZoneRules* zone, int64_t at_ms) noexcept nogil:
    # The largest local time that any instant up to at_ms has shown.
    cdef int segment = segment_at(zone, at_ms)
    cdef int64_t latest = at_ms + zone.offset_ms[segment]
    cdef int64_t before
    while segment > 0 and zone.transition_ms[segment - 1] > at_ms - 2 * OFFSET_REACH_MS:
        before = zone.transition_ms[segment - 1] - 1 + zone.offset_ms[segment - 1]
        if before > latest:
            latest = before
        segment -= 1
    return latest


cdef int64_t first_instant_ms(const ZoneRules* zone, int64_t local_ms) noexcept nogil:
    # The earliest instant whose local time is at or past local_ms.
    cdef int segment = segment_at(zone, local_ms - OFFSET_REACH_MS)
    cdef int64_t candidate
    while True:
        candidate = local_ms - zone.offset_ms[segment]
        if segment > 0 and candidate < zone.transition_ms[segment - 1]:
            candidate = zone.transition_ms[segment - 1]
        if segment == zone.count or candidate < zone.transition_ms[segment]:
            return candidate
        segment += 1


cdef int64_t month_start_day(int64_t day, int months_on) noexcept nogil:
    # The day number (days since 1970-01-01) of the first of the month that lies `months_on`
    # months after the month of `day`. Proleptic Gregorian, years counted from March.
    cdef int64_t shifted = day + 719468
    cdef int64_t era = shifted // 146097
    cdef int64_t day_of_era = shifted - era * 146097
    cdef int64_t year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096
    ) // 365
    cdef int64_t day_of_year = day_of_era - (
        365 * year_of_era + year_of_era // 4 - year_of_era // 100
    )
    cdef int64_t month = (5 * day_of_year + 2) // 153 + months_on
    cdef int64_t year = year_of_era + era * 400 + month // 12
    month = month % 12
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * month + 2) // 5
    return (
        era * 146097
        + 365 * year_of_era
        + year_of_era // 4
        - year_of_era // 100
        + day_of_year
        - 719468
    )


cdef void hour_bounds(
    const ZoneRules* zone, int64_t at_ms, int64_t* start_ms, int64_t* end_ms
) noexcept nogil:
    cdef int segment = segment_at(zone, at_ms)
    cdef int64_t offset = zone.offset_ms[segment]
    cdef int64_t start = floor_to(at_ms + offset, HOUR_MS) - offset
    cdef int64_t end = start + HOUR_MS
    if segment > 0 and zone.transition_ms[segment - 1] > start:
        start = zone.transition_ms[segment - 1]
    if segment < zone.count and zone.transition_ms[segment] < end:
        end = zone.transition_ms[segment]
    start_ms[0] = start
    end_ms[0] = end


cdef void unit_bounds(
    const ZoneRules* zone, int unit, int64_t at_ms, int64_t* start_ms, int64_t* end_ms
) noexcept nogil:
    # The unit that at_ms falls into, as [start, end).
    cdef int64_t day
    cdef int64_t next_day
    if unit == UNIT_HOUR:
        hour_bounds(zone, at_ms, start_ms, end_ms)
        return
    day = floor_to(latest_local_ms(zone, at_ms), DAY_MS) // DAY_MS
    if unit == UNIT_WEEK:
        # 1970-01-01 was a Thursday, three days after an ISO week's Monday.
        day = floor_to(day + 3, 7) - 3
        next_day = day + 7
    elif unit == UNIT_MONTH:
        next_day = month_start_day(day, 1)
        day = month_start_day(day, 0)
    else:
        next_day = day + 1
    start_ms[0] = first_instant_ms(zone, day * DAY_MS)
    end_ms[0] = first_instant_ms(zone, next_day * DAY_MS)


cdef int offset_number(const ZoneRules* zone, int64_t at_ms) noexcept nogil:
    # Which of the zone's offsets holds at at_ms.
    return segment_at(zone, at_ms)


cdef int64_t day_of(const ZoneRules* zone, int64_t at_ms) noexcept nogil:
    # The day (since 1970-01-01) that at_ms falls into, as the calendar's days have it.
    return floor_to(latest_local_ms(zone, at_ms), DAY_MS) // DAY_MS


cdef int64_t day_start_ms(const ZoneRules* zone, int64_t day) noexcept nogil:
    # The first instant of a day.
    return first_instant_ms(zone, day * DAY_MS)


cdef int64_t window_first_ms(WindowRules* window, int64_t at_ms) noexcept nogil:
    # The first instant that is inside the window that ends at at_ms.
    cdef int64_t start
    cdef int64_t end
    cdef int64_t unit_end
    cdef int _back
    if window.duration_ms > 0:
        return at_ms - window.duration_ms + 1
    if window.cached_from_ms <= at_ms < window.cached_until_ms:
        return window.cached_first_ms
    unit_bounds(window.zone, window.unit, at_ms, &start, &unit_end)
    window.cached_from_ms = start
    window.cached_until_ms = unit_end
    for _back in range(window.count - 1):
        unit_bounds(window.zone, window.unit, start - 1, &start, &end)
    window.cached_first_ms = start
    return start


cdef int64_t window_exit_ms(WindowRules* window, int64_t sent_ms) noexcept nogil:
    # The earliest instant at which a send at sent_ms is outside.
    cdef int64_t start
    cdef int64_t end
    cdef int _on
    if window.duration_ms > 0:
        return sent_ms + window.duration_ms
    if window.count == 1 and window.cached_from_ms <= sent_ms < window.cached_until_ms:
        return window.cached_until_ms
    unit_bounds(window.zone, window.unit, sent_ms, &start, &end)
    for _on in range(window.count - 1):
        unit_bounds(window.zone, window.unit, end, &start, &end)
    return end


cdef int64_t unit_start_ms(WindowRules* window, int64_t at_ms) noexcept nogil:
    # The start of the calendar unit that at_ms falls into.
    cdef int64_t start
    cdef int64_t end
    if window.cached_from_ms <= at_ms < window.cached_until_ms:
        return window.cached_from_ms
    unit_bounds(window.zone, window.unit, at_ms, &start, &end)
    return start


cdef class Zone:
    """The rules of one time zone: sorted `transition_ms` (instants, ms since the epoch) and
    `offset_ms` (local minus UTC), one longer: `offset_ms[i]` holds before `transition_ms[i]`."""

    def __cinit__(self, str name, transition_ms, offset_ms):
        cdef int count = len(transition_ms)
        cdef int i
        if len(offset_ms) != count + 1:
            raise ValueError("a zone has one offset more than transitions")
        self.name = name
        self.rules.count = count
        self.rules.transition_ms = <int64_t*>malloc((count + 1) * sizeof(int64_t))
        self.rules.offset_ms = <int64_t*>malloc((count + 1) * sizeof(int64_t))
        if self.rules.transition_ms == NULL or self.rules.offset_ms == NULL:
            raise MemoryError
        for i in range(count):
            self.rules.transition_ms[i] = transition_ms[i]
            if i and self.rules.transition_ms[i] <= self.rules.transition_ms[i - 1]:
                raise ValueError("transitions must be strictly increasing")
        for i in range(count + 1):
            self.rules.offset_ms[i] = offset_ms[i]

    def __dealloc__(self):
        free(self.rules.transition_ms)
        free(self.rules.offset_ms)

    def __repr__(self):
        return f"Zone({self.name!r})"


cdef class Window:
    """A window of time; make one by `Window.rolling` or `Window.calendar`."""

    @staticmethod
    def rolling(int64_t duration_ms):
        """The last `duration_ms` milliseconds: at `t`, a send at `s` is inside iff
        `t - duration_ms < s <= t`."""
        if duration_ms <= 0:
            raise ValueError("a rolling window lasts at least 1 ms")
        cdef Window window = Window.__new__(Window)
        window.rules.duration_ms = duration_ms
        return window

    @staticmethod
    def calendar(int unit, Zone zone not None, int count):
        """The current calendar unit (HOUR=1, DAY=2, WEEK=3, MONTH=4), and `count - 1` before it."""
        if not UNIT_HOUR <= unit <= UNIT_MONTH:
            raise ValueError("unknown calendar unit")
        if count < 1:
            raise ValueError("a calendar window has at least one unit")
        cdef Window window = Window.__new__(Window)
        window.zone = zone
        window.rules.zone = &zone.rules
        window.rules.unit = unit
        window.rules.count = count
        return window

    def first_ms(self, int64_t at_ms):
        """The first instant that is inside the window ending at `at_ms`."""
        return window_first_ms(&self.rules, at_ms)

    def exit_ms(self, int64_t sent_ms):
        """The earliest instant at which a send at `sent_ms` is outside."""
        return window_exit_ms(&self.rules, sent_ms)
