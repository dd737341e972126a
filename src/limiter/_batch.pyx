# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Batches: the recipients of one request decided in order, at one instant.

In flow a decoded request and the subject of what its recipients share; out flow the results, into
the reply, and what was counted, into the core. A batch is validated whole before anything of it is
counted. One that is only tried (a CheckBatch, or the first look at a batch that goes as a whole or
not) counts for real and takes every step back, so it sees exactly what a commit would.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from limiter import bounds
from limiter.errors import FieldViolation, InvalidArgument, ResourceExhausted
from limiter._accounts cimport Account, is_opted_out
from limiter._activity cimport OPERATION_CHECK_BATCH, OPERATION_COMMIT_BATCH, Activity
from limiter._core cimport Committed, Core, RequestKey
from limiter._hours cimport ZoneTable
from limiter._index cimport NO_INDEX, index_append, index_find, index_free
from limiter._judge cimport ASK_DECISION, Judge
from limiter._kinds cimport BoundPlan, InlineRules, RuleRow
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
    REASON_OPTED_OUT,
    VIEW_BASIC,
    VIEW_FULL,
    Recipient,
    Slice,
)
from limiter._wire cimport Decoder, OutBuffer, Request

cdef int64_t MESSAGE_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef uint32_t REQUEST_IDS_MAX = bounds.REQUEST_IDS_MAX

cdef enum:
    # What a limit's status and a recipient's result take in a reply, names and reference apart.
    STATUS_FIXED_BYTES_MAX = 80
    RESULT_FIXED_BYTES_MAX = 80

cdef enum:
    # What the recipients of a batch are tried for.
    TRY_QUIETLY                # only to see how many pass
    TRY_TO_REPORT              # a CheckBatch
    TRY_TO_REJECT              # a batch that goes as a whole or not, and does not

cdef enum:
    # Why a recipient is left out.
    LEFT_OUT_OPTED_OUT = 1
    LEFT_OUT_DUPLICATE


@cython.final
cdef class Batches:
    # Answers the batches of one Decider, whose parts it works on.

    def __cinit__(
        self,
        Core core not None,
        Decoder decoder not None,
        OutBuffer out not None,
        RequestKeys request_keys not None,
        ZoneTable zones not None,
        Activity activity not None,
        bint require_policy,
    ):
        self.core = core
        self.decoder = decoder
        self.out = out
        self.request_keys = request_keys
        self.zones = zones
        self.activity = activity
        self.require_policy = require_policy
        self.judge_alone = Judge()

    def __dealloc__(self):
        index_free(&self.seen)
        requests_free(&self.asked)

    cdef bint answer_check(self, Subject* subject, InlineRules rules, int64_t now_ms) except -1:
        # CheckBatch; the subject is of what the recipients share. Leaves the reply in `out`.
        cdef RequestKey none
        cdef BatchCounts counts
        cdef bint whole = self.decoder.request.atomicity == ATOMICITY_ALL_OR_NOTHING
        memset(&none, 0, sizeof(RequestKey))
        self.validate(subject, rules, &none, now_ms)
        if not (whole and self.reject_whole(subject, rules, &none, now_ms, False, &counts)):
            self.try_each(subject, rules, &none, now_ms, TRY_TO_REPORT, NO_TIME, False, &counts)
        self.out.batch_counts(
            counts.accepted, counts.denied, counts.duplicate, counts.opted_out
        )
        return False

    cdef bint answer_commit(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1:
        # CommitBatch under its request's key; says whether the reply must wait for durability.
        cdef BatchCounts counts
        cdef bint whole = self.decoder.request.atomicity == ATOMICITY_ALL_OR_NOTHING
        self.validate(subject, rules, batch, now_ms)
        if not (whole and self.reject_whole(subject, rules, batch, now_ms, True, &counts)):
            self.commit_each(subject, rules, batch, now_ms, &counts)
        self.out.batch_counts(
            counts.accepted, counts.denied, counts.duplicate, counts.opted_out
        )
        return counts.accepted != 0

    cdef int validate(
        self, Subject* subject, InlineRules rules, const RequestKey* batch, int64_t now_ms
    ) except -1:
        # Raises for whatever the batch will be refused for, before any of it is counted. Fields are
        # asked of those who will be decided: not of who is left out, nor of whom a repeat answers.
        cdef Request* request = &self.decoder.request
        cdef Account* account = self.core.accounts.find(subject)
        cdef BoundPlan plan = self.core.plan_of(account, subject)
        cdef RequestKey key
        cdef const RequestRow* row
        cdef uint32_t i
        cdef uint32_t with_ids = 0
        cdef int lacking = -1      # the first recipient who lacks a field ...
        cdef int dimension         # ... and which
        # Digests are only needed here where conditions ask for them, or somebody may be left out.
        cdef bint digests = (
            request.exclude_duplicates
            or (request.exclude_opt_outs and account.opt_outs != NULL)
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
                not self.why_left_out(account, subject, rules, batch, i, now_ms)
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
        return self.settle(subject, i)

    cdef int write_to(self, Subject* subject, uint32_t i) except -1:
        # Makes the subject one of the recipients.
        cdef Recipient* recipient = &self.decoder.request.recipients[i]
        address_to(subject, recipient.contact, recipient.address)
        subject.recipient = recipient
        return self.settle(subject, i)

    cdef int settle(self, Subject* subject, uint32_t i) except -1:
        # Sets where a recipient lives. Raises InvalidArgument where there is no such zone.
        cdef Slice zone = self.decoder.request.recipients[i].contact_time_zone
        self.zones.put(subject, zone, i)
        return 0

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
        cdef const Account* account = self.core.accounts.find(subject)
        cdef int view = request.view or VIEW_BASIC
        cdef int why
        cdef uint32_t i
        self.forget_seen()
        memset(counts, 0, sizeof(BatchCounts))
        for i in range(request.recipient_count):
            recipient = &request.recipients[i]
            self.write_to(subject, i)
            why = self.why_left_out(account, subject, rules, batch, i, now_ms)
            if why:
                self.leave_out(recipient.reference, why, False, counts)
                continue
            key = self.request_keys.recipient(request, rules, batch, i)
            self.core.commit(
                subject, rules, &key, NULL, now_ms, self.require_policy, view == VIEW_FULL,
                &committed,
            )
            self.activity.note(
                OPERATION_COMMIT_BATCH, self.core.judge, subject, committed.replayed
            )
            self.count_decided(counts)
            if committed.position:
                self.core.remember_batch(subject, batch, now_ms)
            self.out.batch_result(
                recipient.reference,
                &self.core.judge.decision,
                view,
                committed.position,
                committed.sequence,
                committed.replayed,
            )
        return 0

    # ------------------------------------------------------------ what is only tried

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
        if rules is not None:
            self.core.accounts.lend(account, rules)
        self.forget_seen()
        memset(counts, 0, sizeof(BatchCounts))
        self.core.accounts.undo_size = 0
        try:
            self.try_recipients(
                account, &trial, rules, batch, now_ms, purpose, retry_ms, journal, counts
            )
        finally:
            self.core.accounts.take_back_all(account)
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
        cdef int why
        cdef bint fits
        for i in range(request.recipient_count):
            recipient = &request.recipients[i]
            self.write_to(trial, i)
            memset(&committed, 0, sizeof(Committed))
            why = self.why_left_out(account, trial, rules, batch, i, now_ms)
            if why:
                self.leave_out(recipient.reference, why, purpose == TRY_QUIETLY, counts)
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
                        core.record_denial(trial, now_ms)
                if fits:
                    core.accounts.count_tentatively(account, trial, now_ms, now_ms)
            self.count_decided(counts)
            if purpose != TRY_QUIETLY:
                self.activity.note(
                    OPERATION_COMMIT_BATCH if journal else OPERATION_CHECK_BATCH,
                    core.judge,
                    trial,
                    committed.replayed,
                )
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
            # Where the last one lived who was looked at says nothing about the others.
            self.zones.put(subject, self.decoder.request.attempt.contact_time_zone, -1)
            self.core.recorder.intern(subject)
        self.try_each(subject, rules, batch, now_ms, TRY_QUIETLY, NO_TIME, False, counts)
        if counts.denied == 0:
            return False
        retry_ms = NO_TIME
        if counts.barred == 0:
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
        if rules is not None:
            core.accounts.lend(empty, rules)
            core.accounts.lend(account, rules)
        core.accounts.undo_size = 0
        try:
            return self.batch_passing_ms(account, empty, subject, rules, batch, now_ms, from_ms)
        finally:
            core.accounts.take_back_all(account)
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
            if self.why_left_out(account, &trial, rules, batch, i, now_ms):
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

    # ------------------------------------------------------------ who is left out

    cdef int why_left_out(
        self,
        const Account* account,
        const Subject* subject,
        InlineRules rules,
        const RequestKey* batch,
        uint32_t i,
        int64_t now_ms,
    ) except -1:
        # Whether a recipient is not decided at all, and why. Who was accepted under this id before
        # they opted out is answered as they were.
        cdef Request* request = &self.decoder.request
        cdef RequestKey key
        if request.exclude_opt_outs and is_opted_out(account, subject):
            key = self.request_keys.recipient(request, rules, batch, i)
            if self.core.remembered(&key, now_ms) == NULL:
                return LEFT_OUT_OPTED_OUT
        if request.exclude_duplicates and self.is_duplicate(subject):
            return LEFT_OUT_DUPLICATE
        return 0

    cdef int leave_out(self, Slice reference, int why, bint quietly, BatchCounts* counts) except -1:
        # Counts who is left out and, unless it is done quietly, says so.
        cdef bint opted_out = why == LEFT_OUT_OPTED_OUT
        counts.opted_out += opted_out
        counts.duplicate += not opted_out
        if not quietly:
            self.out.batch_left_out(reference, opted_out)
        return 0

    cdef int count_decided(self, BatchCounts* counts) noexcept:
        # Counts what was decided last.
        cdef bint allowed = self.core.judge.decision.outcome == OUTCOME_ALLOWED
        counts.accepted += allowed
        counts.denied += not allowed
        counts.barred += not allowed and self.core.judge.decision.reason == REASON_OPTED_OUT
        return 0

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
