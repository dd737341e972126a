# What a client's bytes are made of, frame by frame, beside the library that reads them.
#
# Three things can be seen here only: whether the client has stopped in the middle of something; how
# many of its frames cost us more than it, whatever the library does with them; and whether it goes
# on with streams that are closed, of which the library remembers none.

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum:
    PREFACE_BYTES = 24
    HEAD_BYTES = 9
    FRAME_DATA = 0
    FRAME_HEADERS = 1
    FRAME_RST_STREAM = 3
    FRAME_PING = 6
    FRAME_WINDOW_UPDATE = 8
    FLAG_END_STREAM = 0x1
    FLAG_END_HEADERS = 0x4

cdef struct Frames:
    uint32_t preface           # bytes of it that have come
    uint8_t[HEAD_BYTES] head   # of the frame that is coming
    uint32_t head_size         # bytes of it that have come
    uint32_t rest              # bytes of its payload that have not
    bint in_header             # a header block waits for its continuation
    bint has_begun             # something that was not there before: the clock starts anew
    uint32_t costly            # frames that an honest client sends few of
    uint32_t pings
    int32_t last_id            # the newest stream that the client has opened
    int32_t known_id           # the same, before the bytes that came together
    bint has_reset             # among these bytes it has ended a stream
    int32_t suspect_id         # more of this stream is coming, if it is open; 0 = of none


cdef inline bint is_between(const Frames* frames) noexcept nogil:
    # Whether nothing is unfinished.
    return (
        frames.preface == PREFACE_BYTES
        and frames.head_size == 0
        and frames.rest == 0
        and not frames.in_header
    )


cdef inline void count_frame(Frames* frames) noexcept nogil:
    # Its head is complete.
    cdef uint8_t type = frames.head[3]
    cdef uint8_t flags = frames.head[4]
    cdef int32_t id = <int32_t>(
        <uint32_t>(frames.head[5] & 0x7f) << 24 | <uint32_t>frames.head[6] << 16
        | <uint32_t>frames.head[7] << 8 | frames.head[8]
    )
    frames.rest = (
        <uint32_t>frames.head[0] << 16 | <uint32_t>frames.head[1] << 8 | frames.head[2]
    )
    frames.head_size = 0
    if frames.in_header:
        # Nothing but its continuation may come.
        frames.costly += 1
        frames.in_header = not flags & FLAG_END_HEADERS
        return
    frames.has_begun = True
    if type == FRAME_HEADERS:
        frames.in_header = not flags & FLAG_END_HEADERS
        if id > frames.last_id:
            frames.last_id = id
        else:
            frames.suspect_id = id
    elif type == FRAME_DATA:
        # What the same bytes have opened and not ended is open.
        if id <= frames.known_id or (frames.has_reset and id <= frames.last_id):
            frames.suspect_id = id
        if frames.rest == 0 and not flags & FLAG_END_STREAM:
            frames.costly += 1
    elif type == FRAME_PING:
        frames.pings += 1
    elif type != FRAME_WINDOW_UPDATE:
        frames.costly += 1
        frames.has_reset = frames.has_reset or type == FRAME_RST_STREAM


cdef inline void frames_begin(Frames* frames) noexcept nogil:
    # Bytes have come together.
    frames.has_begun = frames.has_reset = False
    frames.known_id = frames.last_id


cdef inline size_t frames_take(Frames* frames, const uint8_t* data, size_t size) noexcept nogil:
    # Looks at the bytes, up to the next frame of which it must be known whether its stream is open
    # by then; returns how many it has looked at.
    cdef size_t left = size
    cdef size_t step
    frames.costly = frames.pings = 0
    frames.suspect_id = 0
    if frames.preface < PREFACE_BYTES:
        step = min(left, <size_t>(PREFACE_BYTES - frames.preface))
        frames.preface += <uint32_t>step
        data += step
        left -= step
    while left and frames.suspect_id == 0:
        if frames.rest:
            step = min(left, <size_t>frames.rest)
            frames.rest -= <uint32_t>step
            data += step
            left -= step
            continue
        frames.head[frames.head_size] = data[0]
        frames.head_size += 1
        data += 1
        left -= 1
        if frames.head_size == HEAD_BYTES:
            count_frame(frames)
    return size - left
