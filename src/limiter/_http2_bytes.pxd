# Bytes that grow: one owner, who frees `data`.

from libc.stdint cimport uint8_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove

cdef struct Bytes:
    uint8_t* data              # owned
    size_t size
    size_t capacity


cdef inline int bytes_append(Bytes* bytes, const void* data, size_t size) except -1:
    cdef size_t capacity
    cdef uint8_t* grown
    if bytes.size + size > bytes.capacity:
        capacity = max(bytes.size + size, 2 * bytes.capacity, <size_t>64)
        grown = <uint8_t*>realloc(bytes.data, capacity)
        if grown == NULL:
            raise MemoryError
        bytes.data = grown
        bytes.capacity = capacity
    if size:
        memcpy(bytes.data + bytes.size, data, size)
    bytes.size += size
    return 0


cdef inline void bytes_drop(Bytes* bytes, size_t size) noexcept:
    # Forgets the first bytes.
    bytes.size -= size
    if bytes.size and size:
        memmove(bytes.data, bytes.data + size, bytes.size)
