# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Images: an account's state as bytes, and back.

In flow an account that stands still; out flow bytes that hold everything of it that could not be
read anywhere else: its place in the journal, its contacts and addresses, who has opted out, and
what its counters have counted. Not in it: what policies say (it is bound anew), holds (they follow
from the fates of commits), kinds that are only lent. What always holds:

- an image is written from one state between two events, never from a state in between;
- what has left its window, or matters to nobody any more, is not in it: a contact whose events the
  journal has let go and whom no counter counts loses its number, and those behind it move up;
- reading an image gives an account that answers as the one it was written from.

Numbers are as this machine has them in memory, little end first.
"""

from cpython.ref cimport Py_INCREF
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from limiter.errors import DataLoss, FailedPrecondition
from limiter._accounts cimport Account
from limiter._counters cimport (
    PACKED_PARTS,
    Counter,
    CounterKey,
    KeyedCounter,
    KindState,
    expire,
    key_part,
    make_counter,
)
from limiter._distinct cimport DistinctCounter, Seen, distinct_add, distinct_members
from limiter._index cimport NO_INDEX, DenseIndex, IndexRow, index_restore
from limiter._kinds cimport Kind, KindRules
from limiter._messages cimport MessageCounter, Ring, Summed, entry_at, ring_push
from limiter._opt_outs cimport OptOutRow, OptOuts, opt_outs_restore
from limiter._pause cimport PauseCounter
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    MEASURE_ADDRESSES,
    MEASURE_MESSAGES,
    MEASURE_RUN,
    Slice,
)

cdef enum:
    MAGIC = 0x414D494C         # "LIMA"
    VERSION = 1
    KINDS_MAX = 128            # of one account, with room

cdef struct Numbering:
    # The new numbers of contacts or addresses.
    uint32_t* fresh            # owned; [old number], NO_INDEX = gone; NULL = all keep theirs
    uint32_t count


# ---------------------------------------------------------------- bytes


cdef void image_free(ImageBytes* image) noexcept nogil:
    free(image.data)
    memset(image, 0, sizeof(ImageBytes))


cdef uint8_t* extend(ImageBytes* image, size_t size) except NULL nogil:
    # Room for so many more bytes, which count as written.
    cdef size_t capacity = image.capacity
    cdef uint8_t* data
    if image.size + size > capacity:
        capacity = max(image.size + size, capacity + (capacity >> 1) + 256)
        data = <uint8_t*>realloc(image.data, capacity)
        if data == NULL:
            with gil:
                raise MemoryError
        image.data = data
        image.capacity = capacity
    image.size += size
    return image.data + image.size - size


cdef inline int put(ImageBytes* image, const void* value, size_t size) except -1 nogil:
    memcpy(extend(image, size), value, size)
    return 0


cdef inline int put_count(ImageBytes* image, uint32_t count) except -1 nogil:
    return put(image, &count, sizeof(count))


cdef int put_padding(ImageBytes* image) except -1 nogil:
    # What comes next is aligned in memory, and can be written in place.
    cdef size_t size = (-<int64_t>image.size) & 7
    memset(extend(image, size), 0, size)
    return 0


cdef struct Cursor:
    const uint8_t* data
    size_t size                # of the image
    size_t left


cdef const uint8_t* take(Cursor* cursor, uint64_t size) except NULL nogil:
    # The next bytes.
    cdef const uint8_t* data = cursor.data
    if size > cursor.left:
        with gil:
            raise DataLoss("IMAGE_CORRUPT", "an account's image ends too early")
    cursor.data += size
    cursor.left -= size
    return data


cdef inline int skip_padding(Cursor* cursor) except -1 nogil:
    take(cursor, (-<int64_t>(cursor.size - cursor.left)) & 7)
    return 0


cdef inline int get(Cursor* cursor, void* value, size_t size) except -1 nogil:
    memcpy(value, take(cursor, size), size)
    return 0


cdef uint32_t get_count(Cursor* cursor, size_t each) except? 0xFFFFFFFF nogil:
    # A number of things that take so many bytes each, at least.
    cdef uint32_t count = 0
    get(cursor, &count, sizeof(count))
    if <uint64_t>count * each > cursor.left:
        with gil:
            raise DataLoss("IMAGE_CORRUPT", "an account's image ends too early")
    return count


# ---------------------------------------------------------------- who is still needed


cdef inline void set_key_part(CounterKey* key, int part, uint32_t value) noexcept nogil:
    cdef int shift = (part & 1) * 32
    cdef uint64_t mask = <uint64_t>0xFFFFFFFF << shift
    if part < 2:
        key.low = (key.low & ~mask) | <uint64_t>value << shift
    else:
        key.high = (key.high & ~mask) | <uint64_t>value << shift


cdef int part_of(const KindRules* kind, int dimension) noexcept nogil:
    # Which part of a kind's keys is the number of a contact (or an address); -1 for none.
    cdef int i
    for i in range(kind.per_count):
        if kind.per[i] == dimension:
            return i
    return -1


cdef inline bint measures(const KindRules* kind, int dimension) noexcept nogil:
    # Whether the members of the kind's counters are contacts (or addresses).
    if kind.measure == MEASURE_MESSAGES or kind.measure == MEASURE_RUN:
        return False
    return (kind.measure == MEASURE_ADDRESSES) == (dimension == DIMENSION_ADDRESS)


cdef int mark_members(
    const KindRules* kind, DistinctCounter* counter, uint32_t* marks
) except -1 nogil:
    cdef uint32_t i
    cdef uint32_t count
    cdef Seen* seen
    if counter.live == 0:
        return 0
    seen = <Seen*>malloc(counter.live * sizeof(Seen))
    if seen == NULL:
        with gil:
            raise MemoryError
    count = distinct_members(counter, seen)
    for i in range(count):
        marks[seen[i].index] = 1
    free(seen)
    return 0


cdef bint mark_state(KindState* state, int dimension, uint32_t* marks) except -1 nogil:
    # Marks who is counted in a kind's counters; False where that cannot be told.
    cdef const KindRules* kind = state.kind
    cdef int part = part_of(kind, dimension)
    cdef bint members = measures(kind, dimension)
    cdef uint32_t i
    if kind.per_count == 0:
        if members:
            mark_members(kind, &state.single.distinct, marks)
        return True
    if part >= 0 and kind.per_count > PACKED_PARTS and state.keyed_size:
        return False
    for i in range(state.keyed_capacity):
        if state.keyed[i].key.low == 0 and state.keyed[i].key.high == 0:
            continue
        if part >= 0:
            marks[key_part(&state.keyed[i].key, part) - 1] = 1
        if members:
            mark_members(kind, &state.keyed[i].counter.distinct, marks)
    return True


cdef int number(
    Account* account, int dimension, uint64_t kept_from, Numbering* numbering
) except -1 nogil:
    # New numbers for those who still matter. Nobody leaves whose newest event can be read.
    cdef DenseIndex* index = (
        &account.contacts if dimension == DIMENSION_CONTACT else &account.addresses
    )
    cdef uint32_t i
    cdef uint32_t gone = 0
    cdef int slot
    numbering.fresh = NULL
    numbering.count = index.size
    for i in range(index.size):
        gone += index.rows[i].last_position < kept_from
    if gone == 0:
        return 0
    numbering.fresh = <uint32_t*>calloc(index.size, sizeof(uint32_t))
    if numbering.fresh == NULL:
        with gil:
            raise MemoryError
    for i in range(index.size):
        numbering.fresh[i] = index.rows[i].last_position >= kept_from
    for slot in range(account.state_count):
        if not mark_state(&account.states[slot], dimension, numbering.fresh):
            free(numbering.fresh)
            numbering.fresh = NULL
            return 0
    numbering.count = 0
    for i in range(index.size):
        if numbering.fresh[i]:
            numbering.fresh[i] = numbering.count
            numbering.count += 1
        else:
            numbering.fresh[i] = NO_INDEX
    return 0


# ---------------------------------------------------------------- writing


cdef int put_index(
    ImageBytes* image, const DenseIndex* index, const Numbering* numbering
) except -1 nogil:
    cdef uint32_t i
    cdef IndexRow* rows
    put_count(image, numbering.count)
    if numbering.fresh == NULL:
        if index.size:
            put(image, index.rows, index.size * sizeof(IndexRow))
        return 0
    rows = <IndexRow*>extend(image, numbering.count * sizeof(IndexRow))
    for i in range(index.size):
        if numbering.fresh[i] != NO_INDEX:
            memcpy(&rows[numbering.fresh[i]], &index.rows[i], sizeof(IndexRow))
    return 0


cdef int put_ring(ImageBytes* image, const Ring* ring) except -1 nogil:
    cdef uint32_t i
    put_count(image, ring.size)
    for i in range(ring.size):
        put(image, entry_at(ring, i), sizeof(entry_at(ring, i)[0]))
    return 0


cdef int put_messages(ImageBytes* image, const MessageCounter* counter) except -1 nogil:
    put_ring(image, &counter.newest)
    if counter.older == NULL:
        return put_count(image, 0)
    return put_ring(image, counter.older)


cdef int put_pause(ImageBytes* image, const PauseCounter* counter) except -1 nogil:
    put(image, &counter.used, sizeof(counter.used))
    put_ring(image, &counter.newest)
    put_count(image, counter.older != NULL)
    if counter.older != NULL:
        put(image, counter.older, sizeof(counter.older[0]))
    return 0


cdef int put_distinct(
    ImageBytes* image, DistinctCounter* counter, const Numbering* numbering
) except -1 nogil:
    cdef uint32_t i
    cdef uint32_t count
    cdef Seen* seen
    put_count(image, counter.live)
    if counter.live == 0:
        return 0
    put_padding(image)
    seen = <Seen*>extend(image, counter.live * sizeof(Seen))
    count = distinct_members(counter, seen)
    if count != counter.live:
        with gil:
            raise AssertionError("a distinct counter has lost count of its members")
    if numbering.fresh != NULL:
        for i in range(count):
            seen[i].index = numbering.fresh[seen[i].index]
    return 0


cdef int put_counter(
    ImageBytes* image, const KindRules* kind, Counter* counter, const Numbering* numberings
) except -1 nogil:
    if kind.measure == MEASURE_MESSAGES:
        return put_messages(image, &counter.messages)
    if kind.measure == MEASURE_RUN:
        return put_pause(image, &counter.pause)
    return put_distinct(
        image, &counter.distinct, &numberings[kind.measure == MEASURE_ADDRESSES]
    )


cdef inline bint is_live(const KindRules* kind, const Counter* counter) noexcept nogil:
    if kind.measure == MEASURE_MESSAGES:
        return counter.messages.used != 0
    if kind.measure == MEASURE_RUN:
        return counter.pause.newest.size != 0
    return counter.distinct.live != 0


cdef int put_keyed(
    ImageBytes* image, KindState* state, const Numbering* numberings
) except -1 nogil:
    cdef const KindRules* kind = state.kind
    cdef int contact_part = part_of(kind, DIMENSION_CONTACT)
    cdef int address_part = part_of(kind, DIMENSION_ADDRESS)
    cdef size_t start = image.size
    cdef uint32_t count = 0
    cdef uint32_t i
    cdef CounterKey key
    cdef KeyedCounter* row
    put_count(image, 0)
    for i in range(state.keyed_capacity):
        row = &state.keyed[i]
        if (row.key.low == 0 and row.key.high == 0) or not is_live(kind, &row.counter):
            continue
        key = row.key
        if contact_part >= 0 and numberings[0].fresh != NULL:
            set_key_part(
                &key, contact_part, numberings[0].fresh[key_part(&key, contact_part) - 1] + 1
            )
        if address_part >= 0 and numberings[1].fresh != NULL:
            set_key_part(
                &key, address_part, numberings[1].fresh[key_part(&key, address_part) - 1] + 1
            )
        put(image, &key, sizeof(key))
        put_counter(image, kind, &row.counter, numberings)
        count += 1
    memcpy(image.data + start, &count, sizeof(count))
    return 0


cdef int put_state(
    ImageBytes* image, KindState* state, const Slice* definition, const Numbering* numberings
) except -1 nogil:
    put_count(image, definition.size)
    put(image, definition.data, definition.size)
    put(image, &state.since_ms, sizeof(state.since_ms))
    put(image, &state.after_position, sizeof(state.after_position))
    put(image, &state.edge_ms, sizeof(state.edge_ms))
    put(image, &state.last_used_ms, sizeof(state.last_used_ms))
    put_count(image, state.inline_place)
    put_count(image, state.building)
    if state.kind.per_count == 0:
        return put_counter(image, state.kind, &state.single, numberings)
    return put_keyed(image, state, numberings)


cdef int put_opt_outs(ImageBytes* image, const OptOuts* opt_outs) except -1 nogil:
    if opt_outs == NULL:
        return put_count(image, 0)
    put_count(image, opt_outs.row_count)
    if opt_outs.row_count:
        put(image, opt_outs.rows, opt_outs.row_count * sizeof(OptOutRow))
    return 0


cdef int expire_all(Account* account, int64_t now_ms) except -1 nogil:
    # Lets go what has left its window.
    cdef KindState* state
    cdef int slot
    cdef uint32_t i
    for slot in range(account.state_count):
        state = &account.states[slot]
        if state.kind.per_count == 0:
            expire(state, &state.single, now_ms)
            continue
        for i in range(state.keyed_capacity):
            if state.keyed[i].key.low or state.keyed[i].key.high:
                expire(state, &state.keyed[i].counter, now_ms)
    return 0


cdef bint nothing_counts(Account* account) noexcept nogil:
    # Whether nothing that the account has sent is inside any window, as of the last expiry.
    cdef KindState* state
    cdef int slot
    cdef uint32_t i
    for slot in range(account.state_count):
        state = &account.states[slot]
        if state.kind.per_count == 0 and is_live(state.kind, &state.single):
            return False
        for i in range(state.keyed_capacity):
            if (state.keyed[i].key.low or state.keyed[i].key.high) and is_live(
                state.kind, &state.keyed[i].counter
            ):
                return False
    return True


cdef int write_all(
    Account* account,
    const Slice* definitions,
    uint64_t kept_from,
    int64_t now_ms,
    ImageBytes* image,
) except -1 nogil:
    cdef Numbering[2] numberings
    cdef ImageHead head
    cdef int slot
    memset(&numberings, 0, sizeof(numberings))
    memset(&head, 0, sizeof(head))
    head.magic = MAGIC
    head.version = VERSION
    head.name_id = account.name_id
    head.as_of_ms = now_ms
    head.sequence = account.sequence
    head.last_position = account.last_position
    head.last_denial = account.last_denial
    for slot in range(account.state_count):
        head.state_count += not account.states[slot].lent
    try:
        expire_all(account, now_ms)
        number(account, DIMENSION_CONTACT, kept_from, &numberings[0])
        number(account, DIMENSION_ADDRESS, kept_from, &numberings[1])
        head.is_bare = (
            numberings[0].count == 0
            and numberings[1].count == 0
            and (account.opt_outs == NULL or account.opt_outs.count == 0)
            and nothing_counts(account)
        )
        put(image, &head, sizeof(head))
        put_index(image, &account.contacts, &numberings[0])
        put_index(image, &account.addresses, &numberings[1])
        put_opt_outs(image, account.opt_outs)
        for slot in range(account.state_count):
            if not account.states[slot].lent:
                put_state(image, &account.states[slot], &definitions[slot], numberings)
    finally:
        free(numberings[0].fresh)
        free(numberings[1].fresh)
    return 0


cdef int image_write(
    Account* account, uint64_t kept_from, int64_t now_ms, ImageBytes* image
) except -1:
    # Writes the account as of now_ms. What lies before kept_from can be read nowhere any more.
    cdef Slice[KINDS_MAX] definitions
    cdef Kind kind
    cdef int slot
    if account.state_count > KINDS_MAX:
        raise AssertionError("an account keeps more kinds than there may be")
    for slot in range(account.state_count):
        kind = <Kind>account.states[slot].kind.kind
        definitions[slot].data = kind.definition
        definitions[slot].size = <uint32_t>len(kind.definition)
    with nogil:
        write_all(account, definitions, kept_from, now_ms, image)
    return 0


# ---------------------------------------------------------------- reading


cdef int image_head(
    const uint8_t* data, size_t size, uint32_t name_id, ImageHead* head
) except -1:
    # Reads how an image begins. Raises DataLoss for what is none of that account, and
    # FailedPrecondition for a version that is not known here.
    if size < sizeof(ImageHead):
        raise DataLoss("IMAGE_CORRUPT", "an account's image has no head")
    memcpy(head, data, sizeof(ImageHead))
    if head.magic != MAGIC or head.name_id != name_id:
        raise DataLoss("IMAGE_CORRUPT", "an account's image is of another account, or none")
    if head.version != VERSION:
        raise FailedPrecondition(
            "IMAGE_FORMAT",
            f"an account's image has format version {head.version}; this version of limiter reads"
            f" format version {VERSION}: use the version that wrote it",
        )
    return 0


cdef int get_index(Cursor* cursor, DenseIndex* index) except -1 nogil:
    cdef uint32_t size = get_count(cursor, sizeof(IndexRow))
    return index_restore(index, <const IndexRow*>take(cursor, size * sizeof(IndexRow)), size)


cdef int get_ring(Cursor* cursor, Ring* ring, int64_t* total) except -1 nogil:
    cdef int64_t[2] entry
    cdef uint32_t size = get_count(cursor, sizeof(entry))
    for _ in range(size):
        get(cursor, entry, sizeof(entry))
        ring_push(ring, entry[0], entry[1])
        total[0] += entry[1]
    return 0


cdef int get_messages(Cursor* cursor, MessageCounter* counter) except -1 nogil:
    cdef Ring older
    memset(&older, 0, sizeof(Ring))
    get_ring(cursor, &counter.newest, &counter.used)
    get_ring(cursor, &older, &counter.used)
    if older.size:
        counter.older = <Ring*>malloc(sizeof(Ring))
        if counter.older == NULL:
            free(older.entries)
            with gil:
                raise MemoryError
        counter.older[0] = older
    return 0


cdef int get_pause(Cursor* cursor, PauseCounter* counter) except -1 nogil:
    cdef int64_t used
    cdef int64_t total = 0
    get(cursor, &used, sizeof(used))
    get_ring(cursor, &counter.newest, &total)
    counter.used = used
    if get_count(cursor, 0):
        counter.older = <Summed*>malloc(sizeof(Summed))
        if counter.older == NULL:
            with gil:
                raise MemoryError
        get(cursor, counter.older, sizeof(counter.older[0]))
    return 0


cdef int get_distinct(
    Cursor* cursor, KindRules* kind, DistinctCounter* counter, uint32_t universe
) except -1 nogil:
    cdef uint32_t live = get_count(cursor, sizeof(Seen))
    cdef Seen seen
    if live:
        skip_padding(cursor)
    for _ in range(live):
        get(cursor, &seen, sizeof(seen))
        if seen.index >= universe:
            with gil:
                raise DataLoss("IMAGE_CORRUPT", "an account's image counts somebody unknown")
        distinct_add(counter, kind.window, seen.at_ms, seen.index, True)
    return 0


cdef int get_counter(
    Cursor* cursor, KindRules* kind, Counter* counter, const Account* account
) except -1 nogil:
    if kind.measure == MEASURE_MESSAGES:
        return get_messages(cursor, &counter.messages)
    if kind.measure == MEASURE_RUN:
        return get_pause(cursor, &counter.pause)
    return get_distinct(
        cursor,
        kind,
        &counter.distinct,
        account.addresses.size if kind.measure == MEASURE_ADDRESSES else account.contacts.size,
    )


cdef int get_state(
    Cursor* cursor, KindState* state, uint32_t* inline_place, const Account* account
) except -1 nogil:
    # All but the definition.
    cdef uint32_t count
    cdef CounterKey key
    get(cursor, &state.since_ms, sizeof(state.since_ms))
    get(cursor, &state.after_position, sizeof(state.after_position))
    get(cursor, &state.edge_ms, sizeof(state.edge_ms))
    get(cursor, &state.last_used_ms, sizeof(state.last_used_ms))
    inline_place[0] = get_count(cursor, 0)
    state.building = get_count(cursor, 0) != 0
    if state.kind.per_count == 0:
        return get_counter(cursor, state.kind, &state.single, account)
    count = get_count(cursor, sizeof(key))
    for _ in range(count):
        get(cursor, &key, sizeof(key))
        get_counter(cursor, state.kind, make_counter(state, &key, 0), account)
    return 0


cdef int get_opt_outs(Cursor* cursor, Account* account) except -1:
    cdef uint32_t count = get_count(cursor, sizeof(OptOutRow))
    if count == 0:
        return 0
    account.opt_outs = <OptOuts*>calloc(1, sizeof(OptOuts))
    if account.opt_outs == NULL:
        raise MemoryError
    return opt_outs_restore(
        account.opt_outs,
        <const OptOutRow*>take(cursor, count * sizeof(OptOutRow)),
        count,
    )


cdef int image_read(
    const uint8_t* data,
    size_t size,
    uint32_t name_id,
    object define_kind,
    Account* account,
    list kinds,
) except -1:
    # Fills an empty account from its image; what raises leaves it in a state to be freed. `kinds`
    # gets its kinds, and is to be kept until the account is bound or freed.
    # `define_kind(definition)` gives the one Kind with that definition.
    cdef ImageHead head
    cdef Cursor cursor
    cdef KindState* state
    cdef Kind kind
    cdef uint32_t length
    cdef uint32_t place = 0
    image_head(data, size, name_id, &head)
    cursor.data = data + sizeof(ImageHead)
    cursor.size = size
    cursor.left = size - sizeof(ImageHead)
    account.name_id = name_id
    account.sequence = head.sequence
    account.last_position = head.last_position
    account.last_denial = head.last_denial
    with nogil:
        get_index(&cursor, &account.contacts)
        get_index(&cursor, &account.addresses)
    get_opt_outs(&cursor, account)
    if head.state_count > KINDS_MAX:
        raise DataLoss("IMAGE_CORRUPT", "an account's image keeps too many kinds")
    account.states = <KindState*>calloc(head.state_count + 1, sizeof(KindState))
    if account.states == NULL:
        raise MemoryError
    for _ in range(head.state_count):
        length = get_count(&cursor, 1)
        kind = define_kind(take(&cursor, length)[:length])
        kinds.append(kind)
        state = &account.states[account.state_count]
        state.kind = &kind.rules
        account.state_count += 1
        with nogil:
            get_state(&cursor, state, &place, account)
        account.building_count += state.building
        if place:
            # An inline limit's kind keeps itself.
            Py_INCREF(kind)
            state.inline_place = place
            account.inline_count += 1
    if cursor.left:
        raise DataLoss("IMAGE_CORRUPT", "an account's image is longer than it says")
    return 0
