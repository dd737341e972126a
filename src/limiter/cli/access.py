"""The commands about who may do what, and who did: key (create, list, rotate, revoke), audit."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from limiter.cli import terminal
from limiter.cli.connection import PAGE_SIZE, connect
from limiter.cli.durations import in_table, parse_ms
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.instants import parse_instant
from limiter.cli.options import ClientOptions, expand_options
from limiter.cli.render import plain_table
from limiter.v1 import access_pb2, access_service_pb2

keys = typer.Typer(name="key", no_args_is_help=True, help="Make, list, rotate and revoke API keys.")


class RoleName(StrEnum):
    """A usual set of permissions."""

    VIEWER = "viewer"
    SENDER = "sender"
    MASTER = "master"
    OPERATOR = "operator"

    @property
    def role(self) -> access_pb2.Role.ValueType:
        """The same as the API has it."""
        return access_pb2.Role.Value(f"ROLE_{self.name}")


_PERMISSIONS = {
    name.removeprefix("PERMISSION_").lower().replace("_", "."): number
    for name, number in access_pb2.Permission.items()
    if number
}

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The key's name.")]


def create(
    *,
    name: NameArgument,
    client: ClientOptions,
    role: Annotated[RoleName | None, typer.Option("--role", help="What it may do.")] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(
            "--permission",
            help=f"Instead of a role, one of {', '.join(_PERMISSIONS)}. May be repeated.",
        ),
    ] = None,
    account: Annotated[
        list[str] | None,
        typer.Option("--account", help="An account that it is for. May be repeated."),
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option("--resource", help="Only this resource. May be repeated."),
    ] = None,
    campaign: Annotated[
        list[str] | None,
        typer.Option("--campaign", help="Only this campaign. May be repeated."),
    ] = None,
    expires: Annotated[
        str,
        typer.Option("--expires", metavar="TIME", help="When it ends: 2027-01-31T00:00:00Z."),
    ] = "",
    certificate_name: Annotated[
        str,
        typer.Option(
            "--certificate-name", help="Who shows a client certificate of this name has it too."
        ),
    ] = "",
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
) -> None:
    """Make a key. It is shown now and never again."""
    key = access_pb2.ApiKey(
        display_name=display_name,
        role=role.role if role else access_pb2.ROLE_UNSPECIFIED,
        permissions=[_permission(each) for each in permission or ()],
        accounts=account or (),
        resources=resource or (),
        campaigns=campaign or (),
        certificate_name=certificate_name,
    )
    if expires:
        key.expire_time.FromMilliseconds(parse_instant(expires, "--expires"))
    with connect(client) as connection:
        made = connection.access.CreateApiKey(
            access_service_pb2.CreateApiKeyRequest(api_key_id=_id(name), api_key=key),
            timeout=connection.remaining_s(),
        )
    _show_secret(client, made, "is made")


def rotate(
    *,
    name: NameArgument,
    client: ClientOptions,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old secret stays good: 1h, 7d, ...")
    ] = "",
) -> None:
    """Give a key a new secret. It is shown now and never again."""
    try:
        grace_ms = parse_ms(grace) if grace else 0
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--grace: {error}") from error
    request = access_service_pb2.RotateApiKeyRequest(name=f"apiKeys/{_id(name)}")
    request.grace_duration.FromMilliseconds(grace_ms)
    with connect(client) as connection:
        made = connection.access.RotateApiKey(request, timeout=connection.remaining_s())
    _show_secret(client, made, "has a new secret")


def revoke(name: NameArgument, client: ClientOptions) -> None:
    """End a key, for good and at once."""
    with connect(client) as connection:
        key = connection.access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(name=f"apiKeys/{_id(name)}"),
            timeout=connection.remaining_s(),
        )
    if client.json:
        terminal.print_json(key)
    else:
        terminal.notices().print(f"{key.name} is revoked.", markup=False)


def list_keys(client: ClientOptions) -> None:
    """List the keys, those that have ended too."""
    found: list[access_pb2.ApiKey] = []
    request = access_service_pb2.ListApiKeysRequest(page_size=PAGE_SIZE)
    with connect(client) as connection:
        for page in connection.pages(connection.access.ListApiKeys, request):
            found += page.api_keys
    if client.json:
        terminal.print_json(access_service_pb2.ListApiKeysResponse(api_keys=found))
    else:
        terminal.output().print(_key_table(found))


def audit(
    *,
    client: ClientOptions,
    account: Annotated[str, typer.Option("--account", help="Only inside this account.")] = "",
    resource: Annotated[
        str, typer.Option("--resource", metavar="NAME", help="Only of this resource name.")
    ] = "",
    author: Annotated[str, typer.Option("--author", help="Only by this author.")] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="Only from this instant on.")
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Only before this instant.")
    ] = "",
    count: Annotated[int, typer.Option("--count", min=1, help="How many at most.")] = 100,
) -> None:
    """Show who changed which policy, assignment, group or key, and when: the newest first."""
    request = access_service_pb2.ListAuditEntriesRequest(
        account=account, resource=resource, author=author, page_size=min(PAGE_SIZE, count)
    )
    if since:
        request.start_time.FromMilliseconds(parse_instant(since, "--since"))
    if until:
        request.end_time.FromMilliseconds(parse_instant(until, "--until"))
    found: list[access_pb2.AuditEntry] = []
    with connect(client) as connection:
        for page in connection.pages(connection.access.ListAuditEntries, request):
            found += page.entries
            if len(found) >= count:
                break
            request.page_size = min(PAGE_SIZE, count - len(found))
    if client.json:
        terminal.print_json(access_service_pb2.ListAuditEntriesResponse(entries=found))
    else:
        terminal.output().print(_audit_table(found))


def _id(name: str) -> str:
    return name.removeprefix("apiKeys/")


def _permission(name: str) -> access_pb2.Permission.ValueType:
    number = _PERMISSIONS.get(name)
    if number is None:
        raise CommandError(
            ExitCode.USAGE, f"--permission: {name!r} is none of {', '.join(_PERMISSIONS)}"
        )
    return number


def _show_secret(
    client: ClientOptions, made: access_service_pb2.CreateApiKeyResponse, what: str
) -> None:
    """The key on standard output, for a program or a file; what it is beside it."""
    if client.json:
        terminal.print_json(made)
        return
    terminal.notices().print(
        f"{made.api_key.name} {what}. Keep it: it cannot be shown again.", markup=False
    )
    typer.echo(made.secret)


def _key_table(found: Sequence[access_pb2.ApiKey]) -> Table:
    table = plain_table("key", "may", "accounts", "only", "ends")
    for key in found:
        may = access_pb2.Role.Name(key.role).removeprefix("ROLE_").lower()
        if not key.role:
            names = {number: name for name, number in _PERMISSIONS.items()}
            may = ", ".join(names.get(each, str(each)) for each in key.permissions)
        only = [f"resource {each}" for each in key.resources]
        only += [f"campaign {each}" for each in key.campaigns]
        ends = "never"
        if key.HasField("revoke_time"):
            ends = f"revoked {in_table(key.revoke_time.ToMilliseconds())}"
        elif key.HasField("expire_time"):
            ends = in_table(key.expire_time.ToMilliseconds())
        accounts = ", ".join(key.accounts) or "all"
        table.add_row(*(Text(each) for each in (key.name, may, accounts, ", ".join(only), ends)))
    return table


def _audit_table(found: Sequence[access_pb2.AuditEntry]) -> Table:
    table = plain_table("when", "who", "did", "what")
    verbs = {
        access_pb2.AuditEntry.ACTION_CREATE: "create",
        access_pb2.AuditEntry.ACTION_UPDATE: "change",
        access_pb2.AuditEntry.ACTION_DELETE: "delete",
        access_pb2.AuditEntry.ACTION_REVOKE: "revoke",
        access_pb2.AuditEntry.ACTION_FORGET: "forget somebody of",
    }
    for entry in found:
        when = in_table(entry.time.ToMilliseconds())
        did = verbs.get(entry.action, "touch")
        table.add_row(*(Text(each) for each in (when, entry.author, did, entry.resource)))
    return table


for _name, _command in (
    ("create", create),
    ("list", list_keys),
    ("rotate", rotate),
    ("revoke", revoke),
):
    keys.command(_name)(expand_options(_command))
