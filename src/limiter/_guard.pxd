# What one credential may do, asked once a call.

from libc.stdint cimport int64_t, uint32_t

from limiter._types cimport Attempt, Slice

cdef enum:
    # What a caller needs; see `limiter.access.Permission`.
    PERMISSION_CHECK = 1
    PERMISSION_COMMIT = 2
    PERMISSION_USAGE = 3

cdef struct Labels:
    # Different texts in the order of their sizes, then of their bytes.
    Slice* rows                # owned; each borrows from the guard's texts
    uint32_t count

cdef class Guard:
    cdef readonly object caller
    cdef list texts            # keeps the bytes of all labels
    cdef uint32_t permissions  # bit per number
    cdef bint every_account
    cdef Labels accounts
    cdef Labels resources      # none: all
    cdef Labels campaigns      # none: all
    cdef int64_t end_ms        # first instant at which it is no longer good
    cdef object ended          # why it is not good any more, or None

    cdef int take(self, Labels* labels, object texts) except -1
    cdef int admit(self, int permission, int64_t now_ms) except -1
    cdef int admit_attempt(self, const Attempt* attempt) except -1
