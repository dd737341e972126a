# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What one credential may do, as plain C, so that a hot call can be checked without objects.

In: a caller, and until when he is good. Out: nothing, or the fault that his call ends with.

What always holds: what has ended stays ended, at once for everybody who holds the guard; who is
narrowed to some resources or campaigns must name one of them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from limiter.errors import Unauthenticated
from limiter._types cimport DIMENSION_CAMPAIGN, DIMENSION_RESOURCE, Attempt, Slice


cdef inline bint comes_before(const Slice* a, const Slice* b) noexcept nogil:
    if a.size != b.size:
        return a.size < b.size
    return memcmp(a.data, b.data, a.size) < 0


cdef bint holds(const Labels* labels, const Slice* text) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = labels.count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if comes_before(&labels.rows[middle], text):
            low = middle + 1
        else:
            high = middle
    return (
        low < labels.count
        and labels.rows[low].size == text.size
        and memcmp(labels.rows[low].data, text.data, text.size) == 0
    )


cdef text_of(const Slice* slice):
    return slice.data[:slice.size].decode("utf-8", "replace") if slice.size else ""


@cython.final
cdef class Guard:
    """Guards calls by `caller`, a `limiter.access.Caller`, up to `end_ms` (None: for good)."""

    def __cinit__(self, caller, end_ms=None):
        self.caller = caller
        self.texts = []
        for permission in caller.permissions:
            self.permissions |= <uint32_t>1 << <int>permission
        self.every_account = caller.accounts is None
        self.take(&self.accounts, caller.accounts or ())
        self.take(&self.resources, caller.resources)
        self.take(&self.campaigns, caller.campaigns)
        self.end_ms = INT64_MAX if end_ms is None else end_ms

    def __dealloc__(self):
        free(self.accounts.rows)
        free(self.resources.rows)
        free(self.campaigns.rows)

    cdef int take(self, Labels* labels, object texts) except -1:
        cdef bytes text
        encoded = sorted([(len(each), each) for each in [str(name).encode() for name in texts]])
        if not encoded:
            return 0
        labels.rows = <Slice*>malloc(len(encoded) * sizeof(Slice))
        if labels.rows == NULL:
            raise MemoryError
        self.texts.append(encoded)
        for _, text in encoded:
            labels.rows[labels.count].data = <const uint8_t*>PyBytes_AS_STRING(text)
            labels.rows[labels.count].size = <uint32_t>PyBytes_GET_SIZE(text)
            labels.count += 1
        return 0

    def end(self, error not None):
        """From now on every call ends with this error."""
        self.ended = error

    def end_by(self, int64_t end_ms):
        """From that instant on at the latest it is no longer good."""
        self.end_ms = min(self.end_ms, end_ms)

    def require(self, int permission, int64_t now_ms):
        """Raises Unauthenticated when the credential has ended, PermissionDenied without the
        permission."""
        self.admit(permission, now_ms)

    def renew(self, int64_t now_ms):
        """Raises Unauthenticated when the credential has ended."""
        self.admit(0, now_ms)

    cdef int admit(self, int permission, int64_t now_ms) except -1:
        # Permission 0 is everybody's.
        if self.ended is not None:
            raise self.ended.with_traceback(None)
        if now_ms >= self.end_ms:
            raise Unauthenticated("KEY_EXPIRED", "the key has expired; show another one")
        if permission and not self.permissions >> permission & 1:
            raise self.caller.lacks(permission)
        return 0

    cdef int admit_attempt(self, const Attempt* attempt) except -1:
        cdef const Slice* resource = &attempt.fields[DIMENSION_RESOURCE]
        cdef const Slice* campaign = &attempt.fields[DIMENSION_CAMPAIGN]
        if self.every_account:
            return 0
        if not holds(&self.accounts, &attempt.account):
            raise self.caller.is_not_for("attempt.account", text_of(&attempt.account))
        if self.resources.count and not holds(&self.resources, resource):
            raise self.caller.is_not_for("attempt.resource", text_of(resource))
        if self.campaigns.count and not holds(&self.campaigns, campaign):
            raise self.caller.is_not_for("attempt.campaign", text_of(campaign))
        return 0
