# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""How values spread over classes with fixed limits, for what is told to a monitoring system.

In: values, such as durations in nanoseconds or sizes, each in one of several rows (a row for each
method, say). Out: how many values lie in each class of a row, and their sum. A value costs a few
instructions and no Python object; the limits are fixed, so that rows of many servers can be added.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free


cdef extern from *:
    """
    static inline int limiter_bits(uint64_t value) { return 64 - __builtin_clzll(value | 1); }
    """
    int bits_of "limiter_bits"(uint64_t value) noexcept nogil


@cython.final
cdef class Spread:
    """Counts values from nothing. `limits` are the largest values of the classes, ascending and
    positive; what is larger than all of them has a class of its own. Raises ValueError for others,
    or too many."""

    def __cinit__(self, limits, int row_count=1):
        cdef int i = 0
        cdef int bits
        limits = tuple(limits)
        if not 0 < len(limits) <= SPREAD_CLASSES_MAX or row_count < 1:
            raise ValueError(f"there can be 1 to {SPREAD_CLASSES_MAX} limits, and one row or more")
        if limits[0] < 1 or list(limits) != sorted(set(limits)):
            raise ValueError("limits are positive and ascend")
        for i, limit in enumerate(limits):
            self.largest[i] = limit
        self.class_count = len(limits)
        i = 0
        for bits in range(64):
            # The smallest value of so many bits is in no earlier class than this one.
            while i < self.class_count and bits and self.largest[i] < (<int64_t>1 << (bits - 1)):
                i += 1
            self.firsts[bits] = i
        self.row_count = row_count
        self.rows = <SpreadRow*>calloc(row_count, sizeof(SpreadRow))
        if self.rows == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.rows)

    cdef void add(self, int row, int64_t value, uint64_t times) noexcept nogil:
        # So many values, negative ones as zero.
        cdef SpreadRow* own = &self.rows[row]
        cdef int i
        value = max(value, 0)
        i = self.firsts[bits_of(<uint64_t>value)]
        while i < self.class_count and value > self.largest[i]:
            i += 1
        own.counts[i] += times
        own.total += <double>value * times

    cdef int require_row(self, int row) except -1:
        if not 0 <= row < self.row_count:
            raise IndexError(f"there are {self.row_count} rows, and no row {row}")
        return 0

    def record(self, int64_t value, int row=0):
        """Counts one value. Raises IndexError where there is no such row."""
        self.require_row(row)
        self.add(row, value, 1)

    def counts(self, int row=0):
        """How many values lie in each class, the one without a limit last. Raises IndexError."""
        self.require_row(row)
        return [self.rows[row].counts[i] for i in range(self.class_count + 1)]

    def total(self, int row=0):
        """The sum of all values. Raises IndexError where there is no such row."""
        self.require_row(row)
        return self.rows[row].total

    @property
    def limits(self):
        """The largest value of each class that has a limit."""
        return [self.largest[i] for i in range(self.class_count)]
