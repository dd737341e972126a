"""The command restrictions: whom an account missed, as a table, JSON, or a file to go on with."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from google.protobuf import json_format, timestamp_pb2
from rich.table import Table
from rich.text import Text

from limiter.cli import terminal
from limiter.cli.connection import PAGE_SIZE, Connection, connect
from limiter.cli.describe import reason_in_words
from limiter.cli.durations import in_table
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.instants import parse_instant
from limiter.cli.options import ClientOptions
from limiter.cli.spreadsheets import opened, plain
from limiter.v1 import decision_pb2, restriction_pb2

AccountOption = Annotated[str, typer.Option("--account", help="The account.")]
CampaignOption = Annotated[str, typer.Option("--campaign", help="Only of this campaign.")]
ContactOption = Annotated[str, typer.Option("--contact", help="Only to this contact.")]
LimitOption = Annotated[
    str, typer.Option("--limit", metavar="LIMIT_ID", help="Only by limits with this id.")
]
SinceOption = Annotated[
    str, typer.Option("--since", metavar="TIME", help="Only what was denied from this instant on.")
]
UntilOption = Annotated[
    str, typer.Option("--until", metavar="TIME", help="Only what was denied before this instant.")
]
CountOption = Annotated[
    int, typer.Option("--count", min=1, help="How many the table shows at most.")
]
ExportOption = Annotated[
    Path | None,
    typer.Option(
        "--export",
        metavar="FILE",
        help="Write all of it to a file, .csv or .jsonl; - for CSV on standard output.",
    ),
]
ContactsOption = Annotated[
    bool,
    typer.Option(
        "--contacts",
        help="With --export: each contact once, and none who was only denied in shadow.",
    ),
]

# The columns of an export. Names and order stay; new ones come last.
_COLUMNS = (
    "account",
    "contact",
    "address",
    "channel",
    "resource",
    "campaign",
    "agent",
    "team",
    "source",
    "category",
    "message_count",
    "contact_time_zone",
    "reference",
    "reason",
    "policy",
    "policy_etag",
    "limit_id",
    "max_count",
    "used_count",
    "denial_count",
    "first_time",
    "last_time",
    "retry_time",
    "shadow",
    "forgotten",
)


def restrictions(
    *,
    account: AccountOption,
    client: ClientOptions,
    campaign: CampaignOption = "",
    contact: ContactOption = "",
    limit: LimitOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    count: CountOption = 100,
    export: ExportOption = None,
    contacts: ContactsOption = False,
) -> None:
    """Show whom limits kept from being written to: the oldest first.

    An export has all of them. In a CSV file a value that a spreadsheet would take for a formula, or
    that begins with ', has a ' before it; phone numbers stay as they are.
    """
    if contacts and export is None:
        raise CommandError(ExitCode.USAGE, "--contacts goes with --export")
    request = restriction_pb2.ListRestrictionsRequest(
        account=account, campaign=campaign, contact=contact, limit_id=limit, page_size=PAGE_SIZE
    )
    if since:
        request.start_time.FromMilliseconds(parse_instant(since, "--since"))
    if until:
        request.end_time.FromMilliseconds(parse_instant(until, "--until"))
    with connect(client) as connection:
        pages = _pages(connection, request)
        if export is not None:
            _export(pages, export, contacts)
        elif client.json:
            _print_json(pages)
        else:
            _print_table(pages, count)


def _pages(
    connection: Connection, request: restriction_pb2.ListRestrictionsRequest
) -> Iterator[restriction_pb2.ListRestrictionsResponse]:
    """Page after page; each has the whole time of the command, since there may be many."""
    for page in connection.pages(connection.decisions.ListRestrictions, request):
        yield page
        connection.restart_deadline()


def _print_table(pages: Iterable[restriction_pb2.ListRestrictionsResponse], count: int) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("contact", "campaign", "why", "limit", "times", "denied last", "way out"):
        table.add_column(column, overflow="fold", justify="right" if column == "times" else "left")
    shown, is_more, dropped_count = 0, False, 0
    for page in pages:
        dropped_count = page.dropped_count
        for each in page.restrictions[: count - shown]:
            table.add_row(*_cells(each))
        is_more = shown + len(page.restrictions) > count
        shown = min(count, shown + len(page.restrictions))
        if is_more:
            break
    if shown:
        terminal.output().print(table)
    else:
        terminal.output().print("Nobody was denied.")
    if is_more:
        terminal.notices().print(f"There are more than {count:,}: --count N, or --export FILE.")
    _print_dropped(dropped_count)


def _print_dropped(dropped_count: int) -> None:
    if dropped_count:
        terminal.notices().print(
            f"{dropped_count:,} denials more could not be kept one by one.", style="yellow"
        )


def _cells(each: restriction_pb2.Restriction) -> list[Text]:
    attempt = each.attempt
    return [
        Text(attempt.contact or attempt.address or ("(forgotten)" if each.forgotten else "")),
        Text(attempt.campaign),
        Text(("would be: " if each.shadow else "") + reason_in_words(each.reason)),
        Text(each.binding_limit.limit_id),
        Text(f"{each.denial_count:,}"),
        Text(_at(each.last_time)),
        Text(_at(each.retry_time) if each.HasField("retry_time") else ""),
    ]


def _at(time: timestamp_pb2.Timestamp) -> str:
    return in_table(time.ToMilliseconds())


def _print_json(pages: Iterable[restriction_pb2.ListRestrictionsResponse]) -> None:
    whole = restriction_pb2.ListRestrictionsResponse()
    for page in pages:
        whole.restrictions.extend(page.restrictions)
        whole.dropped_count = page.dropped_count
    terminal.print_json(whole)


# --- Files ----------------------------------------------------------------------------------------


def _export(
    pages: Iterable[restriction_pb2.ListRestrictionsResponse], path: Path, distinct: bool
) -> None:
    """Writes all of it as it comes, so that it may be more than fits into memory."""
    if path.suffix not in {".csv", ".jsonl"} and str(path) != "-":
        raise CommandError(ExitCode.USAGE, f"--export: {path} ends in neither .csv nor .jsonl")
    seen: set[tuple[str, str]] = set()
    written, dropped_count = 0, 0
    with opened(path) as file:
        write = _json_writer(file) if path.suffix == ".jsonl" else _csv_writer(file)
        for page in pages:
            dropped_count = page.dropped_count
            for each in page.restrictions:
                who = (each.attempt.contact or each.attempt.address, each.attempt.campaign)
                is_nobody = each.forgotten and not who[0]
                if distinct and (each.shadow or is_nobody or who in seen):
                    continue
                if distinct:
                    seen.add(who)
                write(each)
                written += 1
    terminal.notices().print(f"{written:,} written to {path}.", markup=False, highlight=False)
    _print_dropped(dropped_count)


def _csv_writer(file: TextIO) -> Callable[[restriction_pb2.Restriction], Any]:
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    return lambda each: writer.writerow(map(plain, _values(each)))


def _json_writer(file: TextIO) -> Callable[[restriction_pb2.Restriction], Any]:
    def write(each: restriction_pb2.Restriction) -> None:
        json.dump(json_format.MessageToDict(each), file, ensure_ascii=False)
        file.write("\n")

    return write


def _values(each: restriction_pb2.Restriction) -> list[str | int]:
    attempt, limit = each.attempt, each.binding_limit
    named: dict[str, str | int] = {
        name: getattr(attempt, name) for name in attempt.DESCRIPTOR.fields_by_name
    }
    named |= {
        # As it is sent when it is not said.
        "message_count": attempt.message_count or 1,
        "reference": each.reference,
        "reason": _reason(each.reason),
        "policy": limit.policy,
        "policy_etag": each.policy_etag,
        "limit_id": limit.limit_id,
        "max_count": limit.max_count,
        "used_count": limit.used_count,
        "denial_count": each.denial_count,
        "first_time": each.first_time.ToJsonString(),
        "last_time": each.last_time.ToJsonString(),
        "retry_time": each.retry_time.ToJsonString() if each.HasField("retry_time") else "",
        "shadow": "true" if each.shadow else "false",
        "forgotten": "true" if each.forgotten else "false",
    }
    return [named[column] for column in _COLUMNS]


def _reason(reason: decision_pb2.Reason.ValueType) -> str:
    known = decision_pb2.Reason.DESCRIPTOR.values_by_number.get(reason)
    return known.name.removeprefix("REASON_").lower() if known is not None else str(reason)
