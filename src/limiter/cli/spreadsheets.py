"""CSV files that people open in a spreadsheet and programs go on with.

In: values as they were sent. Out: files that are whole or not there, with values that no
spreadsheet takes for a formula. What was written so is read back as it was.
"""

from __future__ import annotations

import csv
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode

__all__ = ["opened", "plain", "rows_of"]

# What a spreadsheet would take for a formula begins with one of these, but a phone number does no
# harm. The mark is put before a formula, and before a mark, so that taking one away gives back what
# was sent.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-][0-9 ()./-]*")
_MARK = "'"

# One value of a file; the server's own ceilings are lower.
_VALUE_CHARACTERS_MAX = 1 << 16


def plain(value: str | int) -> str | int:
    """A value that no spreadsheet takes for a formula."""
    if isinstance(value, int) or not _is_marked(value):
        return value
    return _MARK + value


def _is_marked(value: str) -> bool:
    """Whether a value is written with a mark before it."""
    return value.startswith((*_FORMULA_STARTS, _MARK)) and not _NUMBER.fullmatch(value)


def _unmarked(value: str) -> str:
    """What was written as this value."""
    if value.startswith(_MARK) and _is_marked(value[1:]):
        return value[1:]
    return value


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The file under a name of its own until it is whole: nobody goes on with half of a list. It
    names people, so it is for its owner alone."""
    if str(path) == "-":
        yield sys.stdout
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.touch(mode=0o600, exist_ok=False)
        try:
            with draft.open("w", newline="", encoding="utf-8") as file:
                yield file
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(ExitCode.FAILURE, f"--export: {error}") from error


def rows_of(path: str, needed: str, others: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a line of column names, or of standard input for "-": each with
    the line that it ends on, and the values of the columns that are asked for.

    Raises CommandError for what is no such file. Further columns are passed over.
    """
    label = "standard input" if path == "-" else path
    try:
        with _readable(path) as file:
            yield from _rows(file, label, needed, others)
    except OSError as error:
        raise CommandError(ExitCode.USAGE, f"cannot read {label}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(ExitCode.INVALID, f"{label}: not UTF-8 text") from error


@contextmanager
def _readable(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdin
        return
    # Spreadsheets put a mark of the encoding first.
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        yield file


def _rows(
    file: TextIO, label: str, needed: str, others: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    csv.field_size_limit(_VALUE_CHARACTERS_MAX)
    reader = csv.reader(file, strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if needed not in names:
            raise CommandError(
                ExitCode.INVALID,
                f"{label}:1: the first line names the columns, and one of them is {needed};"
                f" {', '.join(others)} may be others",
            )
        for name in (needed, *others):
            if names.count(name) > 1:
                raise CommandError(ExitCode.INVALID, f"{label}:1: two columns are called {name}")
        wanted = {names.index(name): name for name in (needed, *others) if name in names}
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise CommandError(
                    ExitCode.INVALID,
                    f"{label}:{reader.line_num}: has {len(row)} values, and there are"
                    f" {len(names)} columns",
                )
            yield (
                reader.line_num,
                {name: _unmarked(row[place]) for place, name in wanted.items()},
            )
    except csv.Error as error:
        raise CommandError(ExitCode.INVALID, f"{label}:{reader.line_num}: {error}") from error
