"""The policies and assignments in force, and how they change.

In flow edits from the policy service, each a `Draft`, and journalled revisions at start; out flow
the stored resources, the revisions for the journal, and for each account the `Binding` that tells
the core what holds for it.

The steps of a change: the draft collects what is put and deleted; `prepare` checks the outcome as a
whole and works out everything that follows, changing nothing; `commit` journals the revision and
then makes it so, in one step that no decision falls into. A change is never half made.

What always holds: every assignment's policy exists and belongs to everybody or to the assignment's
account; a scope has at most one assignment that is not mandatory; the state follows from the
revisions alone, so that restoring them gives the same state.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, TypeVar

from limiter import bounds, errors, groups, model, resolution, zones
from limiter._kinds import Binding
from limiter.drafts import (
    Change,
    Draft,
    account_in,
    etag_of,
    found_in,
    not_found,
    policy_assigned,
)
from limiter.resolution import AccountView, Place, Placed, PolicyInZones
from limiter.retention import EVERYBODY, KeptKinds, Preview
from limiter.service import conversion
from limiter.uses import UseCount

_Resource = TypeVar("_Resource", model.Policy, model.Assignment, model.Group)
_Stored = TypeVar("_Stored", model.Policy, model.Assignment, model.Group, model.Account)


class RevisionLog(Protocol):
    """What a change is told to: the core."""

    def append_revision(self, payload: bytes, now_ms: int) -> None:
        """Journals a revision."""

    def policies_changed(self) -> None:
        """Every account asks for its binding again at its next touch."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked change, worked out and not made yet. Without differences there is no revision."""

    revision: model.Revision | None
    base: int
    policies: tuple[Change[model.Policy], ...]
    assignments: tuple[Change[model.Assignment], ...]
    compiled: Mapping[str, PolicyInZones] = field(default_factory=dict)
    kinds: Preview = field(default_factory=Preview)
    groups: tuple[Change[model.Group], ...] = ()
    accounts: tuple[Change[model.Account], ...] = ()


class NameIndex:
    """The names of a collection in order, for paging. Sorted when a page is asked for, which after
    a start with many resources is cheaper than keeping the order while they are restored."""

    # With more changes than this at once, sorting again is cheaper than moving names one by one.
    _RESORT_COUNT: ClassVar[int] = 256

    def __init__(self, source: Mapping[str, object]) -> None:
        self._source = source
        self._names: list[str] | None = None

    def page(self, prefix: str, after: str, count: int) -> list[str]:
        """Up to `count` names with the prefix, in order, from the first one beyond `after`."""
        if self._names is None:
            self._names = sorted(self._source)
        start = bisect_right(self._names, after) if after else bisect_left(self._names, prefix)
        page = self._names[start : start + count]
        return [name for name in page if name.startswith(prefix)]

    def changed(self, changes: Sequence[Change[_Stored]]) -> None:
        """Takes in what was created and deleted."""
        if self._names is None or len(changes) > self._RESORT_COUNT:
            self._names = None
            return
        for change in changes:
            if change.old is None:
                insort(self._names, change.name)
            elif change.new is None:
                del self._names[bisect_left(self._names, change.name)]


class PolicyStore:
    """The policies and assignments in force."""

    def __init__(self) -> None:
        self._log: RevisionLog | None = None
        self._revision = 0
        self._policies: dict[str, model.Policy] = {}
        self._assignments: dict[str, model.Assignment] = {}
        self._groups: dict[str, model.Group] = {}
        self._group_names = NameIndex(self._groups)
        self._policy_names = NameIndex(self._policies)
        self._assignment_names = NameIndex(self._assignments)
        # Those that were changed, and the zones of those that do not live in UTC, by id.
        self._accounts: dict[str, model.Account] = {}
        self._account_names = NameIndex(self._accounts)
        self._zones: dict[str, str] = {}
        self._compiled: dict[str, PolicyInZones] = {}
        # How many assignments each policy has, by account; EVERYBODY has those of no account.
        self._users: dict[str, dict[str, int]] = {}
        # The assignments at each place of each account that has some, by name; the account of what
        # is assigned to everything is EVERYBODY.
        self._placed: dict[str, dict[Place, dict[str, model.Assignment]]] = {}
        self._kinds = KeptKinds()
        self._history_begins_ms: Callable[[], int | None] = lambda: None
        # By account; EVERYBODY is for all accounts that have nothing of their own.
        self._bindings: dict[str, Binding] = {}

    def connect(self, log: RevisionLog) -> None:
        """From now on changes are journalled in `log`, which asks this store for bindings."""
        self._log = log

    def rely_on_history(self, begins_ms: Callable[[], int | None]) -> None:
        """From now on `begins_ms()` says from which instant on the journal is kept; None: all of
        it is."""
        self._history_begins_ms = begins_ms

    # --- Reading ----------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The number of the revision in force; 0 before the first one."""
        return self._revision

    def policy(self, name: str) -> model.Policy:
        """The policy called `name`. Raises `NotFound`."""
        return found_in(self._policies, name)

    def assignment(self, name: str) -> model.Assignment:
        """The assignment called `name`. Raises `NotFound`."""
        return found_in(self._assignments, name)

    def group(self, name: str) -> model.Group:
        """The group called `name`. Raises `NotFound`."""
        return found_in(self._groups, name)

    def list_groups(self, account: str, after: str, count: int) -> list[model.Group]:
        """Up to `count` groups, as `list_policies` does it."""
        names = self._group_names.page(_name_prefix(account, "groups"), after, count)
        return [self._groups[name] for name in names]

    def account(self, name: str) -> model.Account:
        """The account called `name`. Every one exists."""
        return account_in(self._accounts, name)

    def list_accounts(self, after: str, count: int) -> list[model.Account]:
        """Up to `count` of the accounts that were changed, in the order of their names, beyond the
        name `after`."""
        return [self._accounts[name] for name in self._account_names.page("", after, count)]

    def list_policies(self, account: str, after: str, count: int) -> list[model.Policy]:
        """Up to `count` policies in the order of their names, beyond the name `after`: those of the
        account, of all accounts (`model.ALL_ACCOUNTS`), or of none (empty)."""
        prefix = _name_prefix(account, "policies")
        return [self._policies[name] for name in self._policy_names.page(prefix, after, count)]

    def list_assignments(self, account: str, after: str, count: int) -> list[model.Assignment]:
        """Up to `count` assignments, as `list_policies` does it."""
        prefix = _name_prefix(account, "assignments")
        names = self._assignment_names.page(prefix, after, count)
        return [self._assignments[name] for name in names]

    def definitions_of(self, policy: str) -> set[bytes]:
        """The kinds of counter that the policy called so reads; none if there is no such policy."""
        found = self._compiled.get(policy)
        return set() if found is None else found.definitions()

    def bind(self, account: str) -> Binding:
        """What holds for the account: the same object as long as that does not change, and the same
        one for all accounts that have nothing of their own."""
        binding = self._bindings.get(account)
        if binding is not None:
            return binding
        settings = self._accounts.get(model.account_name(account))
        own = settings is not None or account in self._placed or self._kinds.keeps(account)
        key = account if own else EVERYBODY
        binding = self._bindings.get(key)
        if binding is None:
            zone = self._zone_of(key)
            view = AccountView(
                self._place(EVERYBODY, resolution.WHOLE_ACCOUNT, zone),
                {at: self._place(key, at, zone) for at in self._placed.get(key, ())} if key else {},
            )
            binding = Binding(
                self._kinds.of_account(key),
                view.resources(),
                view.campaigns(),
                view.plan,
                zone,
                settings.allowed_categories if settings is not None else (),
            )
            self._bindings[key] = binding
        return binding

    def _zone_of(self, account: str) -> str:
        return self._zones.get(account, zones.UTC)

    def _place(self, account: str, at: Place, zone: str) -> Placed:
        assignments = self._placed.get(account, {}).get(at, {})
        return resolution.place(assignments.values(), self._compiled, zone)

    # --- Changing ---------------------------------------------------------------------------------

    def draft(self) -> Draft:
        """An empty edit of what is in force now."""
        return Draft(
            self._policies, self._assignments, self._revision, self._groups, self._accounts
        )

    def prepare(self, draft: Draft, now_ms: int, author: str = "") -> Prepared:
        """What the draft changes at `now_ms`, checked as a whole; changes nothing.

        Raises `NotFound` (an assigned policy), `AlreadyExists` (a scope that is taken),
        `FailedPrecondition` (a policy that stays assigned, a counter that the journal does not
        reach back far enough for) and `ResourceExhausted`.
        """
        self._check_base(draft.base)
        number = self._revision + 1
        policies = _changes(draft.policies, self._policies, number, now_ms)
        assignments = _changes(draft.assignments, self._assignments, number, now_ms)
        groups_changed = _changes(draft.groups, self._groups, number, now_ms)
        accounts = _account_changes(draft.accounts, self._accounts, number, now_ms)
        others = bool(policies or assignments or groups_changed)
        if not others and not accounts:
            return Prepared(None, self._revision, (), ())
        if others and accounts:
            raise RuntimeError("an account changes in a revision of its own")
        self._check_counts(policies, assignments)
        self._check_references(draft, policies, assignments)
        self._check_scopes(draft, assignments)
        _check_room(groups_changed, len(self._groups), bounds.GROUPS_MAX, "groups")
        _check_room(accounts, len(self._accounts), bounds.CHANGED_ACCOUNTS_MAX, "changed accounts")
        self._check_access(draft, policies, assignments, groups_changed)
        revision = model.Revision(
            number,
            now_ms,
            tuple(change.new for change in policies if change.new is not None),
            tuple(change.new for change in assignments if change.new is not None),
            tuple(change.name for change in policies if change.new is None),
            tuple(change.name for change in assignments if change.new is None),
            author,
            tuple(change.new for change in groups_changed if change.new is not None),
            tuple(change.name for change in groups_changed if change.new is None),
            tuple(change.new for change in accounts if change.new is not None),
        )
        prepared = self._follow_up(revision, policies, assignments, accounts)
        prepared = replace(prepared, groups=groups_changed)
        self._kinds.check(prepared.kinds)
        begins_ms = None if draft.allow_partial_history else self._history_begins_ms()
        # Where an account lives is a fact, whatever its windows then reach back to.
        if begins_ms is not None and not accounts:
            self._kinds.check_history(prepared.kinds, begins_ms, now_ms)
        return prepared

    def commit(self, prepared: Prepared) -> None:
        """Journals the change and makes it so, for the next decision. Does nothing where there is
        no difference. If the journal refuses it, nothing has changed."""
        self._check_base(prepared.base)
        if prepared.revision is None:
            return
        if self._log is None:
            raise RuntimeError("the policy store is not connected to a journal")
        payload = conversion.revision_to_bytes(prepared.revision)
        self._log.append_revision(payload, prepared.revision.time_ms)
        # The point of no return: the revision is part of history, and nothing below can fail.
        if self._install(prepared):
            self._log.policies_changed()

    def restore(self, payload: bytes, time_ms: int) -> None:
        """Makes a journalled revision so, as `commit` did. Raises `DataLoss` if it cannot follow
        the revisions before it."""
        try:
            revision = conversion.revision_from_bytes(payload)
        except ValueError as error:
            raise _unreadable(time_ms, str(error)) from error
        if revision.number != self._revision + 1:
            raise _unreadable(time_ms, f"revision {revision.number} follows {self._revision}")
        try:
            policies = _restored(revision.put_policies, revision.deleted_policies, self._policies)
            assignments = _restored(
                revision.put_assignments, revision.deleted_assignments, self._assignments
            )
            accounts = _restored(revision.put_accounts, (), self._accounts)
            prepared = replace(
                self._follow_up(revision, policies, assignments, accounts),
                groups=_restored(revision.put_groups, revision.deleted_groups, self._groups),
            )
        except KeyError as error:
            raise _unreadable(time_ms, f"{error} is not in force") from error
        if self._install(prepared) and self._log is not None:
            self._log.policies_changed()

    def _check_base(self, base: int) -> None:
        if base != self._revision:
            raise RuntimeError("the policies have changed since this change was drafted")

    def _check_counts(
        self,
        policies: Iterable[Change[model.Policy]],
        assignments: Iterable[Change[model.Assignment]],
    ) -> None:
        _check_room(policies, len(self._policies), bounds.POLICIES_MAX, "policies")
        _check_room(assignments, len(self._assignments), bounds.ASSIGNMENTS_MAX, "assignments")

    def _check_references(
        self,
        draft: Draft,
        policies: Iterable[Change[model.Policy]],
        assignments: Iterable[Change[model.Assignment]],
    ) -> None:
        deleted = {change.name for change in policies if change.new is None}
        changed = set()
        for change in assignments:
            changed.add(change.name)
            if change.new is None:
                continue
            policy = change.new.policy
            if policy in deleted:
                raise policy_assigned(policy, [change.name])
            if policy not in self._policies and draft.policies.get(policy) is None:
                raise not_found(policy, f"{draft.field_of(change.name)}.policy")
        for policy in sorted(deleted):
            users = self._assignments_of(policy) - changed
            if users:
                raise policy_assigned(policy, users)

    def _check_access(
        self,
        draft: Draft,
        policies: Iterable[Change[model.Policy]],
        assignments: Iterable[Change[model.Assignment]],
        groups_changed: Iterable[Change[model.Group]],
    ) -> None:
        outcome = groups.Outcome(
            {**self._groups, **draft.groups},
            lambda name: draft.policies[name] if name in draft.policies else self._policies[name],
            lambda account: self.list_policies(account, "", len(self._policies)),
            lambda policy: [self._assignments[name] for name in self._assignments_of(policy)],
        )
        outcome.check(
            [each.new for each in policies if each.new is not None],
            {each.name: each.new for each in assignments},
            [each.name for each in groups_changed],
        )

    def _assignments_of(self, policy: str) -> set[str]:
        return {
            assignment.name
            for account in self._users.get(policy, ())
            for place in self._placed[account].values()
            for assignment in place.values()
            if assignment.policy == policy
        }

    def _check_scopes(self, draft: Draft, assignments: Iterable[Change[model.Assignment]]) -> None:
        changed = {change.name for change in assignments}
        holder_of: dict[model.Scope, str] = {}
        for change in assignments:
            new = change.new
            if new is None or new.mandatory:
                continue
            holder = holder_of.get(new.scope) or self._holder(new.scope, changed)
            if holder is not None:
                field = f"{draft.field_of(new.name)}.scope"
                rule = f"{holder} covers the same scope ({new.scope}) and is not mandatory either"
                raise errors.AlreadyExists(
                    "ALREADY_EXISTS",
                    f"{field}: {rule}; update that one, or make one of them mandatory",
                    violations=[errors.FieldViolation(field, rule)],
                    metadata={"resource": holder},
                )
            holder_of[new.scope] = new.name

    def _holder(self, scope: model.Scope, changed: Set[str]) -> str | None:
        """The assignment on exactly this scope that is not mandatory, of those not changed."""
        at_place = self._placed.get(scope.account, {}).get((scope.resource, scope.campaign), {})
        for name, assignment in at_place.items():
            if not assignment.mandatory and name not in changed:
                return name
        return None

    # --- What follows from a change ---------------------------------------------------------------

    def _follow_up(
        self,
        revision: model.Revision,
        policies: tuple[Change[model.Policy], ...],
        assignments: tuple[Change[model.Assignment], ...],
        accounts: tuple[Change[model.Account], ...],
    ) -> Prepared:
        compiled = {
            change.name: PolicyInZones(change.new)
            for change in policies
            if change.new is not None
            and (change.old is None or change.old.limits != change.new.limits)
        }
        uses = UseCount(self._zones)
        self._use_assignments(uses, compiled, assignments)
        for account in accounts:
            self._move(uses, account)
        return Prepared(
            revision,
            self._revision,
            policies,
            assignments,
            compiled,
            self._kinds.preview(uses.changes, revision.time_ms),
            accounts=accounts,
        )

    def _use_assignments(
        self,
        uses: UseCount,
        compiled: Mapping[str, PolicyInZones],
        assignments: Iterable[Change[model.Assignment]],
    ) -> None:
        """Counts by how much the use of each kind changes in each scope."""
        # Assignments that stay, of a policy that changes: by the policy, for they may be many.
        moved: dict[str, dict[str, int]] = {}
        for change in assignments:
            account = model.account_of(change.name)
            if change.old is not None:
                policy = change.old.policy
                uses.exchange(self._compiled[policy], None, account, 1)
                left = moved.setdefault(policy, {})
                left[account] = left.get(account, 0) + 1
            if change.new is not None:
                policy = change.new.policy
                after = compiled.get(policy) or self._compiled[policy]
                uses.exchange(None, after, account, 1)
        for policy in compiled.keys() & self._users.keys():
            left = moved.get(policy, {})
            for account, user_count in self._users[policy].items():
                staying_count = user_count - left.get(account, 0)
                uses.exchange(self._compiled[policy], compiled[policy], account, staying_count)

    def _move(self, uses: UseCount, change: Change[model.Account]) -> None:
        """Counts what an account uses no longer, and what instead, once its zone has changed."""
        assert change.new is not None
        account, zone = model.account_of(change.name), change.new.zone
        for scope in (account, EVERYBODY):
            for at_place in self._placed.get(scope, {}).values():
                for assignment in at_place.values():
                    uses.move(self._compiled[assignment.policy], account, zone, scope)

    def _install(self, prepared: Prepared) -> bool:
        """Makes the change so; whether any account's binding changes."""
        touched = {model.account_of(change.name) for change in prepared.assignments}
        for policy in prepared.compiled:
            touched.update(self._users.get(policy, ()))
        touched |= self._kinds.install(prepared.kinds)
        self._compiled.update(prepared.compiled)
        touched |= {model.account_of(change.name) for change in prepared.accounts}
        _update(self._accounts, prepared.accounts)
        self._account_names.changed(prepared.accounts)
        for moved in prepared.accounts:
            account = model.account_of(moved.name)
            self._zones.pop(account, None)
            if moved.new is not None and moved.new.zone != zones.UTC:
                self._zones[account] = moved.new.zone
        _update(self._groups, prepared.groups)
        self._group_names.changed(prepared.groups)
        _update(self._policies, prepared.policies)
        _update(self._assignments, prepared.assignments)
        self._policy_names.changed(prepared.policies)
        self._assignment_names.changed(prepared.assignments)
        for change in prepared.assignments:
            if change.old is not None:
                self._unplace(change.old)
            if change.new is not None:
                self._put_in_place(change.new)
        for gone in prepared.policies:
            if gone.new is None:
                del self._compiled[gone.name]
        if EVERYBODY in touched:
            self._bindings.clear()
        for account in touched:
            self._bindings.pop(account, None)
        self._revision = prepared.base + 1
        return bool(touched)

    def _put_in_place(self, assignment: model.Assignment) -> None:
        scope = assignment.scope
        places = self._placed.setdefault(scope.account, {})
        places.setdefault((scope.resource, scope.campaign), {})[assignment.name] = assignment
        users = self._users.setdefault(assignment.policy, {})
        users[scope.account] = users.get(scope.account, 0) + 1

    def _unplace(self, assignment: model.Assignment) -> None:
        scope = assignment.scope
        places = self._placed[scope.account]
        at = (scope.resource, scope.campaign)
        del places[at][assignment.name]
        if not places[at]:
            del places[at]
        if not places:
            del self._placed[scope.account]
        users = self._users[assignment.policy]
        users[scope.account] -= 1
        if not users[scope.account]:
            del users[scope.account]
        if not users:
            del self._users[assignment.policy]


def _name_prefix(account: str, collection: str) -> str:
    if account == model.ALL_ACCOUNTS:
        return "accounts/"
    return model.child_name(account, collection, "")


def _changes(
    drafted: Mapping[str, _Resource | None],
    current: Mapping[str, _Resource],
    number: int,
    now_ms: int,
) -> tuple[Change[_Resource], ...]:
    """What really differs, in the order of the names, with times and etag as they will be."""
    changes: list[Change[_Resource]] = []
    for name in sorted(drafted):
        new, old = drafted[name], current.get(name)
        if new is None:
            if old is not None:
                changes.append(Change(name, old, None))
        elif old is None or not new.same_content(old):
            create_ms = now_ms if old is None else old.create_ms
            etag = etag_of(name, number, now_ms)
            stored = replace(new, etag=etag, create_ms=create_ms, update_ms=now_ms)
            changes.append(Change(name, old, stored))
    return tuple(changes)


def _account_changes(
    drafted: Mapping[str, model.Account],
    current: Mapping[str, model.Account],
    number: int,
    now_ms: int,
) -> tuple[Change[model.Account], ...]:
    """The same for accounts, which all exist; `old` is None where one is changed for the first
    time."""
    return tuple(
        Change(
            name,
            current.get(name),
            replace(drafted[name], etag=etag_of(name, number, now_ms), update_ms=now_ms),
        )
        for name in sorted(drafted)
        if not drafted[name].same_content(account_in(current, name))
    )


def _restored(
    put: Iterable[_Stored], deleted: Iterable[str], current: Mapping[str, _Stored]
) -> tuple[Change[_Stored], ...]:
    changes: list[Change[_Stored]] = []
    changes += [Change(each.name, current.get(each.name), each) for each in put]
    changes += [Change(name, current[name], None) for name in deleted]
    return tuple(changes)


def _update(resources: dict[str, _Stored], changes: Iterable[Change[_Stored]]) -> None:
    for change in changes:
        if change.new is None:
            del resources[change.name]
        else:
            resources[change.name] = change.new


def _check_room(
    changes: Iterable[Change[_Stored]], count: int, count_max: int, collection: str
) -> None:
    created = deleted = 0
    for change in changes:
        created += change.old is None
        deleted += change.new is None
    if created and count + created - deleted > count_max:
        raise errors.ResourceExhausted(
            f"TOO_MANY_{collection.upper().replace(' ', '_')}",
            f"there would be {count + created - deleted:,} {collection}, and there are at most"
            f" {count_max:,}; delete some first",
        )


def _unreadable(time_ms: int, what: str) -> errors.DataLoss:
    return errors.DataLoss(
        "JOURNAL_DAMAGED", f"the policy revision journalled at {time_ms} ms cannot be read: {what}"
    )
