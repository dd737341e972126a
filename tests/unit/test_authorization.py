"""The table of methods and the gate: who is let in, and what his request may reach."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import errors
from limiter.access import ROLES, Caller, Permission, Role
from limiter.native import NativeServer
from limiter.server import Config, Server
from limiter.service.authorization import METHODS, Gate, Rule, Visit
from limiter.service.decision import SERVICE as DECISIONS
from limiter.service.decision import DecisionService
from limiter.v1 import (
    access_service_pb2,
    decision_service_pb2,
    policy_service_pb2,
    restriction_pb2,
)

SERVICES = [
    decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"],
    policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
]


def registered() -> set[str]:
    """The path of every method that a server answers."""
    server = Server(Config(clock="driven"))._make_server()
    assert isinstance(server, NativeServer)
    hot = {f"/{DECISIONS.full_name}/{name}" for name in DecisionService().handlers()}
    return hot | set(server._methods)


def test_every_registered_method_has_an_entry() -> None:
    assert len(registered()) > 20
    assert registered() - set(METHODS) == set()


def test_every_entry_is_a_method() -> None:
    known = {f"/{each.full_name}/{method.name}" for each in SERVICES for method in each.methods}
    others = {path for path in METHODS if not path.startswith("/limiter.v1.")}
    clock = {path for path in METHODS if "TestClockService" in path}
    assert set(METHODS) == known | others | clock
    assert others | clock <= registered()


def _field(message: Any, path: str) -> Any:
    """The descriptor of the field at a path of a rule."""
    *heads, last = path.split(".")
    for head in heads:
        field = message.fields_by_name[head.removesuffix("[]")]
        assert field.is_repeated == head.endswith("[]")
        message = field.message_type
    return message.fields_by_name[last]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_rules_name_fields_that_there_are(service: Any) -> None:
    for method in service.methods:
        rule = METHODS[f"/{service.full_name}/{method.name}"]
        paths = [*rule.names, *rule.sources, *rule.places, *rule.accounts, *rule.filters]
        for path in filter(None, [*paths, rule.resource, rule.campaign]):
            assert _field(method.input_type, path).type == 9, path


def _account_fields(message: Any, prefix: str = "", depth: int = 3) -> set[str]:
    """Every field of a request that may say whose account is meant."""
    found = set()
    for field in message.fields:
        mark = "[]" if field.is_repeated else ""
        if field.message_type is not None and depth and field.file.package == "limiter.v1":
            found |= _account_fields(field.message_type, f"{prefix}{field.name}{mark}.", depth - 1)
        elif field.name in {"name", "parent", "account", "source"} and field.type == 9:
            found.add(prefix + field.name)
    return found


# What a request may say about accounts without reaching them: the names of what is created (its
# place is the parent's), a scope (inside the assignment's own account), the accounts that a new key
# is for (asked of the key), how an attempt names its source, and the drafts that are simulated.
ELSEWHERE = {
    "CreatePolicy": {"policy.name"},
    "CreateAssignment": {"assignment.name", "assignment.scope.account"},
    "UpdateAssignment": {"assignment.scope.account"},
    "ApplyPolicies": {"assignments[].scope.account"},
    "CreateGroup": {"group.name"},
    "CreateApiKey": {"api_key.name"},
    "RevokeApiKey": {"name"},
    "RotateApiKey": {"name"},
    "SimulatePolicy": {"policy.name"},
}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_no_field_that_names_an_account_is_overlooked(service: Any) -> None:
    for method in service.methods:
        rule = METHODS[f"/{service.full_name}/{method.name}"]
        looked_at = {*rule.names, *rule.sources, *rule.places, *rule.accounts, *rule.filters}
        named = {
            path
            for path in _account_fields(method.input_type)
            if not path.endswith("attempt.source")
        }
        assert named - looked_at == ELSEWHERE.get(method.name, set()), method.name


class Context:
    """A call that shows these values as `authorization`."""

    def __init__(self, *shown: str) -> None:
        self._shown = shown

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", value) for value in self._shown]

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}


def test_what_is_not_in_the_table_is_denied_to_everybody() -> None:
    for demanded in (False, True):
        with pytest.raises(errors.PermissionDenied) as caught:
            Gate(demanded).enter("/limiter.v1.PolicyService/Unheard", Context())
        assert caught.value.reason == "METHOD_DENIED"


def test_nobody_is_let_in_while_there_is_no_state() -> None:
    gate = Gate(demanded=True)
    with pytest.raises(errors.Unavailable):
        gate.enter("/limiter.v1.PolicyService/GetPolicy", Context("Bearer x"))


SENDER = Caller("apiKeys/sender", frozenset({Permission.POLICIES_WRITE}), frozenset({"own"}))


def visit(rule: Rule, who: Caller = SENDER) -> Visit:
    return Visit(rule, None, who, lambda: 0)


WRITE = Rule(Permission.POLICIES_WRITE, names=("name",), writes=True)
READ = Rule(Permission.POLICIES_READ, names=("name",))


@pytest.mark.parametrize(
    ("rule", "name", "fault"),
    [
        (READ, "policies/p", None),
        (READ, "accounts/own/policies/p", None),
        (READ, "accounts/other/policies/p", errors.NotFound),
        (READ, "accounts//policies/p", errors.NotFound),
        (READ, "accounts/-/policies/p", errors.NotFound),
        (WRITE, "policies/p", errors.PermissionDenied),
        (WRITE, "", errors.PermissionDenied),
        (WRITE, "accounts/own/policies/p", None),
        (WRITE, "accounts/other/policies/p", errors.NotFound),
        (WRITE, "accounts/own/../other/policies/p", None),
        (WRITE, "/accounts/own/policies/p", errors.PermissionDenied),
    ],
)
def test_names(rule: Rule, name: str, fault: type[errors.LimiterError] | None) -> None:
    request = policy_service_pb2.DeletePolicyRequest(name=name)
    if fault is None:
        visit(rule).check(request)
        return
    with pytest.raises(fault):
        visit(rule).check(request)


@pytest.mark.parametrize(
    ("writes", "parent", "allowed"),
    [
        (False, "", True),
        (False, "accounts/-", True),
        (False, "accounts/own", True),
        (False, "accounts/other", False),
        (False, "accounts/", False),
        (False, "else", False),
        (True, "", False),
        (True, "accounts/-", False),
        (True, "accounts/own", True),
        (True, "accounts/other", False),
        (True, "accounts/own/", False),
    ],
)
def test_places(writes: bool, parent: str, allowed: bool) -> None:
    rule = Rule(Permission.POLICIES_WRITE, places=("parent",), writes=writes)
    request = policy_service_pb2.ListPoliciesRequest(parent=parent)
    if allowed:
        visit(rule).check(request)
        return
    with pytest.raises(errors.PermissionDenied):
        visit(rule).check(request)


def test_names_in_lists_are_looked_at_one_by_one() -> None:
    request = policy_service_pb2.ApplyPoliciesRequest()
    request.policies.add(name="accounts/own/policies/p")
    rule = METHODS["/limiter.v1.PolicyService/ApplyPolicies"]
    visit(rule).check(request)
    request.groups.add(name="accounts/other/groups/g")
    with pytest.raises(errors.NotFound):
        visit(rule).check(request)


def test_an_account_that_is_left_out_means_all_of_them() -> None:
    rule = METHODS["/limiter.v1.DecisionService/ListRestrictions"]
    with pytest.raises(errors.PermissionDenied):
        visit(rule).check(restriction_pb2.ListRestrictionsRequest())
    visit(rule).check(restriction_pb2.ListRestrictionsRequest(account="own"))


def test_roles_are_what_the_contract_says() -> None:
    everything = set(Permission)
    assert ROLES[Role.OPERATOR] == everything
    assert ROLES[Role.MASTER] == everything - {Permission.ACCESS_WRITE}
    assert Permission.DECISIONS_COMMIT not in ROLES[Role.VIEWER]
    assert Permission.POLICIES_READ not in ROLES[Role.SENDER]
