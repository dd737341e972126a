"""What a command asks before it does what cannot be taken back."""

from __future__ import annotations

import typer

from limiter.cli import terminal
from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode


def ask(question: str) -> None:
    """Goes on if somebody says yes. Raises CommandError for a no, and where nobody can answer."""
    if not terminal.interactive():
        raise CommandError(
            ExitCode.USAGE, f"{question} Nobody is here to answer: say --yes, or --dry-run."
        )
    if not typer.confirm(question, err=True):
        raise CommandError(ExitCode.DECLINED, "Nothing was changed.")
