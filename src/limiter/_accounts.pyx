# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The accounts in memory.

An account is a plain struct found by its name's id. It is bound to what the policy layer says
holds for it (a Binding) and bound again at its first touch after a change of policies: counters of
kinds that stay are carried over, so an edit never loses a count, and those of new kinds are filled
from the account's past (`Filler`). Which moment that happens at makes no difference: between a
change and the touch nothing was counted.

A Check of an account that does not exist asks the `visitor`, an account that is emptied afterwards.

The kind of an inline limit is kept, in a place that the journal names, from the first commit on
that it lets go. Before that it is only lent: filled for whoever asks, and forgotten when others
come. Nobody can tell the two apart by what they count.

An account may be away: then only its newest position is in memory, if that, and a Carrier brings it
back. Whoever asks for it here waits for that; a hot call is put off instead (`Away`), before it has
changed anything, until the account was brought behind the calls of others.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport calloc, free, realloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import Away, ResourceExhausted
from limiter._calendar cimport window_first_ms
from limiter._counters cimport (
    CounterKey,
    KindState,
    Undo,
    count,
    counter_prefetch,
    same_key,
    state_free,
    take_back,
)
from limiter._index cimport (
    NO_INDEX,
    index_append,
    index_find,
    index_free,
    index_prefetch,
    index_remove_last,
)
from limiter._kinds cimport (
    MATCHES,
    Binding,
    BoundPlan,
    InlineRules,
    Kind,
    KindRules,
    Rule,
    Transition,
    slice_of,
    matching,
)
from limiter._names cimport names_find, names_free, names_insert
from limiter._opt_outs cimport (
    WHO_ADDRESS,
    WHO_CONTACT,
    OptOuts,
    opt_outs_apply,
    opt_outs_find,
    opt_outs_free,
)
from limiter._prefetch cimport prefetch
from limiter._siphash cimport siphash64
from limiter._subject cimport Name, Subject
from limiter._transition cimport plan_between
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CHANNEL,
    DIMENSION_CONTACT,
    DIMENSION_COUNT,
    Slice,
)

cdef int INLINE_KINDS_MAX = bounds.INLINE_KINDS_MAX
cdef int KINDS_MAX = bounds.KINDS_MAX
cdef int TRANSITIONS_MAX = bounds.TRANSITIONS_MAX
cdef int REBUILD_RETRY_MS = bounds.REBUILD_RETRY_MS

cdef enum:
    # The counters of so many kinds are loaded ahead; more would push each other out.
    PREFETCHED_STATES = 4


cdef void release(KindState* state) noexcept:
    # Frees a counter, and lets an inline limit's kind go.
    state_free(state)
    if state.inline_place or state.lent:
        Py_DECREF(<object>state.kind.kind)


cdef void account_free(Account* account) noexcept:
    # Frees all that the account owns, not the struct.
    cdef int i
    for i in range(account.state_count):
        release(&account.states[i])
    free(account.states)
    free(account.holds)
    Py_XDECREF(account.binding)
    Py_XDECREF(account.transition)
    index_free(&account.contacts)
    index_free(&account.addresses)
    if account.opt_outs != NULL:
        opt_outs_free(account.opt_outs)
        free(account.opt_outs)


cdef void begin(KindState* state, KindRules* kind, const Account* account) noexcept nogil:
    # A counter that has counted nothing yet of what the account has sent.
    memset(state, 0, sizeof(KindState))
    state.kind = kind
    state.after_position = account.last_position
    state.building = account.last_position != 0


cdef int take_states(KindState* fresh, Account* account, Binding binding) noexcept:
    # Fills `fresh` with the binding's kinds, then the inline ones that it does not have, moving
    # counters over; returns how many there are.
    cdef int i
    cdef int j
    cdef int filled = binding.kind_count
    cdef KindState* state
    for i in range(binding.kind_count):
        begin(&fresh[i], binding.kind_rules[i], account)
        for j in range(account.state_count):
            state = &account.states[j]
            if state.kind == binding.kind_rules[i]:
                fresh[i] = state[0]
                state.kind = NULL
                if fresh[i].lent:
                    # From now on the binding keeps the kind alive.
                    fresh[i].lent = False
                    Py_DECREF(<object>fresh[i].kind.kind)
                break
    for j in range(account.state_count):
        state = &account.states[j]
        if state.kind == NULL:
            continue
        if state.inline_place:
            fresh[filled] = state[0]
            filled += 1
        else:
            release(state)
    return filled


cdef inline bint is_idle(const KindState* state, int64_t now_ms) noexcept:
    # Whether it is kept for inline limits of which none came within its window.
    return state.inline_place and state.last_used_ms < window_first_ms(state.kind.window, now_ms)


cdef void settle_binding(Account* account) noexcept:
    # Every counter is filled: the binding holds in full.
    Py_XDECREF(account.transition)
    account.transition = NULL


cdef class Carrier:
    cdef Account* bring(self, uint32_t id) except? NULL:
        raise NotImplementedError


cdef class Filler:
    cdef int fill(self, Account* account) except -1:
        raise NotImplementedError


cdef bint is_opted_out(const Account* account, const Subject* subject) noexcept nogil:
    # Whether the attempt is to somebody who has opted out, and not of a category that is allowed
    # all the same.
    cdef const OptOuts* opt_outs = account.opt_outs
    if opt_outs == NULL or not (
        subject.present & (1 << DIMENSION_CONTACT)
        and opt_outs_find(opt_outs, WHO_CONTACT, &subject.contact) != NULL
        or subject.present & (1 << DIMENSION_ADDRESS)
        and opt_outs_find(opt_outs, WHO_ADDRESS, &subject.address) != NULL
    ):
        return False
    return (<Binding>account.binding).allowed.match(subject) != MATCHES


@cython.final
cdef class Accounts:
    def __cinit__(self, bind):
        self.filler = Filler()
        self.bind = bind
        self.epoch = 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.by_name_capacity):
            if self.by_name[i] != NULL:
                account_free(self.by_name[i])
                free(self.by_name[i])
        free(self.by_name)
        free(self.absences)
        free(self.undo)
        account_free(&self.visitor)
        names_free(&self.names)

    cdef void name_in(self, bytes text, Name* name) noexcept:
        # The name that a text is, which must outlive it; its id is 0 if nobody has it.
        name.text = slice_of(text)
        name.hash = siphash64(&self.keys.name, name.text.data, name.text.size)
        name.id = names_find(&self.names, name.text, name.hash)

    cdef Account* known(self, uint32_t id) noexcept nogil:
        # The account with that name id, NULL if there is none in memory.
        return self.by_name[id] if 0 < id < self.by_name_capacity else NULL

    cdef bint is_away(self, uint32_t id) noexcept nogil:
        # Whether the account with that name id, which is not in memory, may be elsewhere.
        return 0 < id <= self.imaged_names or (
            id < self.absence_capacity
            and (self.absences[id].last_position != 0 or self.absences[id].last_denial != 0)
        )

    cdef int require_here(self, uint32_t id) except -1:
        # Raises Away where the account is not in memory and the call can be put off.
        if self.defers and self.known(id) == NULL and self.is_away(id):
            raise Away(id)
        return 0

    cdef Account* fetch(self, uint32_t id) except? NULL:
        # The account with that name id, brought back if it is away; NULL if there is none.
        cdef Account* account = self.known(id)
        if account == NULL and self.carrier is not None and self.is_away(id):
            account = self.carrier.bring(id)
        return account

    cdef Account* find(self, const Subject* subject) except NULL:
        # The attempt's account, bound to the policies that hold now; the visitor if there is none.
        cdef Account* account = self.fetch(subject.account.id)
        if account == NULL:
            self.leave()
            account = &self.visitor
        account.is_used = True
        if account.epoch != self.epoch:
            self.touch(account, subject.account)
        return account

    cdef Account* make(self, Subject* subject) except NULL:
        # The attempt's account, a new one if there is none.
        cdef Account* account
        if subject.account.id == 0:
            subject.account.id = names_insert(
                &self.names, subject.account.text, subject.account.hash
            )
        account = self.fetch(subject.account.id)
        if account == NULL:
            account = <Account*>calloc(1, sizeof(Account))
            if account == NULL:
                raise MemoryError
            account.name_id = subject.account.id
            self.seat(account)
        account.is_used = True
        if account.epoch != self.epoch:
            self.touch(account, subject.account)
        return account

    cdef int reserve(self, uint32_t id) except -1:
        # Makes room for the account with that name id.
        cdef uint32_t capacity = 2 * id + 64
        cdef Account** by_name
        if id < self.by_name_capacity:
            return 0
        by_name = <Account**>realloc(self.by_name, capacity * sizeof(Account*))
        if by_name == NULL:
            raise MemoryError
        memset(
            by_name + self.by_name_capacity,
            0,
            (capacity - self.by_name_capacity) * sizeof(Account*),
        )
        self.by_name = by_name
        self.by_name_capacity = capacity
        return 0

    cdef int seat(self, Account* account) except -1:
        # The account, which is then owned here, is in memory from now on.
        self.reserve(account.name_id)
        self.by_name[account.name_id] = account
        self.count += 1
        return 0

    cdef Account* unseat(self, uint32_t id) noexcept:
        # The account with that name id leaves memory; whoever asked owns it.
        cdef Account* account = self.by_name[id]
        self.by_name[id] = NULL
        self.count -= 1
        return account

    cdef Absence* absence_of(self, uint32_t id) except NULL:
        # What is known of the account with that name id while it is away; to be filled in.
        cdef uint32_t capacity = 2 * id + 64
        cdef Absence* absences
        if id >= self.absence_capacity:
            absences = <Absence*>realloc(self.absences, capacity * sizeof(Absence))
            if absences == NULL:
                raise MemoryError
            memset(
                absences + self.absence_capacity,
                0,
                (capacity - self.absence_capacity) * sizeof(Absence),
            )
            self.absences = absences
            self.absence_capacity = capacity
        return &self.absences[id]

    cdef void forget_absence(self, uint32_t id) noexcept:
        # The account with that name id is back, or has nothing but what its image says.
        if id < self.absence_capacity:
            memset(&self.absences[id], 0, sizeof(Absence))

    cdef int touch(self, Account* account, Name name) except -1:
        # Binds the account to what the policy layer says holds for it now.
        cdef Binding binding = self.bind(name.text.data[: name.text.size].decode())
        cdef KindState* fresh
        former = None
        if <PyObject*>binding != account.binding:
            if account.transition != NULL:
                former = <object>account.transition
            elif account.binding != NULL:
                former = <object>account.binding
            binding.attach(&self.keys)
            fresh = <KindState*>calloc(
                max(binding.kind_count + account.inline_count, 1), sizeof(KindState)
            )
            if fresh == NULL:
                raise MemoryError
            account.state_count = take_states(fresh, account, binding)
            free(account.states)
            account.states = fresh
            account.bound_count = binding.kind_count
            account.lent_count = 0
            Py_INCREF(binding)
            Py_XDECREF(account.binding)
            account.binding = <PyObject*>binding
        account.epoch = self.epoch
        return self.fill(account, former)

    cdef int change_over(self, Account* account, object former) except -1:
        # Has what held before hold on in part while counters are being filled.
        cdef Transition transition = Transition.__new__(Transition)
        transition.binding = <Binding>account.binding
        transition.mixed = {}
        transition.depth = 1
        if isinstance(former, Transition):
            transition.depth += (<Transition>former).depth
            if transition.depth > TRANSITIONS_MAX:
                # So many changes in one filling: of those in between nothing stays.
                former = (<Transition>former).former
                transition.depth -= 1
        transition.former = former
        settle_binding(account)
        Py_INCREF(transition)
        account.transition = <PyObject*>transition
        return 0

    cdef BoundPlan plan_of(self, Account* account, const Subject* subject):
        # The limits that hold for the attempt.
        if account.transition != NULL:
            return plan_between(<Transition>account.transition, account, subject, &self.keys)
        return (<Binding>account.binding).plan_for(subject, &self.keys)

    cdef int fill(self, Account* account, object former=None) except -1:
        # Has the kinds filled that the account keeps and has not counted everything in. As long as
        # that takes, what was bound before, if that is another binding, holds on in part.
        cdef int slot
        account.building_count = 0
        for slot in range(account.state_count):
            account.building_count += account.states[slot].building
        if account.building_count == 0:
            settle_binding(account)
            return 0
        if former is not None:
            self.change_over(account, former)
        return self.filler.fill(account)

    cdef void leave(self) noexcept:
        # Empties the visitor.
        account_free(&self.visitor)
        memset(&self.visitor, 0, sizeof(Account))

    # ------------------------------------------------------------ inline kinds
    #
    # A kind that an inline limit brought has a place among its account's, which the journal names:
    # unlike a slot in `states` it does not hang on when the account was touched.

    cdef int state_of(self, const Account* account, const KindRules* kind) noexcept nogil:
        # The slot in which the account keeps a kind, -1 when it does not.
        cdef int i
        for i in range(account.state_count):
            if account.states[i].kind == kind:
                return i
        return -1

    cdef KindState* inline_at(self, const Account* account, uint32_t place) noexcept nogil:
        # The inline kind in a place, NULL when that is free.
        cdef int i
        for i in range(account.state_count):
            if account.states[i].inline_place == place:
                return &account.states[i]
        return NULL

    cdef int require_inline_room(
        self, const Account* account, InlineRules rules, int64_t now_ms
    ) except -1:
        # Raises ResourceExhausted unless every kind of the inline limits can be kept.
        cdef int slot
        cdef int inline_room = INLINE_KINDS_MAX - account.inline_count
        cdef int state_room = KINDS_MAX - account.state_count + account.lent_count
        fresh = set()
        used = set()
        for rule in rules.counting:
            slot = self.state_of(account, &(<Rule>rule).kind.rules)
            if slot < 0 or account.states[slot].lent:
                fresh.add((<Rule>rule).kind)
            else:
                used.add(slot)
        for slot in range(account.state_count):
            if slot not in used and is_idle(&account.states[slot], now_ms):
                inline_room += 1
                state_room += slot >= account.bound_count
        if len(fresh) > min(inline_room, state_room):
            raise ResourceExhausted(
                "TOO_MANY_KINDS",
                f"the account keeps {account.inline_count} kinds of inline limits and"
                f" {account.state_count} kinds in all, and {len(fresh)} more are needed; at most"
                f" {INLINE_KINDS_MAX} and {KINDS_MAX} may live at once. Use fewer different"
                " windows and dimensions, or put the limit into a policy",
            )
        return 0

    cdef uint32_t place_for_inline(self, const Account* account, int64_t now_ms) noexcept:
        # Where the next inline kind goes: a free place, or one whose kind is idle.
        cdef int place
        cdef KindState* state
        cdef bint full = account.state_count - account.lent_count >= KINDS_MAX
        if account.inline_count < INLINE_KINDS_MAX and not full:
            for place in range(1, INLINE_KINDS_MAX + 1):
                if self.inline_at(account, place) == NULL:
                    return place
        for place in range(1, INLINE_KINDS_MAX + 1):
            state = self.inline_at(account, place)
            if (
                state != NULL
                and is_idle(state, now_ms)
                and (state >= account.states + account.bound_count or not full)
            ):
                return place
        return 0

    cdef int put_inline(
        self, Account* account, Kind kind, int64_t now_ms, uint32_t place
    ) except -1:
        # Keeps an inline limit's kind in a place; what was kept there is dropped.
        cdef KindState* state = self.inline_at(account, place)
        cdef int slot
        if state != NULL:
            self.drop_inline(account, state)
        slot = self.state_of(account, &kind.rules)
        if slot < 0:
            slot = self.begin_kind(account, kind)
            self.fill(account)
        state = &account.states[slot]
        if state.lent:
            state.lent = False
            account.lent_count -= 1
        else:
            Py_INCREF(kind)
        state.inline_place = place
        state.last_used_ms = now_ms
        account.inline_count += 1
        return 0

    cdef int begin_kind(self, Account* account, Kind kind) except -1:
        # Makes room for a kind's counter, which has counted nothing yet; returns its slot.
        cdef KindState* states = <KindState*>realloc(
            account.states, (account.state_count + 1) * sizeof(KindState)
        )
        if states == NULL:
            raise MemoryError
        account.states = states
        account.state_count += 1
        begin(&states[account.state_count - 1], &kind.rules, account)
        return account.state_count - 1

    cdef void drop_inline(self, Account* account, KindState* state) noexcept:
        # No longer keeps a kind for inline limits; the binding may have it too.
        account.inline_count -= 1
        if state < account.states + account.bound_count:
            state.inline_place = 0
            Py_DECREF(<object>state.kind.kind)
            return
        self.drop_state(account, state)

    cdef void drop_state(self, Account* account, KindState* state) noexcept:
        # No longer keeps a kind that the binding does not have.
        cdef KindState* last = &account.states[account.state_count - 1]
        if state.building:
            account.building_count -= 1
            if account.building_count == 0:
                settle_binding(account)
        release(state)
        account.state_count -= 1
        if state != last:
            state[0] = last[0]

    cdef int lend(self, Account* account, InlineRules rules) except -1:
        # Has every kind of the inline limits at hand: those that the account does not keep are
        # filled and lent. What was lent to others goes if there would be too many.
        cdef Rule rule
        cdef int slot
        cdef int fresh_count = 0
        for rule in rules.counting:
            fresh_count += self.state_of(account, rule.row.kind) < 0
        if fresh_count:
            if account.lent_count + fresh_count > INLINE_KINDS_MAX:
                self.drop_lent(account, rules)
            for rule in rules.counting:
                if self.state_of(account, rule.row.kind) < 0:
                    slot = self.begin_kind(account, rule.kind)
                    Py_INCREF(rule.kind)
                    account.states[slot].lent = True
                    account.lent_count += 1
            self.fill(account)
        if account.building_count:
            self.require_filled(account, rules)
        return 0

    cdef int require_filled(self, const Account* account, InlineRules rules) except -1:
        # Raises ResourceExhausted while a counter that an inline limit needs is being filled.
        cdef Rule rule
        for rule in rules.counting:
            if account.states[self.state_of(account, rule.row.kind)].building:
                raise ResourceExhausted(
                    "KIND_REBUILDING",
                    "the counter of an inline limit is new here, and so much was sent inside its"
                    " window that it takes a moment to be rebuilt from the journal; repeat the call"
                    " soon, or put the limit into a policy, where the limits of before bind"
                    " meanwhile",
                    retry_after_ms=REBUILD_RETRY_MS,
                )
        return 0

    cdef void drop_lent(self, Account* account, InlineRules but) noexcept:
        # Forgets what was lent to others than `but`, which may be None.
        cdef int slot = account.state_count
        cdef bint wanted
        while slot > account.bound_count and account.lent_count:
            slot -= 1
            wanted = False
            if but is not None:
                for rule in but.counting:
                    wanted = wanted or (<Rule>rule).row.kind == account.states[slot].kind
            if account.states[slot].lent and not wanted:
                account.lent_count -= 1
                self.drop_state(account, &account.states[slot])

    cdef void mark_inline_used(
        self, Account* account, uint32_t places, int64_t now_ms
    ) noexcept nogil:
        # An attempt with these inline kinds (bit per place, from bit 1) was counted.
        cdef int i
        for i in range(account.state_count):
            if places >> account.states[i].inline_place & 1:
                account.states[i].last_used_ms = now_ms

    cdef int opt_out(self, Account* account, Slice body, bint adds, uint64_t position) except -1:
        # Makes so what the journal says at a position about who has opted out.
        if account.opt_outs == NULL:
            account.opt_outs = <OptOuts*>calloc(1, sizeof(OptOuts))
            if account.opt_outs == NULL:
                raise MemoryError
        return opt_outs_apply(account.opt_outs, body, adds, position)

    # ------------------------------------------------------------ counting

    cdef void prefetch_for(self, const Account* account, const Subject* subject) noexcept nogil:
        # Has what the attempt will be judged by loaded side by side.
        cdef int slot
        cdef int warm = min(account.state_count, PREFETCHED_STATES)
        index_prefetch(&account.contacts, &subject.contact)
        if subject.present & (1 << DIMENSION_ADDRESS):
            index_prefetch(&account.addresses, &subject.address)
        for slot in range(warm):
            prefetch(&account.states[slot].single)
        for slot in range(warm):
            if account.states[slot].kind.per_count == 0:
                counter_prefetch(&account.states[slot])

    cdef void locate(self, const Account* account, Subject* subject) noexcept nogil:
        # Fills in the indices and ids that are known already; NO_INDEX and 0 for the others.
        cdef int dimension
        cdef Name* name
        subject.opted_out = account.opt_outs != NULL and is_opted_out(account, subject)
        subject.contact_index = index_find(&account.contacts, &subject.contact)
        subject.address_index = NO_INDEX
        if subject.present & (1 << DIMENSION_ADDRESS):
            subject.address_index = index_find(&account.addresses, &subject.address)
        if subject.interned:
            return
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            name = &subject.names[dimension]
            if subject.present & (<uint32_t>1 << dimension) and name.id == 0:
                name.id = names_find(&self.names, name.text, name.hash)

    cdef int count_attempt(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms, Undo* undo
    ) except -1:
        # Counts the attempt, which was located in the account, in every kind that the account keeps
        # and that counts it, at at_ms, as of now_ms. `undo` has room for one row per kind; returns
        # how many were filled.
        cdef int slot
        cdef int done = 0
        cdef KindState* state
        subject.fresh_contact = subject.contact_index == NO_INDEX
        if subject.fresh_contact:
            subject.contact_index = index_append(&account.contacts, &subject.contact)
        subject.fresh_address = (
            subject.present & (1 << DIMENSION_ADDRESS) != 0 and subject.address_index == NO_INDEX
        )
        if subject.fresh_address:
            subject.address_index = index_append(&account.addresses, &subject.address)
        for slot in range(account.state_count):
            state = &account.states[slot]
            if (
                state.kind.needs & ~subject.present == 0
                and matching(state.kind.counts, subject) == MATCHES
            ):
                undo[done].slot = slot
                count(state, subject, at_ms, now_ms, &undo[done])
                done += 1
        return done

    cdef int count_tentatively(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms
    ) except -1:
        # Counts the attempt at at_ms and remembers how to take that back.
        cdef uint32_t needed = self.undo_size + account.state_count + 1
        cdef uint32_t capacity
        cdef Undo* undo
        if needed > self.undo_capacity:
            capacity = 2 * needed
            undo = <Undo*>realloc(self.undo, capacity * sizeof(Undo))
            if undo == NULL:
                raise MemoryError
            self.undo = undo
            self.undo_capacity = capacity
        undo = &self.undo[self.undo_size]
        self.undo_size += 1 + self.count_attempt(account, subject, at_ms, now_ms, undo + 1)
        # The first row of an attempt says how many numbers it gave out.
        undo.slot = -1
        undo.index = subject.fresh_contact
        undo.before_ms = subject.fresh_address
        return 0

    cdef int count_for_good(
        self, Account* account, Subject* subject, int64_t at_ms, int64_t now_ms
    ) except -1:
        # Counts the attempt at at_ms, not to be taken back in this way.
        self.undo_size = 0
        self.count_tentatively(account, subject, at_ms, now_ms)
        self.undo_size = 0
        return 0

    cdef bint has_tentatively_counted(
        self, int slot, const CounterKey* key, uint32_t index
    ) noexcept nogil:
        # Whether what is counted tentatively has that member in a distinct counter; its key is NULL
        # where the kind has none.
        cdef const Undo* undo
        cdef uint32_t i
        for i in range(self.undo_size):
            undo = &self.undo[i]
            if undo.slot == slot and undo.index == index:
                if key == NULL or same_key(&undo.key, key):
                    return True
        return False

    cdef void take_back_all(self, Account* account) except *:
        # Takes all attempts that were counted tentatively back, the last one first.
        cdef Undo* undo
        while self.undo_size:
            self.undo_size -= 1
            undo = &self.undo[self.undo_size]
            if undo.slot >= 0:
                take_back(&account.states[undo.slot], undo)
                continue
            if undo.index:
                index_remove_last(&account.contacts)
            if undo.before_ms:
                index_remove_last(&account.addresses)
