# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What is done to commits after they were decided: cancelling them, confirming those that are held.

In flow an account, the commit's position or its request id, and the instant; out flows how the
commit stands. What was done is in the core's event buffer then. Holds that have ended by that
instant lapse first, so what is answered is how it stands at the instant itself.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from collections import namedtuple

from limiter import bounds
from limiter.errors import FailedPrecondition
from limiter._accounts cimport Account
from limiter._core cimport Core
from limiter._event cimport Event
from limiter._fates cimport FATE_CANCELLED, FATE_COUNTED, FATE_HELD, FateRow, fates_find
from limiter._kinds cimport slice_of
from limiter._request_keys cimport RequestKeys
from limiter._requests cimport RequestRow, requests_find
from limiter._siphash cimport Digest
from limiter._subject cimport Subject

cdef int64_t RETENTION_MS = bounds.REQUEST_ID_RETENTION_MS
cdef int64_t EVENT_AGE_MS_MAX = bounds.EVENT_AGE_MS_MAX

# How a commit stands: `fate` is a CommitmentState's number, `event_ms` the instant at which it
# counts, `lapse_ms` when its hold ends, None unless it is held.
Standing = namedtuple("Standing", ("position", "fate", "event_ms", "lapse_ms"))


@cython.final
cdef class Commitments:
    """Cancels and confirms the commits of one core."""

    cdef Core core
    cdef RequestKeys request_keys

    def __cinit__(self, Core core not None):
        self.core = core
        self.request_keys = RequestKeys(core)

    def position_of(self, str account not None, str request_id not None, int64_t now_ms):
        """The position of the commit that was allowed under a request id; None when none is
        remembered."""
        cdef bytes account_bytes = account.encode()
        cdef bytes id_bytes = request_id.encode()
        cdef Digest digest = self.request_keys.commit_id_of(
            slice_of(account_bytes), slice_of(id_bytes)
        )
        cdef const RequestRow* row = requests_find(&self.core.requests, &digest)
        if row == NULL or row.decide_ms <= self.instant(now_ms) - RETENTION_MS:
            return None
        return row.position

    def cancel(self, str account not None, uint64_t position, int64_t now_ms):
        """Takes the account's commit at `position` back, if it still counts, and says how it
        stands; None when there is none, or it is older than every window."""
        cdef Event event
        cdef Account* found = self.commit_of(account, position, now_ms, &event)
        cdef const FateRow* row
        if found == NULL:
            return None
        row = fates_find(&self.core.past.fates, position)
        if row == NULL or row.fate == FATE_HELD:
            self.core.past.require_undo_room(position)
            self.core.record_fate(found, position, FATE_CANCELLED, self.instant(now_ms))
        return self.standing(position, &event)

    def confirm(self, str account not None, uint64_t position, int64_t now_ms):
        """Makes the account's commit at `position` count for good, if it is held, and says how it
        stands; None as in `cancel`. Raises FailedPrecondition when it counts no longer."""
        cdef Event event
        cdef Account* found = self.commit_of(account, position, now_ms, &event)
        cdef const FateRow* row
        if found == NULL:
            return None
        row = fates_find(&self.core.past.fates, position)
        if row != NULL and row.fate != FATE_HELD:
            raise FailedPrecondition(
                "COMMIT_UNDONE",
                "the commit was cancelled" if row.fate == FATE_CANCELLED else
                "the commit's hold has ended, and it has lapsed; commit anew to send after all",
            )
        if row != NULL:
            self.core.record_fate(found, position, FATE_COUNTED, self.instant(now_ms))
        return self.standing(position, &event)

    cdef int64_t instant(self, int64_t now_ms) noexcept:
        # Instants never go back, whatever the caller's clock says.
        return max(now_ms, self.core.recorder.last_event_ms)

    cdef Account* commit_of(
        self, str account, uint64_t position, int64_t now_ms, Event* event
    ) except? NULL:
        # The account, and its commit at a position that anybody may have made up; NULL when there
        # is none that can still be undone.
        cdef bytes name = account.encode()
        cdef Subject subject
        memset(&subject, 0, sizeof(Subject))
        self.core.accounts.name_in(name, &subject.account)
        if subject.account.id == 0:
            return NULL
        now_ms = self.instant(now_ms)
        self.core.lapse_due(now_ms)
        if (
            not self.core.past.is_commit(position, subject.account.id, event)
            or event.time_ms <= now_ms - EVENT_AGE_MS_MAX
        ):
            return NULL
        return self.core.accounts.make(&subject)

    cdef object standing(self, uint64_t position, const Event* event):
        cdef const FateRow* row = fates_find(&self.core.past.fates, position)
        cdef int fate = row.fate if row != NULL else FATE_COUNTED
        return Standing(
            position, fate, event.counts_ms, row.at_ms if fate == FATE_HELD else None
        )
