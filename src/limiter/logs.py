"""The log: one line for each record, `key=value`, for people and for machines.

What flows in: records of the standard library's logging. What flows out: lines on a stream. Fields
given with `extra` follow the message under their own names.

What always holds: no line names whom messages go to, nor what callers call their messages and
requests. Of an exception its type and where it was raised are written; what it says only where that
comes from the operating system, the interpreter or this program's own faults of storage, for
others quote the value that they stumbled over.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, TextIO

from limiter import errors

__all__ = ["LineFormatter", "configure", "tell_of_loop", "told"]

_log: Final = logging.getLogger(__name__)

# What every record has; the rest is what the caller gave with `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

# Whose messages never quote what a caller sent; and a library of whose errors that holds.
_PLAIN_SPOKEN: Final = (
    OSError,
    MemoryError,
    NotImplementedError,
    AssertionError,
    TypeError,
    AttributeError,
    NameError,
    ArithmeticError,
    ImportError,
    asyncio.CancelledError,
    errors.Unavailable,
    errors.DataLoss,
    errors.FailedPrecondition,
)
_PLAIN_SPOKEN_MODULE: Final = "lmdb"

_WITHHELD: Final = "(what it says may name somebody, and is withheld)"


def told(error: BaseException) -> str:
    """What may be logged of an exception."""
    kind = type(error)
    if isinstance(error, _PLAIN_SPOKEN) or kind.__module__ == _PLAIN_SPOKEN_MODULE:
        return str(error)
    return f"{kind.__qualname__} {_WITHHELD}"


def tell_of_loop(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Logs what nobody has caught in an event loop. The usual handler shows the arguments of
    callbacks and the results of tasks."""
    # What comes behind the first bracket is a callback's arguments.
    what = str(context.get("message", "something failed")).partition("(")[0].partition("<")[0]
    error = context.get("exception")
    _log.error("event loop: %s", what.strip(), exc_info=error)


class LineFormatter(logging.Formatter):
    """`time=… level=… logger=… message="…"`, then the extra fields; a traceback after it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        instant = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "time": instant.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record),
        }
        fields.update(
            (key, str(value)) for key, value in vars(record).items() if key not in _STANDARD
        )
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def formatException(self, ei: Any) -> str:  # noqa: N802 - a method of logging.Formatter
        """The traceback, each exception in the chain as `told` tells it."""
        kind, error, trace = ei
        return "\n".join(_lines_of(error, trace)) if error is not None else str(kind)


def _message_of(record: logging.LogRecord) -> str:
    # What asyncio tells of callbacks, when it is asked to, are their arguments too.
    return str(record.msg) if record.name == "asyncio" else record.getMessage()


def _lines_of(error: BaseException, trace: TracebackType | None) -> list[str]:
    """The lines of a traceback, those of what led to it first."""
    lines: list[str] = []
    chained: list[tuple[BaseException, TracebackType | None]] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        chained.append((following, trace if following is error else following.__traceback__))
        hidden = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or hidden
    for each, each_trace in reversed(chained):
        lines.append("Traceback (most recent call last):")
        # Where it was raised, in the source's own words; never the values of variables.
        lines += "".join(traceback.format_tb(each_trace)).splitlines()
        kind = type(each)
        says = told(each)
        name = kind.__qualname__
        lines.append(says if says.startswith(f"{name} (") else f"{name}: {says}")
        lines += [] if each is error else ["", "Which led to this:", ""]
    return lines


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
