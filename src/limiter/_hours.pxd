# Hours of the week in which messages may go, by the clock on the wall.

from libc.stdint cimport int32_t, int64_t, uint32_t

from limiter._calendar cimport Zone, ZoneRules
from limiter._names cimport NameTable
from limiter._subject cimport Subject
from limiter._types cimport Slice

cdef struct HoursRules:
    const ZoneRules* zone      # borrowed; of the ranges, or of who is asked about without a zone
    bint by_recipient          # in the zone of the attempt, where it has one
    int32_t* starts            # owned by the Hours; minutes of the week, in order ...
    int32_t* ends              # owned; ... and where each range ends, before the next one starts
    int count

cdef bint hours_open(
    const HoursRules* hours, const ZoneRules* zone, int64_t at_ms
) noexcept nogil
cdef int64_t hours_opening_ms(
    const HoursRules* hours, const ZoneRules* zone, int64_t from_ms
) noexcept nogil

cdef int64_t hours_change_ms(
    const HoursRules* hours, const ZoneRules* zone, int64_t from_ms
) noexcept nogil

cdef inline const ZoneRules* zone_of(
    const HoursRules* hours, const ZoneRules* contact_zone
) noexcept nogil:
    # The zone in which the hours hold for an attempt; `contact_zone` is NULL where it brings none.
    if hours.by_recipient and contact_zone != NULL:
        return contact_zone
    return hours.zone

cdef class Hours:
    cdef HoursRules rules
    cdef readonly Zone zone
    cdef readonly tuple identity  # all that the hours say

cdef class ZoneTable:
    # The zones that attempts have named so far.
    cdef object find_zone
    cdef NameTable names
    cdef list zones            # keeps the rules alive, in the order of the names' ids
    cdef const ZoneRules** rules  # owned array of borrowed rules; [id - 1]
    cdef uint32_t capacity
    cdef int put(self, Subject* subject, Slice name, int recipient) except -1
    cdef const ZoneRules* rules_of(self, Slice name, int recipient) except NULL
    cdef const ZoneRules* learn(self, Slice name, int recipient) except NULL
