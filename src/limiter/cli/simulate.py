"""The command that tries policies on the past: simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from limiter import bounds, errors
from limiter.cli import plots, simulation_report, terminal
from limiter.cli.connection import connect
from limiter.cli.errors import EXIT_CODES, CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import PolicyFile, load_policy_file
from limiter.cli.instants import parse_instant
from limiter.cli.options import ClientOptions
from limiter.v1 import simulation_pb2

PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        "-p",
        metavar="FILE",
        help="The policy file (YAML or JSON); - is stdin. With assignments they decide; a single "
        "policy without any is for every account.",
    ),
]
TraceOption = Annotated[
    str,
    typer.Option(
        "--trace",
        "-t",
        metavar="CSV",
        help="The attempts: columns account, contact, time and any other field of an attempt; "
        "plain or .gz; - is stdin.",
    ),
]
AccountOption = Annotated[
    str,
    typer.Option(
        "--account",
        metavar="ACCOUNT",
        help="Instead of a trace: what this account has attempted, as the server has recorded it.",
    ),
]
ZoneOption = Annotated[
    str,
    typer.Option(
        "--account-zone",
        metavar="ZONE",
        help="With a trace: what limits mean by the zone ACCOUNT.",
    ),
]
SinceOption = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Report attempts from here on, such as 2025-03-03T00:00:00Z; earlier ones count.",
    ),
]
UntilOption = Annotated[
    str, typer.Option("--until", metavar="TIME", help="Leave out attempts from here on.")
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.png",
        help="Draw what was tried and denied by day (needs limiter[plot]).",
    ),
]


def simulate(
    *,
    policy: PolicyOption,
    client: ClientOptions,
    trace: TraceOption = "",
    account: AccountOption = "",
    account_zone: ZoneOption = "UTC",
    since: SinceOption = "",
    until: UntilOption = "",
    plot: PlotOption = None,
) -> None:
    """Show what policies would have denied of attempts of the past: by limit, account and day.

    The attempts are those of a trace, without a server, or an account's recorded ones. Nothing
    is changed, and a denied attempt does not count, as if it had been denied then. Times of a trace
    are RFC 3339 or seconds since 1970; its rows may be in any order.
    """
    if plot is not None:
        plots.require_matplotlib()
    if bool(trace) == bool(account):
        raise CommandError(ExitCode.USAGE, "say which attempts: --trace CSV or --account ACCOUNT")
    if policy == trace == "-":
        raise CommandError(ExitCode.USAGE, "--policy and --trace cannot both be standard input")
    start_ms = parse_instant(since, "--since") if since else None
    end_ms = parse_instant(until, "--until") if until else None
    file = load_policy_file(policy)
    if trace:
        found = _of_trace(file, trace, account_zone, start_ms, end_ms)
    else:
        found = _of_account(file, account, start_ms, end_ms, client)
    if client.json:
        terminal.print_json(found)
    else:
        terminal.output().print(simulation_report.tables(found, file.policies))
    if plot is not None:
        simulation_report.draw(found, plot)
        terminal.notices().print(f"The plot is in {plot}.", markup=False)


def _of_account(
    file: PolicyFile,
    account: str,
    start_ms: int | None,
    end_ms: int | None,
    client: ClientOptions,
) -> simulation_pb2.SimulatePolicyResponse:
    """Asks the server."""
    if len(file.policies) != 1 or file.assignments:
        raise CommandError(
            ExitCode.INVALID,
            f"{file.label}: one policy is tried on an account, without assignments; the file has"
            f" {len(file.policies)} policies and {len(file.assignments)} assignments",
        )
    request = simulation_pb2.SimulatePolicyRequest(policy=file.policies[0], account=account)
    if start_ms is not None:
        request.start_time.FromMilliseconds(start_ms)
    if end_ms is not None:
        request.end_time.FromMilliseconds(end_ms)

    def locate(field: str) -> str:
        return file.locate(field.replace("policy", "policies[0]", 1))

    with connect(client, locate) as connection:
        return connection.policies.SimulatePolicy(request, timeout=connection.remaining_s())


def _of_trace(
    file: PolicyFile, trace: str, account_zone: str, start_ms: int | None, end_ms: int | None
) -> simulation_pb2.SimulatePolicyResponse:
    """Simulates here, with a bar on standard error."""
    from limiter import simulation, zones
    from limiter.trace import TraceFile

    label = "standard input" if trace == "-" else trace
    console = terminal.notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[tried]:>24}"),
        TimeRemainingColumn(),
    )
    span = simulation.Span(
        bounds.INSTANT_MS_MIN if start_ms is None else start_ms,
        bounds.INSTANT_MS_MAX + 1 if end_ms is None else end_ms,
    )
    source = TraceFile(trace)
    policies = simulation.PolicySet(file.policies, file.assignments, file.groups, account_zone)
    try:
        zones.zone_table(account_zone, "--account-zone")
        with ProgressBar(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task(label, total=source.size_bytes, tried="")

            def report(read_bytes: int, attempt_count: int, is_sorted: bool) -> None:
                words = "not in order of time: sorting" if is_sorted else label
                tried = f"{attempt_count:,} attempts tried"
                bar.update(task, completed=read_bytes, description=words, tried=tried)

            return simulation.simulate_trace(policies, source, span, report)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(ExitCode.USAGE, f"cannot read {label}: {reason}") from error
    except errors.LimiterError as error:
        raise _explained(error, label, file) from error


def _explained(error: errors.LimiterError, label: str, file: PolicyFile) -> CommandError:
    """A fault of a trace or a policy, with the place where it stands."""
    code = EXIT_CODES.get(grpc.StatusCode[error.code], ExitCode.FAILURE)
    line = error.metadata.get("line")
    if line is not None:
        return CommandError(code, f"{label}:{line}: {error.message.partition(': ')[2]}")
    lines = []
    for violation in error.violations:
        place = file.locate(violation.field)
        where = f"{violation.field} ({place})" if place else violation.field
        lines.append(f"{where}: {violation.description}")
    return CommandError(code, *(lines or [error.message]))
