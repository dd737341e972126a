"""The policy store: edits, what they may not do, and what an account is bound to afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from limiter import bounds, errors, model
from limiter._kinds import Binding
from limiter.journal_v1 import revision_pb2
from limiter.model import (
    Assignment,
    Condition,
    Dimension,
    Limit,
    Measure,
    Policy,
    RollingWindow,
    Scope,
)
from limiter.policy import PolicyStore, Prepared
from tests.unit.policy_examples import assignment, kind_of, limit, policy

NOW_MS = 1_800_000_000_000


class Log:
    """A journal that remembers, and fails on demand."""

    def __init__(self) -> None:
        self.payloads: list[tuple[bytes, int]] = []
        self.change_count = 0
        self.fault: Exception | None = None

    def append_revision(self, payload: bytes, now_ms: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.payloads.append((payload, now_ms))

    def policies_changed(self) -> None:
        self.change_count += 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(log: Log) -> PolicyStore:
    store = PolicyStore()
    store.connect(log)
    return store


def put(
    store: PolicyStore,
    *resources: Policy | Assignment,
    delete: Sequence[str] = (),
    now_ms: int = NOW_MS,
    allow_partial_history: bool = False,
) -> Prepared:
    """One revision that puts and deletes all of these."""
    draft = store.draft()
    draft.allow_partial_history = allow_partial_history
    for resource in resources:
        if isinstance(resource, Policy):
            resource.check("policy")
            draft.put_policy(resource, "policy")
        else:
            resource.check("assignment")
            draft.put_assignment(resource, "assignment")
    for name in delete:
        if "/assignments/" in f"/{name}":
            draft.delete_assignment(name)
        else:
            draft.delete_policy(name)
    prepared = store.prepare(draft, now_ms)
    store.commit(prepared)
    return prepared


def kinds_of(binding: Binding) -> dict[bytes, int]:
    return {kind.definition: since_ms for kind, since_ms in binding.kinds}


def definition(limit: Limit) -> bytes:
    return kind_of(limit).definition


# --- Edits ----------------------------------------------------------------------------------------


def test_what_is_put_can_be_read(store: PolicyStore) -> None:
    day = policy("day", limit(), display_name="Day")
    everywhere = assignment("all", day)
    prepared = put(store, day, everywhere)
    assert store.revision == 1
    stored = store.policy("policies/day")
    assert stored.same_content(day)
    assert (stored.create_ms, stored.update_ms) == (NOW_MS, NOW_MS)
    assert stored.etag
    assert store.assignment("assignments/all").same_content(everywhere)
    assert [(change.name, change.old) for change in prepared.policies] == [("policies/day", None)]
    assert prepared.assignments[0].new == store.assignment("assignments/all")


def test_an_update_keeps_the_time_of_creation_and_changes_the_etag(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day)
    before = store.policy(day.name)
    put(store, policy("day", limit(max_count=11)), now_ms=NOW_MS + 5)
    after = store.policy(day.name)
    assert (after.create_ms, after.update_ms) == (NOW_MS, NOW_MS + 5)
    assert after.etag != before.etag
    # There and back is not the same version.
    put(store, day, now_ms=NOW_MS + 5)
    assert store.policy(day.name).etag not in {before.etag, after.etag}


def test_a_change_of_nothing_is_no_revision(store: PolicyStore, log: Log) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    prepared = put(store, day, assignment("all", day), now_ms=NOW_MS + 1)
    assert prepared.revision is None
    assert store.revision == 1
    assert len(log.payloads) == 1
    assert store.policy(day.name).update_ms == NOW_MS


def test_a_name_is_created_once(store: PolicyStore) -> None:
    day = policy("day", limit())
    everywhere = assignment("all", day)
    put(store, day, everywhere)
    with pytest.raises(errors.AlreadyExists) as caught:
        store.draft().create_policy(day, "policy")
    assert caught.value.metadata == {"resource": "policies/day"}
    with pytest.raises(errors.AlreadyExists):
        store.draft().create_assignment(everywhere, "assignment")


def test_what_does_not_exist_is_not_found(store: PolicyStore) -> None:
    for look in (store.policy, store.assignment, store.draft().delete_policy):
        with pytest.raises(errors.NotFound, match="policies/x does not exist"):
            look("policies/x")
    with pytest.raises(errors.NotFound):
        store.draft().delete_assignment("assignments/x")


def test_an_etag_of_another_version_aborts(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    etag = store.policy(day.name).etag
    store.draft().put_policy(replace(day, etag=etag), "policy")
    draft = store.draft()
    with pytest.raises(errors.Aborted) as caught:
        draft.put_policy(replace(day, etag="other"), "policy")
    assert caught.value.reason == "ETAG_MISMATCH"
    with pytest.raises(errors.Aborted):
        draft.delete_policy(day.name, "other")
    with pytest.raises(errors.Aborted):
        draft.delete_assignment("assignments/all", etag)
    with pytest.raises(errors.Aborted, match="does not exist"):
        draft.put_policy(replace(policy("new"), etag=etag), "policy")


def test_a_policy_that_is_assigned_stays(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    with pytest.raises(errors.FailedPrecondition, match="assigned by assignments/all") as caught:
        put(store, delete=[day.name])
    assert caught.value.reason == "POLICY_ASSIGNED"
    # Together with its assignment, or once another one has taken its place, it may go.
    other = policy("other")
    put(store, other, assignment("all", other), delete=[day.name])
    put(store, delete=[other.name, "assignments/all"])
    assert store.list_policies("", "", 10) == []


def test_a_policy_that_the_same_change_deletes_cannot_be_assigned(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day)
    with pytest.raises(errors.FailedPrecondition):
        put(store, assignment("all", day), delete=[day.name])


def test_only_what_exists_can_be_assigned(store: PolicyStore) -> None:
    with pytest.raises(errors.NotFound) as caught:
        put(store, assignment("all", policy("day")))
    assert caught.value.violations[0].field == "assignment.policy"
    assert caught.value.metadata == {"resource": "policies/day"}


@pytest.mark.parametrize(
    "scope", [Scope(), Scope("a"), Scope("a", "shop"), Scope("a", "", "spring")]
)
def test_a_scope_has_one_assignment_that_is_not_mandatory(store: PolicyStore, scope: Scope) -> None:
    day, night = policy("day", limit()), policy("night", limit())
    first = assignment("first", day, scope)
    put(store, day, night, first)
    second = assignment("second", night, scope)
    with pytest.raises(errors.AlreadyExists, match=str(scope)) as caught:
        put(store, second)
    assert caught.value.violations[0].field == "assignment.scope"
    assert caught.value.metadata == {"resource": first.name}
    # Mandatory ones are not in its way, and as one of them it has no rival.
    put(store, replace(second, mandatory=True), assignment("third", night, scope, mandatory=True))
    put(store, second, replace(first, mandatory=True))
    # Swapping two is one change.
    put(store, first, replace(second, mandatory=True))
    with pytest.raises(errors.AlreadyExists):
        put(store, second)


def test_two_new_assignments_of_one_scope_are_rivals_too(store: PolicyStore) -> None:
    day = policy("day", limit())
    with pytest.raises(errors.AlreadyExists, match="assignments/a covers the same scope"):
        put(store, day, assignment("a", day), assignment("b", day))
    assert store.revision == 0


def test_a_refused_change_changes_nothing(store: PolicyStore, log: Log) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    bound = store.bind("a")
    with pytest.raises(errors.NotFound):
        put(store, policy("day", limit(max_count=1)), assignment("b", policy("x"), Scope("a")))
    assert store.policy(day.name).same_content(day)
    assert store.bind("a") is bound
    assert (store.revision, len(log.payloads)) == (1, 1)


def test_what_the_journal_refuses_changes_nothing(store: PolicyStore, log: Log) -> None:
    day = policy("day", limit())
    log.fault = errors.Unavailable("JOURNAL_UNAVAILABLE", "no")
    with pytest.raises(errors.Unavailable):
        put(store, day, assignment("all", day))
    assert store.revision == 0
    assert store.bind("a").kinds == ()
    log.fault = None
    put(store, day, assignment("all", day))
    assert store.revision == 1


def test_a_change_drafted_before_another_is_not_made(store: PolicyStore) -> None:
    draft = store.draft()
    draft.put_policy(policy("late"), "policy")
    prepared = store.prepare(draft, NOW_MS)
    put(store, policy("day"))
    with pytest.raises(RuntimeError):
        store.commit(prepared)
    with pytest.raises(RuntimeError):
        store.prepare(draft, NOW_MS)


def test_a_store_without_a_journal_takes_no_change() -> None:
    with pytest.raises(RuntimeError):
        put(PolicyStore(), policy("day"))


def test_pruning_deletes_what_is_not_put(store: PolicyStore) -> None:
    day, night = policy("day", limit()), policy("night", account="a")
    put(store, day, night, assignment("all", day), assignment("own", night, Scope("a")))
    draft = store.draft()
    draft.put_policy(day, "policy")
    draft.prune()
    prepared = store.prepare(draft, NOW_MS)
    store.commit(prepared)
    assert [change.name for change in prepared.policies] == [night.name]
    assert [change.name for change in prepared.assignments] == [
        "accounts/a/assignments/own",
        "assignments/all",
    ]
    assert [each.name for each in store.list_policies("", "", 10)] == [day.name]
    assert store.list_assignments("", "", 10) == []


@pytest.mark.parametrize("collection", ["policies", "assignments"])
def test_there_is_room_for_so_many(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch, collection: str
) -> None:
    monkeypatch.setattr(bounds, f"{collection.upper()}_MAX", 2)
    day, night = policy("day", limit()), policy("night")
    first, second = assignment("a", day), assignment("b", day, Scope("b"))
    put(store, day, night, first, second)
    third: Policy | Assignment = policy("x")
    gone = night.name
    if collection == "assignments":
        third = assignment("c", day, Scope("c"))
        gone = first.name
    with pytest.raises(errors.ResourceExhausted, match="there would be 3") as caught:
        put(store, third)
    assert caught.value.reason == f"TOO_MANY_{collection.upper()}"
    put(store, third, delete=[gone])


# --- Lists ----------------------------------------------------------------------------------------


def test_lists_go_by_name_within_their_parent(store: PolicyStore) -> None:
    names = [
        policy("b"),
        policy("a"),
        policy("z", account="x"),
        policy("a", account="x"),
        policy("a", account="x.y"),
    ]
    put(store, *names)
    # Once more, now that the order is kept and not made.
    for _ in range(2):
        assert [each.name for each in store.list_policies("", "", 9)] == [
            "policies/a",
            "policies/b",
        ]
        in_x = ["accounts/x/policies/a", "accounts/x/policies/z"]
        assert [each.name for each in store.list_policies("x", "", 9)] == in_x
        assert store.list_policies("y", "", 9) == []
        every = [each.name for each in store.list_policies(model.ALL_ACCOUNTS, "", 9)]
        assert every == ["accounts/x.y/policies/a", *in_x]
        after = store.list_policies(model.ALL_ACCOUNTS, "accounts/x/policies/a", 1)
        assert [each.name for each in after] == in_x[1:]
        put(store, policy("c"), delete=["policies/b"])
        put(store, policy("b"), delete=["policies/c"])


def test_a_page_goes_on_after_a_name_that_is_gone(store: PolicyStore) -> None:
    put(store, policy("a"), policy("b"), policy("c"))
    put(store, delete=["policies/b"])
    assert [each.name for each in store.list_policies("", "policies/b", 9)] == ["policies/c"]


# --- Bindings -------------------------------------------------------------------------------------


def test_accounts_without_assignments_share_a_binding(store: PolicyStore) -> None:
    day = policy("day", limit())
    own = policy("own", limit("own", window=RollingWindow(5)), account="a")
    put(store, day, own, assignment("all", day), assignment("own", own, Scope("a")))
    assert store.bind("x") is store.bind("y")
    assert store.bind("a") is not store.bind("x")
    assert set(kinds_of(store.bind("x"))) == {definition(limit())}
    assert set(kinds_of(store.bind("a"))) == {definition(limit()), definition(own.limits[0])}


def test_a_binding_stays_while_nothing_changes_for_its_account(
    store: PolicyStore, log: Log
) -> None:
    day = policy("day", limit())
    own = policy("own", limit(max_count=3), account="a")
    put(store, day, own, assignment("all", day), assignment("own", own, Scope("a")))
    everybody, bound = store.bind("x"), store.bind("a")
    told = log.change_count
    # Not assigned, or only called otherwise: nobody's limits change.
    put(store, policy("idle", limit()))
    put(store, replace(day, display_name="Day"))
    assert store.bind("x") is everybody
    assert store.bind("a") is bound
    assert log.change_count == told
    # One account's own.
    put(store, policy("own", limit(max_count=4), account="a"))
    assert store.bind("x") is everybody
    assert store.bind("a") is not bound
    assert log.change_count == told + 1
    # Everybody's.
    bound = store.bind("a")
    put(store, policy("day", limit(max_count=4)))
    assert store.bind("x") is not everybody
    assert store.bind("a") is not bound


def test_an_account_that_loses_its_assignments_comes_back_to_the_rest(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day), assignment("own", day, Scope("a")))
    assert store.bind("a") is not store.bind("x")
    put(store, delete=["accounts/a/assignments/own"], now_ms=NOW_MS + 1)
    # Its kind is kept for as long as its window, and then everybody's is the same.
    put(store, policy("late"), now_ms=NOW_MS + 1 + bounds.DAY_MS)
    assert store.bind("a") is not store.bind("x")
    put(store, delete=["assignments/all"], now_ms=NOW_MS + 2 + bounds.DAY_MS)
    put(store, policy("later"), now_ms=NOW_MS + 2 + 2 * bounds.DAY_MS)
    assert store.bind("a") is store.bind("x")
    assert store.bind("a").kinds == ()


# --- Kinds ----------------------------------------------------------------------------------------


def test_equal_limits_of_several_policies_share_a_kind(store: PolicyStore) -> None:
    day = policy("day", limit("a", 1), limit("b", 2))
    other = policy("other", limit("c", 3, per=(Dimension.CONTACT,)), limit("d", 4))
    put(store, day, other, assignment("all", day), assignment("own", other, Scope("a")))
    assert len(store.bind("a").kinds) == 2
    assert len(store.bind("x").kinds) == 1


def test_editing_a_maximum_keeps_the_count_and_a_new_kind_starts_now(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    week = limit("week", window=RollingWindow(7 * bounds.DAY_MS))
    put(store, policy("day", limit(max_count=3), week), now_ms=NOW_MS + 7)
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS, definition(week): NOW_MS + 7}


def test_a_kind_that_nothing_uses_is_kept_for_its_window(store: PolicyStore) -> None:
    day, none = policy("day", limit()), policy("none")
    put(store, day, none, assignment("all", day))
    put(store, assignment("all", none), now_ms=NOW_MS + 10)
    last_ms = NOW_MS + 10 + bounds.DAY_MS - 1
    put(store, policy("x"), now_ms=last_ms)
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS}
    # Used again meanwhile it is what it was; and only a revision drops it.
    put(store, assignment("all", day), now_ms=last_ms)
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS}
    put(store, assignment("all", none), now_ms=last_ms)
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS}
    put(store, policy("y"), now_ms=last_ms + bounds.DAY_MS)
    assert kinds_of(store.bind("a")) == {}
    put(store, assignment("all", day), now_ms=last_ms + bounds.DAY_MS + 1)
    assert kinds_of(store.bind("a")) == {definition(limit()): last_ms + bounds.DAY_MS + 1}


def test_a_kind_keeps_its_start_as_it_passes_between_everybody_and_an_account(
    store: PolicyStore,
) -> None:
    day, none = policy("day", limit()), policy("none")
    step_ms = 2 * bounds.DAY_MS
    put(store, day, none, assignment("all", day))
    put(store, assignment("own", day, Scope("a")), now_ms=NOW_MS + 5)
    put(store, assignment("all", none), now_ms=NOW_MS + 6)
    put(store, policy("x"), now_ms=NOW_MS + step_ms)
    assert kinds_of(store.bind("b")) == {}
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS}
    # And back again.
    put(store, assignment("all", day), now_ms=NOW_MS + step_ms + 1)
    put(store, delete=["accounts/a/assignments/own"], now_ms=NOW_MS + step_ms + 2)
    put(store, policy("y"), now_ms=NOW_MS + 2 * step_ms)
    assert kinds_of(store.bind("b")) == {definition(limit()): NOW_MS + step_ms + 1}
    assert kinds_of(store.bind("a")) == {definition(limit()): NOW_MS}


# --- Where the journal does not reach back --------------------------------------------------------


def hours_long(hours: int, max_count: int = 10) -> Limit:
    return limit(max_count=max_count, window=RollingWindow(hours * 3_600_000))


@pytest.mark.parametrize("account", ["", "a"])
def test_a_window_that_reaches_further_back_than_the_journal_is_refused(
    store: PolicyStore, log: Log, account: str
) -> None:
    store.rely_on_history(lambda: NOW_MS - bounds.DAY_MS)
    over = policy("over", hours_long(25))
    with pytest.raises(errors.FailedPrecondition) as caught:
        put(store, over, assignment("over", over, Scope(account)))
    assert caught.value.reason == "PARTIAL_HISTORY"
    assert caught.value.metadata == {"account": account, "window_ms": "90000000"}
    text = str(caught.value)
    assert (f"account {account!r}" if account else "every account") in text
    assert "looks back over 1.04 days, and the journal over 1:" in text
    assert "Set allow_partial_history" in text
    assert "or choose a shorter window" in text
    assert (store.revision, log.payloads) == (0, [])
    # As the error says: a window that the journal covers, to the millisecond, or by consent.
    shorter = policy("over", hours_long(24))
    put(store, shorter, assignment("over", shorter, Scope(account)))
    put(store, over, allow_partial_history=True)
    assert definition(hours_long(25)) in kinds_of(store.bind(account))


def test_one_millisecond_too_much_is_refused(store: PolicyStore) -> None:
    day = policy("day", limit())
    put(store, day)
    store.rely_on_history(lambda: NOW_MS - bounds.DAY_MS + 1)
    with pytest.raises(errors.FailedPrecondition, match="begin incomplete"):
        put(store, assignment("all", day))
    store.rely_on_history(lambda: None)
    put(store, assignment("all", day))


def test_what_counts_already_needs_no_history(store: PolicyStore) -> None:
    """Neither a new maximum, nor an account for which everybody's counter is kept already, nor a
    policy that nothing assigns."""
    day = policy("day", limit())
    put(store, day, assignment("all", day))
    store.rely_on_history(lambda: NOW_MS)
    put(store, policy("day", limit(max_count=3)), now_ms=NOW_MS + 5)
    put(store, assignment("own", day, Scope("a")), now_ms=NOW_MS + 5)
    put(store, policy("unused", hours_long(25)), now_ms=NOW_MS + 5)
    assert store.revision == 4
    with pytest.raises(errors.FailedPrecondition, match="begin incomplete"):
        put(store, policy("day", hours_long(25)), now_ms=NOW_MS + 5)


# --- How many kinds there may be ------------------------------------------------------------------


def many(count: int, first: int = 0) -> list[Limit]:
    """Limits of as many different kinds."""
    return [
        limit(f"l{each}", window=RollingWindow(1 + each)) for each in range(first, first + count)
    ]


def assigned(store: PolicyStore, account: str, limits: Sequence[Limit]) -> None:
    """Assigns all of the limits, mandatory, in as many policies as that takes."""
    resources: list[Policy | Assignment] = []
    for start in range(0, len(limits), bounds.POLICY_LIMITS_MAX):
        part = limits[start : start + bounds.POLICY_LIMITS_MAX]
        made = policy(f"{part[0].limit_id}", *part)
        scope = Scope(account)
        resources += [made, assignment(f"{part[0].limit_id}", made, scope, mandatory=True)]
    put(store, *resources)


@pytest.mark.parametrize("account", ["", "a"])
def test_an_account_keeps_so_many_kinds(store: PolicyStore, account: str) -> None:
    assigned(store, account, many(bounds.KINDS_MAX))
    with pytest.raises(errors.ResourceExhausted, match="65 kinds of counter") as caught:
        assigned(store, account, many(1, first=bounds.KINDS_MAX))
    assert caught.value.reason == "TOO_MANY_KINDS"
    assert caught.value.metadata["account"] == account
    assert len(store.bind("a").kinds) == bounds.KINDS_MAX


def test_everybodys_kinds_and_an_accounts_own_count_together_once(store: PolicyStore) -> None:
    assigned(store, "a", many(40))
    # The same ones for everybody take no room; others do.
    assigned(store, "", many(64))
    assert len(store.bind("a").kinds) == 64
    with pytest.raises(errors.ResourceExhausted, match="account 'a' would keep 65"):
        assigned(store, "a", many(1, first=200))


def test_new_kinds_for_everybody_need_room_in_every_account(store: PolicyStore) -> None:
    assigned(store, "a", many(40))
    with pytest.raises(errors.ResourceExhausted, match="account 'a' would keep 65"):
        assigned(store, "", many(25, first=100))
    assigned(store, "", many(24, first=100))


def test_kinds_that_go_make_room_for_new_ones(store: PolicyStore) -> None:
    assigned(store, "a", many(64))
    gone = [f"accounts/a/assignments/{first}" for first in ("l0", "l32")]
    put(store, delete=gone)
    # The longest of the windows lasts 64 ms.
    with pytest.raises(errors.ResourceExhausted, match="64 of them are no longer used"):
        assigned(store, "a", many(1, first=100))
    put(store, policy("x"), now_ms=NOW_MS + 64)
    assigned(store, "a", many(64, first=100))


def test_what_a_limit_counts_is_part_of_its_kind(store: PolicyStore) -> None:
    queue = (Condition(Dimension.SOURCE, ("queue",)),)
    day = policy(
        "day",
        limit("all"),
        replace(limit("queue"), applies_to=queue),
        replace(limit("queue-of-all"), applies_to=queue, counts=()),
        limit("people", measure=Measure.CONTACTS),
    )
    put(store, day, assignment("all", day))
    assert len(store.bind("a").kinds) == 3


# --- Restoring ------------------------------------------------------------------------------------


def replace_number(payload: bytes, number: int) -> bytes:
    message = revision_pb2.PolicyRevision.FromString(payload)
    message.revision = number
    return message.SerializeToString()


def test_a_payload_that_does_not_follow_is_data_loss(store: PolicyStore, log: Log) -> None:
    day = policy("day", limit())
    put(store, day)
    put(store, assignment("all", day))
    put(store, delete=["assignments/all"])
    (first, _), (second, _), (third, _) = log.payloads
    for *sound, wrong in ([second], [first, first], [first, third], [b"\xff"], [first, b""]):
        fresh = PolicyStore()
        for payload in sound:
            fresh.restore(payload, 5)
        with pytest.raises(errors.DataLoss, match="journalled at 5 ms") as caught:
            fresh.restore(wrong, 5)
        assert caught.value.reason == "JOURNAL_DAMAGED"
    # The number is right, but what it assigns, or deletes, is not there.
    for absent in (replace_number(second, 1), replace_number(third, 1)):
        with pytest.raises(errors.DataLoss, match="not in force"):
            PolicyStore().restore(absent, 5)
