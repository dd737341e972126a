"""The command that runs the server."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from limiter import bounds, errors
from limiter.cli.durations import parse_ms
from limiter.cli.errors import EXIT_CODES, CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.instants import parse_instant
from limiter.cli.options import DEFAULT_ADDRESS, expand_options
from limiter.cli.sizes import parse_bytes


class Transport(StrEnum):
    """What speaks gRPC."""

    GRPCIO = "grpcio"
    NATIVE = "native"


class ClockKind(StrEnum):
    """Where the time comes from."""

    SYSTEM = "system"
    DRIVEN = "driven"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """The files of TLS."""

    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Speak TLS with this certificate (PEM)."),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", metavar="FILE", help="The key of that certificate (PEM)."),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-client-ca",
            metavar="FILE",
            help="Let in only clients with a certificate of this authority (PEM).",
        ),
    ] = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObservationOptions:
    """How the server is observed."""

    metrics_port: Annotated[
        str,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            help="Where Prometheus reads metrics: PORT on this machine, or HOST:PORT; 0: any port.",
        ),
    ] = ""
    traces: Annotated[
        bool,
        typer.Option(
            "--traces",
            help="Send spans by OpenTelemetry, as OTEL_… variables say; needs the extra `traces`.",
        ),
    ] = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeepingOptions:
    """What is kept where, and for how long."""

    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="SIZE",
            help="About what accounts may take in memory: 4GB, ...; 0: as much as there is.",
        ),
    ] = "0"
    disk: Annotated[
        str,
        typer.Option(
            "--disk",
            metavar="SIZE",
            help="What journal and images may take on disk: 100GB, ...; 0: as much as there is.",
        ),
    ] = "0"
    history: Annotated[
        str,
        typer.Option(
            "--history",
            metavar="DURATION",
            help="How long the journal is kept, which new limits and simulations look back on.",
        ),
    ] = "32d"


RetentionOption = Annotated[
    str,
    typer.Option(
        "--restrictions-retention",
        metavar="DURATION",
        help="How long what was denied can be listed: 90d, ...; 0 to keep none of it.",
    ),
]


@expand_options
def serve(
    *,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0: any.")
    ] = DEFAULT_ADDRESS,
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="FOLDER", help="Where the journal is kept.")
    ] = Path("limiter-data"),
    transport: Annotated[
        Transport, typer.Option("--transport", help="What speaks gRPC.")
    ] = Transport.NATIVE,
    clock: Annotated[
        ClockKind,
        typer.Option("--clock", help="driven: time stands until TestClockService.Set moves it."),
    ] = ClockKind.SYSTEM,
    clock_start: Annotated[
        str,
        typer.Option(
            "--clock-start",
            metavar="TIME",
            help="Where a driven clock stands at first, such as 2025-03-03T12:00:00Z.",
        ),
    ] = "",
    accept_clock: Annotated[
        bool,
        typer.Option("--accept-clock", help="Serve although the clock disagrees with the journal."),
    ] = False,
    require_policy: Annotated[
        bool, typer.Option("--require-policy", help="Deny attempts that no policy is assigned to.")
    ] = False,
    require_keys: Annotated[
        bool,
        typer.Option("--require-keys", help="Ask for keys on a loopback address too."),
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Ask nobody for a key where others can reach it either."),
    ] = False,
    restrictions_retention: RetentionOption = "90d",
    keeping: KeepingOptions,
    observation: ObservationOptions,
    tls: TlsOptions,
) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Prints one line with its address once it serves. Everything is kept in the data folder.
    """
    # Here, not above: the commands that only ask a server start without the server's modules.
    from limiter import server

    try:
        config = server.Config(
            listen=listen,
            data_dir=data_dir,
            transport=transport.value,
            clock=clock.value,
            clock_start_ms=parse_instant(clock_start, "--clock-start") if clock_start else None,
            accept_clock=accept_clock,
            require_policy=require_policy,
            require_keys=require_keys,
            insecure=insecure,
            **_kept(keeping),
            **dataclasses.asdict(observation),
            restrictions_retention_ms=_duration_ms(
                restrictions_retention, "--restrictions-retention"
            ),
            **dataclasses.asdict(tls),
        )
        server.serve(config)
    except errors.InvalidArgument as error:
        setting, colon, why = error.message.partition(":")
        flag = setting.replace("_", "-")
        raise CommandError(ExitCode.USAGE, f"--{flag}{colon}{why}") from error
    except errors.LimiterError as error:
        code = EXIT_CODES.get(grpc.StatusCode[error.code], ExitCode.FAILURE)
        raise CommandError(code, error.message, f"  reason {error.reason}") from error
    except OSError as error:
        raise CommandError(ExitCode.FAILURE, f"the data folder {data_dir}: {error}") from error


def _kept(keeping: KeepingOptions) -> dict[str, Any]:
    """The settings that these options are."""
    settings = {
        "memory_bytes_max": _size(keeping.memory, "--memory"),
        "history_ms": _duration_ms(keeping.history, "--history"),
    }
    disk_bytes = _size(keeping.disk, "--disk")
    if disk_bytes:
        if disk_bytes < bounds.DISK_BYTES_MIN:
            least = bounds.DISK_BYTES_MIN // 1024**2
            raise CommandError(ExitCode.USAGE, f"--disk: must be at least {least}MB, or 0 for all")
        settings["journal_bytes_max"] = int(disk_bytes * bounds.JOURNAL_DISK_SHARE)
        settings["images_bytes_max"] = int(disk_bytes * bounds.IMAGES_DISK_SHARE)
    return settings


def _size(text: str, flag: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"{flag}: {error}") from error


def _duration_ms(text: str, flag: str) -> int:
    try:
        return 0 if text.strip() == "0" else parse_ms(text)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, f"{flag}: {error}") from error
