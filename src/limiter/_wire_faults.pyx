# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""What is found wrong with a hot request, in words.

In: a fault as the decoder notes it, and the name of the message. Out: the error for the caller,
which names the field, the rule and the way out.
"""

from limiter import bounds
from limiter.errors import InvalidArgument

cdef int64_t REQUEST_BYTES_MAX = bounds.MESSAGE_BYTES_MAX
cdef uint32_t ACCOUNT_BYTES_MAX = bounds.ACCOUNT_BYTES_MAX
cdef uint32_t LABEL_BYTES_MAX = bounds.LABEL_BYTES_MAX
cdef uint32_t REQUEST_ID_BYTES_MAX = bounds.REQUEST_ID_BYTES_MAX
cdef uint32_t REFERENCE_BYTES_MAX = bounds.REFERENCE_BYTES_MAX
cdef int64_t MESSAGE_COUNT_MAX = bounds.MESSAGE_COUNT_MAX
cdef int64_t HOLD_MS_MAX = bounds.HOLD_DURATION_MS_MAX
cdef int64_t SPREAD_MS_MAX = bounds.RETRY_HORIZON_MS
cdef int INLINE_LIMITS_MAX = bounds.INLINE_LIMITS_MAX

# By scope and field: names.
_FIELD_NAMES = (
    (
        "", "attempt", "inline_limits", "view", "request_id", "mode", "event_time", "hold_duration",
        "recipients", "atomicity", "exclude_duplicates", "exclude_opt_outs", "spread_duration",
    ),
    (
        "", "account", "contact", "address", "channel", "resource", "campaign", "agent", "team",
        "source", "category", "message_count", "contact_time_zone",
    ),
    ("", "contact", "address", "reference", "contact_time_zone", "request_id"),
)

# By meaning: what else an enum field may hold, in words.
_ENUM_CHOICES = {
    VIEW: "VIEW_BASIC (1) or VIEW_FULL (2)",
    MODE: "COMMIT_MODE_DECIDE (1) or COMMIT_MODE_RECORD (2)",
    ATOMICITY: "ATOMICITY_PARTIAL (1) or ATOMICITY_ALL_OR_NOTHING (2)",
}


cdef str field_path(const Fault* fault):
    # Where the fault lies, as a path in the request; empty when that is the request as a whole.
    cdef str name = _FIELD_NAMES[fault.scope][fault.field]
    if fault.scope == SCOPE_ATTEMPT:
        return f"attempt.{name}" if name else "attempt"
    if fault.scope == SCOPE_RECIPIENT:
        return f"recipients[{fault.index}].{name}" if name else f"recipients[{fault.index}]"
    return name


cdef int64_t size_max_of(const Fault* fault):
    if fault.scope == SCOPE_REQUEST or (
        fault.scope == SCOPE_RECIPIENT and fault.field == RECIPIENT_REQUEST_ID
    ):
        return REQUEST_ID_BYTES_MAX
    if fault.scope == SCOPE_RECIPIENT and fault.field == RECIPIENT_REFERENCE:
        return REFERENCE_BYTES_MAX
    return LABEL_BYTES_MAX


cdef str describe_rule(const Fault* fault, uint32_t recipients_max):
    # The broken rule and the way out, in words.
    if fault.rule == RULE_MISSING:
        return "is required and empty: set it"
    if fault.rule == RULE_ACCOUNT:
        return (
            f"must be 1 to {ACCOUNT_BYTES_MAX} of the characters A-Z a-z 0-9 . _ ~ @ + -:"
            " replace or encode the others"
        )
    if fault.rule == RULE_SIZE:
        return (
            f"is {fault.value} bytes long, at most {size_max_of(fault)} are allowed:"
            " shorten it or send a digest of it"
        )
    if fault.rule == RULE_MESSAGE_COUNT:
        return (
            f"is {fault.value}, must be 0 to {MESSAGE_COUNT_MAX} where 0 means 1:"
            " split a larger send into several attempts"
        )
    if fault.rule == RULE_ENUM:
        return (
            f"is {fault.value}, which is not a known value:"
            f" use {_ENUM_CHOICES[fault.field]} or leave it out"
        )
    if fault.rule == RULE_BELONGS_TO_RECIPIENTS:
        return "must be empty here: set it in each of `recipients` instead"
    if fault.rule == RULE_RECIPIENT_COUNT:
        return (
            f"has {fault.value} entries, there may be 1 to {recipients_max}:"
            " name a recipient, or split the list"
        )
    if fault.rule == RULE_INLINE_COUNT:
        return (
            f"has {fault.value} entries, at most {INLINE_LIMITS_MAX} are allowed:"
            " assign a policy for the others"
        )
    if fault.rule == RULE_NOT_IN_CHECK:
        return "is not allowed in a check, which counts nothing: leave it out"
    if fault.rule == RULE_RECORD_ONLY:
        return "is only for COMMIT_MODE_RECORD, what is decided counts now: leave it out"
    if fault.rule == RULE_NOT_RECORDED:
        return "is not for COMMIT_MODE_RECORD, what has gone out cannot be held: leave it out"
    if fault.rule == RULE_INSTANT:
        return "must be a Timestamp from 1970 to 2100: send the instant at which it went out"
    if fault.rule == RULE_HOLD:
        return f"must be 1 ms to {HOLD_MS_MAX // 1000} s: hold for less, or confirm in time"
    if fault.rule == RULE_SPREAD:
        return f"must be 1 ms to {SPREAD_MS_MAX // bounds.DAY_MS} days: leave it out or shorten it"
    raise AssertionError(f"no words for rule {fault.rule}")


cdef int refuse(
    str message, uint32_t recipients_max, const Fault* fault, const uint8_t* data
) except -1:
    # Raises what the fault means for the caller. The only path that makes Python objects.
    cdef str path = field_path(fault)
    if fault.rule == RULE_NO_MEMORY:
        raise MemoryError
    if fault.rule == RULE_REQUEST_SIZE:
        raise InvalidArgument(
            "INVALID_FIELD",
            f"the {message} is {fault.value} bytes long, at most {REQUEST_BYTES_MAX} are allowed:"
            " split it",
        )
    if fault.rule == RULE_UTF8:
        raise InvalidArgument.for_field(
            path,
            "is not valid UTF-8: encode other bytes, for example as base64",
            "MALFORMED_REQUEST",
        )
    if fault.rule == RULE_ENCODING:
        where = f" in {path}" if path else ""
        raise InvalidArgument(
            "MALFORMED_REQUEST",
            f"the request is not a well-formed limiter.v1.{message}: the field that starts at byte"
            f" {fault.at - data}{where} is malformed or cut off; send the message as the generated"
            " client encodes it",
        )
    reason = "INVALID_FIELD"
    if fault.rule == RULE_MISSING:
        reason = "MISSING_FIELD"
    raise InvalidArgument.for_field(path, describe_rule(fault, recipients_max), reason)
