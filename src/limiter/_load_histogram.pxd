# Latencies, counted in classes of equal relative width.

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    # A class is 1/128 of the power of two that it lies in: 0.8 % of the value.
    PRECISION_BITS = 7
    CLASS_COUNT = (64 - PRECISION_BITS) << PRECISION_BITS

cdef class Histogram:
    cdef uint64_t[CLASS_COUNT] counts
    cdef readonly uint64_t count
    cdef readonly int64_t max_ns

    cdef void add(self, int64_t value_ns) noexcept nogil
