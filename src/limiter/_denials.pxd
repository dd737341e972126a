# Denied attempts in the clear, on their way from the core to the restrictions log.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from limiter._siphash cimport Digest, SipKey
from limiter._subject cimport Subject
from limiter._types cimport LimitResult, Slice

cdef enum:
    TEXT_COUNT = 14            # account, nine dimensions, time zone, reference, policy, limit id
    ETAG_BYTES = 64

cdef packed struct PackedHead:
    # How a row is packed, little-endian; its texts follow, one behind the other. The fields down to
    # the etag tell of the newest denial, the others of the first.
    uint8_t version
    uint8_t flags
    uint8_t enforcement
    uint8_t etag_size
    int32_t reason
    int64_t count              # of denials
    int64_t last_ms
    int64_t retry_ms           # NO_TIME when there is none
    int64_t max_count
    int64_t used_count
    int64_t remaining_count
    int64_t reset_ms           # NO_TIME when it is not told
    int64_t since_ms           # from when on was counted, NO_TIME = the whole window
    uint8_t[64] etag
    int64_t first_ms
    int64_t message_count      # as sent
    uint16_t[14] text_sizes

cdef struct DenialRow:
    Digest identity            # of all that denials must share to be one row
    uint64_t text_at           # in the texts
    uint32_t text_size
    PackedHead head

cdef struct DropRow:
    # Denials of one account that there was no room for.
    uint64_t hash              # of the account; keyed, so that no two share one in practice
    uint64_t text_at           # of the account's id, in the texts of the drops
    uint32_t text_size
    int64_t count

cdef struct Texts:
    uint8_t* data              # owned
    uint64_t size
    uint64_t capacity

cdef struct DenialTable:
    DenialRow* rows            # owned; in the order of the first denials
    # Owned; open addressing: the upper half is a tag of the identity, the lower place in rows + 1,
    # 0 = free.
    uint64_t* slots
    uint32_t size
    uint32_t capacity          # power of two; there are twice as many slots
    Texts texts
    DropRow* drops             # owned
    uint32_t* drop_slots       # owned; open addressing, place in drops + 1, 0 = free
    uint32_t drop_size
    uint32_t drop_capacity
    Texts drop_texts
    int64_t drop_count         # of those that not even the account could be noted for

cdef class DenialBatch:
    cdef DenialTable table

cdef class DenialBuffer:
    cdef DenialTable table
    cdef DenialTable spare     # empty: memory for the next table
    cdef SipKey key
    cdef uint32_t row_count_max
    cdef uint64_t text_bytes_max
    cdef public uint64_t position  # in the journal; of denials up to it all is known
    cdef readonly int64_t last_ms  # of the newest denial

    cdef void note(
        self,
        const Subject* subject,
        int reason,
        const LimitResult* limit,
        Slice etag,
        int64_t retry_ms,
        int64_t now_ms,
        bint shadow,
    ) noexcept
    cdef Digest identify(
        self,
        const Subject* subject,
        int reason,
        const LimitResult* limit,
        int64_t now_ms,
        bint shadow,
        uint64_t* account_hash,
    ) noexcept
    cdef DenialRow* make_row(
        self,
        const Digest* identity,
        const Subject* subject,
        const LimitResult* limit,
        int64_t now_ms,
    ) noexcept
    cdef uint64_t hash_of(self, Slice account) noexcept
    cdef void drop(self, Slice account, uint64_t hash, int64_t count) noexcept
    cdef void replayed(self, Slice account, uint64_t position) noexcept
