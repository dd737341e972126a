# How values spread over classes with fixed limits: histograms that cost a few instructions a value.

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    SPREAD_CLASSES_MAX = 32    # beside the one for whatever is larger than all limits

cdef struct SpreadRow:
    uint64_t[SPREAD_CLASSES_MAX + 1] counts
    double total               # of all values

cdef class Spread:
    cdef int64_t[SPREAD_CLASSES_MAX] largest   # value of each class
    cdef uint8_t[64] firsts    # [bits of a value] the first class that it can be in
    cdef int class_count       # that have a limit
    cdef readonly int row_count
    cdef SpreadRow* rows       # owned

    cdef void add(self, int row, int64_t value, uint64_t times) noexcept nogil
    cdef int require_row(self, int row) except -1
