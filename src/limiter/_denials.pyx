# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Denied attempts in the clear, on their way from the core to the restrictions log.

In flow denials, one after the other, and what a limit in shadow would have denied; out flows, from
time to time, a batch of all that came since the last one. Repeated denials of one contact by one
limit on one day (UTC) are one row with its count, so a batch is short however often a sender
knocks.

What always holds: to note a denial makes no Python object and never fails. A buffer has a ceiling
of rows and one of bytes; a denial beyond them is dropped, and counted for its account.
"""

cimport cython
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from limiter import bounds
from limiter._prefetch cimport prefetch
from limiter._siphash cimport Digest, same_digest, siphash64, siphash128
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CAMPAIGN,
    DIMENSION_CONTACT,
    DIMENSION_COUNT,
    NO_TIME,
    LimitResult,
    Slice,
)

cdef int64_t DAY_MS = bounds.DAY_MS
# A table for more rows than this is not kept for the next ones.
cdef uint32_t SPARE_ROWS_MAX = 16_384

cdef enum:
    PACKED_VERSION = 1
    FLAG_SHADOW = 1            # the attempt went all the same
    FLAG_LIMIT = 2             # a limit bound it

cdef enum:
    # Places of the texts that are no dimensions; those follow the account in their order.
    TEXT_ACCOUNT = 0
    TEXT_CONTACT = 1
    TEXT_ADDRESS = 2
    TEXT_ZONE = 10
    TEXT_REFERENCE = 11
    TEXT_POLICY = 12
    TEXT_LIMIT_ID = 13


cdef packed struct Identity:
    # What denials must share to be one row; hashed.
    int64_t day
    Digest account
    Digest contact
    uint64_t campaign
    uint64_t policy
    uint64_t limit_id
    int64_t reason             # where no limit bound it, else 0
    uint8_t shadow


# ---------------------------------------------------------------- tables


cdef bint texts_reserve(Texts* texts, uint64_t size) noexcept nogil:
    # Makes room for so many bytes more; False when there is no memory.
    cdef uint64_t capacity = texts.capacity if texts.capacity else 4096
    cdef uint8_t* data
    if texts.size + size <= texts.capacity:
        return True
    while capacity < texts.size + size:
        capacity *= 2
    data = <uint8_t*>realloc(texts.data, capacity)
    if data == NULL:
        return False
    texts.data = data
    texts.capacity = capacity
    return True


cdef inline void texts_put(Texts* texts, Slice text) noexcept nogil:
    if text.size:
        memcpy(texts.data + texts.size, text.data, text.size)
        texts.size += text.size


cdef void table_free(DenialTable* table) noexcept nogil:
    free(table.rows)
    free(table.slots)
    free(table.texts.data)
    free(table.drops)
    free(table.drop_slots)
    free(table.drop_texts.data)
    memset(table, 0, sizeof(DenialTable))


cdef inline uint64_t entry_of(const Digest* identity, uint32_t place) noexcept nogil:
    # A slot's entry. Its tag spares a look at the rows of others, which are elsewhere in memory.
    return (identity.high & <uint64_t>0xFFFFFFFF00000000) | (place + 1)


cdef bint rows_reserve(DenialTable* table) noexcept nogil:
    # Makes room for a row more; False when there is no memory.
    cdef uint32_t capacity = table.capacity * 2 if table.capacity else 64
    cdef uint32_t mask = capacity * 2 - 1
    cdef DenialRow* rows
    cdef uint64_t* slots
    cdef uint32_t place
    cdef uint32_t slot
    if table.size < table.capacity:
        return True
    slots = <uint64_t*>calloc(<size_t>mask + 1, sizeof(uint64_t))
    rows = NULL
    if slots != NULL:
        rows = <DenialRow*>realloc(table.rows, capacity * sizeof(DenialRow))
    if rows == NULL:
        free(slots)
        return False
    for place in range(table.size):
        slot = <uint32_t>rows[place].identity.low & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = entry_of(&rows[place].identity, place)
    free(table.slots)
    table.slots = slots
    table.rows = rows
    table.capacity = capacity
    return True


cdef bint drops_reserve(DenialTable* table) noexcept nogil:
    cdef uint32_t capacity = table.drop_capacity * 2 if table.drop_capacity else 16
    cdef uint32_t mask = capacity * 2 - 1
    cdef DropRow* drops
    cdef uint32_t* slots
    cdef uint32_t place
    cdef uint32_t slot
    if table.drop_size < table.drop_capacity:
        return True
    slots = <uint32_t*>calloc(mask + 1, sizeof(uint32_t))
    drops = NULL
    if slots != NULL:
        drops = <DropRow*>realloc(table.drops, capacity * sizeof(DropRow))
    if drops == NULL:
        free(slots)
        return False
    for place in range(table.drop_size):
        slot = <uint32_t>drops[place].hash & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = place + 1
    free(table.drop_slots)
    table.drop_slots = slots
    table.drops = drops
    table.drop_capacity = capacity
    return True


cdef DenialRow* row_find(const DenialTable* table, const Digest* identity) noexcept nogil:
    # The row with this identity, NULL when there is none.
    cdef uint32_t mask = table.capacity * 2 - 1
    cdef uint32_t slot
    cdef uint64_t entry
    cdef DenialRow* row
    if table.size == 0:
        return NULL
    slot = <uint32_t>identity.low & mask
    while table.slots[slot]:
        entry = table.slots[slot]
        if entry >> 32 == identity.high >> 32:
            row = &table.rows[<uint32_t>entry - 1]
            if same_digest(&row.identity, identity):
                return row
        slot = (slot + 1) & mask
    return NULL


cdef void collect_texts(
    const Subject* subject, const LimitResult* limit, Slice* texts
) noexcept nogil:
    # What was sent, and the limit's names, in the order of a row's texts.
    cdef int place
    memset(texts, 0, TEXT_COUNT * sizeof(Slice))
    texts[TEXT_ACCOUNT] = subject.sent.account
    for place in range(DIMENSION_COUNT):
        texts[TEXT_CONTACT + place] = subject.sent.fields[place]
    texts[TEXT_ZONE] = subject.sent.contact_time_zone
    if subject.recipient != NULL:
        texts[TEXT_CONTACT] = subject.recipient.contact
        texts[TEXT_ADDRESS] = subject.recipient.address
        texts[TEXT_ZONE] = subject.recipient.contact_time_zone
        texts[TEXT_REFERENCE] = subject.recipient.reference
    if limit != NULL:
        texts[TEXT_POLICY] = limit.policy
        texts[TEXT_LIMIT_ID] = limit.limit_id


# ---------------------------------------------------------------- the buffer


@cython.final
cdef class DenialBatch:
    """What came between two takes: rows in the order of their first denials."""

    def __dealloc__(self):
        table_free(&self.table)

    def __len__(self):
        return self.table.size

    def packed(self, uint32_t place):
        """One row: the packed head, then its texts."""
        cdef const DenialRow* row
        cdef bytes packed
        cdef char* data
        if place >= self.table.size:
            raise IndexError(place)
        row = &self.table.rows[place]
        packed = PyBytes_FromStringAndSize(NULL, sizeof(PackedHead) + row.text_size)
        data = PyBytes_AS_STRING(packed)
        memcpy(data, &row.head, sizeof(PackedHead))
        memcpy(data + sizeof(PackedHead), self.table.texts.data + row.text_at, row.text_size)
        return packed

    @property
    def dropped(self):
        """Pairs of an account and how many of its denials there was no room for."""
        cdef uint32_t place
        cdef const DropRow* row
        found = []
        for place in range(self.table.drop_size):
            row = &self.table.drops[place]
            account = PyBytes_FromStringAndSize(
                <const char*>self.table.drop_texts.data + row.text_at, row.text_size
            )
            found.append((account.decode(), row.count))
        return found

    @property
    def unattributed_count(self):
        """Dropped denials for whose accounts there was no memory either."""
        return self.table.drop_count


@cython.final
cdef class DenialBuffer:
    """Denials that wait to be logged, of one core at a time. `key` are 16 secret bytes, which need
    not stay the same. Belongs to the thread that decides, but for `take`, which any may call."""

    def __cinit__(
        self,
        bytes key not None,
        uint32_t row_count_max=bounds.DENIALS_PENDING_MAX,
        uint64_t text_bytes_max=bounds.DENIAL_TEXT_BYTES_MAX,
    ):
        if PyBytes_GET_SIZE(key) != sizeof(SipKey):
            raise ValueError("the key has 16 bytes")
        memcpy(&self.key, PyBytes_AS_STRING(key), sizeof(SipKey))
        self.row_count_max = row_count_max
        self.text_bytes_max = text_bytes_max

    def __dealloc__(self):
        table_free(&self.table)
        table_free(&self.spare)

    def __len__(self):
        return self.table.size

    def take(self):
        """All that came since the last take, with the position up to which all is known then; None
        when nothing came."""
        cdef DenialBatch batch
        if self.table.size == 0 and self.table.drop_size == 0 and self.table.drop_count == 0:
            return None
        batch = DenialBatch()
        batch.table = self.table
        self.table = self.spare
        memset(&self.spare, 0, sizeof(DenialTable))
        return batch, self.position

    def give_back(self, DenialBatch batch not None):
        """Takes a batch's memory for what comes next; the batch is empty then."""
        cdef DenialTable* table = &batch.table
        if 0 < table.capacity <= SPARE_ROWS_MAX and self.spare.capacity == 0:
            table.size = 0
            table.texts.size = 0
            memset(table.slots, 0, table.capacity * 2 * sizeof(uint64_t))
            table.drop_size = 0
            table.drop_texts.size = 0
            table.drop_count = 0
            if table.drop_capacity:
                memset(table.drop_slots, 0, table.drop_capacity * 2 * sizeof(uint32_t))
            self.spare = table[0]
            memset(table, 0, sizeof(DenialTable))
        table_free(table)

    cdef void note(
        self,
        const Subject* subject,
        int reason,
        const LimitResult* limit,
        Slice etag,
        int64_t retry_ms,
        int64_t now_ms,
        bint shadow,
    ) noexcept:
        # Notes a denial of the attempt that the subject was made from, by a limit or by none.
        cdef Digest identity
        cdef DenialRow* row
        cdef uint64_t account_hash
        if subject.sent == NULL:
            return
        self.last_ms = now_ms
        identity = self.identify(subject, reason, limit, now_ms, shadow, &account_hash)
        if self.table.size >= self.row_count_max and self.table.drop_capacity:
            # A flood: where it will be counted is on its way while the rows are looked at.
            prefetch(&self.table.drop_slots[account_hash & (self.table.drop_capacity * 2 - 1)])
        row = row_find(&self.table, &identity)
        if row == NULL:
            row = self.make_row(&identity, subject, limit, now_ms)
        if row == NULL:
            self.drop(subject.sent.account, account_hash, 1)
            return
        row.head.flags = (FLAG_SHADOW if shadow else 0) | (FLAG_LIMIT if limit != NULL else 0)
        row.head.reason = reason
        row.head.count += 1
        row.head.last_ms = now_ms
        row.head.retry_ms = retry_ms
        if limit == NULL:
            return
        row.head.enforcement = <uint8_t>limit.enforcement
        row.head.max_count = limit.max_count
        row.head.used_count = limit.used_count
        row.head.remaining_count = limit.remaining_count
        row.head.reset_ms = limit.reset_ms
        row.head.since_ms = limit.counted_since_ms
        row.head.etag_size = <uint8_t>min(etag.size, <uint32_t>ETAG_BYTES)
        if row.head.etag_size:
            memcpy(row.head.etag, etag.data, row.head.etag_size)

    cdef Digest identify(
        self,
        const Subject* subject,
        int reason,
        const LimitResult* limit,
        int64_t now_ms,
        bint shadow,
        uint64_t* account_hash,
    ) noexcept:
        # Where no contact is named, it is the address that is denied.
        cdef Identity of
        memset(&of, 0, sizeof(Identity))
        of.day = now_ms // DAY_MS
        of.account = siphash128(&self.key, subject.sent.account.data, subject.sent.account.size)
        account_hash[0] = of.account.low
        if subject.present & (1 << DIMENSION_CONTACT):
            of.contact = subject.contact
        elif subject.present & (1 << DIMENSION_ADDRESS):
            of.contact = subject.address
        if subject.present & (1 << DIMENSION_CAMPAIGN):
            of.campaign = subject.names[DIMENSION_CAMPAIGN].hash
        of.reason = reason if limit == NULL else 0
        of.shadow = shadow
        if limit != NULL:
            of.policy = siphash64(&self.key, limit.policy.data, limit.policy.size)
            of.limit_id = siphash64(&self.key, limit.limit_id.data, limit.limit_id.size)
        return siphash128(&self.key, <const uint8_t*>&of, sizeof(Identity))

    cdef DenialRow* make_row(
        self,
        const Digest* identity,
        const Subject* subject,
        const LimitResult* limit,
        int64_t now_ms,
    ) noexcept:
        # A row with what tells of the first denial, not counted yet; NULL when there is no room.
        cdef DenialTable* table = &self.table
        cdef Slice[14] texts
        cdef DenialRow* row
        cdef uint64_t text_size = 0
        cdef uint32_t mask
        cdef uint32_t slot
        cdef int place
        collect_texts(subject, limit, texts)
        for place in range(TEXT_COUNT):
            text_size += texts[place].size
        if (
            table.size >= self.row_count_max
            or table.texts.size + text_size > self.text_bytes_max
            or not texts_reserve(&table.texts, text_size)
            or not rows_reserve(table)
        ):
            return NULL
        row = &table.rows[table.size]
        memset(row, 0, sizeof(DenialRow))
        row.identity = identity[0]
        row.text_at = table.texts.size
        row.text_size = <uint32_t>text_size
        row.head.version = PACKED_VERSION
        row.head.first_ms = now_ms
        row.head.message_count = subject.sent.message_count
        row.head.reset_ms = NO_TIME
        row.head.since_ms = NO_TIME
        for place in range(TEXT_COUNT):
            row.head.text_sizes[place] = <uint16_t>texts[place].size
            texts_put(&table.texts, texts[place])
        mask = table.capacity * 2 - 1
        slot = <uint32_t>identity.low & mask
        while table.slots[slot]:
            slot = (slot + 1) & mask
        table.size += 1
        table.slots[slot] = entry_of(identity, table.size - 1)
        return row

    cdef uint64_t hash_of(self, Slice account) noexcept:
        return siphash128(&self.key, account.data, account.size).low

    cdef void drop(self, Slice account, uint64_t hash, int64_t count) noexcept:
        # Counts denials that are not kept. There is a row for each account at most, and an account
        # whose attempts are denied has a name in memory already, so there are not too many.
        cdef DenialTable* table = &self.table
        cdef uint32_t mask
        cdef uint32_t slot
        cdef DropRow* row
        if not drops_reserve(table) or not texts_reserve(&table.drop_texts, account.size):
            table.drop_count += count
            return
        mask = table.drop_capacity * 2 - 1
        slot = <uint32_t>hash & mask
        while table.drop_slots[slot]:
            row = &table.drops[table.drop_slots[slot] - 1]
            if row.hash == hash:
                row.count += count
                return
            slot = (slot + 1) & mask
        row = &table.drops[table.drop_size]
        row.hash = hash
        row.text_at = table.drop_texts.size
        row.text_size = account.size
        row.count = count
        texts_put(&table.drop_texts, account)
        table.drop_size += 1
        table.drop_slots[slot] = table.drop_size

    cdef void replayed(self, Slice account, uint64_t position) noexcept:
        # The journal records a denial at this position. If it is not known what became of it, a
        # crash came between; in the clear it is not there any more.
        if position > self.position:
            self.position = position
            self.drop(account, self.hash_of(account), 1)
