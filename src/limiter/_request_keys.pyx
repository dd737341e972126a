# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Under which id something is asked, and what: digests of request ids and of what they stand for.

In: a decoded request and its inline limits. Out: a RequestKey. The same request in other words
(fields in another order, defaults spelt out) has the same payload; the view is no part of it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from limiter._core cimport Core, RequestKey
from limiter._kinds cimport InlineRules
from limiter._siphash cimport Digest, siphash128
from limiter._types cimport (
    ATOMICITY_ALL_OR_NOTHING,
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    DIMENSION_COUNT,
    NO_TIME,
    Attempt,
    Recipient,
    Slice,
)
from limiter._wire cimport Request


@cython.final
cdef class RequestKeys:
    """Makes the keys of one core's requests."""

    def __cinit__(self, Core core not None):
        self.key = core.accounts.keys.request

    def __dealloc__(self):
        free(self.scratch)

    cdef int note(self, const void* data, uint32_t size) except -1:
        # Adds bytes to what is asked.
        cdef uint32_t capacity
        cdef uint8_t* scratch
        if self.scratch_size + size > self.scratch_capacity:
            capacity = 2 * (self.scratch_size + size) + 1024
            scratch = <uint8_t*>realloc(self.scratch, capacity)
            if scratch == NULL:
                raise MemoryError
            self.scratch = scratch
            self.scratch_capacity = capacity
        memcpy(self.scratch + self.scratch_size, data, size)
        self.scratch_size += size
        return 0

    cdef int note_slice(self, Slice text) except -1:
        self.note(&text.size, sizeof(text.size))
        if text.size:
            self.note(text.data, text.size)
        return 0

    cdef int note_attempt(self, const Attempt* attempt, InlineRules rules) except -1:
        # The decoded attempt and its inline limits, in one canonical form.
        cdef int64_t message_count = max(1, attempt.message_count)
        cdef int dimension
        self.note_slice(attempt.account)
        for dimension in range(DIMENSION_COUNT):
            self.note_slice(attempt.fields[dimension])
        self.note_slice(attempt.contact_time_zone)
        self.note(&message_count, sizeof(message_count))
        if rules is not None:
            self.note(PyBytes_AS_STRING(rules.identity), <uint32_t>PyBytes_GET_SIZE(rules.identity))
        return 0

    cdef int note_terms(self, bint recorded, int64_t event_ms, int64_t hold_ms) except -1:
        # How it counts; the same whether defaults are spelt out or not.
        cdef int64_t[3] terms
        terms[0] = recorded
        terms[1] = event_ms
        terms[2] = hold_ms
        return self.note(terms, sizeof(terms))

    cdef Digest noted(self) noexcept:
        # The digest of all that was noted, which is then forgotten.
        cdef Digest digest = siphash128(
            &self.key, self.scratch, self.scratch_size
        )
        self.scratch_size = 0
        return digest

    cdef Digest digest_of(
        self, const Request* request, uint8_t namespace, Slice id, uint32_t number
    ) except *:
        # The digest of a request id inside its account and namespace.
        self.note(&namespace, 1)
        self.note(&number, sizeof(number))
        self.note_slice(request.attempt.account)
        self.note_slice(id)
        return self.noted()

    cdef RequestKey single(self, const Request* request, InlineRules rules) except *:
        # Under which id one attempt is asked.
        cdef RequestKey key
        memset(&key, 0, sizeof(key))
        if request.request_id.size:
            key.given = True
            self.note_terms(request.recorded, request.event_ms, request.hold_ms)
            self.note_attempt(&request.attempt, rules)
            key.payload = self.noted()
            key.request = self.digest_of(request, c'c', request.request_id, 0)
        return key

    cdef Digest commit_id_of(self, Slice account, Slice id) except *:
        # The digest of a commit's request id.
        cdef uint8_t namespace = c'c'
        cdef uint32_t number = 0
        self.note(&namespace, 1)
        self.note(&number, sizeof(number))
        self.note_slice(account)
        self.note_slice(id)
        return self.noted()

    cdef RequestKey batch(self, const Request* request, InlineRules rules) except *:
        # Under which id the whole batch is asked: the same recipients in the same order.
        cdef RequestKey key
        cdef uint8_t[2] flags
        cdef uint32_t i
        memset(&key, 0, sizeof(key))
        if request.request_id.size == 0:
            return key
        key.given = True
        key.derived = True
        flags[0] = request.atomicity == ATOMICITY_ALL_OR_NOTHING
        flags[1] = request.exclude_duplicates | request.exclude_opt_outs << 1
        self.note_attempt(&request.attempt, rules)
        self.note(flags, 2)
        for i in range(request.recipient_count):
            self.note_slice(request.recipients[i].contact)
            self.note_slice(request.recipients[i].address)
            self.note_slice(request.recipients[i].contact_time_zone)
            self.note_slice(request.recipients[i].request_id)
        key.payload = self.noted()
        key.request = self.digest_of(request, c'b', request.request_id, 0)
        return key

    cdef RequestKey recipient(
        self,
        const Request* request,
        InlineRules rules,
        const RequestKey* batch,
        uint32_t number,
    ) except *:
        # A recipient's own id is one of Commit's; else it has one derived from the batch's.
        cdef const Recipient* recipient = &request.recipients[number]
        cdef Attempt attempt
        cdef RequestKey key
        memset(&key, 0, sizeof(key))
        if recipient.request_id.size:
            key.given = True
            attempt = request.attempt
            attempt.fields[DIMENSION_CONTACT] = recipient.contact
            attempt.fields[DIMENSION_ADDRESS] = recipient.address
            if recipient.contact_time_zone.size:
                attempt.contact_time_zone = recipient.contact_time_zone
            self.note_terms(False, NO_TIME, 0)
            self.note_attempt(&attempt, rules)
            key.payload = self.noted()
            key.request = self.digest_of(request, c'c', recipient.request_id, 0)
        elif batch.given:
            key.given = True
            key.derived = True
            key.payload = batch.payload
            key.request = self.digest_of(request, c'd', request.request_id, number)
        return key
