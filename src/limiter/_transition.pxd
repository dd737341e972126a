# Which limits hold while counters of new kinds are being filled.

from limiter._accounts cimport Account
from limiter._kinds cimport BoundPlan, Transition
from limiter._subject cimport Keys, Subject

cdef BoundPlan plan_between(
    Transition transition, const Account* account, const Subject* subject, const Keys* keys
)
