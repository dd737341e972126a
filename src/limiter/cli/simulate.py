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
from limiter.cli.errors import EXIT_CODES, CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import PolicyFile, load_policy_file
from limiter.cli.instants import parse_instant
from limiter.cli.options import OutputFormat
from limiter.v1 import simulation_pb2


def simulate(
    *,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            "-p",
            metavar="FILE",
            help="The policy file (YAML or JSON); - is stdin. With assignments they decide; a "
            "single policy without any is for every account.",
        ),
    ],
    trace: Annotated[
        str,
        typer.Option(
            "--trace",
            "-t",
            metavar="CSV",
            help="The attempts: columns account, contact, time and any other field of an attempt; "
            "plain or .gz; - is stdin.",
        ),
    ],
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Report attempts from here on, such as 2025-03-03T00:00:00Z; earlier ones count.",
        ),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Leave out attempts from here on.")
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw what was tried and denied by day (needs limiter[plot]).",
        ),
    ] = None,
    output: Annotated[
        OutputFormat,
        typer.Option("--output", "-o", help="Tables for people, or all rows in JSON for programs."),
    ] = OutputFormat.TABLE,
) -> None:
    """Show what policies would have denied of attempts of the past: by limit, account and day.

    Needs no server, and changes nothing. A denied attempt does not count, as if it had been denied
    then. Times are RFC 3339 or seconds since 1970; rows may be in any order.
    """
    from limiter.simulation import Span

    if plot is not None:
        plots.require_matplotlib()
    if policy == trace == "-":
        raise CommandError(ExitCode.USAGE, "--policy and --trace cannot both be standard input")
    span = Span(
        parse_instant(since, "--since") if since else bounds.INSTANT_MS_MIN,
        parse_instant(until, "--until") if until else bounds.INSTANT_MS_MAX + 1,
    )
    file = load_policy_file(policy)
    found = _simulate(file, trace, span)
    if output is OutputFormat.JSON:
        terminal.print_json(found)
    else:
        terminal.output().print(simulation_report.tables(found, file.policies))
    if plot is not None:
        simulation_report.draw(found, plot)
        terminal.notices().print(f"The plot is in {plot}.", markup=False)


def _simulate(file: PolicyFile, trace: str, span: object) -> simulation_pb2.SimulatePolicyResponse:
    """Simulates with a bar on standard error."""
    from limiter import simulation
    from limiter.trace import TraceFile

    assert isinstance(span, simulation.Span)
    label = "standard input" if trace == "-" else trace
    console = terminal.notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[tried]:>24}"),
        TimeRemainingColumn(),
    )
    source = TraceFile(trace)
    policies = simulation.PolicySet(file.policies, file.assignments, file.groups)
    try:
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
