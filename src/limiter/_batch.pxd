# Batches: the recipients of one request decided in order, at one instant.

from libc.stdint cimport int64_t, uint32_t

from limiter._accounts cimport Account
from limiter._activity cimport Activity
from limiter._core cimport Core, RequestKey
from limiter._hours cimport ZoneTable
from limiter._index cimport DenseIndex
from limiter._judge cimport Judge
from limiter._kinds cimport BoundPlan, InlineRules
from limiter._request_keys cimport RequestKeys
from limiter._requests cimport RequestTable
from limiter._subject cimport Subject
from limiter._types cimport Slice
from limiter._wire cimport Decoder, OutBuffer

cdef struct BatchCounts:
    int64_t accepted
    int64_t denied
    int64_t duplicate
    int64_t opted_out          # left out for that ...
    int64_t barred             # ... and denied for that

cdef class Batches:
    cdef Core core
    cdef Decoder decoder
    cdef OutBuffer out
    cdef RequestKeys request_keys
    cdef ZoneTable zones
    cdef Activity activity     # what is decided is noted there
    cdef bint require_policy
    cdef Judge judge_alone     # judges a batch as if nothing else had been sent
    cdef DenseIndex seen       # who a batch has been addressed to so far
    cdef RequestTable asked    # recipients' request ids of one batch

    cdef bint answer_check(self, Subject* subject, InlineRules rules, int64_t now_ms) except -1
    cdef bint answer_commit(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1
    cdef int validate(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1
    cdef int turn_to(self, Subject* subject, uint32_t i, bint digests) except -1
    cdef int write_to(self, Subject* subject, uint32_t i) except -1
    cdef int settle(self, Subject* subject, uint32_t i) except -1
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
    cdef void forget_seen(self) noexcept
    cdef int why_left_out(
        self,
        const Account* account,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        uint32_t i,
        int64_t now_ms,
    ) except -1
    cdef int leave_out(self, Slice reference, int why, bint quietly, BatchCounts* counts) except -1
    cdef int count_decided(self, BatchCounts* counts) noexcept
    cdef bint is_duplicate(self, const Subject* subject) except -1
