# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An account's past: taking commits back, and what is left without them.

In flow positions of commits in the journal and what became of them; out flow changed counters. What
always holds:

- a commit that is undone leaves every counter as if it had never been made. Messages are taken out
  at their instant; a member of a distinct counter goes back to its latest instant among the commits
  that still count, which is found by walking back along its contact's or address' recorded events;
- the same journal gives the same state: an undo is replayed at its place, from the same events;
- a look ahead, which takes holds to have lapsed, changes nothing once it has been looked back.

The walk goes back no further than the window, for an event counts at its own instant or earlier,
and reads at most UNDO_WALK_EVENTS_MAX events. Beyond that, and beyond what the journal keeps, the
member stays where it is: it may leave late then, but never early.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

from limiter import bounds
from limiter.errors import DataLoss, InvalidArgument, ResourceExhausted
from limiter._accounts cimport Account, Accounts, HoldRow
from limiter._calendar cimport window_first_ms
from limiter._counters cimport (
    Counter,
    CounterKey,
    KindState,
    counter_copy,
    counter_free,
    expire,
    find_by_key,
    key_of,
    make_counter,
    same_key,
)
from limiter._distinct cimport distinct_latest_ms, distinct_restore
from limiter._event cimport (
    EVENT_COMMIT,
    EVENT_HEADER_BYTES,
    EVENT_UNDO,
    OFFSET_BITS,
    Event,
    event_read,
    event_size,
)
from limiter._fates cimport (
    FATE_HELD,
    FATE_LAPSED,
    FateRow,
    fates_confirm,
    fates_find,
    fates_forget,
    fates_free,
    fates_hold,
    fates_undo,
    is_undone,
)
from limiter._kinds cimport MATCHES, KindRules, matching
from limiter._messages cimport NEVER_MS, messages_remove
from limiter._names cimport NameRow
from limiter._pause cimport pause_take_out
from limiter._subject cimport Name, Subject
from limiter._types cimport (
    DIMENSION_CHANNEL,
    DIMENSION_COUNT,
    MEASURE_ADDRESSES,
    MEASURE_MESSAGES,
    MEASURE_RUN,
)

cdef uint32_t WALK_EVENTS_MAX = bounds.UNDO_WALK_EVENTS_MAX
cdef uint32_t ACCOUNT_HOLDS_MAX = bounds.ACCOUNT_HOLDS_MAX
cdef int64_t EVENT_AGE_MS_MAX = bounds.EVENT_AGE_MS_MAX
cdef uint32_t FATES_MAX = bounds.FATES_MAX
# No counter reaches further back than this.
cdef int64_t REACH_MS = bounds.WINDOW_MS_MAX
cdef uint32_t FORGET_AT_ONCE = 4


cdef bint counts_in(const KindRules* kind, const Subject* subject) noexcept:
    # Whether counters of this kind count the message.
    return kind.needs & ~subject.present == 0 and matching(kind.counts, subject) == MATCHES


cdef bint key_in(const KindRules* kind, const Subject* subject, CounterKey* key) noexcept:
    # The key that the message is counted under; False when nothing was ever counted there.
    memset(key, 0, sizeof(CounterKey))
    return kind.per_count == 0 or key_of(kind, subject, key)


cdef inline bint kept_whole(const KindRules* kind) noexcept:
    # Whether a look ahead keeps a whole counter, not one member of it.
    return kind.measure == MEASURE_MESSAGES or kind.measure == MEASURE_RUN


cdef bint has_left(const KindRules* kind, const Event* event, int64_t now_ms) noexcept:
    # Whether a commit is no longer in counters of this kind, or never was. A run may reach back
    # further than a pause lasts, so there only what was recorded too late was never counted.
    return event.counts_ms < window_first_ms(
        kind.window, event.time_ms if kind.measure == MEASURE_RUN else now_ms
    )


cdef int require_event_time(int64_t event_ms, int64_t now_ms) except -1:
    # Raises InvalidArgument unless a message may have gone out then.
    if event_ms > now_ms:
        raise InvalidArgument.for_field(
            "event_time", "lies in the future; a message is recorded once it has gone out"
        )
    if event_ms <= now_ms - EVENT_AGE_MS_MAX:
        raise InvalidArgument.for_field(
            "event_time",
            f"lies more than {EVENT_AGE_MS_MAX // bounds.DAY_MS} days back, further than any window"
            " reaches; do not record what is as old",
        )
    return 0


@cython.final
cdef class Past:
    def __cinit__(self, Accounts accounts not None):
        self.accounts = accounts

    def __dealloc__(self):
        fates_free(&self.fates)
        free(self.watched)
        free(self.restores)

    # ------------------------------------------------------------ recorded events

    cdef bytes read(self, uint64_t position):
        # The packed event at a position that an event has named; None when it is not kept.
        cdef const uint8_t* data
        cdef uint32_t offset = position & ((1 << OFFSET_BITS) - 1)
        if position >> OFFSET_BITS != self.buffer.group:
            return None if self.history is None else self.read_near(position)
        data = self.buffer.data
        if self.replayed is not None:
            data = <const uint8_t*>PyBytes_AS_STRING(self.replayed)
        return data[offset : offset + event_size(data + offset)]

    cdef bytes read_near(self, uint64_t position):
        # The same from a group that was taken. Walks come back to a group again and again: one of
        # which a second event is asked for is kept at hand.
        cdef uint64_t number = position >> OFFSET_BITS
        cdef Py_ssize_t offset = position & ((1 << OFFSET_BITS) - 1)
        cdef const uint8_t* data
        if number == self.last_number and number != self.near_number:
            self.near = self.history.group(number)
            self.near_number = number if self.near is not None else 0
        self.last_number = number
        if number != self.near_number:
            return self.history.event(position)
        if offset + EVENT_HEADER_BYTES > PyBytes_GET_SIZE(self.near):
            return b""
        data = <const uint8_t*>PyBytes_AS_STRING(self.near) + offset
        return self.near[offset : offset + event_size(data)]

    cdef bint event_at(self, uint64_t position, Event* event) except -1:
        # The event at a position that an event has named; False when it is not kept.
        cdef bytes packed = self.read(position)
        if packed is None:
            return False
        if event_read(
            <const uint8_t*>PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed), position, event
        ) == 0:
            raise DataLoss(
                "JOURNAL_CORRUPT",
                f"group {position >> OFFSET_BITS} holds no event where another one says so",
            )
        return True

    cdef bint commit_at(self, uint64_t position, Event* event) except -1:
        # The commit at a position that an event has named; False when it is not kept.
        if not self.event_at(position, event):
            return False
        if event.type != EVENT_COMMIT:
            raise DataLoss(
                "JOURNAL_CORRUPT",
                f"group {position >> OFFSET_BITS} holds no commit where an event says so",
            )
        return True

    cdef bint is_commit(self, uint64_t position, uint32_t account, Event* event) except -1:
        # Whether a commit of the account is at a position that anybody may have made up.
        cdef bytes group
        cdef const uint8_t* data
        cdef size_t size
        cdef uint32_t offset = position & ((1 << OFFSET_BITS) - 1)
        cdef size_t at = 0
        cdef int length
        if position >> OFFSET_BITS == self.buffer.group:
            data = self.buffer.data
            size = self.buffer.size
        else:
            if not 0 < position >> OFFSET_BITS < self.buffer.group:
                return False
            group = self.history.group(position >> OFFSET_BITS)
            if group is None:
                return False
            data = <const uint8_t*>PyBytes_AS_STRING(group)
            size = PyBytes_GET_SIZE(group)
        while at < offset and at + 4 <= size:
            at += event_size(data + at)
        if at != offset or at >= size:
            return False
        length = event_read(data + at, size - at, position, event)
        return length != 0 and event.type == EVENT_COMMIT and event.account == account

    cdef int name_of(self, uint32_t id, Name* name) except -1:
        # The name that the journal defined under an id.
        cdef const NameRow* row
        if not 0 < id <= self.accounts.names.size:
            raise DataLoss("JOURNAL_CORRUPT", f"an event names {id}, which no event defines")
        row = &self.accounts.names.rows[id - 1]
        name.id = id
        name.hash = row.hash
        name.text.data = row.text
        name.text.size = row.size
        return 0

    cdef int subject_of(self, const Event* event, Account* account, Subject* subject) except -1:
        # The attempt that a commit of the account records, located there.
        cdef int dimension
        memset(subject, 0, sizeof(Subject))
        subject.keys = &self.accounts.keys
        self.name_of(event.account, &subject.account)
        subject.present = event.present
        subject.contact = event.contact
        subject.address = event.address
        subject.message_count = event.message_count
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            if event.present & (<uint32_t>1 << dimension):
                self.name_of(event.names[dimension], &subject.names[dimension])
        subject.interned = True
        if account != NULL:
            self.accounts.locate(account, subject)
        return 0

    # ------------------------------------------------------------ holds and undos

    cdef int require_hold_room(self, const Account* account) except -1:
        if account.hold_count >= ACCOUNT_HOLDS_MAX or self.fates.size >= FATES_MAX:
            raise ResourceExhausted(
                "TOO_MANY_HOLDS",
                f"the account holds {account.hold_count} commits, of at most {ACCOUNT_HOLDS_MAX},"
                f" and {self.fates.size} of at most {FATES_MAX} commits are held or were undone in"
                " all; confirm or cancel some, hold for a shorter time, or commit without a hold",
            )
        return 0

    cdef int require_undo_room(self, uint64_t position) except -1:
        if self.fates.size >= FATES_MAX and fates_find(&self.fates, position) == NULL:
            raise ResourceExhausted(
                "TOO_MANY_UNDONE",
                f"{FATES_MAX} commits are held or were undone, which is the ceiling; wait until"
                " older ones pass out of every window",
            )
        return 0

    cdef int hold(self, Account* account, uint64_t position, int64_t lapse_ms) except -1:
        # A commit that has just been counted lapses at lapse_ms unless it is confirmed.
        self.note_hold(account, position, lapse_ms)
        return fates_hold(&self.fates, position, account.name_id, lapse_ms)

    cdef int note_hold(self, Account* account, uint64_t position, int64_t lapse_ms) except -1:
        # The account holds that commit; of those that end together, the first one lapses first.
        cdef uint32_t capacity
        cdef uint32_t place = account.hold_count
        cdef HoldRow* holds
        if account.hold_count == account.hold_capacity:
            capacity = account.hold_capacity * 2 if account.hold_capacity else 4
            holds = <HoldRow*>realloc(account.holds, capacity * sizeof(HoldRow))
            if holds == NULL:
                raise MemoryError
            account.holds = holds
            account.hold_capacity = capacity
        while place and (
            account.holds[place - 1].lapse_ms > lapse_ms
            or (
                account.holds[place - 1].lapse_ms == lapse_ms
                and account.holds[place - 1].position > position
            )
        ):
            account.holds[place] = account.holds[place - 1]
            place -= 1
        account.holds[place].lapse_ms = lapse_ms
        account.holds[place].position = position
        account.hold_count += 1
        return 0

    cdef void unhold(self, Account* account, uint64_t position) noexcept:
        cdef uint32_t place
        for place in range(account.hold_count):
            if account.holds[place].position == position:
                account.hold_count -= 1
                memmove(
                    account.holds + place,
                    account.holds + place + 1,
                    (account.hold_count - place) * sizeof(HoldRow),
                )
                return

    cdef int confirm(self, Account* account, uint64_t position) except -1:
        # A held commit counts for good.
        cdef const FateRow* row = fates_find(&self.fates, position)
        if row == NULL or row.fate != FATE_HELD:
            raise DataLoss("JOURNAL_CORRUPT", "a commit is confirmed that is not held")
        fates_confirm(&self.fates, position)
        self.unhold(account, position)
        return 0

    cdef int uncount_at(self, Account* account, const Event* event) except -1:
        # What an event of the account changes in its counters, if it is an undo. What became of the
        # commit is known already.
        cdef Event commit
        if event.type == EVENT_UNDO and self.commit_at(event.commit, &commit):
            self.uncount(account, &commit, event.commit, event.time_ms)
        return 0

    cdef int undo(self, Account* account, uint64_t position, int fate, int64_t at_ms) except -1:
        # A commit, held or not, counts no longer from at_ms on.
        cdef Event event
        cdef const FateRow* row = fates_find(&self.fates, position)
        if row != NULL:
            if row.fate != FATE_HELD:
                raise DataLoss("JOURNAL_CORRUPT", "a commit is undone twice")
            self.unhold(account, position)
        if self.commit_at(position, &event):
            self.uncount(account, &event, position, at_ms)
        fates_forget(&self.fates, at_ms - REACH_MS, FORGET_AT_ONCE)
        return fates_undo(&self.fates, position, account.name_id, fate, at_ms)

    cdef int uncount(
        self, Account* account, const Event* event, uint64_t position, int64_t now_ms
    ) except -1:
        # Takes a commit out of every counter that has counted it and still does.
        cdef Subject subject
        cdef CounterKey key
        cdef KindState* state
        cdef Counter* counter
        cdef int slot
        self.subject_of(event, account, &subject)
        for slot in range(account.state_count):
            state = &account.states[slot]
            if (
                position <= state.after_position
                or has_left(state.kind, event, now_ms)
                or not counts_in(state.kind, &subject)
                or not key_in(state.kind, &subject, &key)
            ):
                continue
            counter = find_by_key(state, &key)
            if counter == NULL:
                continue
            if self.ahead != NULL:
                if not self.is_watched(counter):
                    continue
            else:
                expire(state, counter, now_ms)
            if not kept_whole(state.kind):
                self.move_back(account, slot, &key, counter, event, &subject, position, now_ms)
                continue
            if self.ahead != NULL:
                self.save(slot, &key, counter, 0, 0)
            if state.kind.measure == MEASURE_MESSAGES:
                messages_remove(
                    &counter.messages, state.kind.window, event.counts_ms, event.message_count
                )
            else:
                pause_take_out(
                    &counter.pause,
                    state.kind.window,
                    event.counts_ms,
                    event.message_count,
                    now_ms,
                )
        return 0

    cdef int move_back(
        self,
        Account* account,
        int slot,
        const CounterKey* key,
        Counter* counter,
        const Event* event,
        const Subject* subject,
        uint64_t position,
        int64_t now_ms,
    ) except -1:
        # Takes a commit out of a distinct counter, where it matters only if it is its member's
        # latest.
        cdef KindState* state = &account.states[slot]
        cdef uint32_t index = subject.contact_index
        cdef int64_t latest_ms
        cdef int64_t other_ms
        if state.kind.measure == MEASURE_ADDRESSES:
            index = subject.address_index
        latest_ms = distinct_latest_ms(&counter.distinct, index)
        if latest_ms != event.counts_ms:
            return 0
        if self.ahead != NULL and self.accounts.has_tentatively_counted(
            slot, key if state.kind.per_count else NULL, index
        ):
            # At the same instant, and that is in no journal.
            return 0
        other_ms = self.latest_other_ms(
            account, state, key, event, subject, position, now_ms
        )
        if other_ms == latest_ms:
            return 0
        if self.ahead != NULL:
            self.save(slot, key, counter, index, latest_ms)
        return distinct_restore(&counter.distinct, state.kind.window, index, other_ms)

    cdef int64_t latest_other_ms(
        self,
        Account* account,
        KindState* state,
        const CounterKey* key,
        const Event* event,
        const Subject* subject,
        uint64_t position,
        int64_t now_ms,
    ) except? -2:
        # The latest instant inside the window at which any other commit that still counts has
        # counted the same member under the same key; NEVER_MS when there is none.
        cdef bint by_address = state.kind.measure == MEASURE_ADDRESSES
        cdef int64_t first_ms = window_first_ms(state.kind.window, now_ms)
        cdef int64_t best_ms = -1
        cdef uint32_t step_count = 0
        cdef uint64_t at
        cdef Event other
        cdef Subject other_subject
        cdef CounterKey other_key
        if by_address:
            at = account.addresses.rows[subject.address_index].last_position
        else:
            at = account.contacts.rows[subject.contact_index].last_position
        while at > state.after_position and self.commit_at(at, &other):
            # An event counts at its own instant or earlier, so no older one can be later.
            if other.time_ms < first_ms or other.time_ms <= best_ms:
                break
            if step_count == WALK_EVENTS_MAX:
                return event.counts_ms
            step_count += 1
            if (
                at != position
                and other.counts_ms > best_ms
                and other.counts_ms >= first_ms
                and not is_undone(&self.fates, at)
            ):
                self.subject_of(&other, account, &other_subject)
                if (
                    counts_in(state.kind, &other_subject)
                    and key_in(state.kind, &other_subject, &other_key)
                    and same_key(key, &other_key)
                ):
                    best_ms = other.counts_ms
            at = other.previous_address if by_address else other.previous_contact
        if at > state.after_position and best_ms < 0 and self.is_lost(first_ms):
            return event.counts_ms
        return best_ms if best_ms >= 0 else NEVER_MS

    cdef bint is_lost(self, int64_t first_ms) except -1:
        # Whether what has counted at that instant or later may not be kept any more.
        begins_ms = None if self.history is None else self.history.begins_ms()
        return begins_ms is not None and begins_ms > first_ms

    # ------------------------------------------------------------ looking ahead
    #
    # When an attempt passes, and when a count falls, hangs on when holds lapse. So the holds of one
    # account are taken to have lapsed, one after the other; then everything is put back. What lies
    # between must not change the watched counters, or must take back what it changed.

    cdef int watch(self, Counter* counter) except -1:
        # Only counters that are watched matter to the next look ahead.
        cdef uint32_t capacity
        cdef Counter** watched
        if self.watched_count == self.watched_capacity:
            capacity = self.watched_capacity * 2 + 16
            watched = <Counter**>realloc(self.watched, capacity * sizeof(Counter*))
            if watched == NULL:
                raise MemoryError
            self.watched = watched
            self.watched_capacity = capacity
        self.watched[self.watched_count] = counter
        self.watched_count += 1
        return 0

    cdef bint is_watched(self, const Counter* counter) noexcept:
        cdef uint32_t i
        if self.watched_count == 0:
            return True
        for i in range(self.watched_count):
            if self.watched[i] == counter:
                return True
        return False

    cdef int look_ahead(self, Account* account, int64_t now_ms) except -1:
        if self.ahead != NULL:
            raise AssertionError("a look ahead within another")
        self.ahead = account
        self.ahead_now_ms = now_ms
        self.lapsed_count = 0
        self.restore_count = 0
        return 0

    cdef int64_t next_lapse_ms(self) noexcept:
        # When the next hold lapses, NEVER_MS when none is left.
        if self.lapsed_count == self.ahead.hold_count:
            return NEVER_MS
        return self.ahead.holds[self.lapsed_count].lapse_ms

    cdef int lapse_next(self) except -1:
        # Takes the next hold to have lapsed.
        cdef Event event
        cdef uint64_t position = self.ahead.holds[self.lapsed_count].position
        fates_find(&self.fates, position).fate = FATE_LAPSED
        self.lapsed_count += 1
        if self.commit_at(position, &event):
            self.uncount(self.ahead, &event, position, self.ahead_now_ms)
        return 0

    cdef int look_back(self) except -1:
        # Puts everything back.
        cdef Restore* restore
        cdef KindState* state
        cdef Counter* counter
        while self.restore_count:
            self.restore_count -= 1
            restore = &self.restores[self.restore_count]
            state = &self.ahead.states[restore.slot]
            # One that ran empty meanwhile may have been dropped.
            counter = make_counter(state, &restore.key, self.ahead_now_ms)
            if kept_whole(state.kind):
                counter_free(state.kind, counter)
                counter[0] = restore.saved
            else:
                distinct_restore(
                    &counter.distinct, state.kind.window, restore.index, restore.latest_ms
                )
        while self.lapsed_count:
            self.lapsed_count -= 1
            fates_find(
                &self.fates, self.ahead.holds[self.lapsed_count].position
            ).fate = FATE_HELD
        self.ahead = NULL
        self.watched_count = 0
        return 0

    cdef int save(
        self, int slot, const CounterKey* key, const Counter* counter, uint32_t index,
        int64_t latest_ms,
    ) except -1:
        # Remembers how a counter is: one of messages or runs whole, once; of a distinct one a
        # member.
        cdef const KindRules* kind = self.ahead.states[slot].kind
        cdef bint whole = kept_whole(kind)
        cdef uint32_t capacity
        cdef uint32_t i
        cdef Restore* restores
        if whole:
            for i in range(self.restore_count):
                if self.restores[i].slot == slot and same_key(&self.restores[i].key, key):
                    return 0
        if self.restore_count == self.restore_capacity:
            capacity = self.restore_capacity * 2 + 16
            restores = <Restore*>realloc(self.restores, capacity * sizeof(Restore))
            if restores == NULL:
                raise MemoryError
            self.restores = restores
            self.restore_capacity = capacity
        restores = &self.restores[self.restore_count]
        restores.slot = slot
        restores.key = key[0]
        restores.index = index
        restores.latest_ms = latest_ms
        if whole:
            counter_copy(kind, &restores.saved, counter)
        self.restore_count += 1
        return 0
