"""The command that puts a load on a server and says how it bears it."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from limiter import errors
from limiter.cli import bench_report, plots, terminal
from limiter.cli.connection import connect
from limiter.cli.errors import EXIT_CODES, CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.files import load_policy_file
from limiter.cli.options import ClientOptions, OutputFormat
from limiter.load_server import own_server
from limiter.v1 import policy_service_pb2

# What the load is decided by, unless a file says otherwise: people of an account, its messages, and
# messages to one person.
_POLICY = "policies/limiter-bench"
_ASSIGNMENT = "assignments/limiter-bench"
_DAY = {"rolling": "86400s"}
_CAPS: dict[str, dict[str, Any]] = {
    "people-a-day": {"measure": "MEASURE_CONTACTS", "maxCount": 1_000_000},
    "messages-a-day": {"measure": "MEASURE_MESSAGES", "maxCount": 100_000_000},
    "messages-to-one-a-day": {
        "measure": "MEASURE_MESSAGES",
        "maxCount": 1_000_000,
        "per": ["DIMENSION_CONTACT"],
    },
}


class Distribution(StrEnum):
    """Who is addressed how often."""

    ZIPF = "zipf"
    UNIFORM = "uniform"


class Mode(StrEnum):
    """How attempts travel."""

    UNARY = "unary"
    STREAM = "stream"
    BATCH = "batch"


_LOAD = "What is asked"
_PACE = "How much of it"
_SHOW = "Server and output"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The fields of a `limiter.load.Plan`, as options."""

    accounts: Annotated[
        int, typer.Option("--accounts", help="How many accounts.", rich_help_panel=_LOAD)
    ] = 100_000
    contacts: Annotated[
        int, typer.Option("--contacts", help="Contacts of each account.", rich_help_panel=_LOAD)
    ] = 100
    distribution: Annotated[
        Distribution,
        typer.Option(
            "--distribution", help="Who of them is addressed how often.", rich_help_panel=_LOAD
        ),
    ] = Distribution.ZIPF
    check_share: Annotated[
        float,
        typer.Option(
            "--check-share", help="Part of calls that are Checks, 0 to 1.", rich_help_panel=_LOAD
        ),
    ] = 0.0
    mode: Annotated[
        Mode, typer.Option("--mode", help="How attempts travel.", rich_help_panel=_LOAD)
    ] = Mode.UNARY
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Recipients of a batch.", rich_help_panel=_LOAD)
    ] = 1_000
    request_ids: Annotated[
        bool,
        typer.Option("--request-ids", help="Give each Commit a request_id.", rich_help_panel=_LOAD),
    ] = False
    seed: Annotated[
        int,
        typer.Option("--seed", help="The same seed asks for the same.", rich_help_panel=_LOAD),
    ] = 1
    connections: Annotated[
        int, typer.Option("--connections", help="Connections at once.", rich_help_panel=_PACE)
    ] = 32
    streams: Annotated[
        int, typer.Option("--streams", help="Calls at once on each.", rich_help_panel=_PACE)
    ] = 16
    depth: Annotated[
        int,
        typer.Option(
            "--depth", help="Commits under way at once on each CommitStream.", rich_help_panel=_PACE
        ),
    ] = 64
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            help="Calls a second, whether or not the server keeps up; 0: each answer makes the "
            "next call.",
            rich_help_panel=_PACE,
        ),
    ] = 0.0
    duration_s: Annotated[
        float, typer.Option("--duration", metavar="SECONDS", rich_help_panel=_PACE)
    ] = 10.0
    warmup_s: Annotated[
        float,
        typer.Option(
            "--warmup",
            metavar="SECONDS",
            help="Before it counts; without batches, at least until each account was addressed.",
            rich_help_panel=_PACE,
        ),
    ] = 2.0
    call_count: Annotated[
        int,
        typer.Option(
            "--count",
            help="Exactly so many calls, and no warming up; 0: until the time is over.",
            rich_help_panel=_PACE,
        ),
    ] = 0


def bench(
    *,
    load_options: LoadOptions,
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="The server; none: one of its own, on a temporary folder.",
            rich_help_panel=_SHOW,
        ),
    ] = "",
    compare: Annotated[
        str,
        typer.Option(
            "--compare",
            metavar="HOST:PORT",
            help="A second server for the same load, in turn.",
            rich_help_panel=_SHOW,
        ),
    ] = "",
    policies: Annotated[
        str,
        typer.Option(
            "--policies",
            metavar="FILE",
            help="A policy file to apply first, which stays; none: three limits that nobody "
            "reaches, taken away at the end.",
            rich_help_panel=_SHOW,
        ),
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw the latencies and the throughput (needs limiter[plot]).",
            rich_help_panel=_SHOW,
        ),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", rich_help_panel=_SHOW)
    ] = OutputFormat.TABLE,
) -> None:
    """Put a load on a server and show how it bears it.

    What it commits stays: its accounts are called bench-0000000 and so on. Exits with 1 if any call
    failed.
    """
    from limiter import load

    if plot is not None:
        plots.require_matplotlib()
    try:
        plan = load.Plan(**dataclasses.asdict(load_options))
    except errors.InvalidArgument as error:
        raise CommandError(ExitCode.USAGE, f"--{_flag(error.message)}") from error
    measured = []
    with ExitStack() as stack:
        try:
            for each in [address or _own_address(stack), *([compare] if compare else [])]:
                with _policies(each, policies):
                    measured.append(_measure(plan, each))
        except errors.LimiterError as error:
            code = EXIT_CODES.get(grpc.StatusCode[error.code], ExitCode.FAILURE)
            raise CommandError(code, error.message, f"  reason {error.reason}") from error
    if output is OutputFormat.JSON:
        print(json.dumps(bench_report.as_json(plan, measured), indent=2))
    else:
        terminal.output().print(bench_report.table(plan, measured))
    if plot is not None:
        bench_report.draw(plan, measured, plot)
        terminal.notices().print(f"The plot is in {plot}.", markup=False)
    if any(each.failed or each.lost_connections for each in measured):
        raise typer.Exit(ExitCode.FAILURE)


def _flag(message: str) -> str:
    """What is wrong with a field, by the name of its option."""
    field, _, rest = message.partition(":")
    names = {"duration_s": "duration", "warmup_s": "warmup", "call_count": "count"}
    return f"{names.get(field, field.replace('_', '-'))}:{rest}"


def _own_address(stack: ExitStack) -> str:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-bench-")))
    address = stack.enter_context(own_server(folder))
    terminal.notices().print(
        f"No --address: a server of its own on {address}, with its journal in {folder}.",
        markup=False,
        soft_wrap=True,
    )
    return address


@contextmanager
def _policies(address: str, file: str) -> Iterator[None]:
    """The server with the policies of the file, or with the built-in one for so long."""
    options = ClientOptions(address=address)
    request = policy_service_pb2.ApplyPoliciesRequest()
    if file:
        wanted = load_policy_file(file)
        request.policies.extend(wanted.policies)
        request.assignments.extend(wanted.assignments)
        with connect(options, wanted.locate) as connection:
            connection.policies.ApplyPolicies(request, timeout=connection.remaining_s())
        yield
        return
    json_format.ParseDict(_built_in(), request)
    try:
        with connect(options) as connection:
            connection.policies.ApplyPolicies(request, timeout=connection.remaining_s())
    except CommandError as error:
        if error.exit_code is not ExitCode.CONFLICT:
            raise
        raise CommandError(
            error.exit_code,
            *error.lines,
            "The built-in policy is for a server without an assignment to everything. "
            "Name the policies to use with --policies FILE.",
        ) from error
    try:
        yield
    finally:
        with connect(options) as connection:
            connection.policies.DeleteAssignment(
                policy_service_pb2.DeleteAssignmentRequest(name=_ASSIGNMENT),
                timeout=connection.remaining_s(),
            )
            connection.policies.DeletePolicy(
                policy_service_pb2.DeletePolicyRequest(name=_POLICY),
                timeout=connection.remaining_s(),
            )


def _built_in() -> dict[str, Any]:
    limits = [
        {"limitId": limit_id, "cap": {**cap, "window": _DAY}, "enforcement": "ENFORCEMENT_ENFORCED"}
        for limit_id, cap in _CAPS.items()
    ]
    return {
        "policies": [{"name": _POLICY, "limits": limits}],
        "assignments": [{"name": _ASSIGNMENT, "policy": _POLICY, "scope": {}}],
    }


def _measure(plan: Any, address: str) -> Any:
    """Runs the load with a bar on standard error."""
    from limiter import load

    console = terminal.notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]:>12}"),
        TextColumn("{task.fields[latency]}"),
        TimeElapsedColumn(),
    )
    hidden = not console.is_terminal
    with ProgressBar(*columns, console=console, transient=True, disable=hidden) as bar:
        tasks: dict[str, TaskID] = {}

        def report(progress: load.Progress) -> None:
            if progress.phase not in tasks:
                for task in tasks.values():
                    bar.remove_task(task)
                tasks[progress.phase] = bar.add_task(
                    f"{address}: {progress.phase}", total=1.0, rate="", latency=""
                )
            bar.update(
                tasks[progress.phase],
                completed=progress.share,
                rate=f"{progress.decisions_per_s:,.0f}/s",
                latency=f"p99 {progress.p99_ms:.1f} ms",
            )

        return load.run(plan, address, report)
