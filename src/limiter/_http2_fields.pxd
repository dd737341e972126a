# Header fields of a gRPC request and the prefix of its messages: leaf functions on bytes.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from limiter._nghttp2 cimport NGHTTP2_NV_FLAG_NONE, nghttp2_nv

cdef enum:
    PREFIX_BYTES = 5           # of a gRPC message: compressed or not, size


cdef inline bint same(const uint8_t* text, size_t size, bytes expected) noexcept:
    return (
        size == <size_t>PyBytes_GET_SIZE(expected)
        and memcmp(text, PyBytes_AS_STRING(expected), size) == 0
    )


cdef inline nghttp2_nv field(bytes name, bytes value) noexcept:
    # Borrows both; the session copies them when it is given the field.
    cdef nghttp2_nv nv
    nv.name = <uint8_t*>PyBytes_AS_STRING(name)
    nv.namelen = PyBytes_GET_SIZE(name)
    nv.value = <uint8_t*>PyBytes_AS_STRING(value)
    nv.valuelen = PyBytes_GET_SIZE(value)
    nv.flags = NGHTTP2_NV_FLAG_NONE
    return nv


cdef inline size_t message_size(const uint8_t* prefix) noexcept:
    # What a message's prefix says; all of the prefix is there.
    return (
        <size_t>prefix[1] << 24 | <size_t>prefix[2] << 16 | <size_t>prefix[3] << 8 | prefix[4]
    )


cdef inline void write_prefix(uint8_t* prefix, size_t size) noexcept:
    # That of a message which is not compressed.
    prefix[0] = 0
    prefix[1] = <uint8_t>(size >> 24)
    prefix[2] = <uint8_t>(size >> 16)
    prefix[3] = <uint8_t>(size >> 8)
    prefix[4] = <uint8_t>size


cdef inline bint is_grpc_type(const uint8_t* value, size_t size) noexcept:
    # `application/grpc`, alone or with a suffix or parameters.
    cdef bytes expected = b"application/grpc"
    cdef size_t length = <size_t>PyBytes_GET_SIZE(expected)
    return (
        size >= length
        and memcmp(value, PyBytes_AS_STRING(expected), length) == 0
        and (size == length or value[length] == c'+' or value[length] == c';')
    )


cdef inline int64_t timeout_ns(const uint8_t* value, size_t size) noexcept:
    # The value of `grpc-timeout`: up to eight digits and a unit; -1 when it is not one.
    cdef int64_t count = 0
    cdef size_t i
    if not 2 <= size <= 9:
        return -1
    for i in range(size - 1):
        if not c'0' <= value[i] <= c'9':
            return -1
        count = 10 * count + value[i] - c'0'
    if value[size - 1] == c'n':
        return count
    if value[size - 1] == c'u':
        return count * 1_000
    if value[size - 1] == c'm':
        return count * 1_000_000
    if value[size - 1] == c'S':
        return count * 1_000_000_000
    # Longer ones are cut at a year, which no 64-bit clock runs over.
    if value[size - 1] == c'M':
        return min(count, 525_600) * 60_000_000_000
    if value[size - 1] == c'H':
        return min(count, 8_760) * 3_600_000_000_000
    return -1
