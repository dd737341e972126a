# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Counters of new kinds, filled from the account's past.

In flow an account with kinds of which not everything is counted yet; out flow their counters as
they would be had they been kept ever since. What always holds:

- such a counter is there at once and counts every new commit. Of the old ones it has counted those
  behind `after_position`, which moves back event by event along the account's chain; so each commit
  is counted exactly once, at whatever moment the walk goes on, and an undo finds out from the same
  position whether there is anything to take back;
- a commit that is undone already is never counted;
- what a filled counter holds follows from the journal alone, not from when it was filled.

The walk ends where nothing older can be inside the window. A run may chain back over messages that
are older than its duration: there the walk goes on until a whole duration lies before the oldest
message that belongs to any of the runs which may still matter.

Whoever comes back to an instant counts late, as recorded messages do: each counter sorts a message
in among those it has.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter._accounts cimport Account, Filler
from limiter._calendar cimport window_first_ms
from limiter._counters cimport (
    Counter,
    CounterKey,
    KindState,
    Undo,
    count,
    expire,
    find_by_key,
    make_counter,
)
from limiter._event cimport EVENT_COMMIT, Event
from limiter._fates cimport is_undone
from limiter._messages cimport NEVER_MS
from limiter._past cimport Past, counts_in, key_in
from limiter._pause cimport pause_earliest_ms, pause_put_in
from limiter._recorder cimport Recorder
from limiter._subject cimport Subject
from limiter._types cimport MEASURE_RUN


cdef int64_t edge_of(const KindState* state, int64_t now_ms) noexcept:
    # No event up to this instant can matter to the counter. Of a run those of the last two
    # durations may: one that is recorded late may join what lies a duration before it.
    if state.kind.measure == MEASURE_RUN:
        return now_ms - 2 * state.kind.window.duration_ms
    return window_first_ms(state.kind.window, now_ms) - 1


cdef inline void finish(Account* account, KindState* state, int64_t since_ms) noexcept:
    state.building = False
    state.since_ms = since_ms
    account.building_count -= 1


@cython.final
cdef class Rebuild(Filler):
    """Fills counters from what `past` can read. The present is the last instant that `recorder`
    has seen."""

    def __cinit__(self, Past past not None, Recorder recorder not None):
        self.past = past
        self.recorder = recorder

    cdef int fill(self, Account* account) except -1:
        self.walk(account, self.recorder.last_event_ms, 0xFFFFFFF0)
        return 0

    cdef uint64_t next_position(self, const Account* account) noexcept nogil:
        # Where the walk goes on: at the newest event that any of the kinds still waits for.
        cdef uint64_t next = 0
        cdef int slot
        for slot in range(account.state_count):
            if account.states[slot].building:
                next = max(next, account.states[slot].after_position)
        return next

    cdef uint32_t walk(
        self, Account* account, int64_t now_ms, uint32_t most
    ) except? 0xFFFFFFFF:
        # Counts what at most so many further events have to tell; returns how many were read.
        cdef Event event
        cdef KindState* state
        cdef uint64_t position
        cdef uint32_t read_count = 0
        cdef int slot
        for slot in range(account.state_count):
            state = &account.states[slot]
            if state.building and state.edge_ms == 0:
                state.edge_ms = edge_of(state, now_ms)
        while account.building_count and read_count < most:
            position = self.next_position(account)
            read_count += 1
            if self.past.event_at(position, &event):
                self.count_event(account, &event, position, now_ms)
            else:
                self.lose(account, position)
        return read_count

    cdef int count_event(
        self, Account* account, const Event* event, uint64_t position, int64_t now_ms
    ) except -1:
        # Counts one event in the kinds that wait for it, and has them wait for the one before it.
        cdef Subject subject
        cdef KindState* state
        cdef bint counts = event.type == EVENT_COMMIT and not is_undone(&self.past.fates, position)
        cdef int slot
        if counts:
            self.past.subject_of(event, account, &subject)
        for slot in range(account.state_count):
            state = &account.states[slot]
            if not state.building or state.after_position != position:
                continue
            if event.time_ms <= state.edge_ms:
                finish(account, state, 0)
                continue
            if counts and counts_in(state.kind, &subject):
                self.count_in(state, event, &subject, now_ms)
            state.after_position = event.previous_account
            # How far back is known, should the one before it be lost.
            state.since_ms = event.time_ms
            if event.previous_account == 0:
                finish(account, state, 0)
        return 0

    cdef int count_in(
        self, KindState* state, const Event* event, const Subject* subject, int64_t now_ms
    ) except -1:
        # Counts one commit where the kind counts it, if it still matters there.
        cdef int64_t duration_ms = state.kind.window.duration_ms
        cdef int64_t earliest_ms = NEVER_MS
        cdef CounterKey key
        cdef Counter* counter
        cdef Undo undo
        if state.kind.measure != MEASURE_RUN:
            memset(&undo, 0, sizeof(Undo))
            return count(state, subject, event.counts_ms, now_ms, &undo)
        if event.counts_ms < window_first_ms(state.kind.window, event.time_ms):
            # It was recorded too late for any run.
            return 0
        key_in(state.kind, subject, &key)
        counter = find_by_key(state, &key)
        if counter != NULL:
            expire(state, counter, now_ms)
            earliest_ms = pause_earliest_ms(&counter.pause)
        # Events are met in the order in which they were told, which may not be that of their
        # instants: by the former, one too many may be counted, which changes no run.
        if (
            event.time_ms > now_ms - 2 * duration_ms
            or (earliest_ms != NEVER_MS and earliest_ms - event.time_ms < duration_ms)
        ):
            counter = make_counter(state, &key, now_ms)
            pause_put_in(
                &counter.pause, state.kind.window, event.counts_ms, event.message_count, now_ms
            )
            state.edge_ms = min(state.edge_ms, event.counts_ms - duration_ms)
        return 0

    cdef int lose(self, Account* account, uint64_t position) noexcept:
        # The journal does not reach back to that event any more.
        cdef KindState* state
        cdef int slot
        for slot in range(account.state_count):
            state = &account.states[slot]
            if state.building and state.after_position == position:
                finish(account, state, state.since_ms or self.recorder.last_event_ms)
        return 0
