"""The commands for what becomes of a commit after it was decided: confirm and cancel."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.cli import terminal
from limiter.cli.connection import connect
from limiter.cli.durations import at_local
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import ClientOptions
from limiter.v1 import commitment_pb2

AccountOption = Annotated[str, typer.Option("--account", help="The account of the commit.")]
CommitArgument = Annotated[
    str, typer.Argument(metavar="COMMIT", help="The id that the commit was answered with.")
]
RequestIdOption = Annotated[
    str, typer.Option("--request-id", help="Instead: the id that it was asked for under.")
]

_STATES = {
    commitment_pb2.COMMITMENT_STATE_COUNTED: "counts, for good",
    commitment_pb2.COMMITMENT_STATE_HELD: "is held",
    commitment_pb2.COMMITMENT_STATE_CANCELLED: "is cancelled, and counts nowhere",
    commitment_pb2.COMMITMENT_STATE_LAPSED: "has lapsed, and counts nowhere",
}


def confirm(
    *,
    account: AccountOption,
    client: ClientOptions,
    commit_id: CommitArgument = "",
    request_id: RequestIdOption = "",
) -> None:
    """Make a held commit count for good."""
    _require_one(commit_id, request_id)
    request = commitment_pb2.ConfirmRequest(account=account)
    _name(request, commit_id, request_id)
    with connect(client) as connection:
        response = connection.decisions.Confirm(request, timeout=connection.remaining_s())
    _show(response, client)


def cancel(
    *,
    account: AccountOption,
    client: ClientOptions,
    commit_id: CommitArgument = "",
    request_id: RequestIdOption = "",
) -> None:
    """Take back exactly what a commit counted, for a send that failed."""
    _require_one(commit_id, request_id)
    request = commitment_pb2.CancelRequest(account=account)
    _name(request, commit_id, request_id)
    with connect(client) as connection:
        response = connection.decisions.Cancel(request, timeout=connection.remaining_s())
    _show(response, client)


def _require_one(commit_id: str, request_id: str) -> None:
    if bool(commit_id) == bool(request_id):
        raise CommandError(ExitCode.USAGE, "name the commit by COMMIT or by --request-id")


def _name(
    request: commitment_pb2.ConfirmRequest | commitment_pb2.CancelRequest,
    commit_id: str,
    request_id: str,
) -> None:
    if commit_id:
        request.commit_id = commit_id
    else:
        request.request_id = request_id


def _show(
    response: commitment_pb2.ConfirmResponse | commitment_pb2.CancelResponse, client: ClientOptions
) -> None:
    if client.json:
        terminal.print_json(response)
        return
    commitment = response.commitment
    words = _STATES.get(commitment.state, f"is in state {commitment.state}")
    if commitment.HasField("lapse_time"):
        words += f" until {_at(commitment.lapse_time)}"
    terminal.output().print(
        f"{commitment.commit_id}, of {_at(commitment.event_time)}, {words}.", highlight=False
    )


def _at(time: Timestamp) -> str:
    return at_local(time.ToMilliseconds())
