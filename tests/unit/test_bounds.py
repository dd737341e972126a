"""The ceilings: what the parts agreed on, and relations that are really checked."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime
from pathlib import Path

import pytest

from limiter import bounds


def test_every_ceiling_is_as_agreed() -> None:
    day_ms = 86_400_000
    assert bounds.MESSAGE_BYTES_MAX == 4_194_304
    assert bounds.BATCH_RECIPIENTS_MAX == 10_000
    assert bounds.INLINE_LIMITS_MAX == bounds.INLINE_KINDS_MAX == 16
    assert bounds.KINDS_MAX == 64
    assert bounds.ACCOUNT_BYTES_MAX == 128
    assert bounds.LABEL_BYTES_MAX == bounds.REFERENCE_BYTES_MAX == 256
    assert bounds.REQUEST_ID_BYTES_MAX == 64
    assert bounds.MESSAGE_COUNT_MAX == 1_000_000
    assert bounds.CAP_MAX_COUNT_MAX == 1_000_000_000_000
    assert bounds.WINDOW_MS_MAX == 62 * day_ms
    assert bounds.RETRY_HORIZON_MS == 400 * day_ms
    assert bounds.REQUEST_ID_RETENTION_MS == day_ms
    assert bounds.EXACT_INSTANTS == 1_440
    assert bounds.CALENDAR_COUNT_MAX == {1: 1_488, 2: 62, 3: 8, 4: 2}
    assert bounds.INSTANT_MS_MIN == 0
    last = datetime(2100, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    assert round(last.timestamp() * 1000) == bounds.INSTANT_MS_MAX


@pytest.mark.parametrize("account", ["a", "acme.eu", "A-Z_0~9@b+c", "x" * 128])
def test_account_ids_that_are_allowed(account: str) -> None:
    assert bounds.ACCOUNT_PATTERN.fullmatch(account)


@pytest.mark.parametrize("account", ["", "x" * 129, "a b", "a/b", "ä", "a\n", "a:b", "\x00"])
def test_account_ids_that_are_refused(account: str) -> None:
    assert not bounds.ACCOUNT_PATTERN.fullmatch(account)


@pytest.mark.parametrize("resource_id", ["a", "a1", "per-contact-day", "x" * 63])
def test_resource_ids_that_are_allowed(resource_id: str) -> None:
    assert bounds.RESOURCE_ID_PATTERN.fullmatch(resource_id)


@pytest.mark.parametrize("resource_id", ["", "1a", "-a", "a-", "A", "a_b", "x" * 64, "a\n", "ä"])
def test_resource_ids_that_are_refused(resource_id: str) -> None:
    assert not bounds.RESOURCE_ID_PATTERN.fullmatch(resource_id)


@pytest.mark.parametrize(
    ("line", "broken"),
    [
        ("KINDS_MAX: Final = 64", "KINDS_MAX: Final = 16"),
        ("PAGE_SIZE_DEFAULT: Final = 100", "PAGE_SIZE_DEFAULT: Final = 1_001"),
        ("CALENDAR_DAYS_MAX: Final = 62", "CALENDAR_DAYS_MAX: Final = 63"),
        ("NAMES_MAX: Final = 16_000_000", "NAMES_MAX: Final = 17_000_000"),
        ("ACCOUNT_BYTES_MAX: Final = 128", "ACCOUNT_BYTES_MAX: Final = 127"),
        ("BATCH_RECIPIENTS_MAX: Final = 10_000", "BATCH_RECIPIENTS_MAX: Final = 100_000"),
    ],
)
def test_a_ceiling_that_breaks_a_relation_cannot_be_imported(
    tmp_path: Path, line: str, broken: str
) -> None:
    source = Path(bounds.__file__).read_text()
    assert source.count(f"\n{line}\n") == 1
    changed = tmp_path / "bounds.py"
    changed.write_text(source.replace(f"\n{line}\n", f"\n{broken}\n"))
    with pytest.raises(AssertionError, match=r"limiter\.bounds"):
        runpy.run_path(str(changed))


def test_every_ceiling_has_a_comment() -> None:
    """A constant, or the block of constants that it stands in, follows a comment."""
    lines = Path(bounds.__file__).read_text().splitlines()
    bare = []
    for number, line in enumerate(lines):
        if ": Final =" not in line:
            continue
        above = number - 1
        while ": Final =" in lines[above]:
            above -= 1
        if not lines[above].startswith("#"):
            bare.append(line)
    assert bare == []
