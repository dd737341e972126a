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

from limiter import bounds
from limiter._accounts cimport Account, Filler, settle_binding
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
from limiter._kinds cimport Kind
from limiter._messages cimport NEVER_MS
from limiter._past cimport Past, counts_in, key_in
from limiter._pause cimport pause_earliest_ms, pause_put_in
from limiter._recorder cimport Recorder
from limiter._subject cimport Name, Subject
from limiter._types cimport MEASURE_RUN

# Events that a walk reads which is to come to its end.
cdef uint32_t NO_END = 0xFFFFFFF0


cdef int64_t edge_of(const KindState* state, int64_t now_ms) noexcept:
    # No event up to this instant can matter to the counter. Of a run those of the last two
    # durations may: one that is recorded late may join what lies a duration before it.
    if state.kind.measure == MEASURE_RUN:
        return now_ms - 2 * state.kind.window.duration_ms
    return window_first_ms(state.kind.window, now_ms) - 1


cdef void finish(Account* account, KindState* state, int64_t since_ms) noexcept:
    state.building = False
    state.since_ms = since_ms
    account.building_count -= 1
    if account.building_count == 0:
        settle_binding(account)


@cython.final
cdef class Rebuild(Filler):
    """Fills counters from what `past` can read. The present is the last instant that `recorder`
    has seen.

    A few events are read as soon as a counter begins, in the call that needs it. What is left, and
    accounts that nobody touches after a change, wait for `some`. During a replay nothing is left.
    """

    def __cinit__(self, Past past not None, Recorder recorder not None):
        self.past = past
        self.recorder = recorder
        self.at_once = bounds.REBUILD_EVENTS_AT_ONCE
        self.waiting = {}

    # ------------------------------------------------------------ the outside

    def limit_at_once(self, uint32_t event_count):
        """Reads at most so many events in a call that needs a counter."""
        self.at_once = event_count

    def wake_by(self, wake):
        """`wake()` is called when there is something to do for `some`, maybe more than once."""
        self.wake = wake
        if self.waiting or self.round_id:
            wake()

    @property
    def in_round(self):
        """Whether accounts that nobody has touched since the last change are still to be seen."""
        return self.round_id != 0

    def some(self, uint32_t most):
        """Reads about `most` events, a step of what there is to do; whether anything is left."""
        cdef Account* account
        cdef int64_t left = most
        while left > 0 and (self.waiting or self.round_id):
            left -= 1
            if not self.waiting:
                self.visit_next()
                continue
            id = next(iter(self.waiting))
            # Should it fail, what held before holds on, and the others are not kept waiting.
            del self.waiting[id]
            account = self.bound(id)
            if account != NULL and account.building_count:
                left -= self.walk(account, self.recorder.last_event_ms, left + 1)
                if account.building_count:
                    self.waiting[id] = None
        return bool(self.waiting or self.round_id)

    def finish(self):
        """Binds every account to what holds now and fills all its counters, however long that
        takes: after a replay, for what was in force before the restart is in force at once."""
        self.patient = True
        try:
            while self.some(1 << 20):
                pass
        finally:
            self.patient = False

    def is_under_way(self, str account not None, definitions not None):
        """Whether counters of any of the kinds with these definitions are still being filled, in
        the account, or, if that is empty, in any that has been seen since the last change."""
        cdef Name name
        if not account:
            # A copy, for looking at an account may take it off.
            for id in list(self.waiting):
                if self.is_filling(id, definitions):
                    return True
            return False
        text = account.encode()
        self.past.accounts.name_in(text, &name)
        return self.is_filling(name.id, definitions)

    cdef bint is_filling(self, uint32_t id, object definitions) except -1:
        # The same of the account with that name's id.
        cdef Account* account = self.bound(id)
        cdef int slot
        if account == NULL:
            return False
        for slot in range(account.state_count):
            if account.states[slot].building and (
                (<Kind>account.states[slot].kind.kind).definition in definitions
            ):
                return True
        return False

    # ------------------------------------------------------------ who is next

    cdef int fill(self, Account* account) except -1:
        if self.defers:
            return 0
        if self.patient or self.past.replayed is not None:
            self.walk(account, self.recorder.last_event_ms, NO_END)
            return 0
        # First, so that it is not forgotten should the walk fail.
        self.waiting[account.name_id] = None
        self.walk(account, self.recorder.last_event_ms, self.at_once)
        if account.building_count == 0:
            del self.waiting[account.name_id]
        elif self.wake is not None:
            self.wake()
        return 0

    cdef int begin_round(self) except -1:
        # Something has changed: every account is to be seen.
        self.round_id = 1
        if self.wake is not None and self.past.replayed is None:
            self.wake()
        return 0

    cdef int visit_next(self) except -1:
        # Binds the next account of the round to what holds now.
        cdef uint32_t id = self.round_id
        self.round_id = id + 1 if id < self.past.accounts.names.size else 0
        self.bound(id)
        return 0

    cdef Account* bound(self, uint32_t id) except? NULL:
        # The account with that name's id, bound to what holds now; NULL if there is none.
        cdef Account* account = self.past.accounts.known(id)
        cdef Name name
        if account != NULL and account.epoch != self.past.accounts.epoch:
            self.past.name_of(id, &name)
            self.past.accounts.touch(account, name)
        return account

    # ------------------------------------------------------------ the walk

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
