# Request ids and what is asked under them, as digests.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from limiter._core cimport RequestKey
from limiter._kinds cimport InlineRules
from limiter._siphash cimport Digest, SipKey
from limiter._types cimport Attempt, Slice
from limiter._wire cimport Request

cdef class RequestKeys:
    cdef SipKey key
    cdef uint8_t* scratch      # owned; canonical bytes of what a request asks
    cdef uint32_t scratch_size
    cdef uint32_t scratch_capacity

    cdef RequestKey single(self, const Request* request, InlineRules rules) except *
    cdef Digest commit_id_of(self, Slice account, Slice id) except *
    cdef RequestKey batch(self, const Request* request, InlineRules rules) except *
    cdef RequestKey recipient(
        self,
        const Request* request,
        InlineRules rules,
        const RequestKey* batch,
        uint32_t number,
    ) except *

    cdef int note(self, const void* data, uint32_t size) except -1
    cdef int note_slice(self, Slice text) except -1
    cdef int note_attempt(self, const Attempt* attempt, InlineRules rules) except -1
    cdef int note_terms(self, bint recorded, int64_t event_ms, int64_t hold_ms) except -1
    cdef Digest noted(self) noexcept
    cdef Digest digest_of(
        self, const Request* request, uint8_t namespace, Slice id, uint32_t number
    ) except *
