# Whose turn is next, by an instant or by a place in an order.

from libc.stdint cimport int64_t, uint32_t

cdef struct Turn:
    int64_t key                # the instant, or the place in the order
    uint32_t person
    uint32_t stamp             # the person's when it got the turn; with another one it is void

cdef struct TurnHeap:
    Turn* rows                 # owned; the lowest key first
    uint32_t size
    uint32_t capacity

cdef void turns_free(TurnHeap* heap) noexcept nogil
cdef int turns_push(TurnHeap* heap, int64_t key, uint32_t person, uint32_t stamp) except -1 nogil
cdef void turns_pop(TurnHeap* heap) noexcept nogil
cdef void turns_sweep(TurnHeap* heap, const uint32_t* stamps) noexcept nogil
