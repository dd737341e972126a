"""The command forget: what could name one contact, or one address, is erased from an account."""

from __future__ import annotations

from typing import Annotated

import typer

from limiter.cli import terminal
from limiter.cli.connection import connect
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import ClientOptions
from limiter.cli.questions import ask
from limiter.v1 import policy_service_pb2


def forget(
    *,
    account: Annotated[str, typer.Option("--account", help="The account's id.")],
    client: ClientOptions,
    contact: Annotated[str, typer.Option("--contact", help="Whom to forget.")] = "",
    contact_address: Annotated[
        str, typer.Option("--contact-address", help="Or one contact point, whoever has it.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what names them; erase nothing.")
    ] = False,
) -> None:
    """Erase what could name a contact or an address: from the log of restrictions and the list of
    who has opted out. What was counted stands, and who has opted out stays so. Backups made before
    keep what they hold.
    """
    if bool(contact) == bool(contact_address):
        raise CommandError(ExitCode.USAGE, "give --contact or --contact-address, one of them")
    request = policy_service_pb2.ForgetContactRequest(
        name=f"accounts/{account}", validate_only=dry_run
    )
    if contact:
        request.contact = contact
    else:
        request.address = contact_address
    if not yes and not dry_run:
        what = "contact" if contact else "address"
        ask(
            f"Erase what names {what} {contact or contact_address!r} of account {account} on"
            f" {client.address}? It cannot be brought back."
        )
    with connect(client) as connection:
        found = connection.policies.ForgetContact(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(found)
        return
    counts = (
        f"{found.restriction_count:,} restriction{'' if found.restriction_count == 1 else 's'} and"
        f" {found.suppression_count:,} suppression{'' if found.suppression_count == 1 else 's'}"
    )
    verb = "name them" if dry_run else "named them, and do not any more"
    terminal.output().print(f"{counts} {verb}.", markup=False, soft_wrap=True)
