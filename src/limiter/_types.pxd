# The C vocabulary that the wire format, the core and the hot path share: plain structs, no methods.
#
# Nothing here owns memory unless it says so. A Slice borrows from the request's bytes (or from a
# Python object kept alive elsewhere) and is valid only while those are.

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    # Dimensions as array indices: the wire's enum number minus one.
    DIMENSION_CONTACT = 0
    DIMENSION_ADDRESS = 1
    DIMENSION_CHANNEL = 2
    DIMENSION_RESOURCE = 3
    DIMENSION_CAMPAIGN = 4
    DIMENSION_AGENT = 5
    DIMENSION_TEAM = 6
    DIMENSION_SOURCE = 7
    DIMENSION_CATEGORY = 8
    DIMENSION_COUNT = 9

cdef enum:
    MEASURE_MESSAGES = 1
    MEASURE_CONTACTS = 2
    MEASURE_ADDRESSES = 3
    # Beyond what a cap may measure:
    MEASURE_RUN = 4            # the messages of a pause's newest run
    MEASURE_NOTHING = 5        # what a rule without a counter reads

cdef enum:
    ENFORCEMENT_ENFORCED = 1
    ENFORCEMENT_GOAL = 2
    ENFORCEMENT_SHADOW = 3

cdef enum:
    OUTCOME_ALLOWED = 1
    OUTCOME_DENIED = 2

cdef enum:
    VIEW_UNSPECIFIED = 0
    VIEW_BASIC = 1
    VIEW_FULL = 2

cdef enum:
    ATOMICITY_PARTIAL = 1
    ATOMICITY_ALL_OR_NOTHING = 2

cdef enum:
    # Numbers are never reused; among denials the lower number takes precedence on a tie.
    REASON_WITHIN_LIMITS = 1
    REASON_NO_POLICY = 2
    REASON_NOT_EVALUATED = 3
    REASON_MESSAGE_COUNT_OVER_MAX = 10
    REASON_OPTED_OUT = 11
    REASON_CONTACT_CAP = 20
    REASON_ADDRESS_CAP = 21
    REASON_MESSAGE_CAP = 22
    REASON_PAUSE = 23
    REASON_HOURS = 24
    REASON_BATCH_REJECTED = 40
    REASON_POLICY_REQUIRED = 41

# "No such instant": an unset Timestamp.
cdef enum:
    NO_TIME = -1

cdef struct Slice:
    const uint8_t* data        # borrowed; may be NULL when size is 0
    uint32_t size              # bytes

cdef struct Attempt:
    # One attempt as it arrived. An empty slice is an absent field.
    Slice account
    Slice[9] fields            # by dimension index
    Slice contact_time_zone
    int64_t message_count      # as sent; 0 means 1

cdef struct Recipient:
    # One row of a batch: overrides contact and address of the shared attempt.
    Slice contact
    Slice address
    Slice reference
    Slice contact_time_zone
    Slice request_id

cdef struct LimitResult:
    # One limit's status, as it goes on the wire.
    Slice policy               # borrowed from the Rule
    Slice limit_id             # borrowed from the Rule
    int reason
    int enforcement
    bint exceeded
    int64_t max_count
    int64_t used_count
    int64_t remaining_count
    int64_t reset_ms           # NO_TIME when unset
    int64_t counted_since_ms   # NO_TIME when the whole window was counted

cdef struct Decision:
    int outcome
    int reason
    int binding                # index into results, -1 when no limit denies
    int result_count
    LimitResult* results       # owned by whoever made the decision; valid until its next one
    int64_t retry_ms           # NO_TIME when unset
    int64_t decide_ms
