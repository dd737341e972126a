from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from collections.abc import Iterator

import lmdb
import pytest

from limiter import errors, logs


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
    assert "raise KeyError" in rest[-2]
    assert rest[-1].startswith("KeyError (")
    assert "'lost'" not in rest[-1]


def written_of(error: BaseException) -> str:
    """What a log says of an exception that was raised."""
    information = (type(error), error, error.__traceback__)
    record = logging.LogRecord("limiter.x", logging.ERROR, "", 0, "it failed", (), information)
    return logs.LineFormatter().format(record)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - whatever it is
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no zone ada"),
        KeyError("ada"),
        RuntimeError("ada"),
        errors.InvalidArgument.for_field("attempt.contact", "ada is too long"),
        errors.NotFound("NO_SUCH_THING", "there is no ada"),
        Exception("ada"),
    ],
)
def test_what_an_exception_quotes_is_withheld(error: Exception) -> None:
    kept = errors.Unavailable("JOURNAL_UNAVAILABLE", "no space left on device")
    texts = [
        written_of(raised(error)),
        written_of(raised(kept, raised(error))),
        written_of(raised(error, raised(kept))),
    ]
    for text in texts:
        assert "ada" not in text
        assert f"{type(error).__name__} (" in text
    for text in texts[1:]:
        assert "Unavailable: no space left on device" in text
        assert "Which led to this:" in text


def test_what_the_system_says_is_kept() -> None:
    for error in (
        OSError(28, "No space left on device"),
        lmdb.MapFullError("full"),
        TypeError("x"),
    ):
        assert str(error) in written_of(raised(error))
        assert logs.told(error) == str(error)


def test_an_event_loop_tells_no_arguments(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(logs.tell_of_loop)

    def fail(name: str) -> None:
        raise ValueError(name)

    async def fail_later() -> None:
        task = loop.create_task(fail_async("ada"))
        await asyncio.sleep(0)
        del task

    async def fail_async(name: str) -> None:
        raise KeyError(name)

    caplog.handler.setFormatter(logs.LineFormatter())
    loop.call_soon(fail, "ada")
    loop.run_until_complete(fail_later())
    gc.collect()
    loop.close()
    assert "Exception in callback" in caplog.text
    assert "never retrieved" in caplog.text
    assert "ada" not in caplog.text.replace("fail_async", "")


def test_only_what_matters_is_written(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.configure(stream)
    logging.getLogger("limiter.x").debug("detail")
    logging.getLogger("limiter.x").info("news")
    assert len(stream.getvalue().splitlines()) == 1
    assert len(root.handlers) == 1
