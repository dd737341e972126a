# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The instant of a rank among many, without sorting them all."""

from libc.stdint cimport int64_t, uint32_t

from limiter._distinct cimport Seen


cdef int64_t select_ms(Seen* seen, uint32_t size, uint32_t rank) noexcept nogil:
    # The instant of the given rank (0 = earliest); reorders `seen` (Hoare's selection).
    cdef uint32_t low = 0
    cdef uint32_t high = size - 1
    cdef uint32_t i
    cdef uint32_t j
    cdef int64_t pivot
    cdef Seen swapped
    while low < high:
        pivot = seen[low + (high - low) // 2].at_ms
        i = low
        j = high
        while True:
            while seen[i].at_ms < pivot:
                i += 1
            while seen[j].at_ms > pivot:
                j -= 1
            if i >= j:
                break
            swapped = seen[i]
            seen[i] = seen[j]
            seen[j] = swapped
            i += 1
            j -= 1
        if rank <= j:
            high = j
        else:
            low = j + 1
    return seen[rank].at_ms
