from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from limiter import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def line(message: str, *arguments: object, **extra: object) -> str:
    record = logging.LogRecord("limiter.x", logging.WARNING, "", 0, message, arguments, None)
    record.created = 1_800_000_000.25
    vars(record).update(extra)
    return logs.LineFormatter().format(record)


def test_a_record_is_one_line_of_fields() -> None:
    assert line("recovered %d groups", 5, group_count=5, where="a b") == (
        "time=2027-01-15T08:00:00.250Z level=warning logger=limiter.x "
        'message="recovered 5 groups" group_count=5 where="a b"'
    )
    assert line("stopped").endswith(" message=stopped")


@pytest.mark.parametrize(
    "text", ["", 'quote " it', "two\nlines", "a=b", "tab\t", "é", "\x1b[31m", "\\"]
)
def test_what_is_not_plain_is_quoted_and_stays_on_its_line(text: str) -> None:
    written = line(text)
    assert "\n" not in written
    assert "\x1b" not in written
    assert json.loads(written.split("message=", 1)[1]) == text


def test_a_traceback_follows_its_line(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure(stream)
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("limiter.x").exception("it failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith('level=error logger=limiter.x message="it failed"')
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "KeyError: 'lost'"


def test_only_what_matters_is_written(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure(stream)
    logging.getLogger("limiter.x").debug("detail")
    logging.getLogger("limiter.x").info("news")
    assert len(stream.getvalue().splitlines()) == 1
    assert len(root.handlers) == 1
