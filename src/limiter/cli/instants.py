"""Instants as people write them, to milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime

from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode


def parse_instant(text: str, flag: str) -> int:
    """An instant with its zone, as RFC 3339 has it, in milliseconds since the epoch.

    Raises CommandError about `flag` for anything else.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise CommandError(
            ExitCode.USAGE,
            f"{flag}: {text!r} is not an instant: write it as 2025-03-03T12:00:00Z",
        )
    return round(instant.timestamp() * 1000)
