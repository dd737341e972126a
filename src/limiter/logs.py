"""The log: one line for each record, `key=value`, for people and for machines.

What flows in: records of the standard library's logging. What flows out: lines on a stream. Fields
given with `extra` follow the message under their own names. Nothing that a caller sent is logged
but what an error message quotes, and that only quoted.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, TextIO

__all__ = ["LineFormatter", "configure"]

# What every record has; the rest is what the caller gave with `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """`time=… level=… logger=… message="…"`, then the extra fields; a traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        instant = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": instant.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update(
            (key, str(value)) for key, value in vars(record).items() if key not in _STANDARD
        )
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(stream: TextIO, level: int = logging.INFO) -> None:
    """Sends all records from `level` on to the stream, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _quoted(text: str) -> str:
    """The text as it is where it is one plain word, else as a JSON string: always one line."""
    plain = text and text.isascii() and text.isprintable() and not set(text) & set(' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)
