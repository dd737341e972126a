# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One template of an attempt under watch: how things stand for it, and how long that will hold.

In flow a WatchUsageRequest's bytes and instants; out flow the bytes of its responses, and the next
instant at which one may say something else although nothing is sent. What always holds:

- the statuses are those of GetUsage, and `allowed` and `retry_time` those of a Check of an attempt
  like the template. A contact and an address that it leaves out are ones that nobody has written
  to. A limit that needs another field which it leaves out is not evaluated, and does not deny;
- between a look and the instant that it names nothing changes but by an event of the account, or a
  change of policies. The core tells of both, once after each look.

Here too is what wakes holds up: the core's word of one that ends first, and the lapse itself.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter._accounts cimport WATCH_NOBODY, WATCH_NEXT, Account
from limiter._calendar cimport window_exit_ms
from limiter._core cimport Core
from limiter._hot cimport Decider
from limiter._hours cimport hours_change_ms
from limiter._judge cimport ASK_RECORD, Judge
from limiter._kinds cimport BoundPlan
from limiter._messages cimport NEVER_MS
from limiter._ramp cimport ramp_until_ms
from limiter._siphash cimport Digest
from limiter._subject cimport Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CONTACT,
    NO_TIME,
    OUTCOME_ALLOWED,
    LimitResult,
)
from limiter._weighed cimport Weighed

# However sure the next change is, it is looked for again after this.
cdef int64_t LOOK_AGAIN_MS = bounds.WATCH_LOOK_MS_MAX


def notify(Core core not None, on_change, on_hold):
    """From now on `on_change(number)` is called when something has changed in the core's watched
    account of that number, 0 for all accounts, and `on_hold()` when there is a hold that ends
    before all others. Both are called within a decision, so they only take note. Either may be
    None."""
    core.on_change = on_change
    core.on_hold = on_hold


def lapse(Core core not None, int64_t now_ms, uint32_t most):
    """Has at most so many of the core's holds lapse that have ended by now_ms, the earliest first.
    Returns the instant at which to call again, None while nothing is held."""
    core.lapse_some(max(now_ms, core.recorder.last_event_ms), most)
    return core.past.fates.due[0].lapse_ms if core.past.fates.due_size else None


cdef Digest nobody() noexcept:
    # The digest of somebody new. A keyed digest of 128 bits is never this one in practice.
    cdef Digest digest
    memset(&digest, 0xFF, sizeof(Digest))
    return digest


cdef int64_t next_change_ms(const Weighed* w, const LimitResult* result, int64_t now_ms) noexcept:
    # The earliest instant after now_ms at which the limit's status changes by itself.
    cdef int64_t at_ms = NEVER_MS
    if not w.evaluated:
        return NEVER_MS if w.rule.ramp == NULL else ramp_until_ms(w.rule.ramp, now_ms)
    if w.rule.hours != NULL:
        return hours_change_ms(w.rule.hours, w.zone, now_ms)
    if w.rule.ramp != NULL:
        at_ms = ramp_until_ms(w.rule.ramp, now_ms)
    if result.reset_ms != NO_TIME:
        at_ms = min(at_ms, result.reset_ms)
    if result.counted_since_ms != NO_TIME:
        # It is told until the window begins there.
        at_ms = min(
            at_ms, window_exit_ms(w.rule.kind.window, result.counted_since_ms - 1)
        )
    return at_ms if at_ms > now_ms else now_ms + 1


@cython.final
cdef class Watch:
    """What somebody watches. `request` is a WatchUsageRequest's bytes; raises InvalidArgument for
    what is none."""

    cdef Decider decider
    cdef bytes request
    cdef readonly uint32_t account        # the number by which the core tells of the account
    cdef readonly bytes state            # a WatchUsageResponse without its time
    cdef readonly bytes time             # that field
    cdef readonly object next_ms         # when to look again though nothing is told
    cdef readonly object retry_ms        # when an attempt like that may go; None if now, or never

    def __cinit__(self, Decider decider not None, bytes request not None):
        self.decider = decider
        self.request = request

    def look(self, int64_t now_ms):
        """Sees how things stand at now_ms: `state`, `time` and `next_ms` are of then. From now on
        the core tells of the account's next change."""
        cdef Core core = self.decider.core
        cdef Subject subject
        cdef Account* account
        cdef int64_t next_ms
        now_ms = self.decider.begin(now_ms)
        core.lapse_due(now_ms)
        self.decider.decoder.usage(
            <const uint8_t*>PyBytes_AS_STRING(self.request), PyBytes_GET_SIZE(self.request)
        )
        self.decider.prepare(&subject)
        account = core.accounts.make(&subject)
        account.watch = WATCH_NEXT
        self.account = account.name_id
        core.usage(&subject, None, now_ms)
        self.decider.out.usage_response(core.judge.results, core.judge.count)
        next_ms = min(self.first_change_ms(now_ms), now_ms + LOOK_AGAIN_MS)
        self.judge_somebody(account, &subject, now_ms)
        if core.judge.decision.retry_ms != NO_TIME:
            next_ms = min(next_ms, core.judge.decision.retry_ms)
        self.decider.out.watch_outcome(
            core.judge.decision.outcome == OUTCOME_ALLOWED, core.judge.decision.retry_ms
        )
        self.state = self.decider.out.take()
        self.decider.out.watch_time(now_ms)
        self.time = self.decider.out.take()
        self.next_ms = next_ms
        self.retry_ms = None
        if core.judge.decision.retry_ms != NO_TIME:
            self.retry_ms = core.judge.decision.retry_ms

    def leave(self):
        """Nobody watches the account any more that was seen, if any was."""
        cdef Account* account
        if self.account:
            account = self.decider.core.accounts.fetch(self.account)
            if account != NULL:
                account.watch = WATCH_NOBODY

    cdef int64_t first_change_ms(self, int64_t now_ms) noexcept:
        # After core.usage(): when the first of the statuses changes by itself.
        cdef Judge judge = self.decider.core.judge
        cdef int64_t at_ms = NEVER_MS
        cdef int i
        for i in range(judge.count):
            at_ms = min(at_ms, next_change_ms(&judge.weighed[i], &judge.results[i], now_ms))
        return at_ms

    cdef int judge_somebody(self, Account* account, Subject* subject, int64_t now_ms) except -1:
        # Decides an attempt like the template, to somebody new where it does not say to whom.
        cdef Core core = self.decider.core
        cdef BoundPlan plan = core.plan_of(account, subject)
        if not subject.present & (1 << DIMENSION_CONTACT):
            subject.contact = nobody()
        if not subject.present & (1 << DIMENSION_ADDRESS):
            subject.address = nobody()
        subject.present |= 1 << DIMENSION_CONTACT | 1 << DIMENSION_ADDRESS
        core.accounts.locate(account, subject)
        core.judge.weigh(core.accounts, account, plan, None, subject, now_ms, ASK_RECORD)
        return core.judge.conclude(
            account, plan, None, subject, now_ms, self.decider.require_policy
        )
