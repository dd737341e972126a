# What is found wrong with a hot request, and the error that it means for the caller.

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    # What a field of a request is for. The numbers in the messages differ; the meanings do not.
    UNKNOWN = 0
    ATTEMPT = 1
    INLINE_LIMITS = 2
    VIEW = 3
    REQUEST_ID = 4
    MODE = 5
    EVENT_TIME = 6
    HOLD_DURATION = 7
    RECIPIENTS = 8
    ATOMICITY = 9
    EXCLUDE_DUPLICATES = 10
    EXCLUDE_OPT_OUTS = 11
    SPREAD_DURATION = 12
    MEANING_COUNT = 13

cdef enum:
    # Field numbers of Attempt; from 2 to 10 they are those of the dimensions, one by one.
    ATTEMPT_ACCOUNT = 1
    ATTEMPT_CONTACT = 2
    ATTEMPT_CATEGORY = 10
    ATTEMPT_MESSAGE_COUNT = 11
    ATTEMPT_CONTACT_TIME_ZONE = 12

cdef enum:
    RECIPIENT_CONTACT = 1
    RECIPIENT_ADDRESS = 2
    RECIPIENT_REFERENCE = 3
    RECIPIENT_CONTACT_TIME_ZONE = 4
    RECIPIENT_REQUEST_ID = 5

cdef enum:
    SCOPE_REQUEST = 0
    SCOPE_ATTEMPT = 1
    SCOPE_RECIPIENT = 2

cdef enum:
    RULE_NO_MEMORY = 1
    RULE_REQUEST_SIZE = 2
    RULE_ENCODING = 3
    RULE_UTF8 = 4
    RULE_MISSING = 5
    RULE_ACCOUNT = 6
    RULE_SIZE = 7
    RULE_MESSAGE_COUNT = 8
    RULE_ENUM = 9
    RULE_BELONGS_TO_RECIPIENTS = 11
    RULE_RECIPIENT_COUNT = 12
    RULE_INLINE_COUNT = 13
    RULE_NOT_IN_CHECK = 14
    RULE_RECORD_ONLY = 15
    RULE_NOT_RECORDED = 16
    RULE_INSTANT = 17
    RULE_HOLD = 18
    RULE_SPREAD = 19

cdef struct Fault:
    # The first thing found wrong with a request: which rule breaks, and where.
    int rule
    int scope                  # the request itself, its attempt, or one of its recipients
    int field                  # number inside that scope (in the request: a meaning), 0 when none
    uint32_t index             # which recipient
    int64_t value              # what was found, for rules about a size or a number
    const uint8_t* at          # the malformed field, for rules about the encoding

cdef int refuse(
    str message, uint32_t recipients_max, const Fault* fault, const uint8_t* data
) except -1
