# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Hours: whether a message may go at an instant, and when it next may.

In flow ranges of minutes of the week and a zone's rules; out flow instants. A range means what the
clock on the wall shows: an hour that the clock shows twice is open twice, one that it skips is
never open.
"""

cimport cython
from libc.stdlib cimport free, malloc, realloc
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from limiter._calendar cimport Zone, ZoneRules, offset_number
from limiter._names cimport names_find, names_free, names_insert
from limiter._siphash cimport SipKey, siphash64
from limiter._subject cimport Subject
from limiter._types cimport Slice

cdef int64_t MINUTE_MS = 60_000
cdef int64_t DAY_MS = 86_400_000
cdef int64_t WEEK_MS = 7 * 86_400_000
WEEK_MINUTES = 7 * 24 * 60


cdef int64_t wait_ms(const HoursRules* hours, int64_t local_ms) noexcept nogil:
    # How much later on the wall it is open; 0 when it is.
    cdef int low = 0
    cdef int high = hours.count
    cdef int middle
    # 1970-01-01 was a Thursday, three days after an ISO week's Monday.
    cdef int64_t week_ms = (local_ms + 3 * DAY_MS) % WEEK_MS
    if week_ms < 0:
        week_ms += WEEK_MS
    while low < high:
        middle = (low + high) >> 1
        if hours.starts[middle] * MINUTE_MS <= week_ms:
            low = middle + 1
        else:
            high = middle
    if low and week_ms < hours.ends[low - 1] * MINUTE_MS:
        return 0
    if low < hours.count:
        return hours.starts[low] * MINUTE_MS - week_ms
    return hours.starts[0] * MINUTE_MS + WEEK_MS - week_ms


cdef int64_t open_ms(const HoursRules* hours, int64_t local_ms) noexcept nogil:
    # How much later on the wall the range ends that it is open in.
    cdef int64_t week_ms = (local_ms + 3 * DAY_MS) % WEEK_MS
    cdef int number = 0
    if week_ms < 0:
        week_ms += WEEK_MS
    while hours.ends[number] * MINUTE_MS <= week_ms:
        number += 1
    return hours.ends[number] * MINUTE_MS - week_ms


cdef bint hours_open(
    const HoursRules* hours, const ZoneRules* zone, int64_t at_ms
) noexcept nogil:
    return wait_ms(hours, at_ms + zone.offset_ms[offset_number(zone, at_ms)]) == 0


cdef int64_t hours_opening_ms(
    const HoursRules* hours, const ZoneRules* zone, int64_t from_ms
) noexcept nogil:
    # The earliest instant from from_ms on at which it is open.
    cdef int number = offset_number(zone, from_ms)
    cdef int64_t at_ms = from_ms
    cdef int64_t opening_ms
    while True:
        opening_ms = at_ms + wait_ms(hours, at_ms + zone.offset_ms[number])
        if number == zone.count or opening_ms < zone.transition_ms[number]:
            return opening_ms
        # The clock changes before that.
        at_ms = zone.transition_ms[number]
        number += 1


cdef int64_t hours_change_ms(
    const HoursRules* hours, const ZoneRules* zone, int64_t from_ms
) noexcept nogil:
    # An instant after from_ms up to which it stays as open as it is then; where the clock on the
    # wall changes it may stay so for longer.
    cdef int number = offset_number(zone, from_ms)
    cdef int64_t change_ms = from_ms + wait_ms(hours, from_ms + zone.offset_ms[number])
    if change_ms == from_ms:
        change_ms += open_ms(hours, from_ms + zone.offset_ms[number])
    if number < zone.count:
        change_ms = min(change_ms, zone.transition_ms[number])
    return change_ms


cdef class Hours:
    """Open in the `ranges`: (first minute, minute after the last) of the week from Monday on, in
    order and apart. In `zone`; with `by_recipient` in that of the attempt, where it has one."""

    def __cinit__(self, ranges, Zone zone not None, bint by_recipient):
        cdef int32_t start
        cdef int32_t end
        cdef int32_t last = -1
        self.zone = zone
        self.rules.zone = &zone.rules
        self.rules.by_recipient = by_recipient
        self.rules.starts = <int32_t*>malloc((len(ranges) + 1) * sizeof(int32_t))
        self.rules.ends = <int32_t*>malloc((len(ranges) + 1) * sizeof(int32_t))
        if self.rules.starts == NULL or self.rules.ends == NULL:
            raise MemoryError
        for start, end in ranges:
            if not last < start < end <= WEEK_MINUTES:
                raise ValueError("ranges are in order, apart and inside the week")
            self.rules.starts[self.rules.count] = start
            self.rules.ends[self.rules.count] = last = end
            self.rules.count += 1
        if self.rules.count == 0:
            raise ValueError("hours that are never open")
        self.identity = (tuple(ranges), zone.name, bool(by_recipient))

    def __dealloc__(self):
        free(self.rules.starts)
        free(self.rules.ends)

    def is_open(self, int64_t at_ms):
        """Whether a message may go at `at_ms`, in the hours' own zone."""
        return hours_open(&self.rules, self.rules.zone, at_ms)

    def opening_ms(self, int64_t from_ms):
        """The earliest instant from `from_ms` on at which one may."""
        return hours_opening_ms(&self.rules, self.rules.zone, from_ms)


cdef uint64_t hash_of(Slice name) noexcept nogil:
    # Without a secret: only names of the tz database ever meet in the table.
    cdef SipKey plain
    plain.k0 = 0
    plain.k1 = 0
    return siphash64(&plain, name.data, name.size)


@cython.final
cdef class ZoneTable:
    """Zones by the names that attempts bring. `find_zone(name, field)` gives the same one for good,
    or raises InvalidArgument about the field; only names that it knows are kept, so they are few.
    """

    def __cinit__(self, find_zone):
        self.find_zone = find_zone
        self.zones = []

    def __dealloc__(self):
        names_free(&self.names)
        free(self.rules)

    cdef int put(self, Subject* subject, Slice name, int recipient) except -1:
        # Says where the attempt's contact lives; an empty name says nothing. Raises InvalidArgument
        # where there is no such zone.
        subject.zone = self.rules_of(name, recipient) if name.size else NULL
        subject.zone_name.text = name
        subject.zone_name.id = 0
        return 0

    cdef const ZoneRules* rules_of(self, Slice name, int recipient) except NULL:
        # The rules of the zone with that name; `recipient` is the place in a batch of who named it,
        # -1 for a single attempt.
        cdef uint32_t id = names_find(&self.names, name, hash_of(name))
        return self.rules[id - 1] if id else self.learn(name, recipient)

    cdef const ZoneRules* learn(self, Slice name, int recipient) except NULL:
        cdef const ZoneRules** rules
        cdef uint32_t capacity
        cdef Zone zone
        place = "attempt" if recipient < 0 else f"recipients[{recipient}]"
        zone = self.find_zone(name.data[: name.size].decode(), f"{place}.contact_time_zone")
        if self.names.size == self.capacity:
            capacity = 2 * self.capacity + 16
            rules = <const ZoneRules**>realloc(self.rules, capacity * sizeof(ZoneRules*))
            if rules == NULL:
                raise MemoryError
            self.rules = rules
            self.capacity = capacity
        self.zones.append(zone)
        self.rules[self.names.size] = &zone.rules
        names_insert(&self.names, name, hash_of(name))
        return &zone.rules
