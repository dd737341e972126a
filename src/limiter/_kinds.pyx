# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled policies: kinds of counters, rules that read them, plans, bindings.

The policy layer makes these objects on the cold path; the core reads their C rows on the hot one.
They never change once made, so a decision may read them without a lock.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcmp

from limiter.errors import FieldViolation, InvalidArgument
from limiter._calendar cimport Window
from limiter._hours cimport Hours
from limiter._names cimport NameTable, names_find, names_free, names_insert
from limiter._ramp cimport Ramp
from limiter._siphash cimport Digest, same_digest, siphash128, siphash64
from limiter._subject cimport Keys, Subject
from limiter._types cimport (
    DIMENSION_ADDRESS,
    DIMENSION_CAMPAIGN,
    DIMENSION_CATEGORY,
    DIMENSION_CONTACT,
    DIMENSION_COUNT,
    DIMENSION_RESOURCE,
    MEASURE_ADDRESSES,
    MEASURE_CONTACTS,
    MEASURE_MESSAGES,
    MEASURE_NOTHING,
    Slice,
)


cdef Slice slice_of(bytes text):
    # The object must outlive the slice.
    cdef Slice slice
    slice.data = <const uint8_t*>PyBytes_AS_STRING(text)
    slice.size = <uint32_t>PyBytes_GET_SIZE(text)
    return slice


cdef class Conditions:
    """Conditions that must all hold: rows of (dimension number, values, negate)."""

    def __cinit__(self, rows):
        cdef ConditionRow* row
        cdef int i
        self.texts = tuple(
            (dimension, tuple(value.encode() for value in values), bool(negate))
            for dimension, values, negate in rows
        )
        self.rows = <ConditionRow*>calloc(len(rows) + 1, sizeof(ConditionRow))
        if self.rows == NULL:
            raise MemoryError
        for dimension, values, negate in rows:
            if not 1 <= dimension <= DIMENSION_COUNT:
                raise ValueError("unknown dimension")
            row = &self.rows[self.count]
            row.dimension = dimension - 1
            row.negate = negate
            self.by_person |= row.dimension <= DIMENSION_ADDRESS
            row.values = <Slice*>malloc((len(values) + 1) * sizeof(Slice))
            row.digests = <Digest*>malloc((len(values) + 1) * sizeof(Digest))
            self.count += 1
            if row.values == NULL or row.digests == NULL:
                raise MemoryError
            for i, text in enumerate(self.texts[self.count - 1][1]):
                row.values[i] = slice_of(text)
            row.value_count = len(values)

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            free(self.rows[i].values)
            free(self.rows[i].digests)
        free(self.rows)

    cdef void digest(self, const Keys* keys) noexcept nogil:
        # Contacts and addresses are compared by digest, under the keys of the core that asks. Equal
        # conditions are one object for all cores of a process, which rarely are more than one.
        cdef ConditionRow* row
        cdef int i
        cdef int j
        for i in range(self.count):
            row = &self.rows[i]
            for j in range(row.value_count):
                row.digests[j] = siphash128(
                    &keys.contact if row.dimension == DIMENSION_CONTACT else &keys.address,
                    row.values[j].data,
                    row.values[j].size,
                )
        self.digested_under = keys.contact.k0

    cdef int match(self, const Subject* subject) noexcept nogil:
        # MATCHES, DIFFERS, or FIRST_MISSING minus the index of a dimension that is missing.
        cdef int i
        cdef int verdict = MATCHES
        cdef ConditionRow* row
        if self.by_person and self.digested_under != subject.keys.contact.k0:
            self.digest(subject.keys)
        for i in range(self.count):
            row = &self.rows[i]
            if not subject.present & (<uint32_t>1 << row.dimension):
                if verdict == MATCHES:
                    verdict = FIRST_MISSING - row.dimension
            elif is_among(row, subject) == row.negate:
                return DIFFERS
        return verdict


cdef bint is_among(const ConditionRow* row, const Subject* subject) noexcept nogil:
    cdef int i
    cdef const Slice* text
    cdef const Digest* digest
    if row.dimension <= DIMENSION_ADDRESS:
        digest = &subject.contact if row.dimension == DIMENSION_CONTACT else &subject.address
        for i in range(row.value_count):
            if same_digest(&row.digests[i], digest):
                return True
        return False
    text = &subject.names[row.dimension].text
    for i in range(row.value_count):
        if (
            row.values[i].size == text.size
            and memcmp(row.values[i].data, text.data, text.size) == 0
        ):
            return True
    return False


cdef class Kind:
    """One kind of counter: what it measures, by what it is keyed, over which window, and which
    messages it counts. `definition` are its canonical bytes, and its identity. The window of a
    pause (measure 4) is its duration, rolling."""

    def __cinit__(
        self, bytes definition not None, int measure, per, Window window not None, counts
    ):
        if not MEASURE_MESSAGES <= measure <= MEASURE_NOTHING:
            raise ValueError("unknown measure")
        self.definition = definition
        self.window = window
        self.counts = Conditions(counts)
        self.rules.measure = measure
        self.rules.window = &window.rules
        self.rules.counts = <void*>self.counts
        self.rules.kind = <void*>self
        for dimension in sorted(set(per)):
            if not 1 <= dimension <= DIMENSION_COUNT:
                raise ValueError("unknown dimension")
            self.rules.per[self.rules.per_count] = dimension - 1
            self.rules.per_count += 1
            self.rules.needs |= <uint32_t>1 << <int>(dimension - 1)
        if measure == MEASURE_CONTACTS:
            self.rules.needs |= 1 << DIMENSION_CONTACT
        elif measure == MEASURE_ADDRESSES:
            self.rules.needs |= 1 << DIMENSION_ADDRESS

    def __eq__(self, other):
        return isinstance(other, Kind) and (<Kind>other).definition == self.definition

    def __hash__(self):
        return hash(self.definition)


# What hours point to where other rules have the kind of their counter.
cdef Kind NO_COUNTER = Kind(b"", MEASURE_NOTHING, (), Window.rolling(1), ())


cdef class Rule:
    """One limit, compiled: it reads the counter of `kind` and holds it against `max_count`, or
    against what `ramp` says at the instant. One with `hours` reads no counter: its `kind` is None.
    One that `follows_account` names a zone which only its account knows: it is there to be compiled
    again."""

    def __cinit__(
        self,
        str policy,
        str limit_id,
        Kind kind,
        int64_t max_count,
        int enforcement,
        applies_to,
        Ramp ramp=None,
        Hours hours=None,
        bint follows_account=False,
        str etag="",
    ):
        if max_count < 0:
            raise ValueError("max_count is negative")
        if (kind is None) != (hours is not None):
            raise ValueError("a rule reads a counter or the clock")
        self.policy_bytes = policy.encode()
        self.limit_id_bytes = limit_id.encode()
        self.kind = kind
        self.applies_to = Conditions(applies_to)
        self.row.policy = slice_of(self.policy_bytes)
        self.row.limit_id = slice_of(self.limit_id_bytes)
        self.etag_bytes = etag.encode()
        self.row.etag = slice_of(self.etag_bytes)
        self.row.kind = &NO_COUNTER.rules if kind is None else &kind.rules
        self.row.max_count = max_count
        self.ramp = ramp
        self.row.ramp = NULL if ramp is None else &ramp.rules
        self.hours = hours
        self.row.hours = NULL if hours is None else &hours.rules
        self.follows_account = follows_account
        self.row.enforcement = enforcement
        self.row.applies_to = <void*>self.applies_to
        self.identity = repr(
            (
                policy,
                limit_id,
                None if kind is None else kind.definition,
                max_count,
                enforcement,
                self.applies_to.texts,
                None if ramp is None else ramp.identity,
                None if hours is None else hours.identity,
            )
        ).encode()

    cdef bint by_person(self) noexcept:
        # Whether conditions are on the contact or the address.
        return self.applies_to.by_person or (
            self.kind is not None and self.kind.counts.by_person
        )


cdef class InlineRules:
    # Compiled inline limits; made by bind_inline.
    def __dealloc__(self):
        free(self.rows)


def compile_at(compile_inline, place, limit, account_zone):
    """The rule of the inline limit at `place`, which an error names."""
    try:
        return compile_inline(limit, account_zone)
    except InvalidArgument as error:
        def at_place(text):
            return text.replace("inline_limits[]", f"inline_limits[{place}]")

        raise InvalidArgument(
            error.reason,
            at_place(error.message),
            violations=[
                FieldViolation(at_place(each.field), each.description)
                for each in error.violations
            ],
            metadata=error.metadata,
        ) from None


cdef InlineRules bind_inline(rules):
    cdef InlineRules bound = InlineRules.__new__(InlineRules)
    cdef Rule rule
    bound.rules = tuple(rules)
    bound.rows = <RuleRow**>malloc((len(bound.rules) + 1) * sizeof(RuleRow*))
    if bound.rows == NULL:
        raise MemoryError
    for rule in bound.rules:
        bound.by_person |= rule.by_person()
        bound.follows_account |= rule.follows_account
        bound.rows[bound.count] = &rule.row
        bound.count += 1
    bound.counting = tuple([rule for rule in bound.rules if (<Rule>rule).kind is not None])
    bound.identity = b"".join([(<Rule>rule).identity for rule in bound.rules])
    return bound


cdef InlineRules compile_limits(object compile_inline, tuple raw, str account_zone):
    # The inline limits of one request, from their bytes, for accounts that live in a zone. Without
    # one, those that name `ACCOUNT` only say so: compile them again, from `raw`, for their account.
    cdef InlineRules bound
    rules = [
        compile_at(compile_inline, place, limit, account_zone) for place, limit in enumerate(raw)
    ]
    names = [(<Rule>rule).limit_id_bytes for rule in rules]
    if len(set(names)) < len(names):
        raise InvalidArgument.for_field(
            "inline_limits", "two limits have the same limit_id; give each its own"
        )
    bound = bind_inline(rules)
    bound.raw = raw
    if account_zone:
        # Whatever the zone, it is asked under the same request_id.
        bound.identity = compile_limits(compile_inline, raw, "").identity
    return bound


cdef class Plan:
    """The rules that apply to one scope path, in the order in which their statuses are shown.
    `has_policy` is false where no assignment matches at all."""

    def __cinit__(self, rules, bint has_policy):
        self.rules = tuple(rules)
        self.has_policy = has_policy


cdef class BoundPlan:
    def __dealloc__(self):
        free(self.rows)
        free(self.slots)


cdef BoundPlan bind_plan(Plan plan, Binding binding):
    cdef BoundPlan bound = BoundPlan.__new__(BoundPlan)
    cdef Rule rule
    cdef int slot
    bound.plan = plan
    bound.has_policy = plan.has_policy
    bound.rows = <RuleRow**>malloc((len(plan.rules) + 1) * sizeof(RuleRow*))
    bound.slots = <int*>malloc((len(plan.rules) + 1) * sizeof(int))
    if bound.rows == NULL or bound.slots == NULL:
        raise MemoryError
    for rule in plan.rules:
        slot = 0 if rule.kind is not None else -1
        while 0 <= slot < binding.kind_count and binding.kind_rules[slot] != rule.row.kind:
            slot += 1
        if slot == binding.kind_count:
            raise ValueError("a plan's kind of counter is not among its binding's")
        bound.rows[bound.count] = &rule.row
        bound.slots[bound.count] = slot
        bound.by_person |= rule.by_person()
        bound.count += 1
    return bound


cdef BoundPlan mix_plans(Plan former, BoundPlan coming, Binding binding, set unready):
    # What holds while the counters of the `unready` kinds are being filled: of the coming plan the
    # limits that are ready, and of the former one those that none of them replaces. A limit
    # replaces the one with its policy and id. Without anything unready the coming plan holds.
    cdef Rule rule
    kept = {kind for kind, _ in binding.kinds}
    rules = []
    replaced = set()
    for rule in coming.plan.rules:
        if rule.kind is None or rule.kind not in unready:
            rules.append(rule)
            replaced.add((rule.policy_bytes, rule.limit_id_bytes))
    if len(rules) == len(coming.plan.rules):
        return coming
    for rule in former.rules:
        # A kind that is not kept any more was out of use for as long as its window lasts.
        if (rule.policy_bytes, rule.limit_id_bytes) not in replaced and (
            rule.kind is None or rule.kind in kept
        ):
            rules.append(rule)
    return bind_plan(Plan(rules, coming.has_policy or former.has_policy), binding)


@cython.final
cdef class Transition:
    # From one binding of an account to the next, while counters are being filled; the account owns
    # it, and asks through `_accounts.plan_of`.
    pass


cdef class Binding:
    """What holds for an account: the kinds of counters that it keeps, and which plan is for which
    resource and campaign. `resolve(resource, campaign)` is called once per pair of names that have
    assignments of their own (`resources`, `campaigns`); all other names count as None. `time_zone`
    is the account's own, and `allowed_categories` may be sent to those who have opted out."""

    def __cinit__(
        self, kinds, resources, campaigns, resolve, str time_zone="UTC", allowed_categories=()
    ):
        cdef Kind kind
        self.kinds = tuple(kinds)
        self.resolve = resolve
        self.time_zone = time_zone
        self.allowed = Conditions(((DIMENSION_CATEGORY + 1, tuple(allowed_categories), False),))
        self.plans = {}
        self.kind_rules = <KindRules**>malloc((len(self.kinds) + 1) * sizeof(KindRules*))
        if self.kind_rules == NULL:
            raise MemoryError
        for kind, _ in self.kinds:
            self.kind_rules[self.kind_count] = &kind.rules
            self.kind_count += 1
        self._names = (sorted(set(resources)), sorted(set(campaigns)))

    def __dealloc__(self):
        free(self.kind_rules)
        names_free(&self.resources)
        names_free(&self.campaigns)

    cdef int attach(self, const Keys* keys) except -1:
        # Makes the binding ready for the core with these keys; once.
        if self.attached:
            return 0
        for text in self._names[0]:
            intern(&self.resources, text.encode(), keys)
        for text in self._names[1]:
            intern(&self.campaigns, text.encode(), keys)
        self.default_plan = bind_plan(self.resolve(None, None), self)
        self.attached = True
        return 0

    cdef BoundPlan plan_for(self, const Subject* subject, const Keys* keys):
        # The plan for the attempt's resource and campaign.
        cdef uint32_t resource = 0
        cdef uint32_t campaign = 0
        if self.resources.size:
            resource = names_find(
                &self.resources,
                subject.names[DIMENSION_RESOURCE].text,
                subject.names[DIMENSION_RESOURCE].hash,
            )
        if self.campaigns.size:
            campaign = names_find(
                &self.campaigns,
                subject.names[DIMENSION_CAMPAIGN].text,
                subject.names[DIMENSION_CAMPAIGN].hash,
            )
        if resource == 0 and campaign == 0:
            return self.default_plan
        pair = (resource, campaign)
        found = self.plans.get(pair)
        if found is None:
            found = bind_plan(
                self.resolve(
                    self._names[0][resource - 1] if resource else None,
                    self._names[1][campaign - 1] if campaign else None,
                ),
                self,
            )
            self.plans[pair] = found
        return found


cdef int intern(NameTable* table, bytes text, const Keys* keys) except -1:
    cdef Slice slice = slice_of(text)
    names_insert(table, slice, siphash64(&keys.name, slice.data, slice.size))
    return 0
