# Who leaves as which: the instant of a rank.

from libc.stdint cimport int64_t, uint32_t

from limiter._distinct cimport Seen

cdef int64_t select_ms(Seen* seen, uint32_t size, uint32_t rank) noexcept nogil
