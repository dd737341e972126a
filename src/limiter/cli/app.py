"""The command line as a whole: its commands, its help, and how a fault becomes an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

import limiter
from limiter.cli import (
    access,
    accounts,
    backup,
    bench,
    commitments,
    decisions,
    forget,
    plan,
    policies,
    restrictions,
    serve,
    simulate,
    terminal,
    versions,
    watch,
)
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode, help_text
from limiter.cli.options import expand_options


class _Group(TyperGroup):
    """Turns the faults of every command into lines on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            console = terminal.notices()
            first, *rest = error.lines
            console.print(Text.assemble(("error: ", "bold red"), first), soft_wrap=True)
            for line in rest:
                console.print(Text(line), soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            # Who read our output has gone. Nothing more can be said, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.FAILURE) from None


_EPILOG = f"Exit codes:\n{help_text()}"

app = typer.Typer(
    name="limiter",
    cls=_Group,
    no_args_is_help=True,
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        terminal.output().print(f"limiter {limiter.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Decide, exactly and durably, whether a message may go to a contact now, and if not, when."""


for _command in (
    serve.serve,
    policies.apply,
    policies.diff,
    policies.get,
    policies.delete,
    decisions.check,
    decisions.commit,
    decisions.usage,
    watch.watch,
    watch.top,
    plan.plan,
    restrictions.restrictions,
    forget.forget,
    commitments.confirm,
    commitments.cancel,
    bench.bench,
    backup.backup,
    backup.restore,
    backup.verify,
    backup.compact,
    simulate.simulate,
    access.audit,
    versions.clone,
    versions.versions,
    versions.rollback,
):
    app.command(_command.__name__)(expand_options(_command))
app.add_typer(access.keys)
app.add_typer(accounts.accounts)
app.add_typer(accounts.suppressions)
