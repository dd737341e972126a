# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Plans: for many recipients, when each may go under all limits, nothing else being sent.

In flow a PlanRequest's bytes and the core; out flow the bytes of a PlanResponse. The work is done
in pieces, so that decisions go on beside it: on the way in the recipients, then what the account's
counters hold of what matters, are taken over; from then on the account is not looked at. On the
way out each recipient who is not planned gets the reason of the limit that binds at the end.

What always holds: nothing of the core is changed; the plan starts at the instant at which all is
taken over, so no counter holds anything later.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from limiter import bounds
from limiter.errors import InvalidArgument, ResourceExhausted
from limiter._accounts cimport Account, Accounts, is_opted_out
from limiter._core cimport Core
from limiter._hours cimport ZoneTable
from limiter._kinds cimport Binding, InlineRules, compile_limits
from limiter._plan_counters cimport PlanCounters
from limiter._plan_crowd cimport Crowd, Person
from limiter._plan_rules cimport PlanRules, plan_rules
from limiter._plan_schedule cimport Schedule
from limiter._protobuf cimport put_bytes_field, put_head, put_varint_field
from limiter._subject cimport Subject, address_to
from limiter._types cimport (
    DIMENSION_CAMPAIGN,
    DIMENSION_RESOURCE,
    NO_TIME,
    REASON_NO_POLICY,
    REASON_OPTED_OUT,
    REASON_POLICY_REQUIRED,
    REASON_WITHIN_LIMITS,
    Recipient,
    Slice,
)
from limiter._wire cimport Decoder, Request
from limiter._wire_times cimport put_time_field, time_field_size

cdef int64_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef int64_t STEPS_MAX = bounds.PLAN_STEPS_MAX

cdef enum:
    # What a result takes in a reply beside its reference; and places of an account's numbering
    # that are looked through at once.
    RESULT_FIXED_BYTES_MAX = 24
    INDICES_AT_ONCE = 256
    # What one part of the memory counts for.
    STEPS_OF_A_PART = 4096

cdef enum Phase:
    # What is done next, in this order.
    PHASE_BEGIN
    PHASE_RESERVE              # memory, a part in each step
    PHASE_RECIPIENTS           # who they are, and whether all fields are there
    PHASE_HOLDS                # what their lapses will change
    PHASE_MEMBERS              # of counters that all share
    PHASE_PERSONS              # counters that each has
    PHASE_START                # the other counters; the instant of the plan
    PHASE_PLACE
    PHASE_SEND
    PHASE_REASONS
    PHASE_WRITE
    PHASE_DONE


cdef str text_of(const Slice* slice):
    return slice.data[: slice.size].decode() if slice.size else ""


@cython.final
cdef class Planner:
    """One plan. `compile_inline(serialized Limit, account's zone)` gives a Rule and
    `find_zone(name, field)` a Zone, or they raise InvalidArgument; with `require_policy` attempts
    that no assignment covers are not planned. First `decode`, in any thread; then `run` until it
    says that the plan is made, and `take` the serialized PlanResponse; in the end `clear` until it
    says that it is done, then `release`, for freeing a long plan at once takes a while."""

    cdef Core core
    cdef bytes request
    cdef object compile_inline
    cdef bint require_policy
    cdef Decoder decoder
    cdef ZoneTable zones
    cdef Subject subject       # the attempt to nobody
    cdef InlineRules inline_rules
    cdef Accounts pinning      # among which ...
    cdef uint32_t pinned       # ... this one stays in memory meanwhile; 0 = none
    cdef uint32_t barred_count  # recipients who have opted out
    cdef PlanRules rules
    cdef PlanCounters counters
    cdef Crowd crowd
    cdef Schedule schedule
    cdef Phase phase
    cdef uint32_t cursor       # where the phase stands
    cdef int64_t cursor_index  # the same inside of a counter
    cdef uint8_t* reasons      # owned; [recipient]
    cdef bytes reply
    cdef size_t written

    def __cinit__(
        self,
        Core core not None,
        compile_inline,
        find_zone,
        bint require_policy,
        bytes request not None,
    ):
        self.core = core
        self.request = request
        self.compile_inline = compile_inline
        self.require_policy = require_policy
        self.decoder = Decoder()
        self.zones = ZoneTable(find_zone)
        self.counters = PlanCounters(core)
        self.crowd = Crowd()
        self.schedule = Schedule()
        self.phase = PHASE_BEGIN

    def __dealloc__(self):
        free(self.reasons)
        self.unpin()

    # ------------------------------------------------------------ what is asked

    def decode(self):
        """Reads the request, mostly without holding the GIL. Raises InvalidArgument."""
        self.decoder.plan(
            <const uint8_t*>PyBytes_AS_STRING(self.request), PyBytes_GET_SIZE(self.request)
        )

    @property
    def account(self):
        """The account of the attempts."""
        return text_of(&self.decoder.request.attempt.account)

    @property
    def resource(self):
        """The resource of the attempts."""
        return text_of(&self.decoder.request.attempt.fields[DIMENSION_RESOURCE])

    @property
    def campaign(self):
        """The campaign of the attempts."""
        return text_of(&self.decoder.request.attempt.fields[DIMENSION_CAMPAIGN])

    # ------------------------------------------------------------ how it is made

    def run(self, int64_t step_count, int64_t now_ms):
        """Does about so many steps more, of some tenth of a microsecond each, as of `now_ms`;
        whether the plan is made. Raises InvalidArgument for what a decision would refuse, and
        ResourceExhausted when the plan takes too many steps."""
        cdef int64_t until = self.schedule.steps + step_count
        while self.phase != PHASE_DONE and self.schedule.steps < until:
            if self.schedule.steps > STEPS_MAX:
                raise ResourceExhausted(
                    "PLAN_TOO_LARGE",
                    "too many of the recipients share contacts or addresses under limits that keep"
                    " each of them waiting for the others; plan for fewer recipients at once",
                    metadata={"account": self.account},
                )
            self.advance(max(now_ms, self.core.recorder.last_event_ms))
        return self.phase == PHASE_DONE

    def take(self):
        """The reply to a plan that is made."""
        return self.reply

    def clear(self, int64_t row_count):
        """Frees so many rows of what the plan needed; whether that was all."""
        return self.counters.clear(row_count)

    def release(self):
        """Frees the rest, mostly without holding the GIL, in any thread: after `clear`, and nothing
        can be asked of the plan any more."""
        cdef void* recipients = self.decoder.request.recipients
        self.decoder.request.recipients = NULL
        self.decoder.request.recipient_count = 0
        self.decoder.recipient_capacity = 0
        with nogil:
            free(recipients)
            self.crowd.release()

    cdef int advance(self, int64_t now_ms) except -1:
        cdef Account* account
        if self.phase < PHASE_PLACE:
            if self.phase == PHASE_BEGIN:
                return self.begin()
            account = self.find_account()
            if self.phase == PHASE_RESERVE:
                return self.reserve(account)
            if self.phase == PHASE_RECIPIENTS:
                return self.take_recipient(account)
            if self.phase == PHASE_HOLDS:
                return self.take_hold(account)
            if self.phase == PHASE_MEMBERS:
                return self.take_members(account)
            if self.phase == PHASE_PERSONS:
                return self.take_person(account)
            return self.start(account, now_ms)
        if self.phase == PHASE_PLACE:
            if self.cursor == self.crowd.count:
                return self.go_on(PHASE_SEND)
            self.schedule.place(self.cursor)
            self.cursor += 1
            return 0
        if self.phase == PHASE_SEND:
            return self.go_on(PHASE_REASONS) if self.schedule.step() else 0
        if self.phase == PHASE_REASONS:
            return self.give_reasons()
        return self.write()

    cdef void unpin(self) noexcept:
        cdef Account* account
        if self.pinned and self.pinning is not None:
            account = self.pinning.known(self.pinned)
            if account != NULL:
                account.pin_count -= 1
        self.pinned = 0

    cdef int go_on(self, Phase phase) except -1:
        self.phase = phase
        self.cursor = 0
        self.cursor_index = 0
        return 0

    cdef Account* find_account(self) except NULL:
        # The account of the attempts, with every kind of the inline limits at hand.
        cdef Account* account = self.core.accounts.find(&self.subject)
        if self.inline_rules is not None:
            self.core.accounts.lend(account, self.inline_rules)
        return account

    cdef int begin(self) except -1:
        cdef Request* request = &self.decoder.request
        cdef Account* account
        self.core.prepare(&request.attempt, &self.subject)
        account = self.find_account()
        if request.inline_count:
            self.compile_for((<Binding>account.binding).time_zone)
            account = self.find_account()
        # Contacts' numbers are to hold until everything is copied.
        account.pin_count += 1
        self.pinned = account.name_id
        self.pinning = self.core.accounts
        # Names that nobody has used yet get ids that no name ever has.
        self.core.borrow_ids(account, &self.subject)
        self.subject.interned = True
        self.rules = plan_rules(
            self.core.plan_of(account, &self.subject),
            self.inline_rules,
            self.counters,
            &self.subject,
        )
        return self.go_on(PHASE_RESERVE)

    cdef int reserve(self, Account* account) except -1:
        cdef Request* request = &self.decoder.request
        # No other part is for the same slice.
        self.schedule.steps += STEPS_OF_A_PART
        self.cursor += 1
        if self.cursor <= 2:
            return self.crowd.reserve_indices(request.recipient_count)
        if self.cursor == 3:
            return self.crowd.reserve(account, request.recipient_count)
        if self.cursor == 4:
            return self.counters.begin(account, request.recipient_count)
        self.reasons = <uint8_t*>calloc(request.recipient_count, sizeof(uint8_t))
        if self.reasons == NULL:
            raise MemoryError
        self.schedule.begin(
            self.rules,
            self.counters,
            self.crowd,
            &self.subject,
            request.recipient_count,
            request.spread_ms,
        )
        return self.go_on(PHASE_RECIPIENTS)

    cdef int compile_for(self, str account_zone) except -1:
        # Compiles the inline limits, as they hold for an account that lives in a zone.
        cdef Request* request = &self.decoder.request
        cdef int i
        raw = tuple([
            request.inline_limits[i].data[: request.inline_limits[i].size]
            for i in range(request.inline_count)
        ])
        self.inline_rules = compile_limits(self.compile_inline, raw, account_zone)
        return 0

    cdef int take_recipient(self, Account* account) except -1:
        # The next one; raises InvalidArgument when an enforced limit needs what he lacks.
        cdef Request* request = &self.decoder.request
        cdef const Recipient* recipient
        cdef Subject subject = self.subject
        if self.cursor == request.recipient_count:
            return self.go_on(PHASE_HOLDS)
        recipient = &request.recipients[self.cursor]
        address_to(&subject, recipient.contact, recipient.address)
        subject.zone = NULL
        if recipient.contact_time_zone.size:
            subject.zone = self.zones.rules_of(recipient.contact_time_zone, self.cursor)
        self.core.judge.require_fields(
            self.rules.plan, self.inline_rules, &subject, self.cursor
        )
        self.written += recipient.reference.size + RESULT_FIXED_BYTES_MAX
        if <int64_t>self.written > MESSAGE_BYTES_MAX:
            raise InvalidArgument.for_field(
                "recipients",
                f"the reply to {request.recipient_count} recipients may be longer than a message,"
                f" which takes at most {MESSAGE_BYTES_MAX} bytes; shorten their references or send"
                " fewer at once",
            )
        if is_opted_out(account, &subject):
            # There is no instant for them, and nobody waits for their turn.
            self.reasons[self.cursor] = REASON_OPTED_OUT
            self.barred_count += 1
            self.schedule.steps += 3
            self.cursor += 1
            return 0
        self.schedule.steps += 3 + self.rules.count + self.crowd.join(
            account,
            &subject,
            self.cursor,
            subject.zone if self.rules.by_zone else NULL,
            self.rules.applying(&subject),
        )
        self.cursor += 1
        return 0

    cdef int take_hold(self, Account* account) except -1:
        if self.cursor == self.counters.hold_count:
            return self.go_on(PHASE_MEMBERS)
        self.counters.take_hold(account, self.cursor, self.crowd)
        self.schedule.steps += 50
        self.cursor += 1
        return 0

    cdef int take_members(self, Account* account) except -1:
        if self.cursor == <uint32_t>self.counters.count:
            return self.go_on(PHASE_PERSONS)
        self.schedule.steps += 50
        self.cursor_index = self.counters.take_members(
            account, self.cursor, &self.subject, <uint32_t>self.cursor_index, self.crowd,
            INDICES_AT_ONCE,
        )
        if self.cursor_index < 0:
            self.cursor += 1
            self.cursor_index = 0
        return 0

    cdef int take_person(self, Account* account) except -1:
        cdef Subject subject = self.subject
        if self.cursor == self.crowd.count or not self.counters.for_persons:
            return self.go_on(PHASE_START)
        self.crowd.stand_for(self.cursor, &subject)
        self.schedule.steps += 2 + 2 * self.counters.count
        self.counters.take_person(account, &subject, self.crowd)
        self.cursor += 1
        return 0

    cdef int start(self, Account* account, int64_t now_ms) except -1:
        self.counters.take_shared(account, &self.subject)
        self.counters.drop_settled()
        self.schedule.start(now_ms)
        self.schedule.left -= self.barred_count
        self.schedule.steps += 50
        self.unpin()
        if self.require_policy and not self.rules.plan.has_policy:
            return self.go_on(PHASE_REASONS)
        return self.go_on(PHASE_PLACE)

    # ------------------------------------------------------------ what is answered

    cdef int give_reasons(self) except -1:
        # The next person's: all recipients of one who are not planned have the same.
        cdef const Person* person
        cdef Subject subject = self.subject
        cdef uint32_t recipient
        cdef int reason = REASON_POLICY_REQUIRED
        if self.cursor == self.crowd.count:
            self.written = 0
            return self.go_on(PHASE_WRITE)
        person = &self.crowd.persons[self.cursor]
        self.schedule.steps += 1
        if person.first != <uint32_t>-1 and not (
            self.require_policy and not self.rules.plan.has_policy
        ):
            self.crowd.stand_for(self.cursor, &subject)
            reason = self.rules.binding_reason(
                &subject, person.applies, self.schedule.end_ms
            )
            self.schedule.steps += 2 * self.rules.count
        recipient = person.first
        while recipient != <uint32_t>-1:
            self.reasons[recipient] = reason
            recipient = self.crowd.next_same[recipient]
            self.schedule.steps += 1
        self.cursor += 1
        return 0

    cdef size_t result_size(self, uint32_t i) noexcept:
        cdef size_t size = time_field_size(self.schedule.send_ms[i]) + 2
        cdef uint32_t reference = self.decoder.request.recipients[i].reference.size
        if reference:
            size += 2 + (reference > 127) + reference
        return size

    cdef int write(self) except -1:
        # First the whole is measured, then written, a few results at a time.
        cdef uint32_t count = self.decoder.request.recipient_count
        cdef uint32_t end = min(count, (self.cursor & ~<uint32_t>63) + 64)
        cdef uint8_t* at
        cdef uint8_t* start
        cdef size_t size
        cdef uint32_t i
        self.schedule.steps += 32
        if self.reply is None:
            for i in range(self.cursor, end):
                size = self.result_size(i)
                self.written += 2 + (size > 127) + size
            self.cursor = end
            if end == count:
                size = time_field_size(self.schedule.begin_ms)
                self.reply = PyBytes_FromStringAndSize(NULL, self.written + size)
                self.written = 0
                self.cursor = 0
            return 0
        start = <uint8_t*>PyBytes_AS_STRING(self.reply)
        at = start + self.written
        for i in range(self.cursor, end):
            at = put_head(at, 1, self.result_size(i))
            at = put_bytes_field(at, 1, self.decoder.request.recipients[i].reference)
            at = put_time_field(at, 2, self.schedule.send_ms[i])
            at = put_varint_field(at, 3, self.reason_of(i))
        self.cursor = end
        if end == count:
            at = put_time_field(at, 2, self.schedule.begin_ms)
            if at - start != PyBytes_GET_SIZE(self.reply):
                raise AssertionError("a plan's reply is not as long as it was measured")
            return self.go_on(PHASE_DONE)
        self.written = at - start
        return 0

    cdef int reason_of(self, uint32_t i) noexcept:
        if self.schedule.send_ms[i] == NO_TIME:
            return self.reasons[i]
        return REASON_WITHIN_LIMITS if self.rules.has_limits else REASON_NO_POLICY
