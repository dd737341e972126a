"""The commands that look on: watch, one template of an attempt, and top, the server as a whole.

Both end when they are interrupted. In a terminal they draw over what they drew; elsewhere each
change is printed below the one before it, or as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import RenderableType
from rich.live import Live

from limiter.cli import activity, terminal
from limiter.cli.connection import connect
from limiter.cli.durations import parse_ms
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import AttemptOptions, ClientOptions
from limiter.v1 import activity_pb2, decision_service_pb2

# The pauses between tries to come back to a server that has gone.
_PAUSE_S_MIN = 0.1
_PAUSE_S_MAX = 1.0

_Change = decision_service_pb2.WatchUsageResponse
_Shown = TypeVar("_Shown", bound=Message)


def watch(
    attempt: AttemptOptions,
    client: ClientOptions,
    until_allowed: Annotated[
        bool,
        typer.Option("--until-allowed", help="Exit with 0 as soon as an attempt like this may go."),
    ] = False,
    at_most: Annotated[
        str,
        typer.Option(
            "--at-most",
            metavar="DURATION",
            help="Exit after so long, such as 1h; with 3 if --until-allowed was waited for.",
        ),
    ] = "",
) -> None:
    """Show every limit that would apply to an attempt, and each change of it.

    Comes back when the server was away, for as long as --timeout says.
    """
    request = decision_service_pb2.WatchUsageRequest(attempt=attempt.message())
    end_s = time.monotonic() + _duration_ms(at_most, "--at-most") / 1000 if at_most else None
    try:
        for change in _shown(_changes(client, request, end_s), client.json, activity.change):
            if until_allowed and change.allowed:
                return
    except KeyboardInterrupt:
        pass
    if until_allowed:
        raise typer.Exit(ExitCode.DENIED)


def top(
    client: ClientOptions,
    account: Annotated[
        str, typer.Option("--account", help="Only this account; who is no operator names one.")
    ] = "",
    interval: Annotated[
        str, typer.Option("--interval", metavar="DURATION", help="How often to look.")
    ] = "1s",
    rows: Annotated[
        int, typer.Option("--rows", min=1, max=100, help="How many accounts and limits to show.")
    ] = 10,
    once: Annotated[bool, typer.Option("--once", help="Look once, and exit.")] = False,
) -> None:
    """Show what the server decides, the busiest accounts, and limits that are nearly full."""
    request = activity_pb2.GetActivityRequest(account=account, account_count=rows, limit_count=rows)
    interval_s = max(_duration_ms(interval, "--interval") / 1000, 0.1)

    def looks() -> Iterator[activity_pb2.GetActivityResponse]:
        with connect(client) as connection:
            while True:
                yield connection.decisions.GetActivity(request, timeout=connection.remaining_s())
                if once:
                    return
                time.sleep(interval_s)
                connection.restart_deadline()

    try:
        for _ in _shown(looks(), client.json, activity.overview):
            pass
    except KeyboardInterrupt:
        pass


def _changes(
    client: ClientOptions, request: decision_service_pb2.WatchUsageRequest, end_s: float | None
) -> Iterator[_Change]:
    """The changes up to an instant of the monotonic clock, over as many connections as it takes.
    Raises CommandError once there has been no server for as long as the timeout says."""
    heard_s = time.monotonic()
    pause_s = _PAUSE_S_MIN
    while end_s is None or time.monotonic() < end_s:
        timeout_s = None if end_s is None else max(end_s - time.monotonic(), 0.001)
        try:
            with connect(client) as connection:
                for change in connection.decisions.WatchUsage(request, timeout=timeout_s):
                    heard_s, pause_s = time.monotonic(), _PAUSE_S_MIN
                    yield change
                    heard_s = time.monotonic()
        except CommandError as error:
            if error.exit_code is ExitCode.DEADLINE and end_s is not None:
                return
            if error.exit_code is not ExitCode.UNAVAILABLE:
                raise
            if time.monotonic() - heard_s > client.timeout_s:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)


def _shown(
    messages: Iterable[_Shown], as_json: bool, draw: Callable[[_Shown], RenderableType]
) -> Iterator[_Shown]:
    """Shows each message, and hands it on."""
    console = terminal.output()
    if as_json or not console.is_terminal:
        for message in messages:
            if as_json:
                _print_line(message)
            else:
                console.print(draw(message))
            yield message
        return
    with Live(console=console, auto_refresh=False) as live:
        for message in messages:
            live.update(draw(message), refresh=True)
            yield message


def _print_line(message: Message) -> None:
    """One line of canonical JSON, which a program gets at once."""
    value = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _duration_ms(text: str, flag: str) -> int:
    try:
        return parse_ms(text)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"{flag}: {error}") from error
