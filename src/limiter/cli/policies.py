"""The commands that manage policies: apply, diff, get and delete."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from google.protobuf.message import Message
from rich.console import RenderableType

from limiter.cli import render, terminal
from limiter.cli.connection import Connection, connect
from limiter.cli.difference import difference, summary
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import PolicyFile, load_policy_file
from limiter.cli.options import ClientOptions
from limiter.cli.questions import ask
from limiter.v1 import access_service_pb2, policy_service_pb2


class ResourceKind(StrEnum):
    """What `get` lists. Singular or plural, as one likes."""

    POLICIES = "policies"
    ASSIGNMENTS = "assignments"
    POLICY = "policy"
    ASSIGNMENT = "assignment"
    GROUPS = "groups"
    GROUP = "group"

    @property
    def collection(self) -> str:
        """The collection's name in resource names."""
        if self in (ResourceKind.POLICIES, ResourceKind.POLICY):
            return "policies"
        return "groups" if self in (ResourceKind.GROUPS, ResourceKind.GROUP) else "assignments"


FileOption = Annotated[
    str,
    typer.Option(
        "--file", "-f", metavar="FILE", help="The policy file (YAML or JSON); - is stdin."
    ),
]
PruneOption = Annotated[
    bool,
    typer.Option(
        "--prune", help="Also delete every policy, assignment and group that is not in the file."
    ),
]
PartialHistoryOption = Annotated[
    bool,
    typer.Option(
        "--allow-partial-history",
        help="Let new limits begin that look back further than the journal does.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
AccountOption = Annotated[
    str, typer.Option("--account", help="Only those of this account; none: all there are.")
]


def apply(
    *,
    file: FileOption,
    client: ClientOptions,
    prune: PruneOption = False,
    allow_partial_history: PartialHistoryOption = False,
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference only.")] = False,
) -> None:
    """Make the server's policies and assignments what a file says.

    Shows the difference first, then asks, then makes it so in one step: there is never a moment
    without limits, and no count is lost.
    """
    wanted = load_policy_file(file)
    with connect(client, wanted.locate) as connection:
        plan = _differences(connection, wanted, prune, allow_partial_history)
        if not client.json or (plan.changes and not dry_run and not yes):
            _show(plan, to_notices=client.json)
        if plan.changes and not dry_run:
            if not yes:
                ask(f"Apply to {client.address}?")
                connection.restart_deadline()
            agreed = str(plan.revision)
            plan = _apply(connection, wanted, prune, allow_partial_history, agreed)
            if not client.json:
                terminal.output().print(f"Applied. The policies are at revision {plan.revision}.")
    if client.json:
        terminal.print_json(plan)


def diff(
    file: FileOption,
    client: ClientOptions,
    prune: PruneOption = False,
    allow_partial_history: PartialHistoryOption = False,
) -> None:
    """Show what applying a file would change. Exits with 10 if anything would."""
    wanted = load_policy_file(file)
    with connect(client, wanted.locate) as connection:
        plan = _differences(connection, wanted, prune, allow_partial_history)
    if client.json:
        terminal.print_json(plan)
    else:
        _show(plan)
    if plan.changes:
        raise typer.Exit(ExitCode.DIFFERENT)


def get(
    kind: Annotated[ResourceKind, typer.Argument(help="What to show.", show_choices=True)],
    client: ClientOptions,
    name: Annotated[
        str, typer.Argument(help="One of them: its resource name, or the last part of it.")
    ] = "",
    account: AccountOption = "",
) -> None:
    """Show policies, assignments or groups."""
    parents = [f"accounts/{account}"] if account else ["", "accounts/-"]
    with connect(client) as connection:
        if kind.collection == "policies":
            if name:
                one = policy_service_pb2.GetPolicyRequest(name=full_name(kind, name, account))
                policy = connection.policies.GetPolicy(one, timeout=connection.remaining_s())
                _print(client, policy, render.policies([policy]))
            else:
                policies = connection.list_policies(parents)
                _print(client, policies, render.policies(policies.policies))
        elif kind.collection == "groups":
            if name:
                group_request = access_service_pb2.GetGroupRequest(
                    name=full_name(kind, name, account)
                )
                group = connection.access.GetGroup(group_request, timeout=connection.remaining_s())
                _print(client, group, render.groups([group]))
            else:
                groups = connection.list_groups(parents[-1])
                _print(client, groups, render.groups(groups.groups))
        elif name:
            this = policy_service_pb2.GetAssignmentRequest(name=full_name(kind, name, account))
            assignment = connection.policies.GetAssignment(this, timeout=connection.remaining_s())
            _print(client, assignment, render.assignments([assignment]))
        else:
            assignments = connection.list_assignments(parents)
            _print(client, assignments, render.assignments(assignments.assignments))


def delete(
    *,
    kind: Annotated[ResourceKind, typer.Argument(help="What to delete.")],
    name: Annotated[str, typer.Argument(help="Its resource name, or the last part of it.")],
    client: ClientOptions,
    account: AccountOption = "",
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
) -> None:
    """Delete one policy, assignment or group. A policy that is assigned cannot be deleted."""
    resource = full_name(kind, name, account)
    if not dry_run and not yes:
        ask(f"Delete {resource} on {client.address}?")
    with connect(client) as connection:
        if kind.collection == "policies":
            connection.policies.DeletePolicy(
                policy_service_pb2.DeletePolicyRequest(name=resource, validate_only=dry_run),
                timeout=connection.remaining_s(),
            )
        elif kind.collection == "groups":
            connection.access.DeleteGroup(
                access_service_pb2.DeleteGroupRequest(name=resource, validate_only=dry_run),
                timeout=connection.remaining_s(),
            )
        else:
            connection.policies.DeleteAssignment(
                policy_service_pb2.DeleteAssignmentRequest(name=resource, validate_only=dry_run),
                timeout=connection.remaining_s(),
            )
    verb = "would be deleted" if dry_run else "is deleted"
    terminal.notices().print(f"{resource} {verb}.", markup=False)


def full_name(kind: ResourceKind, name: str, account: str) -> str:
    """The resource name of `name`, which may be one already or just its last part."""
    if "/" in name:
        return name
    parent = f"accounts/{account}/" if account else ""
    return f"{parent}{kind.collection}/{name}"


def _differences(
    connection: Connection, wanted: PolicyFile, prune: bool, allow_partial_history: bool
) -> policy_service_pb2.ApplyPoliciesResponse:
    return connection.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(
            groups=wanted.groups,
            policies=wanted.policies,
            assignments=wanted.assignments,
            prune=prune,
            allow_partial_history=allow_partial_history,
            validate_only=True,
        ),
        timeout=connection.remaining_s(),
    )


def _apply(
    connection: Connection,
    wanted: PolicyFile,
    prune: bool,
    allow_partial_history: bool,
    etag: str,
) -> policy_service_pb2.ApplyPoliciesResponse:
    """`etag` is the revision that was shown: what is applied is what was agreed to."""
    return connection.policies.ApplyPolicies(
        policy_service_pb2.ApplyPoliciesRequest(
            groups=wanted.groups,
            policies=wanted.policies,
            assignments=wanted.assignments,
            prune=prune,
            allow_partial_history=allow_partial_history,
            etag=etag,
        ),
        timeout=connection.remaining_s(),
    )


def _show(plan: policy_service_pb2.ApplyPoliciesResponse, *, to_notices: bool = False) -> None:
    console = terminal.notices() if to_notices else terminal.output()
    if not plan.changes:
        console.print("No difference: the server has all of this already.")
        return
    for line in difference(plan.changes):
        console.print(line, soft_wrap=True)
    console.print(f"{summary(plan.changes)}.")


def _print(client: ClientOptions, message: Message, table: RenderableType) -> None:
    if client.json:
        terminal.print_json(message)
    else:
        terminal.output().print(table)
