# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Whom the load is about: numbers below a size, equally often or as Zipf's law has it.

In: a size, an exponent and a seed. Out: one number a draw, in constant time: numbers share their
probabilities pairwise (Walker's alias method). The same seed gives the same numbers.
"""

cimport cython
from libc.math cimport pow
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc


@cython.final
cdef class Population:
    """Draws numbers from 0 to `size` - 1. Number n comes with a probability in proportion to
    1 / (n + 1) ** `exponent`; exponent 0 means all of them equally."""

    def __cinit__(self, uint32_t size, double exponent, uint64_t seed):
        if size == 0:
            raise ValueError("size must be positive")
        self.size = size
        self.state = seed
        if exponent == 0:
            return
        self.others = <uint32_t*>malloc(size * sizeof(uint32_t))
        self.shares = <uint32_t*>malloc(size * sizeof(uint32_t))
        if self.others == NULL or self.shares == NULL:
            raise MemoryError
        fill(self.others, self.shares, size, exponent)

    def __dealloc__(self):
        free(self.others)
        free(self.shares)

    def next(self):
        """One number."""
        return self.draw()

    cdef uint64_t random(self) noexcept nogil:
        # SplitMix64.
        cdef uint64_t bits
        self.state += <uint64_t>0x9E3779B97F4A7C15
        bits = self.state
        bits = (bits ^ (bits >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        bits = (bits ^ (bits >> 27)) * <uint64_t>0x94D049BB133111EB
        return bits ^ (bits >> 31)

    cdef uint32_t draw(self) noexcept nogil:
        cdef uint64_t bits = self.random()
        cdef uint32_t number = <uint32_t>(((bits >> 32) * self.size) >> 32)
        if self.others == NULL or <uint32_t>bits < self.shares[number]:
            return number
        return self.others[number]


cdef int fill(uint32_t* others, uint32_t* shares, uint32_t size, double exponent) except -1:
    # Each number too rare for a whole share of 1 / size gets the rest of it from one too frequent.
    cdef double* weights = <double*>malloc(size * sizeof(double))
    cdef uint32_t* open = <uint32_t*>malloc(size * sizeof(uint32_t))
    cdef double total = 0
    cdef uint32_t rare = 0         # rare ones lie at the front of `open`, ...
    cdef uint32_t frequent = size  # ... frequent ones at its back
    cdef uint32_t small, large, i
    if weights == NULL or open == NULL:
        free(weights)
        free(open)
        raise MemoryError
    for i in range(size):
        weights[i] = pow(i + 1.0, -exponent)
        total += weights[i]
    for i in range(size):
        weights[i] *= size / total
        others[i] = i
        shares[i] = 0xFFFFFFFFU
        if weights[i] < 1:
            open[rare] = i
            rare += 1
        else:
            frequent -= 1
            open[frequent] = i
    while rare and frequent < size:
        rare -= 1
        small = open[rare]
        large = open[frequent]
        shares[small] = <uint32_t>(weights[small] * 4294967295.0)
        others[small] = large
        weights[large] -= 1 - weights[small]
        if weights[large] < 1:
            frequent += 1
            open[rare] = large
            rare += 1
    free(weights)
    free(open)
    return 0
