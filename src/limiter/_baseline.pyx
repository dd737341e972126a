# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What is not kept with any account, as of one position of the journal: names, request ids, what
became of commits, and where the newest events of accounts are that their images do not know.

In flow a core; out flow pieces of bytes, and at a start the other way round. What always holds:

- the head is of one instant; pieces may be taken later. What they hold then beyond the head's
  position does no harm: numbers say what belongs to it, and a newer position of an account is met
  again when the events behind the head are scanned;
- a scan leaves a core that answers as one that has lived through all those events, once its
  accounts are brought back.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from limiter import bounds
from limiter.errors import DataLoss, FailedPrecondition
from limiter._accounts cimport Absence, Account, Accounts
from limiter._core cimport Core
from limiter._event cimport (
    EVENT_BATCH_HEAD,
    EVENT_COMMIT,
    EVENT_CONFIRM,
    EVENT_DENIAL,
    EVENT_NAME,
    EVENT_REVISION,
    EVENT_UNDO,
    OFFSET_BITS,
    Event,
    GroupCursor,
    group_next,
)
from limiter._fates cimport (
    FATE_HELD,
    FateRow,
    FateTable,
    fates_confirm,
    fates_find,
    fates_forget,
    fates_hold,
    fates_undo,
)
from limiter._names cimport NameRow, names_insert
from limiter._requests cimport RequestRow, RequestTable, requests_remember
from limiter._siphash cimport siphash64
from limiter._types cimport Slice

cdef enum:
    VERSION = 1

cdef int64_t REACH_MS = bounds.WINDOW_MS_MAX
cdef uint32_t FORGET_AT_ONCE = 4

cdef struct AbsenceRow:
    uint64_t last_position
    uint64_t last_denial
    uint32_t account
    uint32_t unimaged_count


cdef object malformed(what):
    return DataLoss("IMAGE_CORRUPT", f"the baseline of the images is damaged: {what}")


@cython.final
cdef class Baseline:
    """The baseline of one core."""

    def __cinit__(self, Core core not None):
        self.core = core

    # ------------------------------------------------------------ taking

    def begin(self):
        """Fixes the head: of everything that has been appended up to now."""
        cdef Core core = self.core
        self.head.version = VERSION
        self.head.name_count = core.recorder.named_up_to
        self.head.position = (
            core.recorder.buffer.group << OFFSET_BITS | core.recorder.buffer.size
        )
        self.head.last_event_ms = core.recorder.last_event_ms
        self.head.appended = core.recorder.appended
        self.head.request_first = core.requests.head
        self.head.request_end = core.requests.head + core.requests.size
        self.head.undone_first = core.past.fates.forgotten_count
        self.head.undone_end = core.past.fates.forgotten_count + core.past.fates.undone_size

    def leave_out_forgotten(self):
        """What was forgotten since the head was fixed is in none of the pieces, or need not be."""
        cdef Core core = self.core
        self.head.request_first = min(core.requests.head, self.head.request_end)
        self.head.undone_first = min(core.past.fates.forgotten_count, self.head.undone_end)

    @property
    def group(self):
        """The group that the head's position lies in: those before it are known whole."""
        return self.head.position >> OFFSET_BITS

    @property
    def packed(self):
        """The head as bytes."""
        return PyBytes_FromStringAndSize(<const char*>&self.head, sizeof(BaselineHead))

    @property
    def name_count(self):
        """How many names there are."""
        return self.head.name_count

    @property
    def requests(self):
        """The numbers of the remembered request ids: the first, and the one behind the last."""
        return self.head.request_first, self.head.request_end

    @property
    def undone(self):
        """The same of the commits that were undone."""
        return self.head.undone_first, self.head.undone_end

    def names(self, uint32_t first, uint32_t most):
        """Up to so many names, from an id on: each its size (4 bytes) and its text."""
        cdef const NameRow* row
        cdef uint32_t id
        parts = []
        for id in range(first, min(first + most, self.head.name_count + 1)):
            row = &self.core.accounts.names.rows[id - 1]
            parts.append(PyBytes_FromStringAndSize(<const char*>&row.size, 4))
            parts.append(PyBytes_FromStringAndSize(<const char*>row.text, row.size))
        return b"".join(parts)

    def request_rows(self, uint64_t first, uint32_t most):
        """Up to so many remembered request ids, from a number on, as (the first one's number, their
        rows); those that were forgotten meanwhile are left out."""
        cdef const RequestTable* table = &self.core.requests
        cdef uint64_t number = max(first, table.head)
        cdef uint64_t end = min(first + most, self.head.request_end)
        cdef uint64_t at
        parts = []
        for at in range(number, end):
            parts.append(PyBytes_FromStringAndSize(
                <const char*>&table.rows[at & (table.capacity - 1)], sizeof(RequestRow)
            ))
        return number, b"".join(parts)

    def undone_rows(self, uint64_t first, uint32_t most):
        """The same of the commits that were undone."""
        cdef const FateTable* table = &self.core.past.fates
        cdef uint64_t number = max(first, table.forgotten_count)
        cdef uint64_t end = min(first + most, self.head.undone_end)
        cdef uint64_t at
        cdef uint32_t place
        parts = []
        for at in range(number, end):
            place = table.undone_head + <uint32_t>(at - table.forgotten_count)
            parts.append(PyBytes_FromStringAndSize(
                <const char*>fates_find(table, table.undone[place & (table.undone_capacity - 1)]),
                sizeof(FateRow),
            ))
        return number, b"".join(parts)

    def held_rows(self):
        """All commits that are held; to be taken together with the head."""
        cdef const FateTable* table = &self.core.past.fates
        cdef const FateRow* row
        cdef uint32_t i
        parts = []
        for i in range(table.due_size):
            row = fates_find(table, table.due[i].position)
            if row != NULL and row.fate == FATE_HELD:
                parts.append(PyBytes_FromStringAndSize(<const char*>row, sizeof(FateRow)))
        return b"".join(parts)

    def absences(self, uint32_t start, uint32_t steps):
        """Where the newest events are that images do not know, of the accounts with so many ids
        from one on; and the next id, 0 behind the last."""
        cdef Accounts accounts = self.core.accounts
        cdef uint32_t end = max(accounts.by_name_capacity, accounts.absence_capacity)
        cdef uint32_t id = start
        cdef const Account* account
        cdef AbsenceRow row
        parts = []
        while steps and id < end:
            memset(&row, 0, sizeof(row))
            account = accounts.known(id)
            if account != NULL:
                if account.unimaged_count or account.is_being_imaged:
                    row.account = id
                    row.last_position = account.last_position
                    row.last_denial = account.last_denial
                    # One whose image is not on the disk yet is further behind than it says.
                    row.unimaged_count = account.unimaged_count + 1
            elif id < accounts.absence_capacity and accounts.absences[id].unimaged_count:
                row.account = id
                row.last_position = accounts.absences[id].last_position
                row.last_denial = accounts.absences[id].last_denial
                row.unimaged_count = accounts.absences[id].unimaged_count
            if row.account:
                parts.append(PyBytes_FromStringAndSize(<const char*>&row, sizeof(row)))
            id += 1
            steps -= 1
        return b"".join(parts), id if id < end else 0

    # ------------------------------------------------------------ putting back

    def begin_after(self, int64_t instant_ms):
        """No instant lies before that one."""
        self.core.recorder.last_event_ms = max(self.core.recorder.last_event_ms, instant_ms)

    def restore(self, bytes packed not None):
        """Begins to put a baseline back into the core, which is new: its head. Raises
        FailedPrecondition for a version that is not known here."""
        if PyBytes_GET_SIZE(packed) < 4:
            raise malformed("its head")
        memcpy(
            &self.head,
            PyBytes_AS_STRING(packed),
            min(<size_t>PyBytes_GET_SIZE(packed), sizeof(BaselineHead)),
        )
        if self.head.version != VERSION:
            raise FailedPrecondition(
                "IMAGE_FORMAT",
                f"the images have format version {self.head.version}; this version of limiter reads"
                f" format version {VERSION}: use the version that wrote them",
            )
        if <size_t>PyBytes_GET_SIZE(packed) != sizeof(BaselineHead):
            raise malformed("its head")
        self.begin_after(self.head.last_event_ms)
        self.core.recorder.appended = self.head.appended
        self.core.recorder.buffer.group = self.head.position >> OFFSET_BITS
        self.core.requests.head = self.head.request_end
        self.core.past.fates.forgotten_count = self.head.undone_end

    def restore_names(self, uint32_t first, bytes piece not None):
        """Puts names back, from an id on; those that are there already, and those beyond the head,
        are passed over."""
        cdef Accounts accounts = self.core.accounts
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(piece)
        cdef size_t left = PyBytes_GET_SIZE(piece)
        cdef uint32_t id = first
        cdef Slice text
        if first > accounts.names.size + 1:
            raise malformed("names are missing")
        while left and id <= self.head.name_count:
            if left < 4:
                raise malformed("a name")
            memcpy(&text.size, data, 4)
            if left - 4 < text.size:
                raise malformed("a name")
            text.data = data + 4
            if id > accounts.names.size and (
                names_insert(
                    &accounts.names, text, siphash64(&accounts.keys.name, text.data, text.size)
                ) != id
            ):
                raise malformed("a name is there twice")
            data += 4 + text.size
            left -= 4 + text.size
            id += 1
        self.core.recorder.named_up_to = accounts.names.size

    def restore_requests(self, uint64_t first, bytes piece not None):
        """Puts request ids back, from a number on."""
        cdef RequestTable* table = &self.core.requests
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(piece)
        cdef size_t count = PyBytes_GET_SIZE(piece) // sizeof(RequestRow)
        cdef uint64_t number
        cdef RequestRow row
        if table.size == 0:
            table.head = max(first, self.head.request_first)
        for number in range(first, min(first + count, self.head.request_end)):
            if number < table.head + table.size:
                continue
            if number != table.head + table.size:
                raise malformed("request ids are missing")
            memcpy(&row, data + (number - first) * sizeof(RequestRow), sizeof(RequestRow))
            requests_remember(table, &row)

    def restore_undone(self, uint64_t first, bytes piece not None):
        """Puts undone commits back, from a number on."""
        cdef FateTable* table = &self.core.past.fates
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(piece)
        cdef size_t count = PyBytes_GET_SIZE(piece) // sizeof(FateRow)
        cdef uint64_t number
        cdef FateRow row
        if table.undone_size == 0:
            table.forgotten_count = max(first, self.head.undone_first)
        for number in range(first, min(first + count, self.head.undone_end)):
            if number < table.forgotten_count + table.undone_size:
                continue
            if number != table.forgotten_count + table.undone_size:
                raise malformed("undone commits are missing")
            memcpy(&row, data + (number - first) * sizeof(FateRow), sizeof(FateRow))
            fates_undo(table, row.position, row.account, row.fate, row.at_ms)

    def restore_held(self, bytes piece not None):
        """Puts held commits back."""
        cdef size_t offset
        cdef FateRow row
        for offset in range(0, PyBytes_GET_SIZE(piece), sizeof(FateRow)):
            memcpy(&row, PyBytes_AS_STRING(piece) + offset, sizeof(FateRow))
            fates_hold(&self.core.past.fates, row.position, row.account, row.at_ms)

    def restore_absences(self, bytes piece not None):
        """Puts back where accounts' newest events are."""
        cdef size_t offset
        cdef AbsenceRow row
        cdef Absence* absence
        for offset in range(0, PyBytes_GET_SIZE(piece), sizeof(AbsenceRow)):
            memcpy(&row, PyBytes_AS_STRING(piece) + offset, sizeof(AbsenceRow))
            absence = self.core.accounts.absence_of(row.account)
            absence.last_position = row.last_position
            absence.last_denial = row.last_denial
            absence.unimaged_count = row.unimaged_count

    def settle(self):
        """Everything is put back: accounts whose names were known then may have images."""
        if self.core.accounts.names.size != self.head.name_count:
            raise malformed("names are missing")
        self.core.accounts.imaged_names = self.head.name_count

    def is_written(self):
        """The baseline is on the disk: accounts whose names it knows may leave memory traceless."""
        self.core.accounts.imaged_names = self.head.name_count

    # ------------------------------------------------------------ the events behind it

    def replay(self, uint64_t group_number, bytes events not None, on_revision):
        """Takes in one journalled group, whole or from the head's position on, and returns the
        number of its events: what they say of accounts is left to those who bring them back.
        Groups come in order; otherwise as `Core.replay`."""
        cdef Core core = self.core
        cdef GroupCursor cursor
        cdef uint64_t position
        cdef Event event
        core.recorder.begin_replay(group_number, events, &cursor)
        count = 0
        while group_next(&cursor, &event, &position):
            if position >= self.head.position:
                self.scan_event(&event, position, on_revision)
                core.recorder.appended += 1
            count += 1
        core.recorder.buffer.group = group_number + 1
        return count

    cdef int scan_event(self, const Event* event, uint64_t position, object on_revision) except -1:
        cdef Core core = self.core
        cdef FateTable* fates = &core.past.fates
        cdef Absence* absence
        if event.type == EVENT_NAME:
            return core.apply_name(event)
        core.recorder.last_event_ms = max(core.recorder.last_event_ms, event.time_ms)
        if event.type == EVENT_REVISION:
            return core.apply_revision(event, on_revision)
        if event.type == EVENT_BATCH_HEAD:
            core.forget_before(event.time_ms)
            return core.remember(event, position)
        if not 0 < event.account <= core.accounts.names.size:
            raise DataLoss("JOURNAL_CORRUPT", "an event names an account that no event defines")
        absence = core.accounts.absence_of(event.account)
        absence.unimaged_count += 1
        if event.type == EVENT_DENIAL:
            absence.last_denial = position
            return core.denial_replayed(event, position)
        if not event.apart:
            absence.last_position = position
        if event.type == EVENT_COMMIT:
            if event.has_request:
                core.forget_before(event.time_ms)
                core.remember(event, position)
            if event.hold_ms:
                fates_hold(fates, position, event.account, event.time_ms + event.hold_ms)
        elif event.type == EVENT_CONFIRM:
            if fates_find(fates, event.commit) == NULL:
                raise DataLoss("JOURNAL_CORRUPT", "a commit is confirmed that is not held")
            fates_confirm(fates, event.commit)
        elif event.type == EVENT_UNDO:
            fates_forget(fates, event.time_ms - REACH_MS, FORGET_AT_ONCE)
            fates_undo(fates, event.commit, event.account, event.fate, event.time_ms)
        return 0
