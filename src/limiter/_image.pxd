# An account's state as bytes, and back.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from limiter._accounts cimport Account

cdef struct ImageBytes:
    uint8_t* data              # owned
    size_t size
    size_t capacity

cdef struct ImageHead:
    # How an image begins.
    uint32_t magic
    uint32_t version
    uint32_t name_id           # of the account
    uint32_t state_count
    uint32_t is_bare           # it says where the account stands, and nothing else
    uint32_t reserved
    int64_t as_of_ms           # what had left its window by then is not in it
    int64_t sequence
    uint64_t last_position
    uint64_t last_denial

cdef void image_free(ImageBytes* image) noexcept nogil
cdef int image_write(
    Account* account, uint64_t kept_from, int64_t now_ms, ImageBytes* image
) except -1
cdef int image_head(const uint8_t* data, size_t size, uint32_t name_id, ImageHead* head) except -1
cdef int image_read(
    const uint8_t* data,
    size_t size,
    uint32_t name_id,
    object define_kind,
    Account* account,
    list kinds,
) except -1
