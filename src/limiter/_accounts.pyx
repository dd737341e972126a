# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The accounts in memory.

An account is a plain struct found by its name's id. It is bound to what the policy layer says
holds for it (a Binding) and bound again at its first touch after a change of policies: counters of
kinds that stay are carried over, so an edit never loses a count. Which moment that happens at
makes no difference: between a change and the touch nothing was counted.

A Check of an account that does not exist asks the `visitor`, an account that is emptied afterwards.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport calloc, free, realloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import ResourceExhausted
from limiter._calendar cimport window_first_ms
from limiter._counters cimport KindState, Undo, count, state_free, take_back
from limiter._index cimport (
    NO_INDEX,
    index_find,
    index_free,
    index_insert,
)
from limiter._kinds cimport MATCHES, Binding, Conditions, Kind, KindRules
from limiter._names cimport names_find, names_free, names_insert
from limiter._subject cimport Name, Subject
from limiter._types cimport DIMENSION_ADDRESS, DIMENSION_CHANNEL, DIMENSION_COUNT

cdef int INLINE_KINDS_MAX = bounds.INLINE_KINDS_MAX
cdef int KINDS_MAX = bounds.KINDS_MAX


cdef void account_free(Account* account) noexcept:
    # Frees all that the account owns, not the struct.
    cdef int i
    for i in range(account.bound_count + account.inline_count):
        state_free(&account.states[i])
    for i in range(account.inline_count):
        Py_DECREF(<object>account.states[account.bound_count + i].kind.kind)
    free(account.states)
    Py_XDECREF(account.binding)
    index_free(&account.contacts)
    index_free(&account.addresses)


cdef int take_states(KindState* fresh, Account* account, Binding binding) except -1:
    # Fills `fresh` with the binding's kinds and the inline ones that it does not have, moving
    # counters over; returns how many inline ones remain.
    cdef int i
    cdef int j
    cdef int old_count = account.bound_count + account.inline_count
    cdef int kept = 0
    cdef Binding old = <Binding>account.binding if account.binding != NULL else None
    for i in range(binding.kind_count):
        fresh[i].kind = binding.kind_rules[i]
        fresh[i].since_ms = binding.since_ms[i]
        for j in range(old_count):
            if account.states[j].kind == binding.kind_rules[i]:
                if j < account.bound_count and old.since_ms[j] != binding.since_ms[i]:
                    # Dropped and taken up again in between: it starts anew, touched or not.
                    break
                fresh[i] = account.states[j]
                account.states[j].kind = NULL
                if j >= account.bound_count:
                    Py_DECREF(<object>fresh[i].kind.kind)
                break
    for j in range(old_count):
        if account.states[j].kind == NULL:
            continue
        if j < account.bound_count:
            state_free(&account.states[j])
        else:
            fresh[binding.kind_count + kept] = account.states[j]
            kept += 1
    return kept


cdef class Accounts:
    def __cinit__(self, bind):
        self.bind = bind
        self.epoch = 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.by_name_capacity):
            if self.by_name[i] != NULL:
                account_free(self.by_name[i])
                free(self.by_name[i])
        free(self.by_name)
        account_free(&self.visitor)
        names_free(&self.names)

    cdef Account* find(self, const Subject* subject) except NULL:
        # The attempt's account, bound to the policies that hold now; the visitor if there is none.
        cdef Account* account = NULL
        if subject.account.id and subject.account.id < self.by_name_capacity:
            account = self.by_name[subject.account.id]
        if account == NULL:
            self.leave()
            account = &self.visitor
        if account.epoch != self.epoch:
            self.touch(account, subject.account)
        return account

    cdef Account* make(self, Subject* subject) except NULL:
        # The attempt's account, a new one if there is none.
        cdef uint32_t id
        cdef uint32_t capacity
        cdef Account** by_name
        cdef Account* account
        if subject.account.id == 0:
            subject.account.id = names_insert(
                &self.names, subject.account.text, subject.account.hash
            )
        id = subject.account.id
        if id >= self.by_name_capacity:
            capacity = 2 * id + 64
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
        if self.by_name[id] == NULL:
            account = <Account*>calloc(1, sizeof(Account))
            if account == NULL:
                raise MemoryError
            account.name_id = id
            self.by_name[id] = account
            self.count += 1
        account = self.by_name[id]
        if account.epoch != self.epoch:
            self.touch(account, subject.account)
        return account

    cdef int touch(self, Account* account, Name name) except -1:
        # Binds the account to what the policy layer says holds for it now.
        cdef Binding binding = self.bind(name.text.data[: name.text.size].decode())
        cdef KindState* fresh
        if <PyObject*>binding != account.binding:
            binding.attach(&self.keys)
            fresh = <KindState*>calloc(
                binding.kind_count + account.inline_count + 1, sizeof(KindState)
            )
            if fresh == NULL:
                raise MemoryError
            account.inline_count = take_states(fresh, account, binding)
            free(account.states)
            account.states = fresh
            account.bound_count = binding.kind_count
            Py_INCREF(binding)
            Py_XDECREF(account.binding)
            account.binding = <PyObject*>binding
        account.epoch = self.epoch
        return 0

    cdef void leave(self) noexcept:
        # Empties the visitor.
        account_free(&self.visitor)
        memset(&self.visitor, 0, sizeof(Account))

    # ------------------------------------------------------------ inline kinds

    cdef int state_of(self, const Account* account, const KindRules* kind) noexcept nogil:
        # The slot in which the account keeps a kind, -1 when it does not.
        cdef int i
        for i in range(account.bound_count + account.inline_count):
            if account.states[i].kind == kind:
                return i
        return -1

    cdef int keep_inline(self, Account* account, Kind kind, int64_t now_ms) except -2:
        # Makes the account keep an inline limit's kind. Returns -1 when it did already, else which
        # inline kind was dropped for it (its place + 1, 0 = none).
        cdef int slot = self.state_of(account, &kind.rules)
        cdef int i
        cdef KindState* state
        if slot >= 0:
            account.states[slot].last_used_ms = now_ms
            return -1
        slot = 0
        if (
            account.inline_count >= INLINE_KINDS_MAX
            or account.bound_count + account.inline_count >= KINDS_MAX
        ):
            for i in range(account.inline_count):
                state = &account.states[account.bound_count + i]
                if state.last_used_ms < window_first_ms(state.kind.window, now_ms):
                    slot = i + 1
                    break
            if slot == 0:
                raise ResourceExhausted(
                    "TOO_MANY_KINDS",
                    f"the account keeps {account.inline_count} kinds of inline limits and"
                    f" {account.bound_count + account.inline_count} kinds in all; at most"
                    f" {INLINE_KINDS_MAX} and {KINDS_MAX} may live at once. Use fewer different"
                    " windows and dimensions, or put the limit into a policy",
                )
        self.put_inline(account, kind, now_ms, slot)
        return slot

    cdef int put_inline(
        self, Account* account, Kind kind, int64_t now_ms, int dropped
    ) except -1:
        # Adds an inline kind, in the place of the one that `dropped` names.
        cdef KindState* states
        cdef KindState* state
        cdef int total = account.bound_count + account.inline_count
        if dropped:
            state = &account.states[account.bound_count + dropped - 1]
            state_free(state)
            Py_DECREF(<object>state.kind.kind)
        else:
            states = <KindState*>realloc(account.states, (total + 1) * sizeof(KindState))
            if states == NULL:
                raise MemoryError
            account.states = states
            account.inline_count += 1
            state = &states[total]
        memset(state, 0, sizeof(KindState))
        kind.counts.digest(&self.keys)
        Py_INCREF(kind)
        state.kind = &kind.rules
        state.since_ms = now_ms
        state.last_used_ms = now_ms
        return 0

    cdef void drop_last_inline(self, Account* account) noexcept:
        # Takes the inline kind that was added last back.
        cdef KindState* state = &account.states[account.bound_count + account.inline_count - 1]
        state_free(state)
        Py_DECREF(<object>state.kind.kind)
        account.inline_count -= 1

    # ------------------------------------------------------------ counting

    cdef void locate(self, const Account* account, Subject* subject) noexcept nogil:
        # Fills in the indices and ids that are known already.
        cdef int dimension
        cdef Name* name
        subject.contact_index = index_find(&account.contacts, &subject.contact)
        subject.address_index = NO_INDEX
        if subject.present & (1 << DIMENSION_ADDRESS):
            subject.address_index = index_find(&account.addresses, &subject.address)
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            name = &subject.names[dimension]
            if subject.present & (<uint32_t>1 << dimension) and name.id == 0:
                name.id = names_find(&self.names, name.text, name.hash)

    cdef int count_attempt(
        self, Account* account, Subject* subject, int64_t now_ms, Undo* undo
    ) except -1:
        # Counts the attempt in every kind that the account keeps and that counts it. `undo` has
        # room for one row per kind; returns how many rows were filled.
        cdef int slot
        cdef int done = 0
        cdef KindState* state
        subject.contact_index = index_insert(&account.contacts, &subject.contact)
        if subject.present & (1 << DIMENSION_ADDRESS):
            subject.address_index = index_insert(&account.addresses, &subject.address)
        for slot in range(account.bound_count + account.inline_count):
            state = &account.states[slot]
            if (
                state.kind.needs & ~subject.present == 0
                and (<Conditions>state.kind.counts).match(subject) == MATCHES
            ):
                undo[done].slot = slot
                count(state, subject, now_ms, &undo[done])
                done += 1
        return done

    cdef void uncount(self, Account* account, const Undo* undo) except *:
        # Takes one row of a count_attempt back; the last one that is not taken back yet.
        take_back(&account.states[undo.slot], undo)

    cdef void mark_inline_used(self, Account* account, int64_t now_ms) noexcept nogil:
        # In replay no event says which inline limits came with a commit: take it for all.
        cdef int i
        for i in range(account.inline_count):
            account.states[account.bound_count + i].last_used_ms = now_ms
