# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hot calls, from request bytes to response bytes.

Each call decodes into the decoder's structs, asks the core, and encodes what it decided; the
events of what was counted are then in the core's buffer, waiting for their group. A request is
validated whole before anything of it is counted, so a call that raises has changed nothing.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from limiter import bounds
from limiter._activity cimport OPERATION_CHECK, OPERATION_COMMIT, Activity
from limiter._batch cimport Batches
from limiter._core cimport Committed, Core, RequestKey, Terms
from limiter._guard cimport PERMISSION_CHECK, PERMISSION_COMMIT, PERMISSION_USAGE, Guard
from limiter._hours cimport ZoneTable
from limiter._kinds cimport Binding, InlineRules, compile_limits
from limiter._request_keys cimport RequestKeys
from limiter._shares cimport Shares
from limiter._subject cimport Subject
from limiter._types cimport VIEW_FULL, Slice
from limiter._wire cimport Decoder, OutBuffer, Request

_INLINE_CACHE_MAX = 10_000

cdef uint32_t SHARED_BYTES = bounds.SHARED_JOURNAL_BYTES
cdef uint64_t SPREAD = 0x9E3779B97F4A7C15   # an odd number whose bits look random


cdef inline const uint8_t* data_of(bytes request) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(request)


cdef inline uint64_t short_hash(const Slice* text) noexcept nogil:
    # Of the first eight bytes and the last sixteen: names that differ elsewhere alone are few.
    cdef uint64_t[3] words
    cdef size_t size = text.size
    memset(words, 0, sizeof(words))
    memcpy(words, text.data, min(size, <size_t>8))
    if size > 8:
        memcpy(words + 1, text.data + (size - 16 if size > 16 else 8), min(size - 8, <size_t>16))
    return (words[0] ^ (words[1] + size) * SPREAD ^ (words[2] + 1) * (SPREAD << 1 | 1)) | 1


cdef int permission_of(int method) noexcept:
    # What the table of methods says too.
    if method == METHOD_COMMIT or method == METHOD_COMMIT_BATCH:
        return PERMISSION_COMMIT
    if method == METHOD_GET_USAGE:
        return PERMISSION_USAGE
    return PERMISSION_CHECK


@cython.final
cdef class Decider:
    """Answers the hot calls of one shard. `compile_inline(serialized Limit, account's zone)` gives
    a Rule and `find_zone(name, field)` the Zone that a contact lives in, or they raise
    InvalidArgument; with `require_policy` an attempt that no assignment covers is denied. What is
    decided is noted in `activity`.

    Every method takes the serialized request and the instant of the decision (ms since the epoch),
    and returns the serialized response; the commits also return whether the response must wait
    until everything appended so far is durable. Where a `guard` is given it is asked first, and may
    raise Unauthenticated and PermissionDenied. Raises InvalidArgument and ResourceExhausted; it is
    OverShare for the commits of an account that fills the journal more than others."""

    def __cinit__(
        self,
        Core core not None,
        compile_inline,
        find_zone,
        bint require_policy=False,
        Activity activity=None,
    ):
        self.core = core
        self.decoder = Decoder()
        self.out = OutBuffer()
        self.shares = Shares(core)
        self.request_keys = RequestKeys(core)
        self.compile_inline = compile_inline
        self.zones = ZoneTable(find_zone)
        self.inline_cache = {}
        self.require_policy = require_policy
        self.activity = Activity() if activity is None else activity
        self.activity.forget_names()
        self.batches = Batches(
            core,
            self.decoder,
            self.out,
            self.request_keys,
            self.zones,
            self.activity,
            require_policy,
        )

    # ------------------------------------------------------------ the methods

    def check(self, bytes request not None, int64_t now_ms, Guard guard=None):
        """Check: what would Commit say now? Changes nothing."""
        self.answer(METHOD_CHECK, data_of(request), PyBytes_GET_SIZE(request), now_ms, guard)
        return self.out.take()

    def commit(self, bytes request not None, int64_t now_ms, Guard guard=None):
        """Commit: decides, and counts iff every enforced limit allows."""
        must_wait = self.answer(
            METHOD_COMMIT, data_of(request), PyBytes_GET_SIZE(request), now_ms, guard
        )
        return self.out.take(), must_wait

    def check_batch(self, bytes request not None, int64_t now_ms, Guard guard=None):
        """CheckBatch: what would CommitBatch say now? Changes nothing."""
        self.answer(METHOD_CHECK_BATCH, data_of(request), PyBytes_GET_SIZE(request), now_ms, guard)
        return self.out.take()

    def commit_batch(self, bytes request not None, int64_t now_ms, Guard guard=None):
        """CommitBatch: decides the recipients in order, at one instant."""
        must_wait = self.answer(
            METHOD_COMMIT_BATCH, data_of(request), PyBytes_GET_SIZE(request), now_ms, guard
        )
        return self.out.take(), must_wait

    def get_usage(self, bytes request not None, int64_t now_ms, Guard guard=None):
        """GetUsage: how the counters stand that would apply to a template of an attempt."""
        self.answer(METHOD_GET_USAGE, data_of(request), PyBytes_GET_SIZE(request), now_ms, guard)
        return self.out.take()

    cdef bint answer(
        self, int method, const uint8_t* data, Py_ssize_t size, int64_t now_ms, Guard guard
    ) except -1:
        # Leaves the reply in self.out; says whether it must wait until all is durable.
        now_ms = self.begin(now_ms)
        if guard is not None:
            guard.admit(permission_of(method), now_ms)
        if self.core.past.fates.due_size:
            self.core.lapse_due(now_ms)
        if method == METHOD_CHECK:
            self.decoder.check(data, size)
        elif method == METHOD_COMMIT:
            self.decoder.commit(data, size)
        elif method == METHOD_CHECK_BATCH:
            self.decoder.check_batch(data, size)
        elif method == METHOD_COMMIT_BATCH:
            self.decoder.commit_batch(data, size)
        else:
            self.decoder.usage(data, size)
        if guard is not None:
            guard.admit_attempt(&self.decoder.request.attempt)
        if self.core.recorder.buffer.size > SHARED_BYTES and (
            method == METHOD_COMMIT or method == METHOD_COMMIT_BATCH
        ):
            self.shares.admit(self.decoder.request.attempt.account)
        if method == METHOD_CHECK:
            return self.answer_check(now_ms)
        if method == METHOD_COMMIT:
            return self.answer_commit(now_ms)
        if method == METHOD_GET_USAGE:
            return self.answer_usage(now_ms)
        return self.answer_batch(method, now_ms)

    cdef uint64_t lane(self) noexcept:
        # Stands for the account of the request that was answered last, whose bytes must still be
        # there. Two accounts may share one.
        return short_hash(&self.decoder.request.attempt.account)

    # ------------------------------------------------------------ the answers

    cdef bint answer_check(self, int64_t now_ms) except -1:
        cdef Subject subject
        cdef int view = self.decoder.request.view or VIEW_FULL
        rules = self.inline_rules()
        self.prepare_here(&subject)
        rules = self.in_own_zone(rules, &subject)
        self.core.decide(&subject, rules, now_ms, self.require_policy, view == VIEW_FULL)
        self.activity.note(OPERATION_CHECK, self.core.judge, &subject, False)
        self.out.check_response(&self.core.judge.decision, view)
        return False

    cdef bint answer_commit(self, int64_t now_ms) except -1:
        cdef Subject subject
        cdef RequestKey key
        cdef Terms terms
        cdef Committed committed
        cdef int view = self.decoder.request.view or VIEW_FULL
        rules = self.inline_rules()
        key = self.request_keys.single(&self.decoder.request, rules)
        self.prepare_here(&subject)
        rules = self.in_own_zone(rules, &subject)
        terms.recorded = self.decoder.request.recorded
        terms.event_ms = self.decoder.request.event_ms
        terms.hold_ms = self.decoder.request.hold_ms
        self.core.commit(
            &subject, rules, &key, &terms, now_ms, self.require_policy, view == VIEW_FULL,
            &committed,
        )
        self.activity.note(OPERATION_COMMIT, self.core.judge, &subject, committed.replayed)
        self.out.commit_response(
            &self.core.judge.decision,
            view,
            committed.position,
            committed.sequence,
            committed.replayed,
        )
        return committed.position != 0

    cdef bint answer_usage(self, int64_t now_ms) except -1:
        cdef Subject subject
        self.prepare_here(&subject)
        self.core.usage(&subject, None, now_ms)
        self.out.usage_response(self.core.judge.results, self.core.judge.count)
        return False

    cdef bint answer_batch(self, int method, int64_t now_ms) except -1:
        cdef Subject subject
        cdef RequestKey key
        rules = self.inline_rules()
        if method == METHOD_CHECK_BATCH:
            self.prepare_here(&subject)
            rules = self.in_own_zone(rules, &subject)
            return self.batches.answer_check(&subject, rules, now_ms)
        key = self.request_keys.batch(&self.decoder.request, rules)
        self.prepare_here(&subject)
        rules = self.in_own_zone(rules, &subject)
        return self.batches.answer_commit(&subject, rules, &key, now_ms)

    # ------------------------------------------------------------ what is asked

    cdef int prepare(self, Subject* subject) except -1:
        # Makes the request's attempt a subject. Raises InvalidArgument where the contact's zone is
        # none.
        cdef Slice zone = self.decoder.request.attempt.contact_time_zone
        self.core.prepare(&self.decoder.request.attempt, subject)
        self.zones.put(subject, zone, -1)
        return 0

    cdef int prepare_here(self, Subject* subject) except -1:
        # The same; raises Away where its account is to be brought into memory first.
        self.prepare(subject)
        return self.core.accounts.require_here(subject.account.id)

    cdef int64_t begin(self, int64_t now_ms) noexcept:
        # Instants never go back, whatever the caller's clock says. A call that raised may have
        # left a part of its response behind.
        self.out.reset()
        return max(now_ms, self.core.recorder.last_event_ms)

    cdef InlineRules inline_rules(self):
        # The request's inline limits, compiled; None when there are none.
        cdef Request* request = &self.decoder.request
        cdef int i
        if request.inline_count == 0:
            return None
        raw = tuple([
            request.inline_limits[i].data[: request.inline_limits[i].size]
            for i in range(request.inline_count)
        ])
        return self.compiled(raw, "")

    cdef InlineRules in_own_zone(self, InlineRules rules, const Subject* subject):
        # The same limits as they hold for the attempt's account.
        if rules is None or not rules.follows_account:
            return rules
        account = self.core.accounts.find(subject)
        return self.compiled(rules.raw, (<Binding>account.binding).time_zone)

    cdef InlineRules compiled(self, tuple raw, str account_zone):
        # Serialized inline limits, compiled for accounts of a zone; without one, as they came.
        found = self.inline_cache.get((raw, account_zone))
        if found is None:
            if len(self.inline_cache) >= _INLINE_CACHE_MAX:
                self.inline_cache.clear()
            found = compile_limits(self.compile_inline, raw, account_zone)
            self.inline_cache[raw, account_zone] = found
        return found
