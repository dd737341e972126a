"""PolicyService as a client meets it: names, pages, masks, etags, dry runs and whole sets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.field_mask_pb2 import FieldMask

from limiter import bounds, errors
from limiter.policy import PolicyStore
from limiter.service.policy import PolicyServicer
from limiter.v1 import policy_pb2, policy_service_pb2
from tests.unit.test_policy import NOW_MS, Log

CONTEXT = cast(grpc.aio.ServicerContext[Any, Any], None)


class Bench:
    """A service over a store and a journal that remembers, with time at will."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.log = Log()
        self.store = PolicyStore()
        self.store.connect(self.log)
        self.durable_count = 0
        self.waited_count = 0
        self.service = PolicyServicer(self.store, self._commit, lambda: self.now_ms)

    async def _commit(self) -> None:
        self.waited_count += 1
        self.durable_count = len(self.log.payloads)

    async def call(self, method: str, request: Any) -> Any:
        """Calls the method; its reply shows nothing that is not durable."""
        waited_count = self.waited_count
        handler: Callable[[Any, Any], Awaitable[Any]] = getattr(self.service, method)
        try:
            return await handler(request, CONTEXT)
        finally:
            if self.waited_count > waited_count:
                assert self.durable_count == len(self.log.payloads)

    async def create_policy(
        self, policy_id: str, text: str = "", parent: str = "", **more: Any
    ) -> policy_pb2.Policy:
        return cast(
            policy_pb2.Policy,
            await self.call(
                "CreatePolicy",
                policy_service_pb2.CreatePolicyRequest(
                    parent=parent, policy_id=policy_id, policy=policy(text), **more
                ),
            ),
        )

    async def create_assignment(
        self, assignment_id: str, text: str, parent: str = "", **more: Any
    ) -> policy_pb2.Assignment:
        return cast(
            policy_pb2.Assignment,
            await self.call(
                "CreateAssignment",
                policy_service_pb2.CreateAssignmentRequest(
                    parent=parent, assignment_id=assignment_id, assignment=assignment(text), **more
                ),
            ),
        )

    async def get_policy(self, name: str) -> policy_pb2.Policy:
        request = policy_service_pb2.GetPolicyRequest(name=name)
        return cast(policy_pb2.Policy, await self.call("GetPolicy", request))


def policy(text: str) -> policy_pb2.Policy:
    return text_format.Parse(text, policy_pb2.Policy())


def assignment(text: str) -> policy_pb2.Assignment:
    return text_format.Parse(text, policy_pb2.Assignment())


def limit(limit_id: str = "day", max_count: int = 200) -> str:
    return f"""
        limits {{
          limit_id: "{limit_id}"
          cap {{
            measure: MEASURE_CONTACTS
            max_count: {max_count}
            window {{ rolling {{ seconds: 86400 }} }}
          }}
          enforcement: ENFORCEMENT_ENFORCED
        }}
    """


@pytest.fixture
def bench() -> Bench:
    return Bench()


def field_of(caught: pytest.ExceptionInfo[errors.LimiterError]) -> str:
    (violation,) = caught.value.violations
    return violation.field


# --- Create, get, delete --------------------------------------------------------------------------


async def test_a_policy_is_created_read_and_deleted(bench: Bench) -> None:
    made = await bench.create_policy("day", 'name: "ignored" display_name: "Day"' + limit())
    assert made.name == "policies/day"
    assert made.display_name == "Day"
    assert made.create_time.ToMilliseconds() == NOW_MS
    assert made.update_time == made.create_time
    assert made.etag
    assert bench.durable_count == 1
    assert await bench.get_policy("policies/day") == made
    request = policy_service_pb2.DeletePolicyRequest(name=made.name, etag=made.etag)
    await bench.call("DeletePolicy", request)
    with pytest.raises(errors.NotFound):
        await bench.get_policy("policies/day")


async def test_an_assignment_is_created_read_and_deleted(bench: Bench) -> None:
    await bench.create_policy("day", limit(), parent="accounts/a")
    made = await bench.create_assignment(
        "shop",
        'policy: "accounts/a/policies/day" scope { account: "a" resource: "shop" } mandatory: true',
        parent="accounts/a",
    )
    assert made.name == "accounts/a/assignments/shop"
    assert made.state == policy_pb2.ASSIGNMENT_STATE_ACTIVE
    assert made.mandatory
    request = policy_service_pb2.GetAssignmentRequest(name=made.name)
    assert await bench.call("GetAssignment", request) == made
    delete = policy_service_pb2.DeleteAssignmentRequest(name=made.name)
    await bench.call("DeleteAssignment", delete)
    with pytest.raises(errors.NotFound):
        await bench.call("GetAssignment", request)


async def test_an_etag_and_output_only_fields_are_ignored_at_creation(bench: Bench) -> None:
    made = await bench.create_policy("day", 'etag: "x" create_time { seconds: 5 }')
    assert made.etag != "x"
    assert made.create_time.ToMilliseconds() == NOW_MS


@pytest.mark.parametrize(
    ("parent", "policy_id", "field"),
    [
        ("", "", "policy_id"),
        ("", "Day", "policy_id"),
        ("", "a/b", "policy_id"),
        ("accounts/-", "day", "parent"),
        ("accounts/a b", "day", "parent"),
        ("policies", "day", "parent"),
    ],
)
async def test_a_bad_name_is_refused_by_its_part(
    bench: Bench, parent: str, policy_id: str, field: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await bench.create_policy(policy_id, parent=parent)
    assert field_of(caught) == field


async def test_a_broken_limit_is_named_by_its_path_in_the_request(bench: Bench) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await bench.create_policy("day", limit() + limit("next", -1))
    assert field_of(caught) == "policy.limits[1].cap.max_count"
    assert bench.log.payloads == []


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        (
            "CreatePolicy",
            policy_service_pb2.CreatePolicyRequest(policy_id="a"),
            "policy",
        ),
        (
            "CreateAssignment",
            policy_service_pb2.CreateAssignmentRequest(assignment_id="a"),
            "assignment",
        ),
        ("UpdatePolicy", policy_service_pb2.UpdatePolicyRequest(), "policy"),
        ("UpdateAssignment", policy_service_pb2.UpdateAssignmentRequest(), "assignment"),
        ("GetPolicy", policy_service_pb2.GetPolicyRequest(), "name"),
        ("GetPolicy", policy_service_pb2.GetPolicyRequest(name="assignments/a"), "name"),
        ("GetAssignment", policy_service_pb2.GetAssignmentRequest(name="policies/a"), "name"),
        ("DeletePolicy", policy_service_pb2.DeletePolicyRequest(name="x"), "name"),
        ("DeleteAssignment", policy_service_pb2.DeleteAssignmentRequest(name="x"), "name"),
        ("ListPolicies", policy_service_pb2.ListPoliciesRequest(parent="x"), "parent"),
        (
            "ListAssignments",
            policy_service_pb2.ListAssignmentsRequest(parent="accounts/"),
            "parent",
        ),
    ],
)
async def test_what_is_missing_or_malformed_is_named(
    bench: Bench, method: str, request_: Any, field: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await bench.call(method, request_)
    assert field_of(caught) == field


async def test_an_assignment_lives_with_its_account(bench: Bench) -> None:
    await bench.create_policy("day")
    with pytest.raises(errors.InvalidArgument) as caught:
        await bench.create_assignment("x", 'policy: "policies/day" scope { account: "a" }')
    assert field_of(caught) == "assignment.scope.account"
    with pytest.raises(errors.InvalidArgument) as caught:
        await bench.create_assignment("x", 'policy: "policies/day"', parent="accounts/a")
    assert field_of(caught) == "assignment.scope.account"


# --- Dry runs -------------------------------------------------------------------------------------


async def test_validate_only_answers_and_changes_nothing(bench: Bench) -> None:
    shown = await bench.create_policy("day", limit(), validate_only=True)
    assert bench.log.payloads == []
    # It is what the real one then is.
    assert await bench.create_policy("day", limit()) == shown

    update = policy_service_pb2.UpdatePolicyRequest(
        policy=policy('name: "policies/day"' + limit("day", 9)), validate_only=True
    )
    updated = await bench.call("UpdatePolicy", update)
    assert updated.limits[0].cap.max_count == 9
    assert await bench.get_policy("policies/day") == shown

    delete = policy_service_pb2.DeletePolicyRequest(name="policies/day", validate_only=True)
    await bench.call("DeletePolicy", delete)
    assert await bench.get_policy("policies/day") == shown

    made = await bench.create_assignment("x", 'policy: "policies/day"', validate_only=True)
    assert made.name == "assignments/x"
    assert len(bench.log.payloads) == 1
    with pytest.raises(errors.NotFound):
        await bench.create_assignment("x", 'policy: "policies/y"', validate_only=True)


# --- Updates --------------------------------------------------------------------------------------


async def update_policy(bench: Bench, text: str, *paths: str) -> policy_pb2.Policy:
    request = policy_service_pb2.UpdatePolicyRequest(
        policy=policy(text), update_mask=FieldMask(paths=paths) if paths else None
    )
    return cast(policy_pb2.Policy, await bench.call("UpdatePolicy", request))


@pytest.mark.parametrize(
    ("text", "paths", "display_name", "limit_ids"),
    [
        ('display_name: "New"', (), "New", ["day"]),
        (limit("next"), (), "Old", ["next"]),
        ("", (), "Old", ["day"]),
        ("", ("*",), "", []),
        ('display_name: "New"', ("*",), "New", []),
        ('display_name: "New"', ("limits",), "Old", []),
        (limit("next"), ("display_name",), "", ["day"]),
        (limit("next"), ("limits", "display_name"), "", ["next"]),
    ],
)
async def test_a_mask_says_what_is_replaced(
    bench: Bench, text: str, paths: tuple[str, ...], display_name: str, limit_ids: list[str]
) -> None:
    await bench.create_policy("day", 'display_name: "Old"' + limit())
    bench.now_ms += 1
    updated = await update_policy(bench, 'name: "policies/day"' + text, *paths)
    assert updated.display_name == display_name
    assert [each.limit_id for each in updated.limits] == limit_ids
    assert await bench.get_policy("policies/day") == updated
    assert updated.create_time.ToMilliseconds() == NOW_MS
    same = (display_name, limit_ids) == ("Old", ["day"])
    assert updated.update_time.ToMilliseconds() == NOW_MS + (not same)
    assert len(bench.log.payloads) == 1 + (not same)


@pytest.mark.parametrize(
    ("path", "words", "reason"),
    [
        ("name", "name cannot be changed", "INVALID_FIELD"),
        ("etag", "etag cannot be changed", "INVALID_FIELD"),
        ("create_time", "create_time cannot be changed", "INVALID_FIELD"),
        ("limits.cap", "name limits and send it complete", "INVALID_FIELD"),
        ("limit", "'limit' is not a field", "INVALID_FIELD"),
        ("a", "'a' is not a field", "INVALID_FIELD"),
        ("", "'' is not a field", "INVALID_FIELD"),
        ("*", "stands alone", "INVALID_FIELD"),
        ("update_time", "update_time cannot be changed", "INVALID_FIELD"),
    ],
)
async def test_a_path_that_cannot_be_replaced(
    bench: Bench, path: str, words: str, reason: str
) -> None:
    await bench.create_policy("day", limit())
    with pytest.raises(errors.InvalidArgument, match=words) as caught:
        await update_policy(bench, 'name: "policies/day"', "display_name", path)
    assert field_of(caught) == "update_mask.paths[1]"
    assert caught.value.reason == reason


async def test_an_update_of_an_old_version_aborts(bench: Bench) -> None:
    old = await bench.create_policy("day", limit())
    new = await update_policy(bench, f'name: "policies/day" etag: "{old.etag}"' + limit("x"))
    with pytest.raises(errors.Aborted):
        await update_policy(bench, f'name: "policies/day" etag: "{old.etag}"' + limit("y"))
    assert await bench.get_policy("policies/day") == new
    with pytest.raises(errors.Aborted):
        await bench.call(
            "DeletePolicy", policy_service_pb2.DeletePolicyRequest(name=new.name, etag=old.etag)
        )
    with pytest.raises(errors.NotFound):
        await update_policy(bench, 'name: "policies/other"' + limit())


async def update_assignment(bench: Bench, text: str, *paths: str) -> policy_pb2.Assignment:
    request = policy_service_pb2.UpdateAssignmentRequest(
        assignment=assignment(text), update_mask=FieldMask(paths=paths) if paths else None
    )
    return cast(policy_pb2.Assignment, await bench.call("UpdateAssignment", request))


async def test_an_assignment_swaps_its_policy(bench: Bench) -> None:
    await bench.create_policy("day", limit())
    await bench.create_policy("night", limit("night"))
    name = 'name: "accounts/a/assignments/x"'
    made = await bench.create_assignment(
        "x", 'policy: "policies/day" scope { account: "a" } mandatory: true', parent="accounts/a"
    )
    swapped = await update_assignment(bench, name + 'policy: "policies/night"')
    assert (swapped.policy, swapped.mandatory, swapped.scope) == (
        "policies/night",
        True,
        made.scope,
    )
    loose = await update_assignment(bench, name, "mandatory")
    assert (loose.policy, loose.mandatory) == ("policies/night", False)
    same_scope = await update_assignment(
        bench, name + 'policy: "policies/day" scope { account: "a" }', "*"
    )
    assert (same_scope.policy, same_scope.mandatory) == ("policies/day", False)


@pytest.mark.parametrize(
    ("text", "paths", "field"),
    [
        ('scope { account: "a" resource: "shop" }', (), "assignment.scope"),
        ("", ("scope",), "update_mask.paths[0]"),
        ("", ("state",), "update_mask.paths[0]"),
        ("", ("*",), "assignment.policy"),
        ('policy: "accounts/b/policies/x"', (), "assignment.policy"),
    ],
)
async def test_what_an_update_of_an_assignment_may_not_do(
    bench: Bench, text: str, paths: tuple[str, ...], field: str
) -> None:
    await bench.create_policy("day", limit())
    await bench.create_assignment(
        "x", 'policy: "policies/day" scope { account: "a" }', parent="accounts/a"
    )
    with pytest.raises(errors.InvalidArgument) as caught:
        await update_assignment(bench, 'name: "accounts/a/assignments/x"' + text, *paths)
    assert field_of(caught) == field


# --- Pages ----------------------------------------------------------------------------------------


async def list_policies(bench: Bench, **request: Any) -> policy_service_pb2.ListPoliciesResponse:
    message = policy_service_pb2.ListPoliciesRequest(**request)
    return cast(policy_service_pb2.ListPoliciesResponse, await bench.call("ListPolicies", message))


async def test_pages_show_everything_once_in_order(bench: Bench) -> None:
    ids = [f"p{number}" for number in range(7)]
    for policy_id in reversed(ids):
        await bench.create_policy(policy_id)
    await bench.create_policy("other", parent="accounts/a")
    for size in (1, 2, 3, 7, 8):
        names: list[str] = []
        token = ""
        while True:
            page = await list_policies(bench, page_size=size, page_token=token)
            assert len(page.policies) <= size
            names += [each.name for each in page.policies]
            token = page.next_page_token
            if not token:
                break
            assert len(page.policies) == size
        assert names == [f"policies/{policy_id}" for policy_id in ids]
    assert not (await list_policies(bench, parent="accounts/b")).policies


async def test_sizes_of_pages(bench: Bench) -> None:
    request = policy_service_pb2.ApplyPoliciesRequest()
    for number in range(bounds.PAGE_SIZE_MAX + 2):
        request.policies.add(name=f"policies/p{number:04}")
    await bench.call("ApplyPolicies", request)
    assert len((await list_policies(bench)).policies) == bounds.PAGE_SIZE_DEFAULT
    page = await list_policies(bench, page_size=2**31 - 1)
    assert len(page.policies) == bounds.PAGE_SIZE_MAX
    rest = await list_policies(bench, page_token=page.next_page_token)
    assert [each.name for each in rest.policies] == ["policies/p1000", "policies/p1001"]
    with pytest.raises(errors.InvalidArgument) as caught:
        await list_policies(bench, page_size=-1)
    assert field_of(caught) == "page_size"


async def test_a_token_is_for_its_own_list(bench: Bench) -> None:
    for account in ("a", "b"):
        for policy_id in ("p", "q"):
            await bench.create_policy(policy_id, parent=f"accounts/{account}")
    page = await list_policies(bench, parent="accounts/-", page_size=2)
    token = page.next_page_token
    rest = await list_policies(bench, parent="accounts/-", page_token=token)
    assert [each.name for each in rest.policies] == [
        "accounts/b/policies/p",
        "accounts/b/policies/q",
    ]
    wrong = [
        {"parent": "accounts/a", "page_token": token},
        {"parent": "", "page_token": token},
        {"parent": "accounts/-", "page_token": token[:-2]},
        {"parent": "accounts/-", "page_token": token + "AAAA"},
        {"parent": "accounts/-", "page_token": "x"},
        {"parent": "accounts/-", "page_token": "é"},
        {"parent": "accounts/-", "page_token": "A" * 600},
    ]
    for request in wrong:
        with pytest.raises(errors.InvalidArgument) as caught:
            await list_policies(bench, **request)
        assert field_of(caught) == "page_token"
    other_list = policy_service_pb2.ListAssignmentsRequest(parent="accounts/-", page_token=token)
    with pytest.raises(errors.InvalidArgument):
        await bench.call("ListAssignments", other_list)


async def test_assignments_are_listed_too(bench: Bench) -> None:
    await bench.create_policy("day")
    await bench.create_assignment("all", 'policy: "policies/day"')
    for account in ("a", "b"):
        await bench.create_assignment(
            "own", f'policy: "policies/day" scope {{ account: "{account}" }}', f"accounts/{account}"
        )
    names = {}
    for parent in ("", "accounts/a", "accounts/-"):
        request = policy_service_pb2.ListAssignmentsRequest(parent=parent)
        reply = await bench.call("ListAssignments", request)
        names[parent] = [each.name for each in reply.assignments]
    assert names == {
        "": ["assignments/all"],
        "accounts/a": ["accounts/a/assignments/own"],
        "accounts/-": ["accounts/a/assignments/own", "accounts/b/assignments/own"],
    }


# --- Sets -----------------------------------------------------------------------------------------

SET = f"""
    policies {{ name: "policies/day" {limit()} }}
    policies {{ name: "accounts/a/policies/own" {limit("own", 5)} }}
    assignments {{ name: "assignments/all" policy: "policies/day" }}
    assignments {{
      name: "accounts/a/assignments/own"
      policy: "accounts/a/policies/own"
      scope {{ account: "a" }}
    }}
"""


async def apply(bench: Bench, text: str, **more: Any) -> policy_service_pb2.ApplyPoliciesResponse:
    request = text_format.Parse(text, policy_service_pb2.ApplyPoliciesRequest(**more))
    reply = await bench.call("ApplyPolicies", request)
    return cast(policy_service_pb2.ApplyPoliciesResponse, reply)


def actions(reply: policy_service_pb2.ApplyPoliciesResponse) -> list[tuple[str, str]]:
    name = policy_service_pb2.PolicyChange.Action.Name
    return [(name(each.action).removeprefix("ACTION_"), each.name) for each in reply.changes]


async def test_a_set_is_one_revision(bench: Bench) -> None:
    reply = await apply(bench, SET)
    assert reply.revision == 1
    assert len(bench.log.payloads) == 1
    assert actions(reply) == [
        ("CREATE", "accounts/a/policies/own"),
        ("CREATE", "policies/day"),
        ("CREATE", "accounts/a/assignments/own"),
        ("CREATE", "assignments/all"),
    ]
    assert reply.changes[1].new_policy == await bench.get_policy("policies/day")
    assert not reply.changes[1].HasField("old_policy")
    again = await apply(bench, SET)
    assert (list(again.changes), again.revision) == ([], 1)
    assert len(bench.log.payloads) == 1


async def test_a_set_shows_what_it_changes(bench: Bench) -> None:
    await apply(bench, SET)
    before = await bench.get_policy("policies/day")
    changed = SET.replace("max_count: 200", "max_count: 100").replace(
        'policy: "accounts/a/policies/own"', 'policy: "policies/day"'
    )
    shown = await apply(bench, changed, validate_only=True)
    assert shown.revision == 1
    bench.now_ms += 1
    reply = await apply(bench, changed)
    assert reply.revision == 2
    assert (
        actions(shown)
        == actions(reply)
        == [
            ("UPDATE", "policies/day"),
            ("UPDATE", "accounts/a/assignments/own"),
        ]
    )
    assert reply.changes[0].old_policy == before
    assert reply.changes[0].new_policy.limits[0].cap.max_count == 100
    assert reply.changes[1].old_assignment.policy == "accounts/a/policies/own"
    assert reply.changes[1].new_assignment.policy == "policies/day"


async def test_only_pruning_deletes(bench: Bench) -> None:
    await apply(bench, SET)
    kept = f'policies {{ name: "policies/day" {limit()} }}'
    assert actions(await apply(bench, kept)) == []
    reply = await apply(bench, kept, prune=True)
    assert actions(reply) == [
        ("DELETE", "accounts/a/policies/own"),
        ("DELETE", "accounts/a/assignments/own"),
        ("DELETE", "assignments/all"),
    ]
    assert reply.changes[0].old_policy.limits[0].limit_id == "own"
    assert not reply.changes[0].HasField("new_policy")
    assert reply.changes[2].old_assignment.policy == "policies/day"


async def test_what_a_set_assigns_must_not_be_pruned(bench: Bench) -> None:
    await apply(bench, SET)
    stray = 'assignments { name: "assignments/all" policy: "policies/day" mandatory: true }'
    with pytest.raises(errors.FailedPrecondition) as caught:
        await apply(bench, stray, prune=True)
    assert caught.value.reason == "POLICY_ASSIGNED"
    await apply(bench, stray)
    with pytest.raises(errors.NotFound) as missing:
        await apply(bench, stray.replace("policies/day", "policies/x"))
    assert missing.value.violations[0].field == "assignments[0].policy"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('policies { name: "policies/a" } policies { name: "policies/a" }', "policies[1].name"),
        ("policies {}", "policies[0].name"),
        (
            f'policies {{ name: "policies/a" {limit() + limit("b", -1)} }}',
            "policies[0].limits[1].cap.max_count",
        ),
        ('policies { name: "policies/a" access_groups: "x" }', "policies[0].access_groups[0]"),
        (
            'assignments { name: "assignments/a" policy: "policies/a" }' * 2,
            "assignments[1].name",
        ),
        ('assignments { name: "assignments/a" }', "assignments[0].policy"),
        (
            """
            assignments { name: "assignments/a" policy: "policies/a" }
            assignments { name: "assignments/b" policy: "policies/a" mandatory: true }
            assignments { name: "assignments/c" policy: "policies/a" }
            """,
            "assignments[2].scope",
        ),
    ],
)
async def test_what_is_wrong_in_a_set_is_named_by_its_place(
    bench: Bench, text: str, field: str
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await apply(bench, text)
    assert field_of(caught) == field
    assert bench.log.payloads == []


async def test_a_set_for_another_revision_aborts(bench: Bench) -> None:
    await apply(bench, SET, etag="0")
    with pytest.raises(errors.Aborted, match="revision in force, which is 1"):
        await apply(bench, SET, etag="0")
    await apply(bench, SET, etag="1")
    day = await bench.get_policy("policies/day")
    await apply(bench, f'policies {{ name: "policies/day" etag: "{day.etag}" }}')
    with pytest.raises(errors.Aborted):
        await apply(bench, f'policies {{ name: "policies/day" etag: "{day.etag}" {limit()} }}')


async def test_a_set_may_not_be_endless(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "POLICIES_MAX", 1)
    with pytest.raises(errors.InvalidArgument) as caught:
        await apply(bench, 'policies { name: "policies/a" } policies { name: "policies/b" }')
    assert field_of(caught) == "policies"


# --- Durability -----------------------------------------------------------------------------------


async def test_no_reply_before_what_it_shows_is_durable(bench: Bench) -> None:
    await apply(bench, SET)
    calls: list[tuple[str, Any]] = [
        ("GetPolicy", policy_service_pb2.GetPolicyRequest(name="policies/day")),
        ("GetAssignment", policy_service_pb2.GetAssignmentRequest(name="assignments/all")),
        ("ListPolicies", policy_service_pb2.ListPoliciesRequest()),
        ("ListAssignments", policy_service_pb2.ListAssignmentsRequest()),
        (
            "UpdatePolicy",
            policy_service_pb2.UpdatePolicyRequest(policy=policy('name: "policies/day"')),
        ),
        ("DeleteAssignment", policy_service_pb2.DeleteAssignmentRequest(name="assignments/all")),
        ("ApplyPolicies", policy_service_pb2.ApplyPoliciesRequest()),
    ]
    for method, request in calls:
        waited_count = bench.waited_count
        await bench.call(method, request)
        assert bench.waited_count == waited_count + 1, method


async def test_a_journal_that_fails_fails_the_call(bench: Bench) -> None:
    async def fail() -> None:
        raise errors.Unavailable("JOURNAL_UNAVAILABLE", "the disk is gone")

    service = PolicyServicer(bench.store, fail, lambda: NOW_MS)
    request = policy_service_pb2.CreatePolicyRequest(policy_id="day", policy=policy(limit()))
    with pytest.raises(errors.Unavailable):
        await service.CreatePolicy(request, CONTEXT)
