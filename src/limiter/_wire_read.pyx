# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""From the protobuf bytes of the hot requests to plain C structs.

In: the bytes of a CheckRequest, CommitRequest, CheckBatchRequest, CommitBatchRequest,
GetUsageRequest or PlanRequest. Out: a `Request` whose slices borrow from those bytes. A `Decoder`
works in two passes: the wire level (what the protobuf library would refuse is refused, what it
would skip or merge is skipped or merged), then the rules of the fields.

What always holds: no Python object is made unless a request is refused; nothing is read outside the
request's bytes; a refusal names the field, the rule and the way out. Inline limits are not looked
into: whoever compiles them parses them.
"""

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from limiter._protobuf cimport (
    DEPTH_MAX, WIRE_BYTES, WIRE_VARINT, is_utf8, read_bytes, read_tag, read_varint, skip_unknown,
)
from limiter._types cimport (
    ATOMICITY_ALL_OR_NOTHING, DIMENSION_ADDRESS, DIMENSION_CONTACT, DIMENSION_COUNT, NO_TIME,
    VIEW_FULL,
)
from limiter._wire_faults cimport (
    ATOMICITY, ATTEMPT, ATTEMPT_ACCOUNT, ATTEMPT_CONTACT, ATTEMPT_CONTACT_TIME_ZONE,
    ATTEMPT_MESSAGE_COUNT, EVENT_TIME, EXCLUDE_DUPLICATES, EXCLUDE_OPT_OUTS, HOLD_DURATION,
    INLINE_LIMITS, MEANING_COUNT, MODE, RECIPIENTS, RECIPIENT_ADDRESS, RECIPIENT_CONTACT,
    RECIPIENT_CONTACT_TIME_ZONE, RECIPIENT_REFERENCE, RECIPIENT_REQUEST_ID, REQUEST_ID,
    RULE_ACCOUNT, RULE_BELONGS_TO_RECIPIENTS, RULE_ENCODING, RULE_ENUM, RULE_HOLD,
    RULE_INLINE_COUNT, RULE_INSTANT, RULE_MESSAGE_COUNT, RULE_MISSING, RULE_NOT_IN_CHECK,
    RULE_NOT_RECORDED, RULE_NO_MEMORY, RULE_RECIPIENT_COUNT, RULE_RECORD_ONLY,
    RULE_REQUEST_SIZE, RULE_SIZE, RULE_SPREAD, RULE_UTF8, SCOPE_ATTEMPT, SCOPE_RECIPIENT,
    SCOPE_REQUEST,
    SPREAD_DURATION, UNKNOWN, VIEW, Fault, refuse,
)
from limiter._wire_times cimport duration_ms, instant_ms, parse_moment

from limiter import bounds

cdef int64_t REQUEST_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef uint32_t ACCOUNT_BYTES_MAX = bounds.ACCOUNT_BYTES_MAX
cdef uint32_t LABEL_BYTES_MAX = bounds.LABEL_BYTES_MAX
cdef uint32_t REQUEST_ID_BYTES_MAX = bounds.REQUEST_ID_BYTES_MAX
cdef uint32_t REFERENCE_BYTES_MAX = bounds.REFERENCE_BYTES_MAX
cdef int64_t MESSAGE_COUNT_MAX = bounds.MESSAGE_COUNT_MAX
cdef uint32_t BATCH_RECIPIENTS_MAX = bounds.BATCH_RECIPIENTS_MAX
cdef uint32_t PLAN_RECIPIENTS_MAX = bounds.PLAN_RECIPIENTS_MAX
cdef int64_t HOLD_MS_MAX = bounds.HOLD_DURATION_MS_MAX
cdef int64_t SPREAD_MS_MAX = bounds.RETRY_HORIZON_MS
cdef int INLINE_LIMITS_MAX = bounds.INLINE_LIMITS_MAX

if INLINE_LIMITS_MAX > INLINE_SLOTS:
    raise AssertionError("a Request has fewer slots than bounds allow inline limits")

cdef enum:
    FIELD_COUNT = 9  # field numbers of the request messages, 0 included

cdef enum:
    COMMIT_MODE_DECIDE = 1
    COMMIT_MODE_RECORD = 2

# By kind: name, and the meaning of each field number.
_MESSAGES = (
    ("CheckRequest", (UNKNOWN, ATTEMPT, INLINE_LIMITS, VIEW)),
    (
        "CommitRequest",
        (UNKNOWN, ATTEMPT, INLINE_LIMITS, VIEW, REQUEST_ID, MODE, EVENT_TIME, HOLD_DURATION),
    ),
    (
        "CheckBatchRequest",
        (
            UNKNOWN, ATTEMPT, INLINE_LIMITS, VIEW, UNKNOWN, RECIPIENTS, ATOMICITY,
            EXCLUDE_DUPLICATES, EXCLUDE_OPT_OUTS,
        ),
    ),
    (
        "CommitBatchRequest",
        (
            UNKNOWN, ATTEMPT, INLINE_LIMITS, VIEW, REQUEST_ID, RECIPIENTS, ATOMICITY,
            EXCLUDE_DUPLICATES, EXCLUDE_OPT_OUTS,
        ),
    ),
    ("GetUsageRequest", (UNKNOWN, ATTEMPT)),
    ("PlanRequest", (UNKNOWN, ATTEMPT, INLINE_LIMITS, RECIPIENTS, SPREAD_DURATION)),
)

cdef uint8_t[KIND_COUNT][FIELD_COUNT] MEANINGS
cdef uint8_t[MEANING_COUNT] WIRE_TYPES
cdef uint8_t[256] ACCOUNT_BYTES  # whether an account id may hold the byte


cdef void fill_tables():
    # Once, at import.
    cdef int kind
    cdef int number
    cdef int byte
    memset(MEANINGS, UNKNOWN, sizeof(MEANINGS))
    for kind, (_, meanings) in enumerate(_MESSAGES):
        for number, meaning in enumerate(meanings):
            MEANINGS[kind][number] = meaning
    memset(WIRE_TYPES, WIRE_BYTES, sizeof(WIRE_TYPES))
    for meaning in (VIEW, MODE, ATOMICITY, EXCLUDE_DUPLICATES, EXCLUDE_OPT_OUTS):
        WIRE_TYPES[meaning] = WIRE_VARINT
    for byte in range(256):
        ACCOUNT_BYTES[byte] = byte < 128 and (chr(byte).isalnum() or chr(byte) in "._~@+-")


fill_tables()


cdef inline int blame(Fault* fault, int rule, int scope, int field) noexcept nogil:
    # Notes what is wrong; returns what the caller returns.
    fault.rule = rule
    fault.scope = scope
    fault.field = field
    return -1


cdef inline int blame_value(
    Fault* fault, int rule, int scope, int field, int64_t value
) noexcept nogil:
    fault.value = value
    return blame(fault, rule, scope, field)


# The wire level.


cdef inline uint32_t recipients_max(int kind) noexcept nogil:
    return PLAN_RECIPIENTS_MAX if kind == KIND_PLAN else BATCH_RECIPIENTS_MAX


cdef inline void clear_slice(Slice* value) noexcept nogil:
    value.data = NULL
    value.size = 0


cdef inline void clear_attempt(Attempt* attempt) noexcept nogil:
    # Field by field: a string instruction takes longer to start than this takes.
    cdef int i
    clear_slice(&attempt.account)
    for i in range(DIMENSION_COUNT):
        clear_slice(&attempt.fields[i])
    clear_slice(&attempt.contact_time_zone)
    attempt.message_count = 0


cdef int parse_attempt(Slice message, Attempt* attempt, Fault* fault) noexcept nogil:
    # Merges one encoded Attempt into `attempt`: later values win.
    cdef const uint8_t* at = message.data
    cdef const uint8_t* end = at + message.size
    cdef uint32_t tag = 0
    cdef uint32_t number
    cdef uint64_t bits = 0
    cdef Slice value
    while at < end:
        fault.at = at
        at = read_tag(at, end, &tag)
        if at == NULL:
            return blame(fault, RULE_ENCODING, SCOPE_ATTEMPT, 0)
        number = tag >> 3
        if tag == (ATTEMPT_MESSAGE_COUNT << 3 | WIRE_VARINT):
            at = read_varint(at, end, &bits)
            attempt.message_count = <int64_t>bits
        elif (
            tag & 7 == WIRE_BYTES
            and ATTEMPT_ACCOUNT <= number <= ATTEMPT_CONTACT_TIME_ZONE
            and number != ATTEMPT_MESSAGE_COUNT
        ):
            at = read_bytes(at, end, &value)
            if at == NULL:
                return blame(fault, RULE_ENCODING, SCOPE_ATTEMPT, number)
            if not is_utf8(value.data, value.size):
                return blame(fault, RULE_UTF8, SCOPE_ATTEMPT, number)
            if number == ATTEMPT_ACCOUNT:
                attempt.account = value
            elif number == ATTEMPT_CONTACT_TIME_ZONE:
                attempt.contact_time_zone = value
            else:
                attempt.fields[number - ATTEMPT_CONTACT] = value
        else:
            number = 0
            at = skip_unknown(at, end, tag, DEPTH_MAX - 1)
        if at == NULL:
            return blame(fault, RULE_ENCODING, SCOPE_ATTEMPT, number)
    return 0


cdef int parse_recipient(
    Slice message, Recipient* recipient, uint32_t last_field, Fault* fault
) noexcept nogil:
    # Reads one encoded Recipient, or one of a plan, which has not all of its fields.
    cdef const uint8_t* at = message.data
    cdef const uint8_t* end = at + message.size
    cdef uint32_t tag = 0
    cdef uint32_t number
    cdef Slice value
    memset(recipient, 0, sizeof(Recipient))
    while at < end:
        fault.at = at
        at = read_tag(at, end, &tag)
        if at == NULL:
            return blame(fault, RULE_ENCODING, SCOPE_RECIPIENT, 0)
        number = tag >> 3
        if tag & 7 == WIRE_BYTES and RECIPIENT_CONTACT <= number <= last_field:
            at = read_bytes(at, end, &value)
            if at == NULL:
                return blame(fault, RULE_ENCODING, SCOPE_RECIPIENT, number)
            if not is_utf8(value.data, value.size):
                return blame(fault, RULE_UTF8, SCOPE_RECIPIENT, number)
            if number == RECIPIENT_CONTACT:
                recipient.contact = value
            elif number == RECIPIENT_ADDRESS:
                recipient.address = value
            elif number == RECIPIENT_REFERENCE:
                recipient.reference = value
            elif number == RECIPIENT_CONTACT_TIME_ZONE:
                recipient.contact_time_zone = value
            else:
                recipient.request_id = value
        else:
            at = skip_unknown(at, end, tag, DEPTH_MAX - 1)
            if at == NULL:
                return blame(fault, RULE_ENCODING, SCOPE_RECIPIENT, 0)
    return 0


# The rules of the fields.


cdef inline int validate_size(
    Slice value, uint32_t size_max, int scope, int field, Fault* fault
) noexcept nogil:
    if value.size > size_max:
        return blame_value(fault, RULE_SIZE, scope, field, value.size)
    return 0


cdef int validate_account(Slice account, Fault* fault) noexcept nogil:
    cdef uint32_t i
    if account.size == 0:
        return blame(fault, RULE_MISSING, SCOPE_ATTEMPT, ATTEMPT_ACCOUNT)
    if account.size > ACCOUNT_BYTES_MAX:
        return blame(fault, RULE_ACCOUNT, SCOPE_ATTEMPT, ATTEMPT_ACCOUNT)
    for i in range(account.size):
        if not ACCOUNT_BYTES[account.data[i]]:
            return blame(fault, RULE_ACCOUNT, SCOPE_ATTEMPT, ATTEMPT_ACCOUNT)
    return 0


cdef inline bint has_recipients(int kind) noexcept nogil:
    return kind == KIND_CHECK_BATCH or kind == KIND_COMMIT_BATCH or kind == KIND_PLAN


cdef int validate_attempt(const Attempt* attempt, int kind, Fault* fault) noexcept nogil:
    cdef int i
    if validate_account(attempt.account, fault):
        return -1
    for i in range(DIMENSION_COUNT):
        if attempt.fields[i].size > LABEL_BYTES_MAX:
            return blame_value(
                fault, RULE_SIZE, SCOPE_ATTEMPT, ATTEMPT_CONTACT + i, attempt.fields[i].size
            )
    if has_recipients(kind):
        for i in range(DIMENSION_CONTACT, DIMENSION_ADDRESS + 1):
            if attempt.fields[i].size:
                return blame(fault, RULE_BELONGS_TO_RECIPIENTS, SCOPE_ATTEMPT, ATTEMPT_CONTACT + i)
        if attempt.contact_time_zone.size:
            return blame(
                fault, RULE_BELONGS_TO_RECIPIENTS, SCOPE_ATTEMPT, ATTEMPT_CONTACT_TIME_ZONE
            )
    elif kind != KIND_GET_USAGE and attempt.fields[DIMENSION_CONTACT].size == 0:
        return blame(fault, RULE_MISSING, SCOPE_ATTEMPT, ATTEMPT_CONTACT)
    if attempt.message_count < 0 or attempt.message_count > MESSAGE_COUNT_MAX:
        return blame_value(
            fault, RULE_MESSAGE_COUNT, SCOPE_ATTEMPT, ATTEMPT_MESSAGE_COUNT, attempt.message_count
        )
    return validate_size(
        attempt.contact_time_zone, LABEL_BYTES_MAX, SCOPE_ATTEMPT, ATTEMPT_CONTACT_TIME_ZONE, fault
    )


cdef int validate_recipient(const Recipient* recipient, int kind, Fault* fault) noexcept nogil:
    if recipient.contact.size == 0:
        return blame(fault, RULE_MISSING, SCOPE_RECIPIENT, RECIPIENT_CONTACT)
    if (
        validate_size(recipient.contact, LABEL_BYTES_MAX, SCOPE_RECIPIENT, RECIPIENT_CONTACT, fault)
        or validate_size(
            recipient.address, LABEL_BYTES_MAX, SCOPE_RECIPIENT, RECIPIENT_ADDRESS, fault
        )
        or validate_size(
            recipient.reference, REFERENCE_BYTES_MAX, SCOPE_RECIPIENT, RECIPIENT_REFERENCE, fault
        )
        or validate_size(
            recipient.contact_time_zone, LABEL_BYTES_MAX, SCOPE_RECIPIENT,
            RECIPIENT_CONTACT_TIME_ZONE, fault,
        )
        or validate_size(
            recipient.request_id, REQUEST_ID_BYTES_MAX, SCOPE_RECIPIENT, RECIPIENT_REQUEST_ID, fault
        )
    ):
        return -1
    if kind == KIND_CHECK_BATCH and recipient.request_id.size:
        return blame(fault, RULE_NOT_IN_CHECK, SCOPE_RECIPIENT, RECIPIENT_REQUEST_ID)
    return 0


@cython.final
cdef class Decoder:
    """Decodes one request at a time into C structs, without a Python face.

    `limiter._wire_inspect` shows what it decodes.
    """

    def __cinit__(self):
        memset(&self.request, 0, sizeof(Request))
        memset(&self.terms, 0, sizeof(RawTerms))

    def __dealloc__(self):
        free(self.request.recipients)

    cdef int check(self, const uint8_t* data, size_t size) except -1:
        self.parse(KIND_CHECK, data, size)
        return self.validate(KIND_CHECK)

    cdef int commit(self, const uint8_t* data, size_t size) except -1:
        self.parse(KIND_COMMIT, data, size)
        return self.validate(KIND_COMMIT)

    cdef int check_batch(self, const uint8_t* data, size_t size) except -1:
        self.parse(KIND_CHECK_BATCH, data, size)
        return self.validate(KIND_CHECK_BATCH)

    cdef int commit_batch(self, const uint8_t* data, size_t size) except -1:
        self.parse(KIND_COMMIT_BATCH, data, size)
        return self.validate(KIND_COMMIT_BATCH)

    cdef int usage(self, const uint8_t* data, size_t size) except -1:
        self.parse(KIND_GET_USAGE, data, size)
        return self.validate(KIND_GET_USAGE)

    cdef int plan(self, const uint8_t* data, size_t size) except -1:
        cdef Fault fault
        memset(&fault, 0, sizeof(Fault))
        with nogil:
            self.examine(KIND_PLAN, data, size, &fault)
        if fault.rule:
            refuse(_MESSAGES[KIND_PLAN][0], PLAN_RECIPIENTS_MAX, &fault, data)
        return 0

    cdef int examine(
        self, int kind, const uint8_t* data, size_t size, Fault* fault
    ) noexcept nogil:
        # Reads and validates without a Python object in sight.
        if <int64_t>size > REQUEST_BYTES_MAX:
            return blame_value(fault, RULE_REQUEST_SIZE, SCOPE_REQUEST, 0, size)
        if self.parse_request(kind, data, data + size, fault):
            return -1
        return self.validate_request(kind, fault)

    cdef int parse(self, int kind, const uint8_t* data, size_t size) except -1:
        cdef Fault fault
        memset(&fault, 0, sizeof(Fault))
        if <int64_t>size > REQUEST_BYTES_MAX:
            blame_value(&fault, RULE_REQUEST_SIZE, SCOPE_REQUEST, 0, size)
            return refuse(_MESSAGES[kind][0], recipients_max(kind), &fault, data)
        if self.parse_request(kind, data, data + size, &fault):
            return refuse(_MESSAGES[kind][0], recipients_max(kind), &fault, data)
        return 0

    cdef int validate(self, int kind) except -1:
        cdef Fault fault
        memset(&fault, 0, sizeof(Fault))
        if self.validate_request(kind, &fault):
            return refuse(_MESSAGES[kind][0], recipients_max(kind), &fault, NULL)
        return 0

    cdef int parse_request(
        self, int kind, const uint8_t* data, const uint8_t* end, Fault* fault
    ) noexcept nogil:
        cdef Request* request = &self.request
        cdef RawTerms* terms = &self.terms
        cdef const uint8_t* at = data
        cdef const uint8_t* at_fault = NULL
        cdef uint32_t tag = 0
        cdef int meaning
        cdef uint64_t bits = 0
        cdef Slice value
        cdef int failed = 0
        clear_attempt(&request.attempt)
        clear_slice(&request.request_id)
        terms.mode = terms.event_time.given = terms.hold_duration.given = 0
        terms.spread_duration.given = 0
        request.inline_count = request.view = request.atomicity = 0
        request.exclude_duplicates = request.exclude_opt_outs = False
        request.recipient_count = 0
        while at < end:
            fault.at = at
            at = read_tag(at, end, &tag)
            if at == NULL:
                return blame(fault, RULE_ENCODING, SCOPE_REQUEST, UNKNOWN)
            meaning = MEANINGS[kind][tag >> 3] if tag >> 3 < FIELD_COUNT else UNKNOWN
            if meaning == UNKNOWN or WIRE_TYPES[meaning] != tag & 7:
                at = skip_unknown(at, end, tag, DEPTH_MAX)
                meaning = UNKNOWN
            elif WIRE_TYPES[meaning] == WIRE_VARINT:
                at = read_varint(at, end, &bits)
            else:
                at = read_bytes(at, end, &value)
            if at == NULL:
                return blame(fault, RULE_ENCODING, SCOPE_REQUEST, meaning)
            if meaning == ATTEMPT:
                failed = parse_attempt(value, &request.attempt, fault)
            elif meaning == RECIPIENTS:
                failed = self.parse_recipient_field(kind, value, fault)
            elif meaning == REQUEST_ID:
                request.request_id = value
                if not is_utf8(value.data, value.size):
                    failed = blame(fault, RULE_UTF8, SCOPE_REQUEST, REQUEST_ID)
            elif meaning == VIEW:
                request.view = <int>bits
            elif meaning == INLINE_LIMITS:
                if request.inline_count < INLINE_LIMITS_MAX:
                    request.inline_limits[request.inline_count] = value
                request.inline_count += 1
            elif meaning == MODE:
                terms.mode = <int>bits
            elif meaning == EVENT_TIME:
                at_fault = parse_moment(value, &terms.event_time)
            elif meaning == HOLD_DURATION:
                at_fault = parse_moment(value, &terms.hold_duration)
            elif meaning == SPREAD_DURATION:
                at_fault = parse_moment(value, &terms.spread_duration)
            elif meaning == ATOMICITY:
                request.atomicity = <int>bits
            elif meaning == EXCLUDE_DUPLICATES:
                request.exclude_duplicates = bits != 0
            elif meaning == EXCLUDE_OPT_OUTS:
                request.exclude_opt_outs = bits != 0
            if at_fault != NULL:
                fault.at = at_fault
                failed = blame(fault, RULE_ENCODING, SCOPE_REQUEST, meaning)
            if failed:
                return -1
        return 0

    cdef int parse_recipient_field(self, int kind, Slice message, Fault* fault) noexcept nogil:
        # Beyond the bound recipients are read and counted, so that bytes that are malformed as well
        # are called malformed, but not kept.
        cdef Recipient surplus
        cdef Recipient* recipient = &surplus
        fault.index = self.request.recipient_count
        if self.request.recipient_count < recipients_max(kind):
            if self.request.recipient_count == self.recipient_capacity and self.grow_recipients():
                return blame(fault, RULE_NO_MEMORY, SCOPE_REQUEST, RECIPIENTS)
            recipient = &self.request.recipients[self.request.recipient_count]
        self.request.recipient_count += 1
        return parse_recipient(
            message,
            recipient,
            RECIPIENT_CONTACT_TIME_ZONE if kind == KIND_PLAN else RECIPIENT_REQUEST_ID,
            fault,
        )

    cdef int grow_recipients(self) noexcept nogil:
        cdef uint32_t capacity = self.recipient_capacity * 2 if self.recipient_capacity else 64
        cdef void* grown = realloc(self.request.recipients, capacity * sizeof(Recipient))
        if grown == NULL:
            return -1
        self.request.recipients = <Recipient*>grown
        self.recipient_capacity = capacity
        return 0

    cdef int validate_terms(self, Fault* fault) noexcept nogil:
        # How a commit counts: by its mode, and not both recorded and held.
        cdef const RawTerms* terms = &self.terms
        cdef Request* request = &self.request
        request.recorded = terms.mode == COMMIT_MODE_RECORD
        request.event_ms = NO_TIME
        request.hold_ms = request.spread_ms = 0
        if terms.spread_duration.given:
            request.spread_ms = duration_ms(&terms.spread_duration, SPREAD_MS_MAX)
            if request.spread_ms < 0:
                return blame(fault, RULE_SPREAD, SCOPE_REQUEST, SPREAD_DURATION)
        if terms.mode < 0 or terms.mode > COMMIT_MODE_RECORD:
            return blame_value(fault, RULE_ENUM, SCOPE_REQUEST, MODE, terms.mode)
        if terms.event_time.given:
            if not request.recorded:
                return blame(fault, RULE_RECORD_ONLY, SCOPE_REQUEST, EVENT_TIME)
            request.event_ms = instant_ms(&terms.event_time)
            if request.event_ms < 0:
                return blame(fault, RULE_INSTANT, SCOPE_REQUEST, EVENT_TIME)
        if terms.hold_duration.given:
            if request.recorded:
                return blame(fault, RULE_NOT_RECORDED, SCOPE_REQUEST, HOLD_DURATION)
            request.hold_ms = duration_ms(&terms.hold_duration, HOLD_MS_MAX)
            if request.hold_ms < 0:
                return blame(fault, RULE_HOLD, SCOPE_REQUEST, HOLD_DURATION)
        return 0

    cdef int validate_request(self, int kind, Fault* fault) noexcept nogil:
        cdef Request* request = &self.request
        cdef uint32_t i
        if validate_attempt(&request.attempt, kind, fault):
            return -1
        if request.inline_count > INLINE_LIMITS_MAX:
            return blame_value(
                fault, RULE_INLINE_COUNT, SCOPE_REQUEST, INLINE_LIMITS, request.inline_count
            )
        if request.view < 0 or request.view > VIEW_FULL:
            return blame_value(fault, RULE_ENUM, SCOPE_REQUEST, VIEW, request.view)
        if validate_size(
            request.request_id, REQUEST_ID_BYTES_MAX, SCOPE_REQUEST, REQUEST_ID, fault
        ):
            return -1
        if request.atomicity < 0 or request.atomicity > ATOMICITY_ALL_OR_NOTHING:
            return blame_value(fault, RULE_ENUM, SCOPE_REQUEST, ATOMICITY, request.atomicity)
        if self.validate_terms(fault):
            return -1
        if not has_recipients(kind):
            return 0
        if request.recipient_count == 0 or request.recipient_count > recipients_max(kind):
            return blame_value(
                fault, RULE_RECIPIENT_COUNT, SCOPE_REQUEST, RECIPIENTS, request.recipient_count
            )
        for i in range(request.recipient_count):
            fault.index = i
            if validate_recipient(&request.recipients[i], kind, fault):
                return -1
        return 0
