# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which accounts are in memory.

In flow ids of accounts, and what the disk holds of them; out flow accounts in memory, and images of
them for the disk. What always holds:

- an account leaves memory only when its newest events are durable, and nobody relies on it. What
  stays here is its newest position; its image, and the walk back from there to the image, bring it
  back as it was;
- an image is of one state between two events. A small account is written at once; a large one
  stands still meanwhile: it counts as away, and whoever needs it waits;
- of two who bring the same account back, one is too late, and what it brings is dropped.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import DataLoss
from limiter._accounts cimport Absence, Account, Accounts, account_free
from limiter._chain cimport Chain
from limiter._core cimport Core
from limiter._counters cimport KeyedCounter, KindState
from limiter._event cimport OFFSET_BITS, Event
from limiter._fates cimport FATE_HELD, FateRow, fates_find
from limiter._image cimport ImageHead, image_free, image_head, image_read, image_write
from limiter._index cimport DenseIndex, IndexRow
from limiter._kinds cimport KindRules
from limiter._opt_outs cimport OptOutRow
from limiter._subject cimport Name
from limiter._types cimport MEASURE_ADDRESSES, MEASURE_CONTACTS, MEASURE_MESSAGES

cdef uint32_t CHAIN_EVENTS_MAX = bounds.IMAGE_CHAIN_EVENTS_MAX
cdef uint64_t CHAIN_BYTES_EACH = bounds.IMAGE_BYTES_PER_CHAIN_EVENT
cdef uint64_t AT_ONCE_BYTES_MAX = bounds.IMAGE_AT_ONCE_BYTES_MAX
cdef uint32_t ASSUMED_RING_BYTES = 48

cdef enum:
    IDS_FOR_A_STEP = 64        # that a sweep passes over where accounts are away


# ---------------------------------------------------------------- how large an account is


cdef uint64_t index_bytes(const DenseIndex* index) noexcept nogil:
    return index.capacity * sizeof(IndexRow) + index.slot_count * <uint64_t>index.slot_bytes


cdef uint64_t state_bytes(const KindState* state) noexcept nogil:
    # Counters under keys are too many to look at one by one: most hold little.
    cdef uint64_t size = state.keyed_capacity * sizeof(KeyedCounter)
    cdef const KindRules* kind = state.kind
    if kind.per_count:
        return size + state.keyed_size * <uint64_t>ASSUMED_RING_BYTES
    if kind.measure == MEASURE_CONTACTS or kind.measure == MEASURE_ADDRESSES:
        size += state.single.distinct.capacity * <uint64_t>12
        if state.single.distinct.dense != NULL:
            size += state.single.distinct.dense.universe * <uint64_t>9
            size += state.single.distinct.dense.listed * 5
            size += state.single.distinct.dense.heap_capacity * <uint64_t>16
        return size
    if kind.measure == MEASURE_MESSAGES:
        size += state.single.messages.newest.capacity * <uint64_t>16
        if state.single.messages.older != NULL:
            size += state.single.messages.older.capacity * <uint64_t>16
        return size
    return size + state.single.pause.newest.capacity * <uint64_t>16


cdef uint64_t account_bytes(const Account* account) noexcept nogil:
    # About how much memory the account takes.
    cdef uint64_t size = sizeof(Account) + account.state_count * sizeof(KindState)
    cdef int slot
    size += index_bytes(&account.contacts) + index_bytes(&account.addresses)
    if account.opt_outs != NULL:
        size += account.opt_outs.capacity * sizeof(OptOutRow)
        size += account.opt_outs.slot_count * sizeof(uint32_t)
    for slot in range(account.state_count):
        size += state_bytes(&account.states[slot])
    return size


# ---------------------------------------------------------------- images


def is_quiet(uint32_t account_id, bytes image not None, uint64_t before):
    """Whether the newest event that an account's image knows lies before a position, and yet the
    image says more than where its account stands."""
    cdef ImageHead head
    head_of(image, account_id, &head)
    return not head.is_bare and max(head.last_position, head.last_denial) < before


cdef int head_of(bytes image, uint32_t account_id, ImageHead* head) except -1:
    return image_head(
        <const unsigned char*>PyBytes_AS_STRING(image), PyBytes_GET_SIZE(image), account_id, head
    )


cdef class Image:
    """An account's image, on its way to the disk."""

    def __dealloc__(self):
        image_free(&self.bytes)

    def __len__(self):
        return self.bytes.size

    def part(self, size_t start, size_t most):
        """Up to so many bytes of it, from one on."""
        start = min(start, self.bytes.size)
        return PyBytes_FromStringAndSize(
            <const char*>self.bytes.data + start, min(most, self.bytes.size - start)
        )


@cython.final
cdef class Still(Image):
    """The image of an account that stands still until it is written."""

    def __dealloc__(self):
        if self.standing != NULL:
            account_free(self.standing)
            free(self.standing)

    def write(self):
        """Writes it; in any thread, one time."""
        try:
            image_write(self.standing, self.kept_from, self.now_ms, &self.bytes)
        finally:
            self.written.set()


# ---------------------------------------------------------------- coming back


@cython.final
cdef class Parcel:
    """An account on its way back into memory."""

    def __dealloc__(self):
        self.give_up()

    cdef void give_up(self) noexcept:
        # Frees what the account has come to so far.
        if self.opened != NULL:
            account_free(self.opened)
            free(self.opened)
            self.opened = NULL

    def read(self, image_of not None, events_of not None):
        """Reads what the disk holds of the account, in any thread: `image_of(id)` gives its image,
        `events_of(number)` a group of the journal. Raises DataLoss where that does not fit
        together."""
        cdef ImageHead head
        memset(&head, 0, sizeof(head))
        self.image = image_of(self.account)
        if self.image is not None:
            head_of(self.image, self.account, &head)
            self.as_of_ms = head.as_of_ms
        self.chain = Chain()
        self.chain.read(events_of, self.last_position, head.last_position)

    @property
    def is_empty(self):
        """Whether there is no such account."""
        return self.image is None and self.last_position == 0 and self.last_denial == 0


@cython.final
cdef class Residence(Carrier):
    """The accounts of one core. `images.get(id)` gives the newest durable image of an account, None
    where it has none; `history` reads the journal; `make_event` makes a threading.Event."""

    def __cinit__(self, Core core not None, images not None, history not None, make_event not None):
        self.core = core
        self.images = images
        self.history = history
        self.make_event = make_event
        self.chain_max = CHAIN_EVENTS_MAX
        self.expected = {}
        self.still = {}
        core.accounts.carrier = self

    # ------------------------------------------------------------ coming back

    def put_off(self, bint defers):
        """Whether a hot call for an account that is away is put off (`Away`), or waits itself."""
        self.core.accounts.defers = defers

    def request(self, uint32_t account_id):
        """A Parcel to be read and then taken in; None if it is under way already, or the account is
        here, or stands still."""
        cdef Accounts accounts = self.core.accounts
        cdef Parcel parcel
        if account_id in self.expected or account_id in self.still:
            return None
        if accounts.known(account_id) != NULL:
            return None
        parcel = Parcel.__new__(Parcel)
        parcel.account = account_id
        if account_id < accounts.absence_capacity:
            parcel.last_position = accounts.absences[account_id].last_position
            parcel.last_denial = accounts.absences[account_id].last_denial
            parcel.unimaged_count = accounts.absences[account_id].unimaged_count
        self.expected[account_id] = parcel
        return parcel

    def bring_now(self, uint32_t account_id):
        """Brings the account into memory, while everybody waits."""
        self.core.accounts.fetch(account_id)

    def is_still(self, uint32_t account_id):
        """Whether the account stands still while it is written."""
        return account_id in self.still

    def drop(self, Parcel parcel not None):
        """A parcel that could not be read is not under way any more."""
        if self.expected.get(parcel.account) is parcel:
            del self.expected[parcel.account]

    def take_in(self, Parcel parcel not None, uint32_t most):
        """A step of at most so many events towards an account in memory; whether it is there. What
        raises leaves it away."""
        cdef Event event
        cdef uint64_t position
        cdef Account* account
        if self.expected.get(parcel.account) is not parcel:
            # Somebody else was quicker.
            return True
        try:
            if parcel.opened == NULL:
                if parcel.is_empty:
                    del self.expected[parcel.account]
                    self.core.accounts.forget_absence(parcel.account)
                    return True
                self.open(parcel)
            account = parcel.opened
            self.core.rebuild.defers = True
            try:
                if account.epoch != self.core.accounts.epoch:
                    self.bind(parcel)
                while most and parcel.chain.take_oldest(&event, &position):
                    if event.account != parcel.account:
                        raise DataLoss(
                            "JOURNAL_CORRUPT", "an account's events lead to another's"
                        )
                    self.core.apply_to(account, &event, position, False)
                    most -= 1
            finally:
                self.core.rebuild.defers = False
            if parcel.chain.size == 0 and account.building_count and most:
                self.core.rebuild.walk(account, self.core.recorder.last_event_ms, most)
            if parcel.chain.size or account.building_count:
                return False
            self.seat(parcel)
            return True
        except BaseException:
            # At once, while its kinds are there.
            parcel.give_up()
            self.expected.pop(parcel.account, None)
            raise

    cdef int open(self, Parcel parcel) except -1:
        cdef Account* account = <Account*>calloc(1, sizeof(Account))
        if account == NULL:
            raise MemoryError
        parcel.opened = account
        account.name_id = parcel.account
        if parcel.image is None:
            return 0
        parcel.kinds = []
        image_read(
            <const unsigned char*>PyBytes_AS_STRING(parcel.image),
            PyBytes_GET_SIZE(parcel.image),
            parcel.account,
            self.core.define_kind,
            account,
            parcel.kinds,
        )
        parcel.image = None
        # A clock that was set back while the server was down does not bring back what has left.
        self.core.recorder.last_event_ms = max(
            self.core.recorder.last_event_ms, parcel.as_of_ms
        )
        if max(account.last_position, account.last_denial) >> OFFSET_BITS > (
            self.core.recorder.buffer.group
        ):
            raise DataLoss(
                "IMAGE_AHEAD",
                "an account's image knows events that the journal does not: restore both from one"
                " backup",
            )
        return 0

    cdef int bind(self, Parcel parcel) except -1:
        # Binds the account to what holds now; counters of kinds that its image lacks are begun.
        cdef Name name
        self.core.past.name_of(parcel.account, &name)
        self.core.accounts.touch(parcel.opened, name)
        parcel.kinds = None
        return 0

    cdef int seat(self, Parcel parcel) except -1:
        cdef Account* account = parcel.opened
        account.last_denial = max(account.last_denial, parcel.last_denial)
        account.unimaged_count = max(account.unimaged_count, parcel.unimaged_count)
        account.is_used = True
        self.core.accounts.seat(account)
        parcel.opened = NULL
        del self.expected[parcel.account]
        self.core.accounts.forget_absence(parcel.account)
        self.recount(account)
        return 0

    cdef Account* bring(self, uint32_t id) except? NULL:
        # For whoever cannot be put off.
        cdef Parcel parcel
        cdef Still still = self.still.get(id)
        if still is not None:
            still.written.wait()
            self.go_on(still)
            return self.core.accounts.known(id)
        # One that is under way comes too late.
        self.expected.pop(id, None)
        parcel = self.request(id)
        try:
            with self.history.reading() as events_of:
                parcel.read(self.images.get, events_of)
        except BaseException:
            # Whoever comes next asks for it again.
            self.drop(parcel)
            raise
        while not self.take_in(parcel, <uint32_t>-1):
            pass
        return self.core.accounts.known(id)

    def hold_again(self):
        """After a start from a baseline: brings every account back that holds commits, which do
        not leave memory, and tells it which."""
        cdef const FateRow* row
        cdef Account* account
        cdef uint32_t place
        for place in range(self.core.past.fates.due_size):
            row = fates_find(&self.core.past.fates, self.core.past.fates.due[place].position)
            if row == NULL or row.fate != FATE_HELD:
                continue
            account = self.core.accounts.fetch(row.account)
            if account == NULL:
                raise DataLoss("JOURNAL_CORRUPT", "a commit is held of an account that is none")
            self.core.past.note_hold(account, row.position, row.at_ms)

    # ------------------------------------------------------------ leaving

    def keep_from(self, uint64_t position):
        """Events before this position can be read no more."""
        self.kept_from = position

    def sweep(
        self,
        uint32_t steps,
        uint64_t bytes_max,
        uint64_t durable_group,
        bint idle,
        uint32_t chain_max=CHAIN_EVENTS_MAX,
    ):
        """Looks at the next so many accounts in memory; they leave it while all take more than
        bytes_max and they were not used since the last round, or, if `idle`, whether there is room
        or not. Returns (whether a round ended, ids of those that are to be written first: so many
        events and more behind their images)."""
        cdef Accounts accounts = self.core.accounts
        cdef Account* account
        cdef uint32_t ids = IDS_FOR_A_STEP * steps
        cdef list unwritten = []
        self.chain_max = chain_max
        while steps and ids:
            ids -= 1
            self.cursor += 1
            if self.cursor >= accounts.by_name_capacity:
                self.cursor = 0
                return True, unwritten
            account = accounts.by_name[self.cursor]
            if account == NULL:
                continue
            steps -= 1
            self.recount(account)
            if self.wants_image(account):
                unwritten.append(self.cursor)
            if not idle and self.counted_bytes <= bytes_max:
                continue
            if account.is_used:
                account.is_used = False
            elif self.may_leave(account, durable_group):
                self.let_go(account)
        return False, unwritten

    def unwritten(self, uint32_t start, uint32_t steps):
        """Of so many ids from one on, those in memory with events that their images do not know,
        and those that are away with such; and the next id, 0 behind the last."""
        cdef Accounts accounts = self.core.accounts
        cdef uint32_t id = start
        cdef uint32_t end = max(accounts.by_name_capacity, accounts.absence_capacity)
        here = []
        away = []
        while steps and id < end:
            if accounts.known(id) != NULL:
                if accounts.by_name[id].unimaged_count and not accounts.by_name[id].is_being_imaged:
                    here.append(id)
            elif id < accounts.absence_capacity and accounts.absences[id].unimaged_count:
                away.append(id)
            id += 1
            steps -= 1
        return here, away, id if id < end else 0

    def write(self, uint32_t account_id, int64_t now_ms):
        """An Image of the account, which is in memory, written at once if it is small; a Still one,
        which is yet to be written, if it is not, and the account stands still until `go_on`. None
        where it cannot be had now."""
        cdef Account* account = self.core.accounts.known(account_id)
        cdef Still still
        if account == NULL or account.is_being_imaged or account.building_count:
            return None
        now_ms = max(now_ms, self.core.recorder.last_event_ms)
        # What has left its window by now is not in the image, so no instant may lie before it.
        self.core.recorder.last_event_ms = now_ms
        if account_bytes(account) <= AT_ONCE_BYTES_MAX:
            return self.image_of(account, now_ms)
        if account.pin_count:
            return None
        still = Still.__new__(Still)
        still.account = account_id
        still.position = max(account.last_position, account.last_denial)
        still.kept_from = self.kept_from
        still.now_ms = now_ms
        still.written = self.make_event()
        still.standing = self.core.accounts.unseat(account_id)
        self.still[account_id] = still
        self.core.accounts.absence_of(account_id).last_position = account.last_position
        self.core.accounts.absence_of(account_id).last_denial = account.last_denial
        self.core.accounts.absence_of(account_id).unimaged_count = account.unimaged_count
        account.unimaged_count = 0
        account.is_being_imaged = True
        return still

    def go_on(self, Still still not None):
        """The account, which is written, goes on. More than once does no harm."""
        if still.standing == NULL:
            return
        self.core.accounts.seat(still.standing)
        still.standing = NULL
        del self.still[still.account]
        self.core.accounts.forget_absence(still.account)

    def written(self, Image image not None, bint is_durable):
        """The image is on the disk, or could not be written."""
        cdef Account* account = self.core.accounts.known(image.account)
        if account == NULL:
            return
        account.is_being_imaged = False
        if not is_durable:
            account.unimaged_count += CHAIN_EVENTS_MAX

    cdef Image image_of(self, Account* account, int64_t now_ms):
        cdef Image image = Image.__new__(Image)
        image.account = account.name_id
        image.position = max(account.last_position, account.last_denial)
        image_write(account, self.kept_from, now_ms, &image.bytes)
        account.unimaged_count = 0
        account.is_being_imaged = True
        return image

    cdef bint wants_image(self, const Account* account) noexcept:
        # Whether walking back to its image would take longer than reading a newer one.
        return not account.is_being_imaged and account.unimaged_count > self.chain_max + (
            account.counted_bytes // CHAIN_BYTES_EACH
        )

    cdef int recount(self, Account* account) noexcept:
        cdef uint64_t size = account_bytes(account)
        self.counted_bytes += size - account.counted_bytes
        account.counted_bytes = size
        return 0

    cdef bint may_leave(self, const Account* account, uint64_t durable_group) noexcept:
        return (
            account.hold_count == 0
            and account.watch == 0
            and account.pin_count == 0
            and account.building_count == 0
            and account.transition == NULL
            and not account.is_being_imaged
            and not self.wants_image(account)
            and max(account.last_position, account.last_denial) >> OFFSET_BITS <= durable_group
        )

    cdef int let_go(self, Account* account) except -1:
        cdef Accounts accounts = self.core.accounts
        cdef Absence* absence
        if account.unimaged_count or account.name_id > accounts.imaged_names:
            absence = accounts.absence_of(account.name_id)
            absence.last_position = account.last_position
            absence.last_denial = account.last_denial
            absence.unimaged_count = account.unimaged_count
        self.counted_bytes -= account.counted_bytes
        accounts.unseat(account.name_id)
        account_free(account)
        free(account)
        return 0
