"""The commands about accounts: their own settings (account), and who has opted out (suppress)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from rich.table import Table
from rich.text import Text

from limiter import bounds
from limiter.cli import terminal
from limiter.cli.connection import PAGE_SIZE, Connection, connect
from limiter.cli.durations import in_table
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import read_text
from limiter.cli.options import ClientOptions, expand_options
from limiter.cli.render import plain_table
from limiter.v1 import account_pb2, policy_service_pb2

accounts = typer.Typer(
    name="account", no_args_is_help=True, help="Show and change an account's own settings."
)
suppressions = typer.Typer(
    name="suppress", no_args_is_help=True, help="Note and list who has opted out."
)

AccountArgument = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.")]
AccountOption = Annotated[str, typer.Option("--account", help="The account's id.")]
PeopleArgument = Annotated[
    list[str] | None, typer.Argument(metavar="CONTACT...", help="Who has opted out.")
]
AddressesOption = Annotated[
    bool, typer.Option("--addresses", help="What is named are addresses, not contacts.")
]
FileOption = Annotated[
    str,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A CSV file with a column contact or address, or both; without such a head, each line"
        " is one of them. - is stdin.",
    ),
]


# --- Accounts -------------------------------------------------------------------------------------


def get(account: AccountArgument, client: ClientOptions) -> None:
    """Show an account's time zone and allowed categories."""
    request = policy_service_pb2.GetAccountRequest(name=f"accounts/{account}")
    with connect(client) as connection:
        found = connection.policies.GetAccount(request, timeout=connection.remaining_s())
    _show_account(client, found)


def list_accounts(client: ClientOptions) -> None:
    """List the accounts that were changed."""
    found = policy_service_pb2.ListAccountsResponse()
    request = policy_service_pb2.ListAccountsRequest(page_size=PAGE_SIZE)
    with connect(client) as connection:
        for page in connection.pages(connection.policies.ListAccounts, request):
            found.accounts.extend(page.accounts)
    if client.json:
        terminal.print_json(found)
    else:
        terminal.output().print(_account_table(found.accounts))


def set_account(
    *,
    account: AccountArgument,
    client: ClientOptions,
    time_zone: Annotated[
        str | None,
        typer.Option(
            "--time-zone",
            metavar="ZONE",
            help="The IANA zone that limits mean by ACCOUNT; '' for UTC.",
        ),
    ] = None,
    allow_category: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-category",
            metavar="CATEGORY",
            help="May be sent to those who have opted out. May be repeated; replaces all others,"
            " '' alone leaves none.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
) -> None:
    """Change an account. Nothing that was counted is lost."""
    changed = account_pb2.Account(name=f"accounts/{account}")
    mask = FieldMask()
    if time_zone is not None:
        changed.time_zone = time_zone
        mask.paths.append("time_zone")
    if allow_category is not None:
        changed.allowed_categories.extend(allow_category if allow_category != [""] else [])
        mask.paths.append("allowed_categories")
    if not mask.paths:
        raise CommandError(ExitCode.USAGE, "nothing to change: give --time-zone, --allow-category")
    request = policy_service_pb2.UpdateAccountRequest(
        account=changed, update_mask=mask, validate_only=dry_run
    )
    with connect(client) as connection:
        made = connection.policies.UpdateAccount(request, timeout=connection.remaining_s())
    _show_account(client, made)


def _show_account(client: ClientOptions, account: account_pb2.Account) -> None:
    if client.json:
        terminal.print_json(account)
    else:
        terminal.output().print(_account_table([account]))


def _account_table(found: Sequence[account_pb2.Account]) -> Table:
    table = plain_table("account", "time zone", "may go to who has opted out", "changed")
    for account in found:
        changed = "never"
        if account.HasField("update_time"):
            changed = in_table(account.update_time.ToMilliseconds())
        table.add_row(
            Text(account.name.removeprefix("accounts/")),
            Text(account.time_zone or "UTC"),
            Text(", ".join(account.allowed_categories) or "nothing"),
            Text(changed),
        )
    return table


# --- Who has opted out ----------------------------------------------------------------------------


def add(
    *,
    account: AccountOption,
    client: ClientOptions,
    people: PeopleArgument = None,
    addresses: AddressesOption = False,
    file: FileOption = "",
) -> None:
    """Note that people have opted out: what is sent to them is denied from now on."""

    def send(connection: Connection, some: Sequence[account_pb2.Suppression]) -> int:
        request = policy_service_pb2.AddSuppressionsRequest(
            parent=f"accounts/{account}", suppressions=some
        )
        return connection.policies.AddSuppressions(
            request, timeout=connection.remaining_s()
        ).added_count

    count, added_count = _send_all(client, _named(people, addresses, file), send)
    if client.json:
        response = policy_service_pb2.AddSuppressionsResponse(added_count=added_count)
        terminal.print_json(response)
    else:
        terminal.notices().print(f"{added_count:,} of {count:,} had not opted out before.")


def remove(
    *,
    account: AccountOption,
    client: ClientOptions,
    people: PeopleArgument = None,
    addresses: AddressesOption = False,
    file: FileOption = "",
) -> None:
    """Let people be written to again."""

    def send(connection: Connection, some: Sequence[account_pb2.Suppression]) -> int:
        request = policy_service_pb2.RemoveSuppressionsRequest(
            parent=f"accounts/{account}", suppressions=some
        )
        return connection.policies.RemoveSuppressions(
            request, timeout=connection.remaining_s()
        ).removed_count

    count, removed_count = _send_all(client, _named(people, addresses, file), send)
    if client.json:
        response = policy_service_pb2.RemoveSuppressionsResponse(removed_count=removed_count)
        terminal.print_json(response)
    else:
        terminal.notices().print(f"{removed_count:,} of {count:,} had opted out before.")


def list_people(account: AccountOption, client: ClientOptions) -> None:
    """List who has opted out, and since when."""
    found = policy_service_pb2.ListSuppressionsResponse()
    request = policy_service_pb2.ListSuppressionsRequest(
        parent=f"accounts/{account}", page_size=PAGE_SIZE
    )
    with connect(client) as connection:
        for page in connection.pages(connection.policies.ListSuppressions, request):
            found.suppressions.extend(page.suppressions)
    if client.json:
        terminal.print_json(found)
        return
    table = plain_table("contact", "address", "since")
    for each in found.suppressions:
        since = in_table(each.create_time.ToMilliseconds())
        contact = each.contact if each.WhichOneof("who") else "(forgotten)"
        table.add_row(Text(contact), Text(each.address), Text(since))
    terminal.output().print(table)


def _send_all(
    client: ClientOptions,
    people: Sequence[account_pb2.Suppression],
    send: Callable[[Connection, Sequence[account_pb2.Suppression]], int],
) -> tuple[int, int]:
    """How many there were, and how many of them made a difference."""
    step = bounds.SUPPRESSIONS_CHANGED_MAX
    with connect(client) as connection:
        changed_count = 0
        for start in range(0, len(people), step):
            connection.restart_deadline()
            changed_count += send(connection, people[start : start + step])
    return len(people), changed_count


def _named(people: list[str] | None, addresses: bool, file: str) -> list[account_pb2.Suppression]:
    named = [_person("address" if addresses else "contact", value) for value in people or ()]
    if file:
        named += _from_file(file, addresses)
    if not named:
        raise CommandError(ExitCode.USAGE, "name somebody, or give a file with -f")
    return named


def _person(who: str, value: str) -> account_pb2.Suppression:
    if who == "address":
        return account_pb2.Suppression(address=value)
    return account_pb2.Suppression(contact=value)


def _from_file(file: str, addresses: bool) -> Iterator[account_pb2.Suppression]:
    found = list(csv.reader(io.StringIO(read_text(file), newline="")))
    head, rows = found[0] if found else [], found[1:]
    columns = {name.strip().lower(): place for place, name in enumerate(head)}
    places = {who: columns[who] for who in ("contact", "address") if who in columns}
    if not places:
        # No head: what looked like one is the first of them.
        places = {"address" if addresses else "contact": 0}
        rows = found
    for row in rows:
        for who, place in places.items():
            value = row[place].strip() if place < len(row) else ""
            if value:
                yield _person(who, value)


for _group, _name, _command in (
    (accounts, "get", get),
    (accounts, "list", list_accounts),
    (accounts, "set", set_account),
    (suppressions, "add", add),
    (suppressions, "remove", remove),
    (suppressions, "list", list_people),
):
    _group.command(_name)(expand_options(_command))
