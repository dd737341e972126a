# The journal's events: packed bytes <-> plain structs.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._siphash cimport Digest
from limiter._types cimport Slice

cdef enum:
    # Event types; numbers are never reused.
    EVENT_NAME = 1             # defines the id of a name
    EVENT_COMMIT = 2           # an allowed attempt, counted
    EVENT_DENIAL = 3           # a denied attempt
    EVENT_REVISION = 4         # a change of policies and assignments, opaque here
    EVENT_OLD_INLINE_KIND = 5  # as EVENT_INLINE_KIND, of older journals: it stands in no chain
    EVENT_BATCH_HEAD = 6       # a batch's request_id and what it was asked
    EVENT_UNDO = 7             # a commit counts no longer
    EVENT_CONFIRM = 8          # a commit is held no longer, but counts for good
    EVENT_OLD_OPT_OUTS = 9     # as EVENT_OPT_OUTS, of older journals: it stands in no chain
    EVENT_INLINE_KIND = 10     # an account begins to keep an inline limit's kind of counter
    EVENT_OPT_OUTS = 11        # people opt out of an account's messages, or in again
    EVENT_TYPE_MAX = 11

cdef enum:
    EVENT_HEADER_BYTES = 4     # type in the low byte, body length in the other three
    OFFSET_BITS = 24           # of a position: the event's offset in its group

cdef struct Event:
    # Every field of every type; the ones that a type does not have stay zero.
    int type
    bint apart                 # it is of an older journal and stands in no chain
    uint32_t account           # name id
    int64_t time_ms
    int64_t sequence           # account_sequence of a commit
    uint32_t present           # bit per dimension index
    Digest contact
    Digest address
    uint32_t[9] names          # by dimension index; contact and address unused
    uint32_t zone              # name id of the contact's time zone, 0 = none was given
    int64_t message_count
    bint recorded              # it had gone out already: it counts whatever the limits say
    int64_t counts_ms          # the instant at which a commit counts, time_ms unless told
    int64_t hold_ms            # for how long it is held, 0 = not at all
    uint32_t inline_places     # of the kinds of the commit's inline limits; bit per place
    uint64_t previous_account  # positions of the previous events that are no denials, 0 = none
    uint64_t previous_contact
    uint64_t previous_address
    bint has_request
    bint derived               # the request id is one derived from a batch's
    Digest request             # digest of the request id
    Digest payload             # digest of what was asked under it
    uint64_t commit            # position of the commit that an undo or a confirm is about
    int fate                   # what became of it by an undo; see _fates
    uint64_t previous_denial   # of a denial: position of the account's previous one, 0 = none
    int reason                 # of a denial, with the binding limit:
    uint32_t policy            # name id, 0 = inline or none
    uint32_t limit             # name id
    int64_t max_count
    int64_t used_count
    int64_t retry_ms           # NO_TIME when there is none
    uint32_t name_id           # of a name's definition
    uint32_t place             # of a new inline kind among its account's; 1 = they opt out, 0 = in
    Slice body                 # text, revision, kind definition or people; borrowed

cdef struct EventBuffer:
    # The events of the group that is being filled.
    uint8_t* data              # owned
    uint32_t size              # bytes
    uint32_t capacity
    uint32_t count             # events
    uint64_t group             # number that this group will have

cdef inline uint32_t event_size(const uint8_t* data) noexcept nogil:
    # The bytes of the packed event at `data`, its header included.
    return EVENT_HEADER_BYTES + (
        data[1] | (<uint32_t>data[2] << 8) | (<uint32_t>data[3] << 16)
    )

cdef inline uint32_t event_account(const uint8_t* data) noexcept nogil:
    # The name id of the account that the packed event at `data` is about; 0 = of none.
    cdef uint32_t account = 0
    cdef int shift = 0
    cdef const uint8_t* body = data + EVENT_HEADER_BYTES
    if data[0] == EVENT_NAME or data[0] == EVENT_REVISION:
        return 0
    while body[0] & 0x80:
        account |= <uint32_t>(body[0] & 0x7F) << shift
        shift += 7
        body += 1
    return account | <uint32_t>body[0] << shift

cdef struct GroupCursor:
    # Where a reading of a group's events stands.
    const uint8_t* data        # borrowed
    size_t size
    size_t offset
    uint64_t group             # its number

cdef bint group_next(GroupCursor* cursor, Event* event, uint64_t* position) except -1
cdef void events_free(EventBuffer* buffer) noexcept nogil
cdef uint64_t events_append(EventBuffer* buffer, const Event* event) except 0 nogil
cdef int event_read(
    const uint8_t* data, size_t size, uint64_t position, Event* event
) noexcept nogil
