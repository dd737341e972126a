"""3. How often one recipient hears from a shop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from limiter.v1 import (
    access_pb2,
    access_service_pb2,
    access_service_pb2_grpc,
    account_pb2,
    decision_pb2,
    policy_pb2,
    policy_service_pb2,
    restriction_pb2,
    simulation_pb2,
)
from tests.integration.process import ServerProcess
from tests.integration.requests import fault_of
from tests.products.account import DAY_S, Account
from tests.products.keyed import Keyed
from tests.products.table import ROWS, Row

OVERALL = ROWS["at most 5 messages in 7 days to one recipient overall"]


def once(limit_id: str = "told", **fields: Any) -> policy_pb2.Limit:
    """One message in a week to a recipient."""
    cap = {**OVERALL.fields["cap"], "maxCount": 1}
    return OVERALL.limit(limitId=limit_id, cap=cap, **fields)


@pytest.mark.shows("at most 5 messages in 7 days to one recipient overall")
def test_to_one_recipient(account: Account, row: Row) -> None:
    account.assign(row.limit())
    for number in range(5):
        account.at(number)
        assert account.goes("ada", channel=f"channel-{number}")
    assert not account.goes("ada", channel="another")
    assert account.goes("bob")
    account.at(7 * DAY_S - 0.001)
    assert not account.goes("ada")
    account.at(7 * DAY_S)
    assert account.goes("ada")
    assert not account.goes("ada")


@pytest.mark.shows("to one recipient via one resource")
def test_via_one_resource(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes(resource="web", message_count=3)
    assert not account.goes(resource="web")
    assert account.goes(resource="app", message_count=3)


@pytest.mark.shows("to one recipient via one channel")
def test_via_one_channel(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes(channel="email", message_count=2)
    assert not account.goes(channel="email")
    assert account.goes(channel="sms", message_count=2)


@pytest.mark.shows("to one contact address")
def test_to_one_address(account: Account, row: Row) -> None:
    account.assign(row.limit())
    assert account.goes("ada", address="+49", message_count=3)
    assert account.goes("bob", address="+49")
    assert not account.goes("bob", address="+49")
    assert account.goes("bob", address="+48", message_count=4)


@pytest.mark.shows("1 to 15 messages in 1 to 16 days")
def test_the_whole_range(account: Account) -> None:
    corners = list(itertools.product((1, 2, 15), (1, 2, 16)))
    for messages, days in corners:
        window = {"rolling": f"{days * DAY_S}s"}
        cap = {**OVERALL.fields["cap"], "maxCount": messages, "window": window}
        campaign = f"{messages}-in-{days}"
        limit = OVERALL.limit(cap=cap)
        # Each campaign counts its own messages.
        limit.applies_to.conditions.add(dimension="DIMENSION_CAMPAIGN", values=[campaign])
        account.assign(limit, policy_id=f"p-{campaign}", campaign=campaign)
    for messages, days in corners:
        assert account.goes(campaign=f"{messages}-in-{days}", message_count=messages)
    for day in (1, 2, 16):
        account.at(day * DAY_S - 0.001)
        assert not any(account.goes(campaign=f"{m}-in-{d}") for m, d in corners if d == day)
        account.at(day * DAY_S)
        assert all(account.goes(campaign=f"{m}-in-{d}") for m, d in corners if d == day)


@pytest.mark.shows("days of the calendar instead")
def test_days_of_the_calendar(account: Account, row: Row) -> None:
    account.assign(OVERALL.limit(cap={**OVERALL.fields["cap"], **row.fields}))
    assert account.goes(message_count=5)
    denied = account.commit().decision
    passes_s = account.after_noon(denied.retry_time)
    # At midnight in Berlin, when today is the seventeenth day back.
    assert passes_s - 16 * DAY_S + DAY_S / 2 in {-3_600, -7_200}
    account.at(passes_s)
    assert account.goes()


@pytest.mark.shows("set on an account, a resource or a campaign; the narrower overrides")
def test_the_narrower_overrides(server: ServerProcess, row: Row) -> None:
    scope = row.fields["scope"]
    shop = Account(server, scope["account"])
    shop.assign(once("of-account"))
    shop.assign(once("of-resource"), policy_id="club", resource="club")
    shop.assign(once("of-campaign"), policy_id="launch", campaign=scope["campaign"])
    assert shop.goes(message_count=1)
    for fields, binding in (
        ({}, "of-account"),
        ({"resource": "web", "campaign": "news"}, "of-account"),
        ({"resource": "club", "campaign": "news"}, "of-resource"),
        ({"resource": "club", "campaign": "launch"}, "of-campaign"),
    ):
        decision = shop.commit(**fields).decision
        assert decision.outcome == decision_pb2.OUTCOME_DENIED
        assert [status.limit_id for status in decision.limit_statuses] == [binding]


@pytest.mark.shows("an unlimited policy lifts a wider one")
def test_unlimited(account: Account, row: Row) -> None:
    account.assign(once())
    account.assign(policy_id="unlimited", campaign="recall", *row.fields["limits"])  # noqa: B026
    assert account.goes()
    assert not account.goes()
    assert all(account.goes(campaign="recall") for _ in range(10))


@pytest.mark.shows("what goes under one policy counts for all of them")
def test_one_count_for_all_policies(account: Account) -> None:
    account.assign(once())
    account.assign(policy_id="unlimited", campaign="recall")
    assert account.goes(campaign="recall")
    (status,) = account.usage("ada")
    assert (status.used_count, status.remaining_count) == (1, 0)
    assert not account.goes()


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    with Keyed(tmp_path / "data") as found:
        yield found


@pytest.mark.shows("access groups: only for these resources and campaigns")
def test_access_groups(keyed: Keyed, row: Row) -> None:
    master = keyed.key("shop", role=access_pb2.ROLE_MASTER)
    keyed.access.CreateGroup(
        access_service_pb2.CreateGroupRequest(
            parent="accounts/shop",
            group_id="brands",
            group=access_pb2.Group(resources=["club"]),
        ),
        metadata=master,
    )
    policies = keyed.server.policies
    policy = policies.CreatePolicy(
        policy_service_pb2.CreatePolicyRequest(
            parent="accounts/shop",
            policy_id="brand",
            policy=policy_pb2.Policy(access_groups=row.fields["accessGroups"]),
        ),
        metadata=master,
    )

    def assign(resource: str) -> None:
        scope = policy_pb2.Scope(account="shop", resource=resource)
        request = policy_service_pb2.CreateAssignmentRequest(
            parent="accounts/shop",
            assignment_id=resource,
            assignment=policy_pb2.Assignment(policy=policy.name, scope=scope),
        )
        policies.CreateAssignment(request, metadata=master)

    assign("club")
    with pytest.raises(grpc.RpcError) as caught:
        assign("web")
    assert fault_of(caught.value).code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.shows("only master users manage")
def test_only_masters_manage(keyed: Keyed) -> None:
    request = policy_service_pb2.CreatePolicyRequest(
        parent="accounts/shop", policy_id="p", policy=policy_pb2.Policy()
    )
    for role in (access_pb2.ROLE_VIEWER, access_pb2.ROLE_SENDER):
        other = keyed.key("shop", role=role, api_key_id=f"role-{role}")
        with pytest.raises(grpc.RpcError) as caught:
            keyed.server.policies.CreatePolicy(request, metadata=other)
        assert fault_of(caught.value).code is grpc.StatusCode.PERMISSION_DENIED
    master = keyed.key("shop", role=access_pb2.ROLE_MASTER)
    keyed.server.policies.CreatePolicy(request, metadata=master)
    for parent in ("accounts/bank", ""):
        request.parent = parent
        with pytest.raises(grpc.RpcError) as caught:
            keyed.server.policies.CreatePolicy(request, metadata=master)
        assert fault_of(caught.value).code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.shows("clone")
def test_clone(account: Account) -> None:
    policy = account.assign(once())
    clone = account.server.policies.ClonePolicy(
        policy_service_pb2.ClonePolicyRequest(
            source=policy.name, parent=account.parent, policy_id="copy"
        )
    )
    assert clone.limits == policy.limits
    account.put(clone.name, "copy", campaign="spring")
    assert account.goes()
    # The clone's limit reads the same counter.
    assert not account.goes(campaign="spring")


@pytest.mark.shows("a campaign's log of the sends that the policy restricted")
def test_a_campaigns_log(account: Account) -> None:
    account.assign(once())
    for campaign in ("spring", "spring", "autumn"):
        account.commit("ada", campaign=campaign, address="ada@example.org")
    account.commit("bob", campaign="spring")
    account.commit("bob", campaign="spring", address="bob@example.org")
    request = restriction_pb2.ListRestrictionsRequest(account=account.name, campaign="spring")
    log = account.server.decisions.ListRestrictions(request).restrictions
    assert [each.attempt.contact for each in log] == ["ada", "bob"]
    assert {each.attempt.campaign for each in log} == {"spring"}
    assert {each.reason for each in log} == {decision_pb2.REASON_MESSAGE_CAP}
    assert {each.binding_limit.policy for each in log} == {f"{account.parent}/policies/own"}


@pytest.mark.shows("invoices pass, and do not count")
def test_invoices_pass(account: Account, row: Row) -> None:
    account.assign(once(**row.fields))
    assert all(account.goes(category="transactional") for _ in range(5))
    assert account.goes(category="marketing")
    assert not account.goes(category="marketing")
    assert account.goes(category="transactional")


@pytest.mark.shows("who has opted out gets only what he must get")
def test_opted_out(account: Account) -> None:
    policies = account.server.policies
    policies.UpdateAccount(
        policy_service_pb2.UpdateAccountRequest(
            account=account_pb2.Account(name=account.parent, allowed_categories=["transactional"]),
            update_mask=FieldMask(paths=["allowed_categories"]),
        )
    )
    people = [account_pb2.Suppression(contact="ada"), account_pb2.Suppression(address="+49")]
    policies.AddSuppressions(
        policy_service_pb2.AddSuppressionsRequest(parent=account.parent, suppressions=people)
    )
    denied = account.commit("ada", category="marketing").decision
    assert denied.reason == decision_pb2.REASON_OPTED_OUT
    assert not denied.HasField("retry_time")
    assert not account.goes("bob", address="+49", category="marketing")
    assert account.goes("bob", address="+48", category="marketing")
    assert account.goes("ada", category="transactional")
    policies.RemoveSuppressions(
        policy_service_pb2.RemoveSuppressionsRequest(parent=account.parent, suppressions=people[:1])
    )
    assert account.goes("ada", category="marketing")


@pytest.mark.shows("try a policy on the past")
def test_try_on_the_past(account: Account) -> None:
    for contact in ("ada", "ada", "bob", "ada"):
        assert account.goes(contact)
    request = simulation_pb2.SimulatePolicyRequest(
        policy=policy_pb2.Policy(limits=[once()]), account=account.name
    )
    found = account.server.policies.SimulatePolicy(request)
    assert (found.attempt_count, found.allowed_count, found.denied_count) == (4, 2, 2)
    (row,) = found.rows
    assert (row.limit_id, row.denied_count, row.denied_contact_count) == ("told", 2, 1)
    assert account.goes("ada")


@pytest.mark.shows("try a policy on what comes")
def test_try_on_what_comes(account: Account, row: Row) -> None:
    account.assign(once(**row.fields))
    assert account.goes()
    response = account.commit()
    assert response.decision.outcome == decision_pb2.OUTCOME_ALLOWED
    assert response.decision.limit_statuses[0].exceeded
    request = restriction_pb2.ListRestrictionsRequest(account=account.name)
    (restriction,) = account.server.decisions.ListRestrictions(request).restrictions
    assert restriction.shadow


@pytest.mark.shows("go back to an earlier version; who changed what")
def test_go_back(account: Account) -> None:
    policies = account.server.policies
    policy = account.assign(once())
    account.change(policy)
    assert all(account.goes() for _ in range(3))
    versions = policies.ListPolicyVersions(
        policy_service_pb2.ListPolicyVersionsRequest(name=policy.name)
    ).versions
    oldest = versions[-1]
    policies.RollbackPolicy(
        policy_service_pb2.RollbackPolicyRequest(name=policy.name, revision=oldest.revision)
    )
    assert not account.goes()
    access = access_service_pb2_grpc.AccessServiceStub(account.server.channel)
    entries = access.ListAuditEntries(
        access_service_pb2.ListAuditEntriesRequest(account=account.name, resource=policy.name)
    ).entries
    actions = [access_pb2.AuditEntry.Action.Name(entry.action) for entry in entries]
    assert sorted(actions) == ["ACTION_CREATE", "ACTION_UPDATE", "ACTION_UPDATE"]
