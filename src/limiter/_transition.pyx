# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Which limits hold in an account while counters of kinds that it has just begun to keep are being
filled: of those that held before all hold on that none of the new ones replaces.
"""

from limiter._accounts cimport Account
from limiter._kinds cimport Binding, BoundPlan, Kind, Transition, mix_plans
from limiter._subject cimport Keys, Subject


cdef set unready_kinds(const Account* account):
    # The kinds whose counters are still being filled.
    cdef int slot
    cdef set unready = set()
    for slot in range(account.state_count):
        if account.states[slot].building:
            unready.add(<Kind>account.states[slot].kind.kind)
    return unready


cdef BoundPlan plan_between(
    Transition transition, const Account* account, const Subject* subject, const Keys* keys
):
    # The plan that holds in a transition.
    cdef BoundPlan former
    cdef BoundPlan coming = transition.binding.plan_for(subject, keys)
    cdef tuple key
    if isinstance(transition.former, Transition):
        former = plan_between(<Transition>transition.former, account, subject, keys)
    else:
        former = (<Binding>transition.former).plan_for(subject, keys)
    key = (former, coming, int(account.building_count))
    if key not in transition.mixed:
        transition.mixed[key] = mix_plans(
            former.plan, coming, transition.binding, unready_kinds(account)
        )
    return transition.mixed[key]
