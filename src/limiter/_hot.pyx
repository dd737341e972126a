# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The hot calls, from request bytes to response bytes.

Each call decodes into the decoder's structs, asks the core, and encodes what it decided; the
events of what was counted are then in the core's buffer, waiting for their group. A request is
validated whole before anything of it is counted, so a call that raises has changed nothing.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter._kinds import compile_at
from limiter.errors import FieldViolation, InvalidArgument, ResourceExhausted
from limiter._accounts cimport Account, Accounts
from limiter._core cimport Committed, Core, RequestKey, Terms
from limiter._guard cimport PERMISSION_CHECK, PERMISSION_COMMIT, PERMISSION_USAGE, Guard
from limiter._hours cimport ZoneTable
from limiter._index cimport NO_INDEX, index_append, index_find, index_free
from limiter._judge cimport ASK_DECISION, Judge
from limiter._kinds cimport BoundPlan, InlineRules, Rule, RuleRow, bind_inline
from limiter._messages cimport NEVER_MS
from limiter._past cimport Past
from limiter._request_keys cimport RequestKeys
from limiter._requests cimport RequestRow, requests_find, requests_free, requests_remember
from limiter._siphash cimport Digest, same_digest
from limiter._subject cimport Subject, address_to, present_to
from limiter._types cimport (
    ATOMICITY_ALL_OR_NOTHING,
    DIMENSION_ADDRESS,
    NO_TIME,
    OUTCOME_ALLOWED,
    VIEW_BASIC,
    VIEW_FULL,
    Recipient,
    Slice,
)
from limiter._wire cimport Decoder, OutBuffer, Request

cdef int64_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef uint32_t REQUEST_IDS_MAX = bounds.REQUEST_IDS_MAX
_INLINE_CACHE_MAX = 10_000

cdef enum:
    # What a limit's status and a recipient's result take in a reply, names and reference apart.
    STATUS_FIXED_BYTES_MAX = 80
    RESULT_FIXED_BYTES_MAX = 80

cdef enum:
    # What the recipients of a batch are tried for.
    TRY_QUIETLY                # only to see how many pass
    TRY_TO_REPORT              # a CheckBatch
    TRY_TO_REJECT              # a batch that goes as a whole or not, and does not


cdef inline const uint8_t* data_of(bytes request) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(request)


cdef int permission_of(int method) noexcept:
    # What the table of methods says too.
    if method == METHOD_COMMIT or method == METHOD_COMMIT_BATCH:
        return PERMISSION_COMMIT
    if method == METHOD_GET_USAGE:
        return PERMISSION_USAGE
    return PERMISSION_CHECK


@cython.final
cdef class Decider:
    """Answers the hot calls of one shard. `compile_inline(serialized Limit)` gives a Rule and
    `find_zone(name, field)` the Zone that a contact lives in, or they raise InvalidArgument; with
    `require_policy` an attempt that no assignment covers is denied.

    Every method takes the serialized request and the instant of the decision (ms since the epoch),
    and returns the serialized response; the commits also return whether the response must wait
    until everything appended so far is durable. Where a `guard` is given it is asked first, and may
    raise Unauthenticated and PermissionDenied. Raises InvalidArgument and ResourceExhausted."""

    def __cinit__(
        self, Core core not None, compile_inline, find_zone, bint require_policy=False
    ):
        self.core = core
        self.decoder = Decoder()
        self.out = OutBuffer()
        self.judge_alone = Judge()
        self.request_keys = RequestKeys(core)
        self.compile_inline = compile_inline
        self.zones = ZoneTable(find_zone)
        self.inline_cache = {}
        self.require_policy = require_policy

    def __dealloc__(self):
        index_free(&self.seen)
        requests_free(&self.asked)

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
        if method == METHOD_CHECK:
            return self.answer_check(now_ms)
        if method == METHOD_COMMIT:
            return self.answer_commit(now_ms)
        if method == METHOD_CHECK_BATCH:
            return self.answer_check_batch(now_ms)
        if method == METHOD_COMMIT_BATCH:
            return self.answer_commit_batch(now_ms)
        return self.answer_usage(now_ms)

    # ------------------------------------------------------------ single attempts

    cdef bint answer_check(self, int64_t now_ms) except -1:
        cdef Subject subject
        cdef int view = self.decoder.request.view or VIEW_FULL
        rules = self.inline_rules()
        self.prepare(&subject)
        self.core.decide(&subject, rules, now_ms, self.require_policy, view == VIEW_FULL)
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
        self.prepare(&subject)
        terms.recorded = self.decoder.request.recorded
        terms.event_ms = self.decoder.request.event_ms
        terms.hold_ms = self.decoder.request.hold_ms
        self.core.commit(
            &subject, rules, &key, &terms, now_ms, self.require_policy, view == VIEW_FULL,
            &committed,
        )
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
        self.prepare(&subject)
        self.core.usage(&subject, None, now_ms)
        self.out.usage_response(self.core.judge.results, self.core.judge.count)
        return False

    # ------------------------------------------------------------ batches

    cdef bint answer_check_batch(self, int64_t now_ms) except -1:
        cdef Subject subject
        cdef RequestKey none
        cdef BatchCounts counts
        cdef bint whole = self.decoder.request.atomicity == ATOMICITY_ALL_OR_NOTHING
        memset(&none, 0, sizeof(RequestKey))
        rules = self.inline_rules()
        self.prepare(&subject)
        self.validate_batch(&subject, rules, &none, now_ms)
        if not (whole and self.reject_whole(&subject, rules, &none, now_ms, False, &counts)):
            self.try_each(
                &subject, rules, &none, now_ms, TRY_TO_REPORT, NO_TIME, False, &counts
            )
        self.out.batch_counts(counts.accepted, counts.denied, counts.duplicate, 0)
        return False

    cdef bint answer_commit_batch(self, int64_t now_ms) except -1:
        cdef Subject subject
        cdef RequestKey batch
        cdef BatchCounts counts
        cdef bint whole = self.decoder.request.atomicity == ATOMICITY_ALL_OR_NOTHING
        rules = self.inline_rules()
        batch = self.request_keys.batch(&self.decoder.request, rules)
        self.prepare(&subject)
        self.validate_batch(&subject, rules, &batch, now_ms)
        if not (whole and self.reject_whole(&subject, rules, &batch, now_ms, True, &counts)):
            self.commit_each(&subject, rules, &batch, now_ms, &counts)
        self.out.batch_counts(counts.accepted, counts.denied, counts.duplicate, 0)
        return counts.accepted != 0

    cdef int validate_batch(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1:
        # Raises for whatever the batch will be refused for, before any of it is counted. Fields are
        # asked of those who will be decided: not of duplicates, nor of whom a repeat answers.
        cdef Request* request = &self.decoder.request
        cdef Account* account = self.core.accounts.find(subject)
        cdef BoundPlan plan = self.core.plan_of(account, subject)
        cdef RequestKey key
        cdef const RequestRow* row
        cdef uint32_t i
        cdef uint32_t with_ids = 0
        cdef int lacking = -1      # the first recipient who lacks a field ...
        cdef int dimension         # ... and which
        # Digests are only needed here where conditions ask for them, or duplicates are looked for.
        cdef bint digests = (
            request.exclude_duplicates
            or plan.by_person
            or (rules is not None and rules.by_person)
        )
        self.require_reply_room(plan, rules)
        self.core.remembered(batch, now_ms)
        requests_free(&self.asked)
        memset(&self.asked, 0, sizeof(self.asked))
        self.forget_seen()
        for i in range(request.recipient_count):
            self.turn_to(subject, i, digests)
            key = self.request_keys.recipient(request, rules, batch, i)
            row = self.core.remembered(&key, now_ms)
            if key.given and not key.derived:
                with_ids += 1
                self.require_own_id(&key, i)
            if (
                not (request.exclude_duplicates and self.is_duplicate(subject))
                and row == NULL
                and lacking < 0
                and self.core.judge.lacking_rule(plan, rules, subject, &dimension) != NULL
            ):
                lacking = i
        if lacking >= 0:
            self.turn_to(subject, lacking, digests)
            self.core.judge.require_fields(plan, rules, subject, lacking)
        if batch.given:
            with_ids = request.recipient_count + 1
        if with_ids and self.core.requests.size + with_ids > REQUEST_IDS_MAX:
            raise ResourceExhausted(
                "TOO_MANY_REQUEST_IDS",
                f"{REQUEST_IDS_MAX} request ids are remembered, which is the ceiling; commit"
                " without a request_id or wait until older ones pass their retention",
            )
        return 0

    cdef int turn_to(self, Subject* subject, uint32_t i, bint digests) except -1:
        # Makes the subject one of the recipients; without digests only as to which fields it has.
        cdef Recipient* recipient = &self.decoder.request.recipients[i]
        if digests:
            return self.write_to(subject, i)
        present_to(subject, recipient.contact, recipient.address)
        return self.set_zone(subject, recipient.contact_time_zone, i)

    cdef int write_to(self, Subject* subject, uint32_t i) except -1:
        # Makes the subject one of the recipients.
        cdef Recipient* recipient = &self.decoder.request.recipients[i]
        address_to(subject, recipient.contact, recipient.address)
        return self.set_zone(subject, recipient.contact_time_zone, i)

    cdef int set_zone(self, Subject* subject, Slice name, int recipient) except -1:
        # Sets where the contact lives. Raises InvalidArgument where there is no such zone.
        subject.zone = self.zones.rules_of(name, recipient) if name.size else NULL
        return 0

    cdef int prepare(self, Subject* subject) except -1:
        # Makes the request's attempt a subject.
        self.core.prepare(&self.decoder.request.attempt, subject)
        return self.set_zone(subject, self.decoder.request.attempt.contact_time_zone, -1)

    cdef int require_own_id(self, const RequestKey* key, uint32_t i) except -1:
        # Raises InvalidArgument when another recipient of the batch has the same id, but asks for
        # something else.
        cdef RequestRow row
        cdef const RequestRow* other = requests_find(&self.asked, &key.request)
        if other == NULL:
            memset(&row, 0, sizeof(row))
            row.request = key.request
            row.payload = key.payload
            return requests_remember(&self.asked, &row)
        if not same_digest(&other.payload, &key.payload):
            field = f"recipients[{i}].request_id"
            raise InvalidArgument(
                "REQUEST_ID_REUSED",
                f"{field}: another recipient of this batch has the same; use a fresh one each",
                violations=(FieldViolation(field, "used twice in this batch"),),
            )
        return 0

    cdef int require_reply_room(self, BoundPlan plan, InlineRules rules) except -1:
        # Raises InvalidArgument unless the reply surely fits a message, for afterwards is too late.
        cdef Request* request = &self.decoder.request
        cdef int64_t largest = 0
        cdef int64_t total = 0
        cdef int64_t each
        cdef const RuleRow* row
        cdef int inline_count = rules.count if rules is not None else 0
        cdef int place
        cdef uint32_t i
        for place in range(plan.count + inline_count):
            row = plan.rows[place] if place < plan.count else rules.rows[place - plan.count]
            each = row.policy.size + row.limit_id.size + STATUS_FIXED_BYTES_MAX
            largest = max(largest, each)
            total += each
        # The binding limit, and all of them in the full view.
        each = RESULT_FIXED_BYTES_MAX + largest + (total if request.view == VIEW_FULL else 0)
        total = each * request.recipient_count
        for i in range(request.recipient_count):
            total += request.recipients[i].reference.size
        if total > MESSAGE_BYTES_MAX:
            raise InvalidArgument.for_field(
                "recipients",
                f"the reply to {request.recipient_count} recipients may take {total} bytes, and a"
                f" message takes at most {MESSAGE_BYTES_MAX}; "
                + (
                    "ask for VIEW_BASIC or send fewer at once"
                    if request.view == VIEW_FULL
                    else "send fewer at once"
                ),
            )
        return 0

    cdef int commit_each(
        self,
        Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        BatchCounts* counts,
    ) except -1:
        # Commits the recipients in order, each accepted or denied.
        cdef Request* request = &self.decoder.request
        cdef Recipient* recipient
        cdef RequestKey key
        cdef Committed committed
        cdef int view = request.view or VIEW_BASIC
        cdef uint32_t i
        self.forget_seen()
        memset(counts, 0, sizeof(BatchCounts))
        for i in range(request.recipient_count):
            recipient = &request.recipients[i]
            self.write_to(subject, i)
            if request.exclude_duplicates and self.is_duplicate(subject):
                counts.duplicate += 1
                self.out.batch_result(recipient.reference, NULL, 0, 0, 0, False)
                continue
            key = self.request_keys.recipient(request, rules, batch, i)
            self.core.commit(
                subject, rules, &key, NULL, now_ms, self.require_policy, view == VIEW_FULL,
                &committed,
            )
            if committed.position:
                counts.accepted += 1
                self.core.remember_batch(subject, batch, now_ms)
            else:
                counts.denied += 1
            self.out.batch_result(
                recipient.reference,
                &self.core.judge.decision,
                view,
                committed.position,
                committed.sequence,
                committed.replayed,
            )
        return 0

    # ------------------------------------------------------------ batches that are only tried

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
    ) except -1:
        # Decides the recipients in order, each accepted one counting for those behind it, and
        # takes everything back. With `journal`, denials are journalled.
        cdef Subject trial = subject[0]
        cdef Account* account = self.core.accounts.find(&trial)
        cdef int borrowed = self.borrow_inline_kinds(account, rules, now_ms)
        self.forget_seen()
        memset(counts, 0, sizeof(BatchCounts))
        self.core.accounts.undo_size = 0
        try:
            self.try_recipients(
                account, &trial, rules, batch, now_ms, purpose, retry_ms, journal, counts
            )
        finally:
            self.core.accounts.take_back_all(account)
            self.return_inline_kinds(account, borrowed)
        return 0

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
    ) except -1:
        cdef Request* request = &self.decoder.request
        cdef Core core = self.core
        cdef BoundPlan plan = core.plan_of(account, trial)
        cdef Recipient* recipient
        cdef RequestKey key
        cdef const RequestRow* row
        cdef Committed committed
        cdef int view = request.view or VIEW_BASIC
        cdef uint32_t i
        cdef bint fits
        for i in range(request.recipient_count):
            recipient = &request.recipients[i]
            self.write_to(trial, i)
            memset(&committed, 0, sizeof(Committed))
            if request.exclude_duplicates and self.is_duplicate(trial):
                counts.duplicate += 1
                if purpose != TRY_QUIETLY:
                    self.out.batch_result(recipient.reference, NULL, 0, 0, 0, False)
                continue
            key = self.request_keys.recipient(request, rules, batch, i)
            row = core.remembered(&key, now_ms)
            core.borrow_ids(account, trial)
            if row != NULL:
                core.answer_again(trial, rules, row, now_ms, &committed)
            else:
                core.judge.decide(
                    core.accounts,
                    account,
                    plan,
                    rules,
                    trial,
                    now_ms,
                    self.require_policy,
                    view == VIEW_FULL,
                )
                fits = core.judge.decision.outcome == OUTCOME_ALLOWED
                if purpose == TRY_TO_REJECT:
                    # Before it is counted: its statuses are those of what stands before it.
                    core.judge.reject(account, now_ms, retry_ms, view == VIEW_FULL)
                    if journal:
                        core.record_denial(account, trial, now_ms)
                if fits:
                    core.accounts.count_tentatively(account, trial, now_ms, now_ms)
            if core.judge.decision.outcome == OUTCOME_ALLOWED:
                counts.accepted += 1
            else:
                counts.denied += 1
            if purpose != TRY_QUIETLY:
                self.out.batch_result(
                    recipient.reference,
                    &core.judge.decision,
                    view,
                    committed.position,
                    committed.sequence,
                    committed.replayed,
                )
        return 0

    cdef bint reject_whole(
        self,
        Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        bint journal,
        BatchCounts* counts,
    ) except -1:
        # Of a batch that goes as a whole or not: answers it if it does not go; False if it goes.
        cdef int64_t retry_ms
        if journal:
            # A rejected recipient is journalled, and journalled names have real ids.
            self.core.intern(subject)
        self.try_each(subject, rules, batch, now_ms, TRY_QUIETLY, NO_TIME, False, counts)
        if counts.denied == 0:
            return False
        retry_ms = self.batch_retry_ms(subject, rules, batch, now_ms)
        self.try_each(subject, rules, batch, now_ms, TRY_TO_REJECT, retry_ms, journal, counts)
        return True

    cdef int64_t batch_retry_ms(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except? -2:
        # The earliest instant at which the whole batch passes; NO_TIME when there is none. Each
        # round moves on to where every recipient passes, or to where the next hold lapses if that
        # is earlier, until none moves.
        cdef Past past = self.core.past
        cdef Account* account = self.core.accounts.find(subject)
        cdef int64_t at_ms = now_ms
        cdef int64_t next_ms
        cdef int64_t lapse_ms
        past.look_ahead(account, now_ms)
        try:
            while True:
                next_ms = self.batch_round_ms(account, subject, rules, batch, now_ms, at_ms)
                lapse_ms = past.next_lapse_ms()
                if lapse_ms != NEVER_MS and (next_ms == NO_TIME or next_ms >= lapse_ms):
                    past.lapse_next()
                    next_ms = lapse_ms
                elif next_ms == NO_TIME or next_ms == at_ms:
                    return next_ms
                at_ms = next_ms
        finally:
            past.look_back()

    cdef int64_t batch_round_ms(
        self,
        Account* account,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int64_t from_ms,
    ) except? -2:
        # One round, of which nothing is left.
        cdef Core core = self.core
        # An account that does not exist yet is the empty one.
        cdef Account* empty = core.visit(subject)
        cdef int borrowed = 0
        self.borrow_inline_kinds(empty, rules, now_ms)
        if account != empty:
            borrowed = self.borrow_inline_kinds(account, rules, now_ms)
        core.accounts.undo_size = 0
        try:
            return self.batch_passing_ms(account, empty, subject, rules, batch, now_ms, from_ms)
        finally:
            core.accounts.take_back_all(account)
            self.return_inline_kinds(account, borrowed)
            core.accounts.leave()

    cdef int64_t batch_passing_ms(
        self,
        Account* account,
        Account* empty,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        int64_t now_ms,
        int64_t from_ms,
    ) except? -2:
        # Each recipient beside those before it.
        cdef Core core = self.core
        cdef Request* request = &self.decoder.request
        cdef Subject trial = subject[0]
        cdef Subject alone
        cdef BoundPlan plan = core.plan_of(account, &trial)
        cdef int64_t at_ms = from_ms
        cdef RequestKey key
        cdef uint32_t undo_size
        cdef uint32_t i
        self.forget_seen()
        for i in range(request.recipient_count):
            self.write_to(&trial, i)
            if request.exclude_duplicates and self.is_duplicate(&trial):
                continue
            key = self.request_keys.recipient(request, rules, batch, i)
            if core.remembered(&key, now_ms) != NULL:
                continue
            alone = trial
            core.borrow_ids(empty, &alone)
            self.judge_alone.weigh(
                core.accounts, empty, plan, rules, &alone, now_ms, ASK_DECISION
            )
            core.borrow_ids(account, &trial)
            core.judge.weigh(core.accounts, account, plan, rules, &trial, now_ms, ASK_DECISION)
            at_ms = core.judge.batch_passing_ms(self.judge_alone, now_ms, at_ms)
            if at_ms == NO_TIME:
                return NO_TIME
            core.accounts.count_tentatively(account, &trial, now_ms, now_ms)
            if account == empty:
                continue
            # What stands alone is not taken back, but left.
            undo_size = core.accounts.undo_size
            core.accounts.count_tentatively(empty, &alone, now_ms, now_ms)
            core.accounts.undo_size = undo_size
        return at_ms

    cdef int borrow_inline_kinds(
        self, Account* account, InlineRules rules, int64_t now_ms
    ) except -1:
        # Lets the account keep the inline kinds that it does not have; returns how many those are.
        cdef int borrowed = 0
        cdef Rule rule
        if rules is None:
            return 0
        for rule in rules.counting:
            if self.core.accounts.state_of(account, rule.row.kind) < 0:
                self.core.accounts.put_inline(
                    account, rule.kind, now_ms, account.inline_count + 1
                )
                borrowed += 1
        return borrowed

    cdef void return_inline_kinds(self, Account* account, int borrowed) noexcept:
        cdef Accounts accounts = self.core.accounts
        while borrowed:
            accounts.drop_inline(account, accounts.inline_at(account, account.inline_count))
            borrowed -= 1

    cdef void forget_seen(self) noexcept:
        index_free(&self.seen)
        memset(&self.seen, 0, sizeof(self.seen))

    cdef bint is_duplicate(self, const Subject* subject) except -1:
        # Whether the batch was addressed to the same address, else the same contact, before.
        cdef const Digest* who = &subject.contact
        if subject.present & (1 << DIMENSION_ADDRESS):
            who = &subject.address
        if index_find(&self.seen, who) != NO_INDEX:
            return True
        index_append(&self.seen, who)
        return False

    # ------------------------------------------------------------ what is asked

    cdef int64_t begin(self, int64_t now_ms) noexcept:
        # Instants never go back, whatever the caller's clock says. A call that raised may have
        # left a part of its response behind.
        self.out.reset()
        return max(now_ms, self.core.last_event_ms)

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
        found = self.inline_cache.get(raw)
        if found is None:
            rules = [
                compile_at(self.compile_inline, place, limit) for place, limit in enumerate(raw)
            ]
            names = [(<Rule>rule).limit_id_bytes for rule in rules]
            if len(set(names)) < len(names):
                raise InvalidArgument.for_field(
                    "inline_limits", "two limits have the same limit_id; give each its own"
                )
            if len(self.inline_cache) >= _INLINE_CACHE_MAX:
                self.inline_cache.clear()
            found = self.inline_cache[raw] = bind_inline(rules)
        return found
