"""What is kept of what policies were."""

from __future__ import annotations

import pytest

from limiter import bounds
from limiter.versions import PolicyVersions, Version


def version(name: str, revision: int, size: int = 10) -> Version:
    return Version(name, revision, revision * 1_000, "me", b"x" * size)


def test_the_newest_come_first_and_are_found_by_their_revision() -> None:
    kept = PolicyVersions()
    for number in (1, 2, 3):
        kept.note(version("a" if number != 2 else "b", number))
    assert [each.revision for each in kept.of("a")] == [3, 1]
    assert kept.of("c") == []
    assert kept.find("a", 3) == version("a", 3)
    assert kept.find("a", 2) is None


def test_of_one_policy_only_so_many_are_kept() -> None:
    kept = PolicyVersions()
    kept.note(version("b", 1))
    for number in range(2, bounds.POLICY_VERSIONS_MAX + 12):
        kept.note(version("a", number))
    assert len(kept.of("a")) == bounds.POLICY_VERSIONS_MAX
    assert kept.of("a")[0].revision == bounds.POLICY_VERSIONS_MAX + 11
    assert len(kept.of("b")) == 1
    assert len(kept._all) < 2 * bounds.POLICY_VERSIONS_MAX


def test_all_together_take_only_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "POLICY_VERSIONS_BYTES_MAX", 1_000)
    kept = PolicyVersions()
    for number in range(1, 200):
        kept.note(version(f"p{number % 7}", number, 50))
        alive = [each for name in range(7) for each in kept.of(f"p{name}")]
        assert sum(each.size for each in alive) == kept._size <= 1_000
        # What is kept is the newest of all.
        oldest = min(each.revision for each in alive)
        assert len(alive) == number - oldest + 1
