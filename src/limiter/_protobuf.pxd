# The primitives of the protobuf encoding, as inline leaf functions over borrowed bytes.
#
# A reader takes the position `at` and the `end` that it must not pass, and returns the position
# behind what it read, or NULL when the bytes are malformed. A writer takes the position and returns
# the one behind what it wrote; its caller has made room. What is accepted and what is refused is
# exactly what the protobuf library (upb) accepts and refuses; the tests compare the two.

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from limiter._types cimport Slice

cdef extern from *:
    """
    /* Bytes of a varint: seven bits each, zero takes one. */
    static inline size_t limiter_varint_size(uint64_t value) {
        return (size_t)((63 - __builtin_clzll(value | 1)) * 9 + 73) / 64;
    }
    """
    size_t varint_size "limiter_varint_size"(uint64_t value) noexcept nogil

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_GROUP = 3
    WIRE_GROUP_END = 4
    WIRE_FIXED32 = 5

cdef enum:
    # How many messages and groups may lie inside each other below the outermost message.
    DEPTH_MAX = 100
    # Bytes of the longest varint, and of the longest one that holds a tag or a size.
    VARINT_SIZE_MAX = 10
    SHORT_VARINT_SIZE_MAX = 5


cdef inline const uint8_t* read_varint(
    const uint8_t* at, const uint8_t* end, uint64_t* value
) noexcept nogil:
    # Ten bytes at most; what the tenth holds above bit 63 is dropped.
    cdef uint64_t bits = 0
    cdef uint64_t byte
    cdef int shift = 0
    while at < end and shift < 7 * VARINT_SIZE_MAX:
        byte = at[0]
        at += 1
        bits |= (byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = bits
            return at
        shift += 7
    return NULL


cdef inline const uint8_t* read_tag(
    const uint8_t* at, const uint8_t* end, uint32_t* tag
) noexcept nogil:
    # A field's number and wire type: 32 bits in five bytes at most.
    cdef uint64_t bits = 0
    cdef const uint8_t* start = at
    if at < end and at[0] < 0x80:
        tag[0] = at[0]
        return at + 1
    at = read_varint(at, end, &bits)
    if at == NULL or at - start > SHORT_VARINT_SIZE_MAX or bits > 0xFFFFFFFFU:
        return NULL
    tag[0] = <uint32_t>bits
    return at


cdef inline const uint8_t* read_bytes(
    const uint8_t* at, const uint8_t* end, Slice* value
) noexcept nogil:
    # A size in five bytes at most, then as many bytes.
    cdef uint64_t size = 0
    cdef const uint8_t* start = at
    if at < end and at[0] < 0x80:
        size = at[0]
        at += 1
    else:
        at = read_varint(at, end, &size)
        if at == NULL or at - start > SHORT_VARINT_SIZE_MAX:
            return NULL
    if size > <uint64_t>(end - at):
        return NULL
    value.data = at
    value.size = <uint32_t>size
    return at + size


cdef inline const uint8_t* skip_field(
    const uint8_t* at, const uint8_t* end, uint32_t tag, int depth
) noexcept nogil:
    # Passes over the value of one field; `depth` is how many more groups may open.
    cdef uint64_t bits = 0
    cdef Slice value
    cdef uint32_t wire_type = tag & 7
    if wire_type == WIRE_VARINT:
        return read_varint(at, end, &bits)
    if wire_type == WIRE_BYTES:
        return read_bytes(at, end, &value)
    if wire_type == WIRE_FIXED64:
        return at + 8 if end - at >= 8 else NULL
    if wire_type == WIRE_FIXED32:
        return at + 4 if end - at >= 4 else NULL
    if wire_type == WIRE_GROUP:
        return skip_group(at, end, tag >> 3, depth - 1)
    return NULL


cdef inline const uint8_t* skip_group(
    const uint8_t* at, const uint8_t* end, uint32_t number, int depth
) noexcept nogil:
    # Passes over what is left of group `number`, the matching end included. Groups lie inside each
    # other; the numbers of the open ones stand on a stack, so nothing recurses.
    cdef uint32_t[DEPTH_MAX] open_numbers
    cdef int open_count = 1
    cdef uint32_t tag = 0
    if depth < 0:
        return NULL
    open_numbers[0] = number
    while open_count:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return NULL
        if tag & 7 == WIRE_GROUP:
            if open_count > depth:
                return NULL
            open_numbers[open_count] = tag >> 3
            open_count += 1
        elif tag & 7 == WIRE_GROUP_END:
            open_count -= 1
            if open_numbers[open_count] != tag >> 3:
                return NULL
        else:
            at = skip_field(at, end, tag, 0)
            if at == NULL:
                return NULL
    return at


cdef inline const uint8_t* skip_unknown(
    const uint8_t* at, const uint8_t* end, uint32_t tag, int depth
) noexcept nogil:
    # Passes over a field of a message that its reader does not know. Number 0 is no field.
    if tag >> 3 == 0:
        return NULL
    return skip_field(at, end, tag, depth)


cdef inline bint is_continuation(uint8_t byte) noexcept nogil:
    return byte & 0xC0 == 0x80


cdef inline bint is_utf8_beyond_ascii(const uint8_t* at, size_t size) noexcept nogil:
    # Shortest forms only, no surrogates, nothing above U+10FFFF.
    cdef const uint8_t* end = at + size
    cdef uint8_t lead
    while at < end:
        lead = at[0]
        if lead < 0x80:
            at += 1
        elif 0xC2 <= lead <= 0xDF:
            if end - at < 2 or not is_continuation(at[1]):
                return False
            at += 2
        elif 0xE0 <= lead <= 0xEF:
            if end - at < 3 or not is_continuation(at[1]) or not is_continuation(at[2]):
                return False
            if (lead == 0xE0 and at[1] < 0xA0) or (lead == 0xED and at[1] > 0x9F):
                return False
            at += 3
        elif 0xF0 <= lead <= 0xF4:
            if end - at < 4 or not is_continuation(at[1]) or not is_continuation(at[2]):
                return False
            if not is_continuation(at[3]):
                return False
            if (lead == 0xF0 and at[1] < 0x90) or (lead == 0xF4 and at[1] > 0x8F):
                return False
            at += 4
        else:
            return False
    return True


cdef inline bint is_ascii(const uint8_t* at, size_t size) noexcept nogil:
    # Whole words, the last of which may overlap the one before it.
    cdef uint64_t bits = 0
    cdef uint64_t word = 0
    cdef uint32_t first = 0
    cdef uint32_t last = 0
    cdef size_t i
    if size >= 8:
        for i in range(0, size - 8, 8):
            memcpy(&word, at + i, 8)
            bits |= word
        memcpy(&word, at + size - 8, 8)
        return not (bits | word) & 0x8080808080808080U
    if size >= 4:
        memcpy(&first, at, 4)
        memcpy(&last, at + size - 4, 4)
        return not (first | last) & 0x80808080U
    return size == 0 or (at[0] | at[size >> 1] | at[size - 1]) < 0x80


cdef inline bint is_utf8(const uint8_t* at, size_t size) noexcept nogil:
    return is_ascii(at, size) or is_utf8_beyond_ascii(at, size)


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    while value >= 0x80:
        at[0] = <uint8_t>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef inline uint8_t* put_varint_field(uint8_t* at, uint32_t number, uint64_t value) noexcept nogil:
    # A varint field; one that is zero is left out. Numbers up to 15: the tag is one byte.
    if value == 0:
        return at
    at[0] = <uint8_t>(number << 3 | WIRE_VARINT)
    return put_varint(at + 1, value)


cdef inline uint8_t* put_head(uint8_t* at, uint32_t number, size_t size) noexcept nogil:
    # What stands before the bytes of a string or message: tag and size. Numbers up to 15.
    at[0] = <uint8_t>(number << 3 | WIRE_BYTES)
    return put_varint(at + 1, size)


cdef inline uint8_t* put_bytes_field(uint8_t* at, uint32_t number, Slice value) noexcept nogil:
    # A string field; one that is empty is left out.
    if value.size == 0:
        return at
    at = put_head(at, number, value.size)
    memcpy(at, value.data, value.size)
    return at + value.size


cdef inline size_t varint_field_size(uint64_t value) noexcept nogil:
    return 1 + varint_size(value) if value else 0


cdef inline size_t bytes_field_size(size_t size) noexcept nogil:
    # Of a string that is left out when empty.
    return 1 + varint_size(size) + size if size else 0


cdef inline size_t message_field_size(size_t size) noexcept nogil:
    # Of a message that is present, even when empty.
    return 1 + varint_size(size) + size
