# Compiled policies: what the policy layer hands to the core.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from limiter._calendar cimport Window, WindowRules
from limiter._hours cimport Hours, HoursRules
from limiter._names cimport NameTable
from limiter._ramp cimport Ramp, RampRules
from limiter._siphash cimport Digest
from limiter._subject cimport Keys, Subject
from limiter._types cimport Slice

cdef enum:
    MATCHES = 1
    DIFFERS = 0
    # A match that cannot be told: minus one, minus the index of the missing dimension.
    FIRST_MISSING = -1

cdef struct ConditionRow:
    int dimension              # index
    bint negate
    int value_count
    Slice* values              # owned; texts borrowed from the Conditions object
    Digest* digests            # owned; of the values of a contact or address condition

cdef struct KindRules:
    int measure
    int per_count
    int[9] per                 # dimension indices, ascending
    uint32_t needs             # bit per dimension that the measure and the key need
    WindowRules* window        # borrowed from the Window that the Kind keeps alive
    void* counts               # borrowed Conditions of the Kind
    void* kind                 # the Kind itself, borrowed

cdef struct RuleRow:
    Slice policy               # borrowed from the Rule
    Slice limit_id
    Slice etag                 # of the policy's version
    KindRules* kind            # of hours, which have no counter, one that measures nothing
    int64_t max_count          # of a cap with a ramp, what it grows up to
    RampRules* ramp            # borrowed from the Ramp that the Rule keeps alive; mostly NULL
    const HoursRules* hours    # the same of hours
    int enforcement
    void* applies_to           # borrowed Conditions of the Rule

cdef class Binding

cdef class Conditions:
    cdef ConditionRow* rows    # owned
    cdef int count
    cdef bint by_person        # whether any of them is on the contact or the address
    cdef uint64_t digested_under  # a mark of the keys that the digests were made with
    cdef tuple texts           # keeps the values' bytes alive
    cdef void digest(self, const Keys* keys) noexcept nogil
    cdef int match(self, const Subject* subject) noexcept nogil

cdef inline int matching(const void* conditions, const Subject* subject) noexcept:
    # Conditions.match of a row's borrowed Conditions, at no cost where there are none.
    if (<Conditions>conditions).count == 0:
        return MATCHES
    return (<Conditions>conditions).match(subject)

cdef class Kind:
    cdef object __weakref__
    cdef KindRules rules
    cdef readonly bytes definition
    cdef readonly Window window
    cdef Conditions counts

cdef class Rule:
    cdef RuleRow row
    cdef readonly Kind kind    # None for hours, which read no counter
    cdef readonly Ramp ramp
    cdef readonly Hours hours
    cdef Conditions applies_to
    cdef bytes policy_bytes
    cdef bytes limit_id_bytes
    cdef bytes etag_bytes

    cdef bint follows_account  # it names a zone that only its account knows
    cdef bytes identity        # of everything that the rule says
    cdef bint by_person(self) noexcept

cdef class InlineRules:
    # The compiled inline limits of one request.
    cdef RuleRow** rows        # owned array of borrowed rows
    cdef int count
    cdef bint by_person        # whether conditions are on the contact or the address
    cdef bint follows_account  # whether any is to be compiled again for its account
    cdef tuple raw             # the serialized limits
    cdef tuple rules           # keeps the rows alive
    cdef tuple counting        # those of them that read a counter
    cdef bytes identity

cdef class Plan:
    cdef readonly tuple rules
    cdef readonly bint has_policy

cdef class BoundPlan:
    # A plan as seen from one binding.
    cdef RuleRow** rows        # owned array of borrowed rows
    cdef int* slots            # owned; place of each rule's kind in the binding, -1 = no counter
    cdef int count
    cdef bint has_policy
    cdef bint by_person        # whether conditions are on the contact or the address
    cdef Plan plan

cdef class Transition:
    cdef object former         # the Binding or Transition that this one replaces
    cdef Binding binding       # what is to hold
    cdef dict mixed            # BoundPlans by what they are mixed from
    cdef int depth             # how many changes are under way at once

cdef Slice slice_of(bytes text)
cdef InlineRules bind_inline(rules)
cdef InlineRules compile_limits(object compile_inline, tuple raw, str account_zone)
cdef BoundPlan bind_plan(Plan plan, Binding binding)

cdef BoundPlan mix_plans(Plan former, BoundPlan coming, Binding binding, set unready)

cdef class Binding:
    cdef readonly tuple kinds  # of (Kind, since when it is kept)
    cdef KindRules** kind_rules  # owned array of borrowed rules
    cdef int kind_count
    cdef NameTable resources
    cdef NameTable campaigns
    cdef readonly object resolve
    cdef readonly str time_zone
    cdef Conditions allowed    # holds for what may be sent to those who have opted out
    cdef dict plans
    cdef BoundPlan default_plan
    cdef tuple _names          # (resources, campaigns), each in the order of its table's ids
    cdef bint attached
    cdef int attach(self, const Keys* keys) except -1
    cdef BoundPlan plan_for(self, const Subject* subject, const Keys* keys)
