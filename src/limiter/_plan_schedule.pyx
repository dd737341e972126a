# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Who goes when: at each instant the first in order that passes.

In flow persons, limits and counters; out flow the instants at which recipients go. It is done in
steps, each of which takes a few microseconds at most, so that whoever asks can stop in between.

The instant that the plan has come to moves on only where nobody passes, and then to the earliest at
which somebody may. What makes that exact is that sends only ever make others wait longer, but for
those at the same contact or address, whom a distinct counter may have inside now. So an instant
before which somebody does not pass stays true until then, and those few are looked at anew. A hold
that lapses makes room, so the plan stops at each lapse and forgets what it knew.

What always holds:

- every person who has a recipient left is in one lane, or waits, or never passes;
- the members that a lane says are those at the instant: who leaves a counter then is moved first;
- whoever waits does not pass before the instant that he waits for.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from limiter import bounds
from limiter._index cimport NO_INDEX
from limiter._messages cimport NEVER_MS
from limiter._plan_counters cimport Lapse
from limiter._plan_crowd cimport Person
from limiter._plan_queue cimport turns_free, turns_pop, turns_push, turns_sweep
from limiter._types cimport NO_TIME

cdef int64_t HORIZON_MS = bounds.RETRY_HORIZON_MS

cdef enum:
    # Void turns that a heap may hold beyond as many as there are good ones.
    SWEEP_SLACK = 64
    # Persons at one contact or address who are looked at anew in one step.
    TOUCHED_AT_ONCE = 64


@cython.final
cdef class Schedule:
    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.lane_count):
            turns_free(&self.lanes[i].turns)
        free(self.lanes)
        turns_free(&self.waiting)
        free(self.send_ms)

    cdef int begin(
        self, PlanRules rules, PlanCounters counters, Crowd crowd, const Subject* subject,
        uint32_t recipient_count, int64_t spread_ms,
    ) except -1:
        # `subject` is the attempt to nobody; its names have ids.
        self.rules = rules
        self.counters = counters
        self.crowd = crowd
        self.subject = subject[0]
        self.stranger = subject[0]
        self.stranger.contact_index = NO_INDEX
        self.stranger.address_index = NO_INDEX
        self.recipient_count = recipient_count
        self.spread_ms = spread_ms
        self.send_ms = <int64_t*>malloc(recipient_count * sizeof(int64_t))
        if self.send_ms == NULL:
            raise MemoryError
        # Every byte of NO_TIME is the same.
        memset(self.send_ms, NO_TIME & 0xFF, recipient_count * sizeof(int64_t))
        return 0

    cdef int start(self, int64_t now_ms) except -1:
        # The counters are there; everybody is placed next.
        self.begin_ms = self.at_ms = now_ms
        self.end_ms = now_ms + HORIZON_MS
        self.left = self.recipient_count
        self.touched_contact = NO_INDEX
        self.touched_address = NO_INDEX
        return 0

    # ------------------------------------------------------------ where persons stand

    cdef int64_t floor_ms(self, uint32_t recipient) noexcept:
        # The instant before which the spread does not let a recipient go.
        cdef int64_t share = self.spread_ms * recipient
        return self.begin_ms + (share + self.recipient_count - 1) // self.recipient_count

    cdef void leave(self, uint32_t number) noexcept:
        # Makes the turns void that the person has.
        cdef Person* person = &self.crowd.persons[number]
        self.crowd.stamps[number] += 1
        if person.lane != NO_INDEX:
            self.lanes[person.lane].live -= 1
            person.lane = NO_INDEX

    cdef Lane* lane_for(
        self, const ZoneRules* zone, uint64_t applies, uint64_t members, uint32_t* number
    ) except NULL:
        cdef uint32_t i
        cdef uint32_t capacity
        cdef Lane* lane
        cdef Lane* lanes
        self.steps += self.lane_count >> 4
        for i in range(self.lane_count):
            lane = &self.lanes[i]
            if lane.zone == zone and lane.applies == applies and lane.members == members:
                number[0] = i
                return lane
        if self.lane_count == self.lane_capacity:
            capacity = 2 * self.lane_capacity + 4
            lanes = <Lane*>realloc(self.lanes, capacity * sizeof(Lane))
            if lanes == NULL:
                raise MemoryError
            self.lanes = lanes
            self.lane_capacity = capacity
        number[0] = self.lane_count
        lane = &self.lanes[self.lane_count]
        memset(lane, 0, sizeof(Lane))
        lane.zone = zone
        lane.applies = applies
        lane.members = members
        lane.bound_ms = self.at_ms
        self.lane_count += 1
        return lane

    cdef int place(self, uint32_t number) except -1:
        # Puts a person who has a recipient left into the lane where he stands now.
        cdef Person* person = &self.crowd.persons[number]
        cdef Lane* lane
        cdef int64_t until_ms = NEVER_MS
        self.leave(number)
        self.steps += 1 + self.rules.distinct_count
        person.members = 0
        if self.rules.distinct_count:
            self.crowd.stand_for(number, &self.subject)
            person.members = self.rules.memberships(
                &self.subject, person.applies, self.at_ms, &until_ms
            )
        lane = self.lane_for(person.zone, person.applies, person.members, &person.lane)
        lane.live += 1
        if lane.turns.size > 2 * lane.live + SWEEP_SLACK:
            turns_sweep(&lane.turns, self.crowd.stamps)
        turns_push(&lane.turns, person.first, number, self.crowd.stamps[number])
        if until_ms <= self.end_ms:
            # He stays in the lane up to where a counter lets him go.
            self.wait(number, until_ms)
        return 0

    cdef int wait(self, uint32_t number, int64_t until_ms) except -1:
        # Has the person looked at again then.
        if self.waiting.size > 2 * self.crowd.count + SWEEP_SLACK:
            turns_sweep(&self.waiting, self.crowd.stamps)
        return turns_push(&self.waiting, until_ms, number, self.crowd.stamps[number])

    cdef int touch_some(self) except -1:
        # Looks anew at some more of those at the contact and at the address that were touched.
        cdef uint32_t number
        cdef int most = TOUCHED_AT_ONCE
        while most and self.touched_contact != NO_INDEX:
            number = self.touched_contact
            self.touched_contact = self.crowd.persons[number].next_by_contact
            if self.crowd.persons[number].first != NO_INDEX:
                self.place(number)
            most -= 1
        while most and self.touched_address != NO_INDEX:
            number = self.touched_address
            self.touched_address = self.crowd.persons[number].next_by_address
            if self.crowd.persons[number].first != NO_INDEX:
                self.place(number)
            most -= 1
        self.steps += TOUCHED_AT_ONCE - most
        return 0

    # ------------------------------------------------------------ one step after the other

    cdef bint step(self) except -1:
        # Does a little more; whether everything is planned that can be.
        cdef Lane* lane
        cdef uint32_t number
        cdef uint32_t stamp
        self.steps += 1
        if self.left == 0 or self.at_ms > self.end_ms:
            return True
        if self.touched_contact != NO_INDEX or self.touched_address != NO_INDEX:
            self.touch_some()
            return False
        if self.counters.lapses_next_ms() <= self.at_ms:
            self.lapse()
            return False
        if self.waiting.size and self.waiting.rows[0].key <= self.at_ms:
            number = self.waiting.rows[0].person
            stamp = self.waiting.rows[0].stamp
            turns_pop(&self.waiting)
            if stamp == self.crowd.stamps[number]:
                self.place(number)
            return False
        if not self.all_known:
            self.all_ms = self.rules.all_passing_ms(&self.stranger, self.at_ms)
            self.all_known = True
            self.steps += self.rules.count
        lane = self.next_lane() if self.all_ms <= self.at_ms else NULL
        if lane == NULL:
            self.move_on()
        else:
            self.try_lane(lane)
        return False

    cdef int64_t first_in(self, Lane* lane) noexcept:
        # The recipient whose turn it is in a lane, NEVER_MS when nobody is in it.
        while lane.turns.size:
            if lane.turns.rows[0].stamp == self.crowd.stamps[lane.turns.rows[0].person]:
                return lane.turns.rows[0].key
            turns_pop(&lane.turns)
            self.steps += 1
        return NEVER_MS

    cdef Lane* next_lane(self) noexcept:
        # Of the lanes that may pass now, the one whose turn comes first; NULL when there is none.
        cdef Lane* found = NULL
        cdef int64_t found_first = NEVER_MS
        cdef int64_t first
        cdef uint32_t i
        self.steps += self.lane_count >> 3
        for i in range(self.lane_count):
            if self.lanes[i].live == 0 or self.lanes[i].bound_ms > self.at_ms:
                continue
            first = self.first_in(&self.lanes[i])
            if first < found_first and self.floor_ms(<uint32_t>first) <= self.at_ms:
                found = &self.lanes[i]
                found_first = first
        return found

    cdef int try_lane(self, Lane* lane) except -1:
        # Sends to the first in a lane if he passes; else notes when the lane does, or he.
        cdef uint32_t number = lane.turns.rows[0].person
        cdef Person* person = &self.crowd.persons[number]
        cdef int64_t passes_ms
        if self.rules.for_lanes:
            self.stranger.zone = lane.zone
            lane.bound_ms = self.rules.lane_passing_ms(
                &self.stranger, lane.applies, lane.members, self.at_ms
            )
            self.steps += self.rules.count
            if lane.bound_ms > self.at_ms:
                return 0
        self.crowd.stand_for(number, &self.subject)
        if self.rules.for_persons:
            passes_ms = self.rules.person_passing_ms(&self.subject, person.applies, self.at_ms)
            self.steps += self.rules.count
            if passes_ms > self.at_ms:
                self.leave(number)
                if passes_ms <= self.end_ms:
                    self.wait(number, passes_ms)
                return 0
        return self.send(number)

    cdef int send(self, uint32_t number) except -1:
        # The subject is an attempt to this person, and goes now.
        cdef Person* person = &self.crowd.persons[number]
        cdef bint joined = self.counters.send(&self.subject, self.at_ms)
        self.steps += self.counters.count
        self.send_ms[person.first] = self.at_ms
        self.left -= 1
        self.all_known = False
        person.first = self.crowd.next_same[person.first]
        if person.first == NO_INDEX:
            self.leave(number)
        else:
            self.place(number)
        if joined:
            # Who is there too is inside now as well.
            self.touched_contact = self.crowd.by_contact[person.contact].first
            if person.address != NO_INDEX:
                self.touched_address = self.crowd.by_address[person.address].first
        return 0

    cdef int lapse(self) except -1:
        # One hold lapses in one counter, which makes room in it.
        cdef uint32_t i
        cdef const Lapse* lapse = self.counters.lapse(self.at_ms)
        self.all_known = False
        for i in range(self.lane_count):
            self.lanes[i].bound_ms = min(self.lanes[i].bound_ms, self.at_ms)
        self.steps += 10 + (self.lane_count >> 3)
        self.touched_contact = self.crowd.contact_of(&lapse.contact)
        if lapse.has_address:
            self.touched_address = self.crowd.address_of(&lapse.address)
        return 0

    cdef void move_on(self) noexcept:
        # Nobody passes: on to where somebody may, or a hold lapses.
        cdef int64_t next_ms = NEVER_MS
        cdef int64_t first
        cdef uint32_t i
        self.steps += self.lane_count >> 3
        for i in range(self.lane_count):
            if self.lanes[i].live == 0:
                continue
            first = self.first_in(&self.lanes[i])
            if first != NEVER_MS:
                next_ms = min(
                    next_ms, max(self.lanes[i].bound_ms, self.floor_ms(<uint32_t>first))
                )
        if self.waiting.size:
            next_ms = min(next_ms, self.waiting.rows[0].key)
        next_ms = max(next_ms, self.all_ms)
        next_ms = min(next_ms, self.counters.lapses_next_ms())
        self.at_ms = next_ms
        self.all_known = False
