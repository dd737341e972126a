"""The command plan: when each contact of a list may be written to, as tables, JSON or a file."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from limiter import bounds
from limiter.cli import terminal
from limiter.cli.connection import connect
from limiter.cli.decisions import InlineOption, LimitOption, inline_limits
from limiter.cli.describe import reason_in_words
from limiter.cli.durations import at_local, in_table, parse_ms
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import ClientOptions, TemplateOptions
from limiter.cli.spreadsheets import opened, plain, rows_of
from limiter.v1 import decision_pb2, plan_pb2

FileOption = Annotated[
    str,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="Whom to write to: CSV with a column contact, and address, reference and "
        "contact_time_zone if known; - is stdin. An export of restrictions is one, too.",
    ),
]
SpreadOption = Annotated[
    str,
    typer.Option(
        "--spread",
        metavar="DURATION",
        help="Space them evenly over so long, such as 8h; else each goes as soon as it may.",
    ),
]
CountOption = Annotated[
    int, typer.Option("--count", min=0, help="How many recipients the table lists at most.")
]
ExportOption = Annotated[
    Path | None,
    typer.Option(
        "--export",
        metavar="FILE",
        help="Write all of it to a CSV file to schedule by; - for standard output.",
    ),
]

# The columns of an export. Names and order stay; new ones come last.
_OTHERS = ("address", "reference", "contact_time_zone")
_COLUMNS = ("contact", *_OTHERS, "send_time", "reason")

_Planned = tuple[plan_pb2.PlanRecipient, plan_pb2.PlanResult]


def plan(
    *,
    template: TemplateOptions,
    client: ClientOptions,
    file: FileOption,
    spread: SpreadOption = "",
    inline: InlineOption = "",
    limit: LimitOption = None,
    count: CountOption = 20,
    export: ExportOption = None,
) -> None:
    """Show when each contact of a list may be written to under all limits, nothing else being sent.

    Changes nothing: commit each message when its time has come.
    """
    if export is not None and export.suffix != ".csv" and str(export) != "-":
        raise CommandError(ExitCode.USAGE, f"--export: {export} does not end in .csv")
    request = plan_pb2.PlanRequest(
        attempt=template.message(), inline_limits=inline_limits(inline, limit)
    )
    lines = _read(request, file)
    if spread:
        request.spread_duration.FromMilliseconds(_spread_ms(spread))

    def locate(field: str) -> str:
        found = re.match(r"recipients\[(\d+)\]", field)
        return f"{file}:{lines[int(found[1])]}" if found and file != "-" else ""

    with connect(client, locate) as connection:
        response = connection.decisions.Plan(request, timeout=connection.remaining_s())
    planned = list(zip(request.recipients, response.results, strict=True))
    if export is not None:
        _export(planned, export)
    elif client.json:
        terminal.print_json(response)
    else:
        _print(planned, response.plan_time, count)


def _read(request: plan_pb2.PlanRequest, file: str) -> list[int]:
    """Puts the recipients of a file into the request; the line of each. Raises CommandError."""
    lines: list[int] = []
    for line, values in rows_of(file, "contact", _OTHERS):
        lines.append(line)
        if len(lines) > bounds.PLAN_RECIPIENTS_MAX:
            raise CommandError(
                ExitCode.INVALID,
                f"{file}:{line}: one plan is for {bounds.PLAN_RECIPIENTS_MAX:,} recipients at most:"
                " split the file",
            )
        request.recipients.add(**values)
    if not lines:
        raise CommandError(ExitCode.INVALID, f"{file}: there is nobody in it")
    size_bytes = request.ByteSize()
    if size_bytes > bounds.MESSAGE_BYTES_MAX:
        raise CommandError(
            ExitCode.INVALID,
            f"{file}: its recipients take {size_bytes:,} bytes, and a request has"
            f" {bounds.MESSAGE_BYTES_MAX:,} at most: split the file",
        )
    return lines


def _spread_ms(text: str) -> int:
    try:
        return parse_ms(text)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--spread: {error}") from error


# --- Tables ---------------------------------------------------------------------------------------


def _print(planned: Sequence[_Planned], plan_time: Timestamp, count: int) -> None:
    goes = sorted(
        (each for each in planned if each[1].HasField("send_time")),
        key=lambda each: _ms(each[1].send_time),
    )
    output = terminal.output()
    output.print(_headline(planned, goes), markup=False)
    if goes:
        output.print(_days(goes))
    for reason, number in Counter(
        each.reason for _, each in planned if not each.HasField("send_time")
    ).items():
        words = f"{number:,} cannot go within 400 days: {reason_in_words(reason)}."
        output.print(words, markup=False)
    if count:
        output.print(_recipients(planned[:count], plan_time))
    if 0 < count < len(planned):
        terminal.notices().print(
            f"{len(planned) - count:,} more recipients are not listed; --export FILE has all.",
            markup=False,
        )


def _headline(planned: Sequence[_Planned], goes: Sequence[_Planned]) -> str:
    words = f"{len(goes):,} of {len(planned):,} can go"
    if not goes:
        return f"{words}."
    first, last = _ms(goes[0][1].send_time), _ms(goes[-1][1].send_time)
    if first == last:
        return f"{words}, at {at_local(first)}."
    return f"{words}, from {at_local(first)} to {at_local(last)}."


def _days(goes: Sequence[_Planned]) -> Table:
    """How many go on each day, and from when until when."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("day", "recipients", "from", "to"):
        table.add_column(name, justify="right" if name == "recipients" else "left")
    for day, group in groupby(goes, key=lambda each: _local(each[1]).date()):
        found = list(group)
        first, last = (in_table(_ms(each[1].send_time)) for each in (found[0], found[-1]))
        # The times, without the day.
        table.add_row(f"{day:%a %Y-%m-%d}", f"{len(found):,}", first[11:], last[11:])
    return table


def _recipients(planned: Sequence[_Planned], plan_time: Timestamp) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("contact", overflow="fold")
    has_references = any(recipient.reference for recipient, _ in planned)
    if has_references:
        table.add_column("reference", overflow="fold")
    table.add_column("goes at")
    for recipient, result in planned:
        at = Text(reason_in_words(result.reason), "red")
        if result.HasField("send_time"):
            now = _ms(result.send_time) <= _ms(plan_time)
            at = Text(in_table(_ms(result.send_time)) + (" (now)" if now else ""))
        reference = [Text(recipient.reference)] if has_references else []
        table.add_row(Text(recipient.contact), *reference, at)
    return table


def _local(result: plan_pb2.PlanResult) -> datetime:
    """The local time that is shown: rounded up to the second."""
    return datetime.fromtimestamp(-(-_ms(result.send_time) // 1000), UTC).astimezone()


def _ms(time: Timestamp) -> int:
    return time.ToMilliseconds()


# --- Files ----------------------------------------------------------------------------------------


def _export(planned: Sequence[_Planned], path: Path) -> None:
    """One row for each recipient, in the order of the list. Who cannot go has no send_time."""
    with opened(path) as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for recipient, result in planned:
            values = [getattr(recipient, name) for name in ("contact", *_OTHERS)]
            values.append(result.send_time.ToJsonString() if result.HasField("send_time") else "")
            writer.writerow(map(plain, [*values, _reason(result.reason)]))
    terminal.notices().print(f"{len(planned):,} written to {path}.", markup=False, highlight=False)


def _reason(reason: decision_pb2.Reason.ValueType) -> str:
    known = decision_pb2.Reason.DESCRIPTOR.values_by_number.get(reason)
    return known.name.removeprefix("REASON_").lower() if known is not None else str(reason)
