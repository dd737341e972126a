"""Random edits of the policy store against naive readings of the design's section 2.4.

`Book` keeps everything as plain dictionaries and works out from scratch, after each revision, which
edits are legal, which kinds of counter an account keeps and since when. `applying` looks at every
assignment there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from limiter import errors, kinds, model, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter.model import Assignment, Dimension, Limit, Policy, RollingWindow, Scope
from limiter.policy import PolicyStore
from limiter.v1 import attempt_pb2, decision_service_pb2
from tests.unit.policy_examples import assignment, cap_of, few, kind_of, limit, policy
from tests.unit.test_policy import NOW_MS, Log, kinds_of

ACCOUNTS = ["a", "b"]
RESOURCES = ["shop", "blog"]
CAMPAIGNS = ["spring", "shop"]
SCOPES = [
    Scope(),
    Scope("a"),
    Scope("a", "shop"),
    Scope("a", "", "spring"),
    Scope("b"),
    Scope("b", "blog"),
]

# --- Resolution -----------------------------------------------------------------------------------

POLICIES = [policy(name, limit(f"{name}-1"), limit(f"{name}-2")) for name in "pq"] + [
    policy("none"),
    policy("own", limit("own-1"), account="a"),
]


@st.composite
def placements(draw: st.DrawFn) -> list[Assignment]:
    """Assignments of the policies to the scopes, at most one of a scope not mandatory."""
    made: list[Assignment] = []
    for number, scope in enumerate(SCOPES):
        usable = [each for each in POLICIES if each.account in ("", scope.account)]
        for letter in draw(st.sampled_from(["", "o", "m", "om", "mm", "omm"])):
            chosen = draw(st.sampled_from(usable))
            name = f"{draw(st.sampled_from('xyz'))}{number}-{len(made)}"
            made.append(assignment(name, chosen, scope, mandatory=letter == "m"))
    return made


def applying(placed: Iterable[Assignment], account: str, resource: str, campaign: str) -> list[str]:
    """The names of the policies that apply, in order."""

    def matches(scope: Scope) -> bool:
        return (
            scope.account in ("", account)
            and scope.resource in ("", resource)
            and scope.campaign in ("", campaign)
        )

    def narrowness(each: Assignment) -> tuple[bool, bool, bool]:
        return bool(each.scope.campaign), bool(each.scope.resource), bool(each.scope.account)

    matching = sorted((each for each in placed if matches(each.scope)), key=lambda each: each.name)
    overridable = [each for each in matching if not each.mandatory]
    chosen = [max(overridable, key=narrowness)] if overridable else []
    chosen += [each for each in matching if each.mandatory]
    return list(dict.fromkeys(each.policy for each in chosen))


@few
@given(placements())
def test_the_core_applies_what_a_look_at_every_assignment_says(placed: list[Assignment]) -> None:
    store = PolicyStore()
    core = Core(bytes(32), store.bind, kinds.define_kind)
    store.connect(core)
    edit(store, [*POLICIES, *placed], NOW_MS)
    decider = Decider(core, kinds.compile_inline, zones.zone)
    limit_ids = {each.name: [made.limit_id for made in each.limits] for each in POLICIES}
    for account in [*ACCOUNTS, "c"]:
        for resource in ["", *RESOURCES]:
            for campaign in ["", *CAMPAIGNS]:
                request = decision_service_pb2.CheckRequest(
                    attempt=attempt_pb2.Attempt(
                        account=account, contact="c", resource=resource, campaign=campaign
                    )
                )
                reply = decider.check(request.SerializeToString(), NOW_MS)
                decision = decision_service_pb2.CheckResponse.FromString(reply).decision
                found = [(status.policy, status.limit_id) for status in decision.limit_statuses]
                names = applying(placed, account, resource, campaign)
                expected = [(name, limit_id) for name in names for limit_id in limit_ids[name]]
                assert found == expected, (account, resource, campaign)


# --- Edits ----------------------------------------------------------------------------------------

# Windows so short that they pass between edits.
LIMITS = [
    limit("a", window=RollingWindow(1)),
    limit("b", window=RollingWindow(10)),
    limit("c", window=RollingWindow(100)),
    limit("d", window=RollingWindow(100), per=(Dimension.CONTACT,)),
]
NAMES = ["policies/p", "policies/q", "policies/none", "accounts/a/policies/own"]
Edit = Policy | Assignment | str


@dataclass
class Book:
    """All that is in force, and what an account keeps, worked out the long way round."""

    policies: dict[str, Policy] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    # By scope and kind: the instant from which nothing uses it, None while something does.
    idle: dict[tuple[str, bytes], int | None] = field(default_factory=dict)
    since: dict[str, dict[bytes, int]] = field(
        default_factory=lambda: {account: {} for account in [*ACCOUNTS, "c"]}
    )

    def edited(self, edits: Sequence[Edit]) -> Book | None:
        """The book after the edits; None if they are illegal."""
        after = replace(self, policies=dict(self.policies), assignments=dict(self.assignments))
        for each in edits:
            if isinstance(each, Policy):
                after.policies[each.name] = each
            elif isinstance(each, Assignment):
                after.assignments[each.name] = each
            elif each in NAMES:
                if after.policies.pop(each, None) is None:
                    return None
            elif after.assignments.pop(each, None) is None:
                return None
        scopes = [each.scope for each in after.assignments.values() if not each.mandatory]
        if len(set(scopes)) < len(scopes):
            return None
        if any(each.policy not in after.policies for each in after.assignments.values()):
            return None
        return after

    def same_as(self, other: Book) -> bool:
        return (self.policies, self.assignments) == (other.policies, other.assignments)

    def revise(self, now_ms: int) -> None:
        """Works out the kinds that are kept from now on."""
        longest_ms = {kind_of(each).definition: cap_of(each).window.longest_ms for each in LIMITS}
        used = {
            (each.scope.account, kind_of(made).definition)
            for each in self.assignments.values()
            for made in self.policies[each.policy].limits
        }
        idle = dict.fromkeys(used, None) | {
            place: now_ms if idle_ms is None else idle_ms
            for place, idle_ms in self.idle.items()
            if place not in used and (idle_ms is None or now_ms < idle_ms + longest_ms[place[1]])
        }
        self.idle = idle
        self.since = {
            account: {
                kind: since.get(kind, now_ms) for scope, kind in idle if scope in ("", account)
            }
            for account, since in self.since.items()
        }


def edit(store: PolicyStore, edits: Sequence[Edit], now_ms: int) -> bool:
    """Whether the store took the edits."""
    draft = store.draft()
    try:
        for each in edits:
            if isinstance(each, Policy):
                draft.put_policy(each, "policy")
            elif isinstance(each, Assignment):
                draft.put_assignment(each, "assignment")
            elif each in NAMES:
                draft.delete_policy(each)
            else:
                draft.delete_assignment(each)
        store.commit(store.prepare(draft, now_ms))
    except (errors.NotFound, errors.AlreadyExists, errors.FailedPrecondition):
        return False
    return True


def policy_called(name: str, limits: Sequence[Limit]) -> Policy:
    return Policy(name, "", tuple(limits))


@st.composite
def edit_steps(draw: st.DrawFn) -> tuple[int, list[Edit]]:
    """How much later, and what is edited as one revision. A name occurs once."""
    edits: dict[str, Edit] = {}
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["policy", "policy", "assignment", "assignment", "delete"]))
        if what == "policy":
            name = draw(st.sampled_from(NAMES))
            chosen = draw(st.lists(st.sampled_from(LIMITS), max_size=2, unique=True))
            edits[name] = policy_called(name, chosen)
        elif what == "assignment":
            scope = draw(st.sampled_from(SCOPES))
            number = SCOPES.index(scope)
            usable = [name for name in NAMES if model.account_of(name) in ("", scope.account)]
            made = assignment(
                f"{draw(st.sampled_from('xy'))}{number}",
                policy_called(draw(st.sampled_from(usable)), []),
                scope,
                mandatory=draw(st.booleans()),
            )
            edits[made.name] = made
        else:
            assigned = [
                assignment(f"{letter}{number}", POLICIES[0], scope).name
                for number, scope in enumerate(SCOPES)
                for letter in "xy"
            ]
            name = draw(st.sampled_from(NAMES + assigned))
            edits[name] = name
    return draw(st.sampled_from([0, 1, 7, 40, 150])), list(edits.values())


def resources_of(store: PolicyStore) -> tuple[object, ...]:
    """Everything that a client can read."""
    every = [store.list_policies(parent, "", 100) for parent in ("", model.ALL_ACCOUNTS)]
    placed = [store.list_assignments(parent, "", 100) for parent in ("", model.ALL_ACCOUNTS)]
    return store.revision, every, placed


def restored_from(log: Log) -> tuple[PolicyStore, Log]:
    store, later = PolicyStore(), Log()
    store.connect(later)
    for payload, time_ms in log.payloads:
        store.restore(payload, time_ms)
    return store, later


START: list[list[Edit]] = [
    [policy_called("policies/p", LIMITS[:2]), policy_called("accounts/a/policies/own", LIMITS[2:])],
    [assignment("x0", POLICIES[0]), assignment("x1", POLICIES[3], SCOPES[1])],
]


@few
@given(st.lists(edit_steps(), min_size=1, max_size=20))
def test_any_edits_do_what_the_design_says_and_survive_a_restart(
    steps: list[tuple[int, list[Edit]]],
) -> None:
    store, log, book = PolicyStore(), Log(), Book()
    store.connect(log)
    now_ms = NOW_MS
    for later_ms, edits in [*((1, edits) for edits in START), *steps]:
        now_ms += later_ms
        before = {account: store.bind(account) for account in book.since}
        after = book.edited(edits)
        taken = edit(store, edits, now_ms)
        assert taken == (after is not None)
        if after is not None and not after.same_as(book):
            after.revise(now_ms)
            book = after
        for account, since in book.since.items():
            assert kinds_of(store.bind(account)) == since, account
            if not taken:
                assert store.bind(account) is before[account]
        assert {each.name for each in store.list_policies("", "", 100)} == {
            name for name in book.policies if not model.account_of(name)
        }

    again, later_log = restored_from(log)
    assert resources_of(again) == resources_of(store)
    for account in book.since:
        assert again.bind(account).kinds == store.bind(account).kinds
    # What is left of the past is the same too: the next changes come out the same.
    for index, more in enumerate(START):
        assert edit(store, more, now_ms + 50 + index) == edit(again, more, now_ms + 50 + index)
        for account in book.since:
            assert again.bind(account).kinds == store.bind(account).kinds
    assert later_log.payloads == log.payloads[len(log.payloads) - len(later_log.payloads) :]


@few
@given(st.lists(edit_steps(), min_size=1, max_size=8))
def test_a_binding_is_new_iff_what_it_says_is(steps: list[tuple[int, list[Edit]]]) -> None:
    store, log = PolicyStore(), Log()
    store.connect(log)
    now_ms = NOW_MS
    said: dict[str, object] = {}
    for later_ms, edits in [*((1, edits) for edits in START), *steps]:
        now_ms += later_ms
        before = {account: store.bind(account) for account in [*ACCOUNTS, "c"]}
        told = log.change_count
        edit(store, edits, now_ms)
        for account, binding in before.items():
            saying = everything_said(store, account)
            if saying != said.get(account, saying):
                assert store.bind(account) is not binding
                assert log.change_count > told
            said[account] = saying


def everything_said(store: PolicyStore, account: str) -> object:
    """All that the store says about an account: its kinds and who applies where."""
    placed = [
        *store.list_assignments("", "", 100),
        *store.list_assignments(account, "", 100),
    ]
    limits_of = {each.policy: store.policy(each.policy).limits for each in placed}
    paths = [(resource, campaign) for resource in ["", *RESOURCES] for campaign in ["", *CAMPAIGNS]]
    plans = [
        [(name, limits_of[name]) for name in applying(placed, account, *path)] for path in paths
    ]
    return kinds_of(store.bind(account)), plans
