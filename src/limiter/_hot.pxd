# The hot calls: request bytes in, response bytes out.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from limiter._accounts cimport Account
from limiter._core cimport Core, RequestKey
from limiter._guard cimport Guard
from limiter._hours cimport ZoneTable
from limiter._index cimport DenseIndex
from limiter._judge cimport Judge
from limiter._kinds cimport BoundPlan, InlineRules
from limiter._request_keys cimport RequestKeys
from limiter._requests cimport RequestTable
from limiter._subject cimport Subject
from limiter._types cimport Slice
from limiter._wire cimport Decoder, OutBuffer

cdef enum:
    # The hot methods.
    METHOD_CHECK = 1
    METHOD_COMMIT
    METHOD_CHECK_BATCH
    METHOD_COMMIT_BATCH
    METHOD_GET_USAGE

cdef struct BatchCounts:
    int64_t accepted
    int64_t denied
    int64_t duplicate

cdef class Decider:
    cdef Core core
    cdef Decoder decoder
    cdef OutBuffer out
    cdef RequestKeys request_keys
    cdef Judge judge_alone     # judges a batch as if nothing else had been sent
    cdef object compile_inline
    cdef ZoneTable zones       # that attempts name
    cdef dict inline_cache     # serialized inline limits -> InlineRules
    cdef bint require_policy
    cdef DenseIndex seen       # who a batch has been addressed to so far
    cdef RequestTable asked    # recipients' request ids of one batch

    cdef bint answer(
        self, int method, const uint8_t* data, Py_ssize_t size, int64_t now_ms, Guard guard
    ) except -1
    cdef bint answer_check(self, int64_t now_ms) except -1
    cdef bint answer_commit(self, int64_t now_ms) except -1
    cdef bint answer_usage(self, int64_t now_ms) except -1
    cdef bint answer_check_batch(self, int64_t now_ms) except -1
    cdef bint answer_commit_batch(self, int64_t now_ms) except -1
    cdef int validate_batch(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1
    cdef int prepare(self, Subject* subject) except -1
    cdef int set_zone(self, Subject* subject, Slice name, int recipient) except -1
    cdef int write_to(self, Subject* subject, uint32_t i) except -1
    cdef int turn_to(self, Subject* subject, uint32_t i, bint digests) except -1
    cdef int require_own_id(self, const RequestKey* key, uint32_t i) except -1
    cdef int require_reply_room(self, BoundPlan plan, InlineRules rules) except -1
    cdef int commit_each(
        self,
        Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        BatchCounts* counts,
    ) except -1
    cdef int try_each(
        self,
        Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int purpose,
        int64_t retry_ms,
        bint journal,
        BatchCounts* counts,
    ) except -1
    cdef int try_recipients(
        self,
        Account* account,
        Subject* trial,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int purpose,
        int64_t retry_ms,
        bint journal,
        BatchCounts* counts,
    ) except -1
    cdef bint reject_whole(
        self,
        Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        bint journal,
        BatchCounts* counts,
    ) except -1
    cdef int64_t batch_retry_ms(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except? -2
    cdef int64_t batch_round_ms(
        self,
        Account* account,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int64_t from_ms,
    ) except? -2
    cdef int64_t batch_passing_ms(
        self,
        Account* account,
        Account* empty,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int64_t from_ms,
    ) except? -2
    cdef int borrow_inline_kinds(
        self, Account* account, InlineRules rules, int64_t now_ms
    ) except -1
    cdef void return_inline_kinds(self, Account* account, int borrowed) noexcept
    cdef void forget_seen(self) noexcept
    cdef bint is_duplicate(self, const Subject* subject) except -1

    cdef int64_t begin(self, int64_t now_ms) noexcept
    cdef InlineRules inline_rules(self)
