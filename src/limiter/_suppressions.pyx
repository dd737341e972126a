# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The suppressions of a core's accounts: who has opted out, noted, taken back and listed.

In flow accounts and people as they are named; out flow events in the core's buffer, and lists of
keys, each of which says whom it means to `limiter.people` alone. The core keeps digests only, and
so do its events. (Those of older journals have what was sent in the clear behind them, sealed.)
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from collections import namedtuple

from limiter._accounts cimport Account, Accounts, note_event
from limiter._core cimport Core
from limiter._event cimport EVENT_OPT_OUTS, Event, event_read
from limiter._kinds cimport slice_of
from limiter._names cimport NameRow
from limiter._opt_outs cimport (
    COUNT_BYTES,
    ENTRY_BYTES as KEY_BYTES,
    WHO_ADDRESS,
    WHO_CONTACT,
    WHO_NOBODY,
    OptOutRow,
    OptOuts,
    entries_size,
    opt_outs_after,
    opt_outs_find,
)
from limiter._siphash cimport Digest, siphash128
from limiter._subject cimport Subject

# 1 and a contact, or 2 and an address.
Person = tuple[int, str]

# Where somebody who has opted out was noted: the position of the event, and the place in it; and
# the key: what kind of name it is, and the digest.
Noted = namedtuple("Noted", ("position", "place", "key"))


@cython.final
cdef class Suppressions:
    """Who has opted out of the messages of a core's accounts. Whom a text means is a number with
    it: 1 for a contact, 2 for an address."""

    cdef Core core

    def __cinit__(self, Core core not None):
        self.core = core

    def count(self, str account not None):
        """How many have opted out of the account's messages."""
        cdef const OptOuts* opt_outs = self.opt_outs_of(account)
        return opt_outs.count if opt_outs != NULL else 0

    def select(self, str account not None, people, bint opted_out):
        """Those of `people`, pairs of a number and a text, who have opted out, or who have not;
        each once, in their order."""
        cdef const OptOuts* opt_outs = self.opt_outs_of(account)
        cdef Digest digest
        cdef bint found
        chosen = []
        for who, text in dict.fromkeys(people):
            self.digest_of(who, text.encode(), &digest)
            found = opt_outs != NULL and opt_outs_find(opt_outs, who, &digest) != NULL
            if found == opted_out:
                chosen.append((who, text))
        return chosen

    def key_of(self, int who, str text not None):
        """What stands for somebody in events and lists."""
        cdef Digest digest
        self.digest_of(who, text.encode(), &digest)
        return bytes((who,)) + PyBytes_FromStringAndSize(<const char*>&digest, KEY_BYTES - 1)

    def holds(self, str account not None, bytes key not None):
        """Whether somebody with that key has opted out."""
        cdef const OptOuts* opt_outs = self.opt_outs_of(account)
        cdef Digest digest
        if PyBytes_GET_SIZE(key) != KEY_BYTES:
            raise ValueError("not a key")
        if opt_outs == NULL:
            return False
        memcpy(&digest, PyBytes_AS_STRING(key) + 1, sizeof(Digest))
        return opt_outs_find(opt_outs, key[0], &digest) != NULL

    def accounts(self):
        """The accounts whose messages somebody has opted out of; brings back those that are
        away."""
        cdef Accounts accounts = self.core.accounts
        cdef const Account* account
        cdef const NameRow* row
        cdef uint32_t id
        found = []
        for id in range(1, accounts.names.size + 1):
            account = accounts.fetch(id)
            if account != NULL and account.opt_outs != NULL and account.opt_outs.count:
                row = &accounts.names.rows[id - 1]
                found.append(row.text[: row.size].decode())
        return found

    def add(self, str account not None, people, int64_t now_ms):
        """Notes that these have opted out, each of them once and none of them before."""
        self.record(account, self.entries_of(people), True, now_ms)

    def remove(self, str account not None, people, int64_t now_ms):
        """Notes that these may be written to again."""
        self.record(account, self.entries_of(people), False, now_ms)

    def page(self, str account not None, uint64_t position, uint32_t place, int count):
        """Where up to `count` of those who have opted out were noted, in that order, behind the
        given place (0, 0 for the first ones)."""
        cdef const OptOuts* opt_outs = self.opt_outs_of(account)
        cdef const OptOutRow* row
        cdef uint32_t i
        found = []
        if opt_outs == NULL:
            return found
        # No event is at position 0.
        for i in range(opt_outs_after(opt_outs, position, place), opt_outs.row_count):
            row = &opt_outs.rows[i]
            if row.who == WHO_NOBODY:
                continue
            if len(found) == count:
                break
            found.append(
                Noted(
                    row.position,
                    row.place,
                    bytes((row.who,))
                    + PyBytes_FromStringAndSize(<const char*>&row.digest, KEY_BYTES - 1),
                )
            )
        return found

    def noted_at(self, uint64_t position):
        """When the people of an event were noted (ms), and what an older version left sealed beside
        them; None when the event is not kept."""
        cdef bytes packed = self.core.past.read(position)
        cdef Event event
        cdef uint32_t size
        if packed is None or not event_read(
            <const uint8_t*>PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed), position, &event
        ):
            return None
        size = entries_size(event.body) if event.type == EVENT_OPT_OUTS else 0
        if size == 0:
            return None
        return event.time_ms, PyBytes_FromStringAndSize(
            <const char*>event.body.data + size, event.body.size - size
        )

    cdef int find(self, str account, bytes name, Subject* subject) except -1:
        # Makes a subject of the account alone; `name` must outlive it.
        memset(subject, 0, sizeof(Subject))
        self.core.accounts.name_in(name, &subject.account)
        return 0

    cdef const OptOuts* opt_outs_of(self, str account) except? NULL:
        cdef bytes name = account.encode()
        cdef Subject subject
        cdef const Account* found
        self.find(account, name, &subject)
        found = self.core.accounts.fetch(subject.account.id)
        return found.opt_outs if found != NULL else NULL

    cdef int digest_of(self, int who, bytes text, Digest* digest) except -1:
        if who != WHO_CONTACT and who != WHO_ADDRESS:
            raise ValueError("neither a contact nor an address")
        digest[0] = siphash128(
            &self.core.accounts.keys.contact
            if who == WHO_CONTACT
            else &self.core.accounts.keys.address,
            <const uint8_t*>PyBytes_AS_STRING(text),
            PyBytes_GET_SIZE(text),
        )
        return 0

    cdef bytes entries_of(self, people):
        parts = [len(people).to_bytes(COUNT_BYTES, "little")]
        parts += [self.key_of(who, text) for who, text in people]
        return b"".join(parts)

    cdef int record(self, str account, bytes body, bint adds, int64_t now_ms) except -1:
        # Journals who opts out, or in again, and makes it so.
        cdef Accounts accounts = self.core.accounts
        cdef bytes name = account.encode()
        cdef Subject subject
        cdef Account* found
        cdef Event event
        self.find(account, name, &subject)
        found = accounts.make(&subject)
        memset(&event, 0, sizeof(Event))
        event.type = EVENT_OPT_OUTS
        event.account = self.core.recorder.journalled_id(found.name_id)
        event.time_ms = max(now_ms, self.core.recorder.last_event_ms)
        event.previous_account = found.last_position
        event.place = adds
        event.body = slice_of(body)
        note_event(found, self.core.recorder.append(&event))
        accounts.opt_out(found, event.body, adds, found.last_position)
        if found.watch:
            self.core.tell(found)
        return 0
