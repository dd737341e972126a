# The hot calls: request bytes in, response bytes out.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from limiter._activity cimport Activity
from limiter._batch cimport Batches
from limiter._core cimport Core
from limiter._guard cimport Guard
from limiter._hours cimport ZoneTable
from limiter._kinds cimport InlineRules
from limiter._request_keys cimport RequestKeys
from limiter._shares cimport Shares
from limiter._subject cimport Subject
from limiter._wire cimport Decoder, OutBuffer

cdef enum:
    # The hot methods.
    METHOD_CHECK = 1
    METHOD_COMMIT
    METHOD_CHECK_BATCH
    METHOD_COMMIT_BATCH
    METHOD_GET_USAGE

cdef class Decider:
    cdef Core core
    cdef Decoder decoder
    cdef OutBuffer out
    cdef RequestKeys request_keys
    cdef Batches batches
    cdef object compile_inline
    cdef ZoneTable zones       # that attempts name
    cdef dict inline_cache     # (serialized inline limits, account's zone) -> InlineRules
    cdef bint require_policy
    cdef Shares shares         # of what waits for the journal
    cdef Activity activity     # what is decided is noted there

    cdef bint answer(
        self, int method, const uint8_t* data, Py_ssize_t size, int64_t now_ms, Guard guard
    ) except -1
    cdef uint64_t lane(self) noexcept
    cdef bint answer_check(self, int64_t now_ms) except -1
    cdef bint answer_commit(self, int64_t now_ms) except -1
    cdef bint answer_usage(self, int64_t now_ms) except -1
    cdef bint answer_batch(self, int method, int64_t now_ms) except -1
    cdef int prepare(self, Subject* subject) except -1
    cdef int prepare_here(self, Subject* subject) except -1
    cdef int64_t begin(self, int64_t now_ms) noexcept
    cdef InlineRules inline_rules(self)
    cdef InlineRules in_own_zone(self, InlineRules rules, const Subject* subject)
    cdef InlineRules compiled(self, tuple raw, str account_zone)
