# What is not kept with any account, as of one position of the journal.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._core cimport Core
from limiter._event cimport Event

cdef struct BaselineHead:
    uint32_t version
    uint32_t name_count        # names with ids up to this one
    uint64_t position          # events before it are known
    int64_t last_event_ms
    uint64_t appended          # events, ever
    uint64_t request_first     # numbers of the remembered request ids: from ...
    uint64_t request_end       # ... up to before
    uint64_t undone_first      # the same of undone commits
    uint64_t undone_end

cdef class Baseline:
    cdef Core core
    cdef BaselineHead head

    cdef int scan_event(self, const Event* event, uint64_t position, object on_revision) except -1
