"""The commands that copy, check and put back what a server keeps."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from limiter import errors
from limiter.cli import terminal
from limiter.cli.errors import EXIT_CODES, CommandError
from limiter.cli.exit_codes import ExitCode
from limiter.cli.options import OutputFormat

DataDir = Annotated[
    Path, typer.Option("--data-dir", metavar="FOLDER", help="Where the server keeps its journal.")
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print the result.")]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The digest-key, for a backup without keys."),
]

_DEFAULT_FOLDER = Path("limiter-data")


def backup(
    target: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder not there yet.")],
    data_dir: DataDir = _DEFAULT_FOLDER,
    without_keys: Annotated[
        bool,
        typer.Option("--without-keys", help="Leave out the key; keep it elsewhere, or lose all."),
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Copy a data folder as it stands now, compacted and checked, also under a working server.

    With its key whoever has the backup can look up people in it: keep it as safe as the server.
    """
    from limiter import backup as backups

    with _bar() as on_progress:
        found = backups.back_up(
            data_dir, target, include_keys=not without_keys, on_progress=on_progress
        )
    keys = "with its keys" if found.includes_keys else "without keys"
    _tell(
        output,
        dataclasses.asdict(found),
        f"{target}: groups {found.head:,} to {found.tail:,}, {found.byte_count:,} bytes, {keys}.",
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder of limiter backup.")],
    data_dir: DataDir = _DEFAULT_FOLDER,
    key: KeyOption = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Make a data folder of a backup, checking all of it. The folder must not be there yet."""
    from limiter import backup as backups

    with _bar() as on_progress:
        found = backups.restore(source, data_dir, key_path=key, on_progress=on_progress)
    _tell(
        output,
        dataclasses.asdict(found),
        f"{data_dir}: groups {found.head:,} to {found.tail:,}, as of {found.create_time}.",
    )


def verify(
    data_dir: DataDir = _DEFAULT_FOLDER,
    key: KeyOption = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Read and replay all of a journal, also under a working server, or that of a backup."""
    from limiter import backup as backups

    with _bar() as on_progress:
        found = backups.verify(data_dir, on_progress, key)
    _tell(
        output,
        dataclasses.asdict(found),
        f"{data_dir}: groups {found.head:,} to {found.tail:,} are as they were written:"
        f" {found.event_count:,} events of {found.account_count:,} accounts, policies at revision"
        f" {found.policy_revision:,}, {found.people_count:,} people who have opted out;"
        f" {found.image_count:,} images"
        f" {'agree with it' if found.images_agree else 'can be read'}.",
    )


def compact(data_dir: DataDir = _DEFAULT_FOLDER, output: Output = OutputFormat.TABLE) -> None:
    """Give back the room of what was trimmed. No server may run."""
    from limiter import backup as backups

    with _bar() as on_progress:
        before, after = backups.compact(data_dir, on_progress)
    _tell(
        output,
        {"bytes_before": before, "bytes_after": after},
        f"{data_dir}: {before:,} bytes before, {after:,} now.",
    )


def _tell(output: OutputFormat, fields: dict[str, object], line: str) -> None:
    if output is OutputFormat.JSON:
        print(json.dumps(fields, indent=2))
    else:
        terminal.output().print(line, markup=False, soft_wrap=True)


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, and faults as those of commands."""
    console = terminal.notices()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    hidden = not console.is_terminal
    with ProgressBar(*columns, console=console, transient=True, disable=hidden) as bar:
        task: TaskID = bar.add_task("", total=None)

        def on_progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        try:
            yield on_progress
        except errors.LimiterError as error:
            code = EXIT_CODES.get(grpc.StatusCode[error.code], ExitCode.FAILURE)
            raise CommandError(code, error.message, f"  reason {error.reason}") from error
