# Who goes when: a plan's recipients in lanes, and the instant that it has come to.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._calendar cimport ZoneRules
from limiter._plan_counters cimport PlanCounters
from limiter._plan_crowd cimport Crowd
from limiter._plan_queue cimport TurnHeap
from limiter._plan_rules cimport PlanRules
from limiter._subject cimport Subject

cdef struct Lane:
    # Persons who pass at the same instants, as far as it does not hang on each.
    const ZoneRules* zone      # borrowed
    uint64_t applies
    uint64_t members
    int64_t bound_ms           # nobody in it passes before
    uint32_t live              # persons in it
    TurnHeap turns             # by the place of the recipient whose turn it is

cdef class Schedule:
    cdef PlanRules rules
    cdef PlanCounters counters
    cdef Crowd crowd
    cdef Subject subject       # the attempt, to whom it is made now
    cdef Subject stranger      # the attempt to nobody in particular
    cdef int64_t* send_ms      # owned; [recipient] NO_TIME = not planned
    cdef uint32_t recipient_count
    cdef uint32_t left         # recipients that are not planned and may yet be
    cdef int64_t begin_ms
    cdef int64_t end_ms        # the last instant that is planned for
    cdef int64_t spread_ms
    cdef int64_t at_ms         # the instant that the plan has come to
    cdef int64_t all_ms        # nobody passes before ...
    cdef bint all_known        # ... as it stands now
    cdef Lane* lanes           # owned
    cdef uint32_t lane_count
    cdef uint32_t lane_capacity
    cdef TurnHeap waiting      # persons by the instant at which they are to be looked at again
    cdef uint32_t waiting_live
    cdef uint32_t touched_contact  # who is to be looked at anew: this person and the next ones ...
    cdef uint32_t touched_address  # ... with the same contact or address; NO_INDEX = nobody
    cdef int64_t steps         # what has been done so far, about a tenth of a microsecond each

    cdef int begin(
        self, PlanRules rules, PlanCounters counters, Crowd crowd, const Subject* subject,
        uint32_t recipient_count, int64_t spread_ms,
    ) except -1
    cdef int start(self, int64_t now_ms) except -1
    cdef int place(self, uint32_t number) except -1
    cdef bint step(self) except -1

    cdef int64_t floor_ms(self, uint32_t recipient) noexcept
    cdef void leave(self, uint32_t number) noexcept
    cdef Lane* lane_for(
        self, const ZoneRules* zone, uint64_t applies, uint64_t members, uint32_t* number
    ) except NULL
    cdef int wait(self, uint32_t number, int64_t until_ms) except -1
    cdef int64_t first_in(self, Lane* lane) noexcept
    cdef Lane* next_lane(self) noexcept
    cdef int try_lane(self, Lane* lane) except -1
    cdef int send(self, uint32_t number) except -1
    cdef int touch_some(self) except -1
    cdef int lapse(self) except -1
    cdef void move_on(self) noexcept
