# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A histogram of latencies that costs the same for a microsecond and for a minute.

In: latencies in nanoseconds. Out: the latency that a share of them does not exceed, to 0.8 % of
itself and never too low. Its size does not depend on how many there are.
"""

cimport cython
from libc.math cimport ceil
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset


cdef extern from *:
    """
    static inline int limiter_log2(uint64_t value) { return 63 - __builtin_clzll(value | 1); }
    """
    int log2_of "limiter_log2"(uint64_t value) noexcept nogil


cdef inline int class_of(uint64_t value) noexcept nogil:
    cdef int shift = log2_of(value) - PRECISION_BITS
    if shift <= 0:
        return <int>value
    return (shift << PRECISION_BITS) + <int>(value >> shift)


cdef inline int64_t last_of(int number) noexcept nogil:
    # The largest value of a class.
    cdef int shift = (number >> PRECISION_BITS) - 1
    if shift <= 0:
        return number
    return ((<int64_t>number - (shift << PRECISION_BITS) + 1) << shift) - 1


@cython.final
cdef class Histogram:
    """Counts latencies, from nothing."""

    cdef void add(self, int64_t value_ns) noexcept nogil:
        value_ns = max(value_ns, 0)
        self.counts[class_of(value_ns)] += 1
        self.count += 1
        self.max_ns = max(self.max_ns, value_ns)

    def record(self, int64_t value_ns):
        """Counts one latency."""
        self.add(value_ns)

    def clear(self):
        """Forgets all."""
        memset(self.counts, 0, sizeof(self.counts))
        self.count = 0
        self.max_ns = 0

    def quantile_ns(self, double share):
        """The latency that this share of all, from 0 to 1, does not exceed; 0 without any."""
        cdef uint64_t wanted = max(<uint64_t>1, <uint64_t>ceil(share * self.count))
        cdef uint64_t seen = 0
        cdef int i
        for i in range(CLASS_COUNT):
            seen += self.counts[i]
            if seen >= wanted:
                return min(last_of(i), self.max_ns)
        return self.max_ns

    def classes(self):
        """(largest latency, count) of each class that has any, in order."""
        return [
            (min(last_of(i), self.max_ns), self.counts[i])
            for i in range(CLASS_COUNT)
            if self.counts[i]
        ]
