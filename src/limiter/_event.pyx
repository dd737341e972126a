# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The journal's events, packed.

An event is a four-byte header (type, body length) and a body of LEB128 varints and raw 16-byte
digests. It stands alone: contacts and addresses are digests, names are ids that an earlier NAME
event of the journal defines, and a commit names the positions of the previous commits of its
account, contact and address, so that their histories are a walk back. An account has two chains:
its denials, which may be very many, and everything else. Each denial names the last event of
both, so that the two can be walked side by side. A position is a group's number and the event's
offset in it; 0 is none.

    COMMIT, DENIAL:  account time flags present contact [address] names… [message_count]
                     [inline_places] [time - counts] [hold] [zone] previous_account
                     previous_contact [previous_address]
                     [request payload]
                     then COMMIT: sequence;  DENIAL: reason policy limit max used retry
                     previous_denial (which older journals leave out)
    NAME:            id text
    REVISION:        time bytes
    INLINE_KIND:     account time previous_account place definition
    BATCH_HEAD:      account time request payload
    UNDO:            account time previous_account commit fate
    CONFIRM:         account time previous_account commit
    OPT_OUTS:        account time previous_account place people (see _opt_outs)

Inline kinds and opt-outs of older journals, under numbers of their own, leave previous_account out:
they stand in no chain.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from limiter.errors import DataLoss
from limiter._siphash cimport Digest
from limiter._types cimport DIMENSION_ADDRESS, DIMENSION_CHANNEL, DIMENSION_COUNT, NO_TIME

cdef enum:
    FLAG_MANY = 1              # message_count is not 1
    FLAG_REQUEST = 2
    FLAG_DERIVED = 4
    FLAG_INLINE = 8            # it came with inline limits
    FLAG_RECORDED = 16
    FLAG_EARLIER = 32          # it counts at an earlier instant than that of the event
    FLAG_HELD = 64
    FLAG_ZONE = 128

# No body but a name, a revision, a definition or people is longer than this.
cdef uint32_t FIXED_BYTES_MAX = 320


# ---------------------------------------------------------------- writing


cdef inline uint8_t* put_varint(uint8_t* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <uint8_t>(value | 0x80)
        value >>= 7
        out += 1
    out[0] = <uint8_t>value
    return out + 1


cdef inline uint8_t* put_digest(uint8_t* out, const Digest* digest) noexcept nogil:
    memcpy(out, digest, 16)
    return out + 16


cdef inline uint8_t* put_back(uint8_t* out, uint64_t here, uint64_t there) noexcept nogil:
    # An earlier position as the way back to it; 0 stays 0.
    return put_varint(out, here - there if there else 0)


cdef uint8_t* put_attempt(uint8_t* out, const Event* event, uint64_t position) noexcept nogil:
    cdef int dimension
    cdef uint32_t flags = 0
    if event.message_count != 1:
        flags |= FLAG_MANY
    if event.has_request:
        flags |= FLAG_REQUEST
    if event.derived:
        flags |= FLAG_DERIVED
    if event.inline_places:
        flags |= FLAG_INLINE
    if event.recorded:
        flags |= FLAG_RECORDED
    if event.counts_ms != event.time_ms:
        flags |= FLAG_EARLIER
    if event.hold_ms:
        flags |= FLAG_HELD
    if event.zone:
        flags |= FLAG_ZONE
    out = put_varint(out, event.account)
    out = put_varint(out, <uint64_t>event.time_ms)
    out = put_varint(out, flags)
    out = put_varint(out, event.present)
    out = put_digest(out, &event.contact)
    if event.present & (1 << DIMENSION_ADDRESS):
        out = put_digest(out, &event.address)
    for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
        if event.present & (1 << dimension):
            out = put_varint(out, event.names[dimension])
    if flags & FLAG_MANY:
        out = put_varint(out, <uint64_t>event.message_count)
    if flags & FLAG_INLINE:
        out = put_varint(out, event.inline_places)
    if flags & FLAG_EARLIER:
        out = put_varint(out, <uint64_t>(event.time_ms - event.counts_ms))
    if flags & FLAG_HELD:
        out = put_varint(out, <uint64_t>event.hold_ms)
    if flags & FLAG_ZONE:
        out = put_varint(out, event.zone)
    out = put_back(out, position, event.previous_account)
    out = put_back(out, position, event.previous_contact)
    if event.present & (1 << DIMENSION_ADDRESS):
        out = put_back(out, position, event.previous_address)
    if event.has_request:
        out = put_digest(out, &event.request)
        out = put_digest(out, &event.payload)
    return out


cdef uint8_t* put_body(uint8_t* out, const Event* event, uint64_t position) noexcept nogil:
    if event.type == EVENT_COMMIT:
        out = put_attempt(out, event, position)
        return put_varint(out, <uint64_t>event.sequence)
    if event.type == EVENT_DENIAL:
        out = put_attempt(out, event, position)
        out = put_varint(out, <uint64_t>event.reason)
        out = put_varint(out, event.policy)
        out = put_varint(out, event.limit)
        out = put_varint(out, <uint64_t>event.max_count)
        out = put_varint(out, <uint64_t>event.used_count)
        out = put_varint(out, <uint64_t>(event.retry_ms + 1))
        return put_back(out, position, event.previous_denial)
    if event.type == EVENT_NAME:
        out = put_varint(out, event.name_id)
    elif event.type == EVENT_REVISION:
        out = put_varint(out, <uint64_t>event.time_ms)
    else:
        out = put_varint(out, event.account)
        out = put_varint(out, <uint64_t>event.time_ms)
        if event.type == EVENT_BATCH_HEAD:
            out = put_digest(out, &event.request)
            return put_digest(out, &event.payload)
        if event.type == EVENT_UNDO or event.type == EVENT_CONFIRM:
            out = put_back(out, position, event.previous_account)
            out = put_back(out, position, event.commit)
            if event.type == EVENT_UNDO:
                out = put_varint(out, event.fate)
            return out
        out = put_back(out, position, event.previous_account)
        out = put_varint(out, event.place)
    memcpy(out, event.body.data, event.body.size)
    return out + event.body.size


cdef void events_free(EventBuffer* buffer) noexcept nogil:
    free(buffer.data)
    buffer.data = NULL


cdef uint64_t events_append(EventBuffer* buffer, const Event* event) except 0 nogil:
    # Appends an event to the group and returns its position.
    cdef uint64_t needed = <uint64_t>buffer.size + FIXED_BYTES_MAX + event.body.size
    cdef uint64_t capacity
    cdef uint8_t* data
    cdef uint64_t position = (buffer.group << OFFSET_BITS) | buffer.size
    cdef uint32_t length
    if needed >= <uint64_t>1 << OFFSET_BITS:
        with gil:
            raise OverflowError("a journal group is full; its bounds do not fit each other")
    if needed > buffer.capacity:
        capacity = max(needed, 2 * <uint64_t>buffer.capacity)
        data = <uint8_t*>realloc(buffer.data, capacity)
        if data == NULL:
            with gil:
                raise MemoryError
        buffer.data = data
        buffer.capacity = <uint32_t>capacity
    data = buffer.data + buffer.size
    length = <uint32_t>(
        put_body(data + EVENT_HEADER_BYTES, event, position) - (data + EVENT_HEADER_BYTES)
    )
    data[0] = <uint8_t>event.type
    data[1] = <uint8_t>length
    data[2] = <uint8_t>(length >> 8)
    data[3] = <uint8_t>(length >> 16)
    buffer.size += EVENT_HEADER_BYTES + length
    buffer.count += 1
    return position


# ---------------------------------------------------------------- reading


cdef struct Cursor:
    const uint8_t* data
    const uint8_t* end
    bint broken                # a read went past the end


cdef uint64_t get_varint(Cursor* cursor) noexcept nogil:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t last
    while cursor.data < cursor.end and shift < 64:
        last = cursor.data[0]
        value |= (<uint64_t>(last & 0x7F)) << shift
        cursor.data += 1
        if last < 0x80:
            return value
        shift += 7
    cursor.broken = True
    return 0


cdef void get_digest(Cursor* cursor, Digest* digest) noexcept nogil:
    if cursor.end - cursor.data < 16:
        cursor.broken = True
        return
    memcpy(digest, cursor.data, 16)
    cursor.data += 16


cdef uint64_t get_back(Cursor* cursor, uint64_t here) noexcept nogil:
    cdef uint64_t back = get_varint(cursor)
    return here - back if back else 0


cdef void get_attempt(Cursor* cursor, Event* event, uint64_t position) noexcept nogil:
    cdef int dimension
    cdef uint64_t flags
    event.account = <uint32_t>get_varint(cursor)
    event.time_ms = <int64_t>get_varint(cursor)
    flags = get_varint(cursor)
    event.present = <uint32_t>get_varint(cursor)
    event.has_request = (flags & FLAG_REQUEST) != 0
    event.derived = (flags & FLAG_DERIVED) != 0
    get_digest(cursor, &event.contact)
    if event.present & (1 << DIMENSION_ADDRESS):
        get_digest(cursor, &event.address)
    for dimension in range(DIMENSION_CHANNEL, DIMENSION_COUNT):
        if event.present & (1 << dimension):
            event.names[dimension] = <uint32_t>get_varint(cursor)
    event.message_count = <int64_t>get_varint(cursor) if flags & FLAG_MANY else 1
    if flags & FLAG_INLINE:
        event.inline_places = <uint32_t>get_varint(cursor)
    event.recorded = (flags & FLAG_RECORDED) != 0
    event.counts_ms = event.time_ms
    if flags & FLAG_EARLIER:
        event.counts_ms -= <int64_t>get_varint(cursor)
    if flags & FLAG_HELD:
        event.hold_ms = <int64_t>get_varint(cursor)
    if flags & FLAG_ZONE:
        event.zone = <uint32_t>get_varint(cursor)
    event.previous_account = get_back(cursor, position)
    event.previous_contact = get_back(cursor, position)
    if event.present & (1 << DIMENSION_ADDRESS):
        event.previous_address = get_back(cursor, position)
    if event.has_request:
        get_digest(cursor, &event.request)
        get_digest(cursor, &event.payload)


cdef void get_body(Cursor* cursor, Event* event, uint64_t position) noexcept nogil:
    if event.type == EVENT_COMMIT or event.type == EVENT_DENIAL:
        get_attempt(cursor, event, position)
        if event.type == EVENT_COMMIT:
            event.sequence = <int64_t>get_varint(cursor)
            return
        event.reason = <int>get_varint(cursor)
        event.policy = <uint32_t>get_varint(cursor)
        event.limit = <uint32_t>get_varint(cursor)
        event.max_count = <int64_t>get_varint(cursor)
        event.used_count = <int64_t>get_varint(cursor)
        event.retry_ms = <int64_t>get_varint(cursor) - 1
        if cursor.data < cursor.end:
            event.previous_denial = get_back(cursor, position)
        return
    if event.type == EVENT_NAME:
        event.name_id = <uint32_t>get_varint(cursor)
    elif event.type == EVENT_REVISION:
        event.time_ms = <int64_t>get_varint(cursor)
    else:
        event.account = <uint32_t>get_varint(cursor)
        event.time_ms = <int64_t>get_varint(cursor)
        if event.type == EVENT_BATCH_HEAD:
            event.has_request = True
            get_digest(cursor, &event.request)
            get_digest(cursor, &event.payload)
            return
        if event.type == EVENT_UNDO or event.type == EVENT_CONFIRM:
            event.previous_account = get_back(cursor, position)
            event.commit = get_back(cursor, position)
            if event.type == EVENT_UNDO:
                event.fate = <int>get_varint(cursor)
            return
        if not event.apart:
            event.previous_account = get_back(cursor, position)
        event.place = <uint32_t>get_varint(cursor)
    event.body.data = cursor.data
    event.body.size = <uint32_t>(cursor.end - cursor.data)
    cursor.data = cursor.end


cdef int event_read(
    const uint8_t* data, size_t size, uint64_t position, Event* event
) noexcept nogil:
    # Reads the event at `data`; returns the bytes it takes, or 0 when they are not an event.
    cdef Cursor cursor
    cdef uint32_t length
    memset(event, 0, sizeof(Event))
    event.retry_ms = NO_TIME
    if size < EVENT_HEADER_BYTES:
        return 0
    event.type = data[0]
    length = data[1] | (<uint32_t>data[2] << 8) | (<uint32_t>data[3] << 16)
    if size - EVENT_HEADER_BYTES < length or not EVENT_NAME <= event.type <= EVENT_TYPE_MAX:
        return 0
    cursor.data = data + EVENT_HEADER_BYTES
    cursor.end = cursor.data + length
    cursor.broken = False
    if event.type == EVENT_OLD_INLINE_KIND or event.type == EVENT_OLD_OPT_OUTS:
        event.apart = True
        event.type = EVENT_INLINE_KIND if event.type == EVENT_OLD_INLINE_KIND else EVENT_OPT_OUTS
    get_body(&cursor, event, position)
    if cursor.broken or cursor.data != cursor.end:
        return 0
    return <int>(EVENT_HEADER_BYTES + length)


cdef bint group_next(GroupCursor* cursor, Event* event, uint64_t* position) except -1:
    # Reads the next event of a group, and says where it is; False behind the last one. Raises
    # DataLoss for bytes that are no event.
    cdef int length
    if cursor.offset >= cursor.size:
        return False
    position[0] = (cursor.group << OFFSET_BITS) | cursor.offset
    length = event_read(
        cursor.data + cursor.offset, cursor.size - cursor.offset, position[0], event
    )
    if length == 0:
        raise DataLoss(
            "JOURNAL_CORRUPT",
            f"group {cursor.group} holds no event at offset {cursor.offset}",
        )
    cursor.offset += length
    return True


# ---------------------------------------------------------------- looking inside


def first_instant_ms(bytes events not None):
    """The instant of the first event of a group that has one; None where only names are defined."""
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(events)
    cdef size_t size = PyBytes_GET_SIZE(events)
    cdef size_t offset = 0
    cdef Event event
    cdef int length
    while offset < size:
        length = event_read(data + offset, size - offset, offset, &event)
        if length == 0:
            return None
        if event.time_ms:
            return event.time_ms
        offset += length
    return None


def describe(bytes packed not None, uint64_t position):
    """What one packed event holds, by the names of the fields of Event; None for no event. A digest
    is a pair of numbers, the body bytes. Costs objects: for tests and for whoever looks at few."""
    cdef Event event
    cdef size_t size = PyBytes_GET_SIZE(packed)
    if event_read(<const uint8_t*>PyBytes_AS_STRING(packed), size, position, &event) != <int>size:
        return None
    return {
        "type": event.type,
        "account": event.account,
        "time_ms": event.time_ms,
        "sequence": event.sequence,
        "contact": (event.contact.low, event.contact.high),
        "address": (event.address.low, event.address.high),
        "names": [event.names[i] for i in range(DIMENSION_COUNT)],
        "zone": event.zone,
        "message_count": event.message_count,
        "recorded": bool(event.recorded),
        "counts_ms": event.counts_ms,
        "hold_ms": event.hold_ms,
        "previous_account": event.previous_account,
        "previous_contact": event.previous_contact,
        "previous_address": event.previous_address,
        "commit": event.commit,
        "fate": event.fate,
        "reason": event.reason,
        "retry_ms": event.retry_ms,
        "previous_denial": event.previous_denial,
        "name_id": event.name_id,
        "place": event.place,
        "body": <bytes>event.body.data[: event.body.size],
    }
