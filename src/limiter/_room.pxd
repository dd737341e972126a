# How much room an array gets once it is full.

from libc.stdint cimport uint32_t

cdef enum:
    # From so many places on an array is moved by the system, page by page, and not copied.
    MANY_PLACES = 1 << 20

cdef inline uint32_t more_room(uint32_t capacity, uint32_t least) noexcept nogil:
    # By an eighth, by a sixteenth where that is much, but at least by `least`, a power of two, and
    # a multiple of it. What lies empty is memory too; what copying costs is a few times the array.
    cdef uint32_t step = capacity >> (4 if capacity >= MANY_PLACES else 3)
    return capacity + max(least, step & ~(least - 1))
