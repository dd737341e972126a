# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the journal is told: the events of the group that is being filled.

In flow attempts as they were decided, and whatever else changes the state; out flow packed events,
taken group by group. What always holds: a name is defined in the journal before an event refers to
it, and ids are defined in their order.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter.errors import DataLoss
from limiter._accounts cimport Account, Accounts
from limiter._event cimport (
    EVENT_DENIAL,
    EVENT_NAME,
    Event,
    GroupCursor,
    events_append,
    events_free,
)
from limiter._names cimport NameRow, names_insert
from limiter._siphash cimport siphash64
from limiter._subject cimport Name, Subject
from limiter._types cimport (
    DIMENSION_CHANNEL,
    DIMENSION_COUNT,
    Decision,
    LimitResult,
    Slice,
)


@cython.final
cdef class Recorder:
    """Fills the open group of one core, whose accounts and names are `accounts`."""

    def __cinit__(self, Accounts accounts not None):
        self.accounts = accounts
        self.buffer.group = 1

    def __dealloc__(self):
        events_free(&self.buffer)

    cdef object take_group(self):
        # (group number, packed events, event count) of all that was appended since the last call,
        # None when there is nothing. What comes next belongs to the next group.
        if self.buffer.count == 0:
            return None
        taken = (
            self.buffer.group,
            PyBytes_FromStringAndSize(<const char*>self.buffer.data, self.buffer.size),
            self.buffer.count,
        )
        self.buffer.size = 0
        self.buffer.count = 0
        self.buffer.group += 1
        return taken

    cdef int begin_replay(
        self, uint64_t group_number, bytes events, GroupCursor* cursor
    ) except -1:
        # Begins to read a journalled group, which must outlive that. Raises DataLoss unless it is
        # the next one.
        if group_number != self.buffer.group:
            raise DataLoss(
                "JOURNAL_GAP",
                f"the journal continues with group {group_number}, expected {self.buffer.group}",
            )
        cursor.data = <const uint8_t*>PyBytes_AS_STRING(events)
        cursor.size = PyBytes_GET_SIZE(events)
        cursor.offset = 0
        cursor.group = group_number
        return 0

    cdef uint64_t append(self, const Event* event) except 0:
        cdef uint64_t position = events_append(&self.buffer, event)
        self.appended += 1
        self.last_event_ms = max(self.last_event_ms, event.time_ms)
        return position

    cdef uint32_t journalled_id(self, uint32_t id) except 0:
        # The id, once the journal defines it and, since ids are given in order, all before it.
        cdef Event event
        cdef const NameRow* row
        while self.named_up_to < id:
            row = &self.accounts.names.rows[self.named_up_to]
            memset(&event, 0, sizeof(Event))
            event.type = EVENT_NAME
            event.name_id = self.named_up_to + 1
            event.body.data = row.text
            event.body.size = row.size
            self.append(&event)
            self.named_up_to += 1
        return id

    cdef uint32_t journalled_text(self, Slice text) except? 0:
        # The id of a policy's or a limit's name; 0 for an empty one.
        cdef uint64_t hash
        if text.size == 0:
            return 0
        hash = siphash64(&self.accounts.keys.name, text.data, text.size)
        return self.journalled_id(names_insert(&self.accounts.names, text, hash))

    cdef int intern(self, Subject* subject) except -1:
        # Gives every name of the attempt an id; may be refused for lack of room.
        cdef int dimension
        cdef Name* name = &subject.zone_name
        if name.text.size and name.id == 0:
            # Each recipient of a batch may have another one.
            name.hash = siphash64(&self.accounts.keys.name, name.text.data, name.text.size)
            name.id = names_insert(&self.accounts.names, name.text, name.hash)
        if subject.interned:
            return 0
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            name = &subject.names[dimension]
            if subject.present & (<uint32_t>1 << dimension) and name.id == 0:
                name.id = names_insert(&self.accounts.names, name.text, name.hash)
        if subject.account.id == 0:
            subject.account.id = names_insert(
                &self.accounts.names, subject.account.text, subject.account.hash
            )
        subject.interned = True
        return 0

    cdef int fill_event(self, Event* event, Subject* subject, int64_t now_ms) except -1:
        cdef int dimension
        memset(event, 0, sizeof(Event))
        event.account = self.journalled_id(subject.account.id)
        event.time_ms = now_ms
        event.counts_ms = now_ms
        event.present = subject.present
        event.contact = subject.contact
        event.address = subject.address
        event.message_count = subject.message_count
        for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
            if subject.present & (<uint32_t>1 << dimension):
                event.names[dimension] = self.journalled_id(subject.names[dimension].id)
        if subject.zone_name.id:
            event.zone = self.journalled_id(subject.zone_name.id)
        return 0

    cdef int denial(
        self, Account* account, Subject* subject, const Decision* decision, int64_t now_ms
    ) except -1:
        # Journals a denied attempt, which is interned, with the limit that binds it.
        cdef Event event
        cdef const LimitResult* binding
        self.fill_event(&event, subject, now_ms)
        event.type = EVENT_DENIAL
        event.reason = decision.reason
        event.retry_ms = decision.retry_ms
        event.previous_account = account.last_position
        event.previous_denial = account.last_denial
        if decision.binding >= 0:
            binding = &decision.results[decision.binding]
            event.policy = self.journalled_text(binding.policy)
            event.limit = self.journalled_text(binding.limit_id)
            event.max_count = binding.max_count
            event.used_count = binding.used_count
        account.last_denial = self.append(&event)
        account.unimaged_count += 1
        return 0
