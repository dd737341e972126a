# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A heap of turns, of which any may become void.

A turn is void once its person's stamp is another one. Whoever looks at the first turn passes over
void ones; a sweep drops them all.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc


cdef void turns_free(TurnHeap* heap) noexcept nogil:
    free(heap.rows)
    heap.rows = NULL
    heap.size = 0
    heap.capacity = 0


cdef void sink(TurnHeap* heap, uint32_t place) noexcept nogil:
    cdef Turn turn = heap.rows[place]
    cdef uint32_t child = 2 * place + 1
    while child < heap.size:
        if child + 1 < heap.size and heap.rows[child + 1].key < heap.rows[child].key:
            child += 1
        if heap.rows[child].key >= turn.key:
            break
        heap.rows[place] = heap.rows[child]
        place = child
        child = 2 * place + 1
    heap.rows[place] = turn


cdef int turns_push(
    TurnHeap* heap, int64_t key, uint32_t person, uint32_t stamp
) except -1 nogil:
    cdef uint32_t capacity
    cdef uint32_t place
    cdef uint32_t parent
    cdef Turn* rows
    if heap.size == heap.capacity:
        capacity = 2 * heap.capacity if heap.capacity else 64
        rows = <Turn*>realloc(heap.rows, capacity * sizeof(Turn))
        if rows == NULL:
            with gil:
                raise MemoryError
        heap.rows = rows
        heap.capacity = capacity
    place = heap.size
    heap.size += 1
    while place:
        parent = (place - 1) // 2
        if heap.rows[parent].key <= key:
            break
        heap.rows[place] = heap.rows[parent]
        place = parent
    heap.rows[place].key = key
    heap.rows[place].person = person
    heap.rows[place].stamp = stamp
    return 0


cdef void turns_pop(TurnHeap* heap) noexcept nogil:
    heap.size -= 1
    if heap.size:
        heap.rows[0] = heap.rows[heap.size]
        sink(heap, 0)


cdef void turns_sweep(TurnHeap* heap, const uint32_t* stamps) noexcept nogil:
    # Drops the turns that are void.
    cdef uint32_t kept = 0
    cdef uint32_t place
    for place in range(heap.size):
        if heap.rows[place].stamp == stamps[heap.rows[place].person]:
            heap.rows[kept] = heap.rows[place]
            kept += 1
    heap.size = kept
    place = kept // 2
    while place:
        place -= 1
        sink(heap, place)
