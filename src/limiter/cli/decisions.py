"""The commands that ask for decisions: check, commit and usage."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from limiter.cli import render, terminal
from limiter.cli.connection import connect
from limiter.cli.durations import parse_ms
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import load_limits
from limiter.cli.inline import GRAMMAR, parse_limit
from limiter.cli.instants import parse_instant
from limiter.cli.options import AttemptOptions, ClientOptions
from limiter.v1 import decision_pb2, decision_service_pb2, policy_pb2


class ViewName(StrEnum):
    """How much of a decision to show."""

    FULL = "full"
    BASIC = "basic"

    @property
    def view(self) -> decision_pb2.View.ValueType:
        """The same as the API has it."""
        return decision_pb2.VIEW_BASIC if self is ViewName.BASIC else decision_pb2.VIEW_FULL


InlineOption = Annotated[
    str,
    typer.Option(
        "--inline", metavar="FILE", help="A file with one more limit, or a list; - is stdin."
    ),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="LIMIT", help=f"One more limit: {GRAMMAR}. May be repeated."),
]
ViewOption = Annotated[
    ViewName, typer.Option("--view", help="With every limit's status, or without.")
]


def check(
    attempt: AttemptOptions,
    client: ClientOptions,
    inline: InlineOption = "",
    limit: LimitOption = None,
    view: ViewOption = ViewName.FULL,
) -> None:
    """Ask whether an attempt may go now. Counts nothing. Exits with 3 if it may not."""
    request = decision_service_pb2.CheckRequest(
        attempt=attempt.message(), inline_limits=inline_limits(inline, limit), view=view.view
    )
    with connect(client) as connection:
        response = connection.decisions.Check(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(response)
    else:
        terminal.output().print(render.decision(response.decision))
    _exit_by(response.decision)


def commit(
    *,
    attempt: AttemptOptions,
    client: ClientOptions,
    request_id: Annotated[
        str,
        typer.Option(
            "--request-id", help="The attempt's own id: a repeat with it never counts twice."
        ),
    ] = "",
    hold: Annotated[
        str,
        typer.Option(
            "--hold",
            metavar="DURATION",
            help="Hold it: it counts, and lapses after so long, such as 10min, unless confirmed.",
        ),
    ] = "",
    record: Annotated[
        bool, typer.Option("--record", help="It has gone out already: count it in any case.")
    ] = False,
    event_time: Annotated[
        str,
        typer.Option(
            "--event-time", metavar="TIME", help="When it went out, such as 2025-03-03T12:00:00Z."
        ),
    ] = "",
    inline: InlineOption = "",
    limit: LimitOption = None,
    view: ViewOption = ViewName.FULL,
) -> None:
    """Decide an attempt and, if it is allowed, count it. Exits with 3 if it is denied."""
    request = decision_service_pb2.CommitRequest(
        attempt=attempt.message(),
        inline_limits=inline_limits(inline, limit),
        view=view.view,
        request_id=request_id,
    )
    if record:
        request.mode = decision_service_pb2.COMMIT_MODE_RECORD
    if event_time:
        request.event_time.FromMilliseconds(parse_instant(event_time, "--event-time"))
    if hold:
        request.hold_duration.FromMilliseconds(_hold_ms(hold))
    with connect(client) as connection:
        response = connection.decisions.Commit(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(response)
    else:
        terminal.output().print(render.commit(response))
    _exit_by(response.decision)


def usage(attempt: AttemptOptions, client: ClientOptions) -> None:
    """Show every limit that would apply to an attempt, with its count."""
    request = decision_service_pb2.GetUsageRequest(attempt=attempt.message())
    with connect(client) as connection:
        response = connection.decisions.GetUsage(request, timeout=connection.remaining_s())
    if client.json:
        terminal.print_json(response)
    elif response.limit_statuses:
        terminal.output().print(render.statuses(response.limit_statuses))
    else:
        terminal.output().print("No limit applies.")


def inline_limits(file: str, texts: list[str] | None) -> list[policy_pb2.Limit]:
    """The limits of `--inline FILE`, then those of `--limit`, which are called inline-1, inline-2
    and so on."""
    limits = load_limits(file) if file else []
    return limits + [
        parse_limit(text, f"inline-{number}") for number, text in enumerate(texts or [], start=1)
    ]


def _hold_ms(text: str) -> int:
    try:
        return parse_ms(text)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"--hold: {error}") from error


def _exit_by(decision: decision_pb2.Decision) -> None:
    """An outcome that is not known counts as denied."""
    if decision.outcome != decision_pb2.OUTCOME_ALLOWED:
        raise typer.Exit(ExitCode.DENIED)
