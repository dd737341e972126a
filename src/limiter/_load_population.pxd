# Random numbers by a distribution.

from libc.stdint cimport uint32_t, uint64_t

cdef class Population:
    cdef uint64_t state        # of the generator
    cdef readonly uint32_t size
    cdef uint32_t* others      # owned; NULL = uniform. Who takes the rest of a number's share
    cdef uint32_t* shares      # owned; the part of its share that a number keeps, of 2**32

    cdef uint64_t random(self) noexcept nogil
    cdef uint32_t draw(self) noexcept nogil
