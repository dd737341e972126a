"""PolicyService: policies and assignments, managed as resources.

In flow decoded requests; out flow stored resources. Each method reads and checks its request,
drafts the change, and prepares and commits it in one step of the event loop, so that changes never
interleave. No reply leaves before everything that it shows is durable, reads included: what a
client has seen once is never taken back by a crash.

Methods raise `LimiterError`s; who registers the servicer turns them into statuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from limiter import bounds, errors, model
from limiter.access import Caller
from limiter.drafts import Change, Draft
from limiter.policy import PolicyStore, Prepared
from limiter.service import authorization, conversion
from limiter.service.pages import Page, PageRequest
from limiter.v1 import access_pb2, policy_pb2, policy_service_pb2

__all__ = ["SERVICE", "AccountPage", "PolicyServicer", "carry_out", "masked", "new_name"]

SERVICE: Final = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"]

_Context = grpc.aio.ServicerContext[Any, Any]
_Item = TypeVar("_Item")
_Message = TypeVar("_Message", bound=Message)
_Resource = TypeVar("_Resource", model.Policy, model.Assignment)

# Reading a large set in one go would keep decisions waiting; between slices of it they go on.
_SLICE_COUNT: Final = 32


class PolicyServicer:
    """Serves one `PolicyStore`. `commit` waits until everything appended to the journal so far is
    durable, `now_ms` gives the instant of a change, and `is_rebuilding` tells of an assignment
    whether counters of its policy are still being filled."""

    def __init__(
        self,
        store: PolicyStore,
        commit: Callable[[], Awaitable[None]],
        now_ms: Callable[[], int],
        is_rebuilding: Callable[[model.Assignment], bool] = lambda _assignment: False,
    ) -> None:
        self._store = store
        self._is_rebuilding = is_rebuilding
        self._commit = commit
        self._now_ms = now_ms

    # --- Policies ---------------------------------------------------------------------------------

    async def CreatePolicy(  # noqa: N802 - the method's name in the API
        self, request: policy_service_pb2.CreatePolicyRequest, context: _Context
    ) -> policy_pb2.Policy:
        """Creates a policy."""
        name = new_name(request.parent, "policies", request.policy_id, "policy_id")
        _require(request, "policy")
        policy = replace(conversion.policy_from_message(request.policy, "policy"), name=name)
        policy.check("policy")
        draft = self._store.draft()
        draft.create_policy(policy, "policy")
        prepared = await self._carry_out(draft, request.validate_only)
        return conversion.policy_to_message(_outcome(prepared.policies, policy))

    async def GetPolicy(  # noqa: N802
        self, request: policy_service_pb2.GetPolicyRequest, context: _Context
    ) -> policy_pb2.Policy:
        """Gets a policy."""
        model.policy_account(request.name, "name")
        policy = self._store.policy(request.name)
        await self._commit()
        return conversion.policy_to_message(policy)

    async def ListPolicies(  # noqa: N802
        self, request: policy_service_pb2.ListPoliciesRequest, context: _Context
    ) -> policy_service_pb2.ListPoliciesResponse:
        """Lists policies in the order of their names."""
        page = AccountPage(request, "policies")
        policies = page.of(self._store.list_policies)
        await self._commit()
        return policy_service_pb2.ListPoliciesResponse(
            policies=[conversion.policy_to_message(policy) for policy in policies[: page.size]],
            next_page_token=page.next_of([policy.name for policy in policies]),
        )

    async def UpdatePolicy(  # noqa: N802
        self, request: policy_service_pb2.UpdatePolicyRequest, context: _Context
    ) -> policy_pb2.Policy:
        """Changes a policy."""
        _require(request, "policy")
        model.policy_account(request.policy.name, "policy.name")
        sent = conversion.policy_from_message(request.policy, "policy")
        given = {
            "display_name": sent.display_name,
            "limits": sent.limits,
            "access_groups": sent.access_groups,
        }
        fields = masked(request.update_mask, request.policy, given)
        current = self._store.policy(sent.name)
        policy = replace(current, **fields, etag=sent.etag)
        policy.check("policy")
        draft = self._store.draft()
        draft.put_policy(policy, "policy")
        draft.allow_partial_history = request.allow_partial_history
        prepared = await self._carry_out(draft, request.validate_only)
        return conversion.policy_to_message(_outcome(prepared.policies, current))

    async def DeletePolicy(  # noqa: N802
        self, request: policy_service_pb2.DeletePolicyRequest, context: _Context
    ) -> Empty:
        """Deletes a policy."""
        model.policy_account(request.name, "name")
        draft = self._store.draft()
        draft.delete_policy(request.name, request.etag)
        await self._carry_out(draft, request.validate_only)
        return Empty()

    # --- Assignments ------------------------------------------------------------------------------

    async def CreateAssignment(  # noqa: N802
        self, request: policy_service_pb2.CreateAssignmentRequest, context: _Context
    ) -> policy_pb2.Assignment:
        """Creates an assignment."""
        name = new_name(request.parent, "assignments", request.assignment_id, "assignment_id")
        _require(request, "assignment")
        assignment = replace(conversion.assignment_from_message(request.assignment), name=name)
        assignment.check("assignment")
        draft = self._store.draft()
        draft.create_assignment(assignment, "assignment")
        draft.allow_partial_history = request.allow_partial_history
        prepared = await self._carry_out(draft, request.validate_only)
        return self._message(_outcome(prepared.assignments, assignment))

    async def GetAssignment(  # noqa: N802
        self, request: policy_service_pb2.GetAssignmentRequest, context: _Context
    ) -> policy_pb2.Assignment:
        """Gets an assignment."""
        model.assignment_account(request.name, "name")
        assignment = self._store.assignment(request.name)
        await self._commit()
        return self._message(assignment)

    async def ListAssignments(  # noqa: N802
        self, request: policy_service_pb2.ListAssignmentsRequest, context: _Context
    ) -> policy_service_pb2.ListAssignmentsResponse:
        """Lists assignments in the order of their names."""
        page = AccountPage(request, "assignments")
        assignments = page.of(self._store.list_assignments)
        await self._commit()
        return policy_service_pb2.ListAssignmentsResponse(
            assignments=[self._message(each) for each in assignments[: page.size]],
            next_page_token=page.next_of([each.name for each in assignments]),
        )

    async def UpdateAssignment(  # noqa: N802
        self, request: policy_service_pb2.UpdateAssignmentRequest, context: _Context
    ) -> policy_pb2.Assignment:
        """Changes an assignment."""
        _require(request, "assignment")
        model.assignment_account(request.assignment.name, "assignment.name")
        sent = conversion.assignment_from_message(request.assignment)
        given = {"policy": sent.policy, "mandatory": sent.mandatory}
        fields = masked(request.update_mask, request.assignment, given)
        current = self._store.assignment(sent.name)
        if request.assignment.HasField("scope") and sent.scope != current.scope:
            raise errors.InvalidArgument.for_field(
                "assignment.scope",
                f"it covers {current.scope}, and a scope cannot be changed; leave it out, or delete"
                " the assignment and create another one",
            )
        assignment = replace(current, **fields, etag=sent.etag)
        assignment.check("assignment")
        draft = self._store.draft()
        draft.put_assignment(assignment, "assignment")
        draft.allow_partial_history = request.allow_partial_history
        prepared = await self._carry_out(draft, request.validate_only)
        return self._message(_outcome(prepared.assignments, current))

    async def DeleteAssignment(  # noqa: N802
        self, request: policy_service_pb2.DeleteAssignmentRequest, context: _Context
    ) -> Empty:
        """Deletes an assignment."""
        model.assignment_account(request.name, "name")
        draft = self._store.draft()
        draft.delete_assignment(request.name, request.etag)
        await self._carry_out(draft, request.validate_only)
        return Empty()

    # --- Sets -------------------------------------------------------------------------------------

    async def ApplyPolicies(  # noqa: N802
        self, request: policy_service_pb2.ApplyPoliciesRequest, context: _Context
    ) -> policy_service_pb2.ApplyPoliciesResponse:
        """Makes a whole set so in one revision."""
        model.check_count(len(request.groups), bounds.GROUPS_MAX, "groups")
        model.check_count(len(request.policies), bounds.POLICIES_MAX, "policies")
        model.check_count(len(request.assignments), bounds.ASSIGNMENTS_MAX, "assignments")
        policies = await _read_slowly(request.policies, _read_policy)
        assignments = await _read_slowly(request.assignments, _read_assignment)
        groups = await _read_slowly(request.groups, _read_group)
        model.check_unique([group.name for group in groups], "groups")
        model.check_unique([policy.name for policy in policies], "policies")
        model.check_unique([assignment.name for assignment in assignments], "assignments")
        _check_scopes(assignments)
        if request.etag and request.etag != str(self._store.revision):
            raise errors.Aborted(
                "ETAG_MISMATCH",
                f"etag {request.etag!r} is not the revision in force, which is"
                f" {self._store.revision}; read the policies again, or leave etag empty",
            )
        draft = self._store.draft()
        for group in groups:
            draft.put_group(group)
        for index, policy in enumerate(policies):
            draft.put_policy(policy, f"policies[{index}]")
        for index, assignment in enumerate(assignments):
            draft.put_assignment(assignment, f"assignments[{index}]")
        if request.prune:
            draft.prune(authorization.caller().reaches_scope)
        draft.allow_partial_history = request.allow_partial_history
        prepared = await self._carry_out(draft, request.validate_only)
        made = prepared.revision is not None and not request.validate_only
        return policy_service_pb2.ApplyPoliciesResponse(
            changes=_changes_to_messages(prepared), revision=prepared.base + made
        )

    def _message(self, assignment: model.Assignment) -> policy_pb2.Assignment:
        return conversion.assignment_to_message(assignment, self._is_rebuilding(assignment))

    async def _carry_out(self, draft: Draft, validate_only: bool) -> Prepared:
        return await carry_out(self._store, self._commit, draft, self._now_ms(), validate_only)


async def carry_out(
    store: PolicyStore,
    commit: Callable[[], Awaitable[None]],
    draft: Draft,
    now_ms: int,
    validate_only: bool,
) -> Prepared:
    """Checks the draft and, unless that is all, makes it so; returns once that is durable."""
    who = authorization.caller()
    prepared = store.prepare(draft, now_ms, who.author)
    _check_reach(who, prepared)
    if not validate_only:
        store.commit(prepared)
    await commit()
    return prepared


def _check_reach(who: Caller, prepared: Prepared) -> None:
    """Raises `PermissionDenied` for a change of what the caller has no say in."""
    names = [change.name for change in prepared.groups]
    names += [change.name for change in prepared.policies]
    names += [change.name for change in prepared.accounts]
    for name in names:
        if not who.reaches_scope(model.Scope(model.account_of(name))):
            raise who.is_not_for("name", name)
    for change in prepared.assignments:
        for assignment in (change.old, change.new):
            if assignment is not None and not who.reaches_scope(assignment.scope):
                raise who.is_not_for("assignment.scope", str(assignment.scope))


def _require(request: Message, field: str) -> None:
    if not request.HasField(field):
        raise model.missing(field, "it is required")


def new_name(parent: str, collection: str, resource_id: str, id_field: str) -> str:
    """The name of a new resource in a collection of the parent. Raises `InvalidArgument`."""
    account = model.parent_account(parent, "parent")
    if account == model.ALL_ACCOUNTS:
        raise errors.InvalidArgument.for_field("parent", "- stands for all accounts; name one")
    model.check_id(resource_id, id_field)
    return model.child_name(account, collection, resource_id)


def _outcome(changes: Sequence[Change[_Resource]], unchanged: _Resource) -> _Resource:
    """The one resource of an edit as it stands afterwards."""
    new = changes[0].new if changes else None
    return unchanged if new is None else new


# --- Update masks ---------------------------------------------------------------------------------


def masked(mask: FieldMask, message: Message, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `given` values of fields that the mask selects.

    Without a mask the ones that `message` sets are selected. Raises `InvalidArgument` for a path
    that is no field in `given`.
    """
    if not mask.paths:
        return {name: value for name, value in given.items() if value}
    if list(mask.paths) == ["*"]:
        return dict(given)
    for index, path in enumerate(mask.paths):
        if path not in given:
            raise _bad_path(f"update_mask.paths[{index}]", path, message, given)
    return {path: given[path] for path in mask.paths}


def _bad_path(
    field: str, path: str, message: Message, given: Mapping[str, Any]
) -> errors.InvalidArgument:
    top = path.split(".", 1)[0]
    known = " and ".join(given)
    if path == "*":
        rule = "* selects everything and stands alone"
    elif top in given:
        rule = f"a part of {top} cannot be replaced; name {top} and send it complete"
    elif top in message.DESCRIPTOR.fields_by_name:
        rule = f"{top} cannot be changed; {known} can"
    else:
        rule = f"{path[:80]!r} is not a field; {known} can be changed"
    return errors.InvalidArgument.for_field(field, rule)


# --- Pages ----------------------------------------------------------------------------------------


class _ListRequest(PageRequest, Protocol):
    """What the requests of these lists have in common."""

    @property
    def parent(self) -> str: ...


class AccountPage(Page):
    """A page of a collection: of what one account has, or all that the caller may see."""

    def __init__(self, request: _ListRequest, collection: str) -> None:
        self._account = model.parent_account(request.parent, "parent")
        self._collection = collection
        super().__init__(request, f"{collection} {request.parent}")

    def of(self, resources: Callable[[str, str, int], list[_Item]]) -> list[_Item]:
        """What is on the page and one more, if there is one. `resources` gives some of one account
        (or of all) beyond a name, as `PolicyStore.list_policies` does."""
        accounts = authorization.caller().accounts
        if self._account != model.ALL_ACCOUNTS or accounts is None:
            return resources(self._account, self.after, self.size + 1)
        found: list[_Item] = []
        # In the order of the names, which have a stroke behind the account.
        for account in sorted(accounts, key=lambda each: f"{each}/"):
            prefix = model.child_name(account, self._collection, "")
            after = self.after if self.after.startswith(prefix) else ""
            if self.after > prefix and not after:
                continue
            found += resources(account, after, self.size + 1 - len(found))
            if len(found) > self.size:
                break
        return found

    def next_of(self, names: Sequence[str]) -> str:
        """The token of the page after this one, of which `names` holds one more than it shows if
        there is one; empty if not."""
        return "" if len(names) <= self.size else self.next_token(names[self.size - 1])


# --- Sets -----------------------------------------------------------------------------------------


async def _read_slowly(
    messages: Sequence[_Message], read: Callable[[_Message, int], _Item]
) -> list[_Item]:
    """Reads each message with its index, and lets others go on in between."""
    items: list[_Item] = []
    for index, message in enumerate(messages):
        if index and index % _SLICE_COUNT == 0:
            await asyncio.sleep(0)
        items.append(read(message, index))
    return items


def _read_policy(message: policy_pb2.Policy, index: int) -> model.Policy:
    field = f"policies[{index}]"
    policy = conversion.policy_from_message(message, field)
    policy.check(field)
    return policy


def _read_assignment(message: policy_pb2.Assignment, index: int) -> model.Assignment:
    assignment = conversion.assignment_from_message(message)
    assignment.check(f"assignments[{index}]")
    return assignment


def _read_group(message: access_pb2.Group, index: int) -> model.Group:
    group = conversion.group_from_message(message, f"groups[{index}]")
    group.check(f"groups[{index}]")
    return group


def _check_scopes(assignments: Sequence[model.Assignment]) -> None:
    first_on: dict[model.Scope, int] = {}
    for index, assignment in enumerate(assignments):
        if assignment.mandatory:
            continue
        first = first_on.setdefault(assignment.scope, index)
        if first != index:
            raise errors.InvalidArgument.for_field(
                f"assignments[{index}].scope",
                f"assignments[{first}] covers the same scope ({assignment.scope}), and at most one"
                " of them is not mandatory",
            )


def _changes_to_messages(prepared: Prepared) -> list[policy_service_pb2.PolicyChange]:
    groups = [
        policy_service_pb2.PolicyChange(
            action=_action(change),
            name=change.name,
            old_group=_group_message(change.old),
            new_group=_group_message(change.new),
        )
        for change in prepared.groups
    ]
    policies = [
        policy_service_pb2.PolicyChange(
            action=_action(change),
            name=change.name,
            old_policy=_policy_message(change.old),
            new_policy=_policy_message(change.new),
        )
        for change in prepared.policies
    ]
    assignments = [
        policy_service_pb2.PolicyChange(
            action=_action(change),
            name=change.name,
            old_assignment=_assignment_message(change.old),
            new_assignment=_assignment_message(change.new),
        )
        for change in prepared.assignments
    ]
    return groups + policies + assignments


def _group_message(group: model.Group | None) -> access_pb2.Group | None:
    return None if group is None else conversion.group_to_message(group)


def _policy_message(policy: model.Policy | None) -> policy_pb2.Policy | None:
    return None if policy is None else conversion.policy_to_message(policy)


def _assignment_message(assignment: model.Assignment | None) -> policy_pb2.Assignment | None:
    return None if assignment is None else conversion.assignment_to_message(assignment)


def _action(change: Change[Any]) -> policy_service_pb2.PolicyChange.Action.ValueType:
    if change.old is None:
        return policy_service_pb2.PolicyChange.ACTION_CREATE
    if change.new is None:
        return policy_service_pb2.PolicyChange.ACTION_DELETE
    return policy_service_pb2.PolicyChange.ACTION_UPDATE
