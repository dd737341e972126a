"""The commands that look back at policies, and copy them: clone, versions and rollback."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from limiter.cli import render, terminal
from limiter.cli.connection import PAGE_SIZE, connect
from limiter.cli.describe import limit_in_words
from limiter.cli.durations import in_table
from limiter.cli.options import ClientOptions
from limiter.cli.policies import AccountOption, ResourceKind, full_name
from limiter.v1 import policy_service_pb2

PolicyArgument = Annotated[
    str, typer.Argument(metavar="POLICY", help="Its resource name, or the last part of it.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check only.")]


def clone(
    *,
    source: PolicyArgument,
    copy: Annotated[str, typer.Argument(metavar="COPY", help="The copy's resource name.")],
    client: ClientOptions,
    display_name: Annotated[
        str, typer.Option("--display-name", help="The copy's name for people.")
    ] = "",
    dry_run: DryRunOption = False,
) -> None:
    """Copy a policy under a new name: policies/P or accounts/A/policies/P."""
    name = full_name(ResourceKind.POLICY, copy, "")
    parent, _, policy_id = name.rpartition("/policies/")
    request = policy_service_pb2.ClonePolicyRequest(
        source=full_name(ResourceKind.POLICY, source, ""),
        parent=parent,
        policy_id=policy_id or name.removeprefix("policies/"),
        display_name=display_name,
        validate_only=dry_run,
    )
    with connect(client) as connection:
        made = connection.policies.ClonePolicy(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(made)
    else:
        terminal.output().print(render.policies([made]))


def versions(policy: PolicyArgument, client: ClientOptions, account: AccountOption = "") -> None:
    """Show what a policy was, since when, and by whom: the newest version first."""
    request = policy_service_pb2.ListPolicyVersionsRequest(
        name=full_name(ResourceKind.POLICY, policy, account), page_size=PAGE_SIZE
    )
    with connect(client) as connection:
        found = connection.policies.ListPolicyVersions(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("revision", "since", "by", "limits"):
        table.add_column(column, overflow="fold")
    for each in found.versions:
        limits = "\n".join(limit_in_words(limit) for limit in each.policy.limits) or "unlimited"
        table.add_row(
            str(each.revision),
            in_table(each.time.ToMilliseconds()),
            Text(each.author),
            Text("deleted" if each.deleted else limits),
        )
    terminal.output().print(table)


def rollback(
    *,
    policy: PolicyArgument,
    revision: Annotated[int, typer.Argument(help="The revision of the version.")],
    client: ClientOptions,
    account: AccountOption = "",
    dry_run: DryRunOption = False,
) -> None:
    """Make a policy what it was in an earlier version. No count is lost."""
    request = policy_service_pb2.RollbackPolicyRequest(
        name=full_name(ResourceKind.POLICY, policy, account),
        revision=revision,
        validate_only=dry_run,
    )
    with connect(client) as connection:
        made = connection.policies.RollbackPolicy(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(made)
    else:
        terminal.output().print(render.policies([made]))
