# The events of the group that is being filled.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._accounts cimport Account, Accounts
from limiter._event cimport Event, EventBuffer, GroupCursor
from limiter._subject cimport Subject
from limiter._types cimport Decision, Slice

cdef class Recorder:
    cdef Accounts accounts     # of the core
    cdef EventBuffer buffer    # its data is owned
    cdef uint32_t named_up_to  # names with ids up to this one are defined in the journal
    cdef uint64_t appended     # events, ever
    cdef int64_t last_event_ms

    cdef object take_group(self)
    cdef int begin_replay(
        self, uint64_t group_number, bytes events, GroupCursor* cursor
    ) except -1
    cdef uint64_t append(self, const Event* event) except 0
    cdef uint32_t journalled_id(self, uint32_t id) except 0
    cdef uint32_t journalled_text(self, Slice text) except? 0
    cdef int intern(self, Subject* subject) except -1
    cdef int fill_event(self, Event* event, Subject* subject, int64_t now_ms) except -1
    cdef int denial(
        self, Account* account, Subject* subject, const Decision* decision, int64_t now_ms
    ) except -1
