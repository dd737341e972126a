"""API keys: their form, their ceilings, and what may not be done to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from limiter import bounds, errors, keys
from limiter.access import ApiKey, Role
from limiter.audit import Action, AuditLog
from limiter.journal_v1 import revision_pb2
from limiter.keys import KeyStore, Secret, secret_of
from limiter.operator_key import make_operator_key
from limiter.service import access_messages


class Log:
    """Keeps changes as the journal does: as bytes."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def append(self, change: keys.Change) -> None:
        self.payloads.append(access_messages.change_to_bytes(change))

    def replayed(self) -> KeyStore:
        """The keys that follow from the changes."""
        store = KeyStore()
        for payload in self.payloads:
            revision = revision_pb2.PolicyRevision.FromString(payload)
            store.restore(access_messages.change_from_revision(revision))
        return store


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def store(log: Log) -> KeyStore:
    made = KeyStore()
    made.log = log
    return made


def sender(name: str, **fields: Any) -> ApiKey:
    return ApiKey(f"apiKeys/{name}", Role.SENDER, accounts=("a",), **fields)


def operator(name: str) -> ApiKey:
    return ApiKey(f"apiKeys/{name}", Role.OPERATOR)


def test_a_secret_is_32_random_bytes_of_which_the_hash_is_kept() -> None:
    made = [Secret.make("web-1") for _ in range(50)]
    assert len({each.shown for each in made}) == 50
    for each in made:
        assert each.shown.startswith("lk_web-1_")
        assert len(each.shown) == len("lk_web-1_") + 43
        assert secret_of(each.shown) == ("web-1", each.hash)
    assert len(made[0].hash) == hashlib.sha256().digest_size


@pytest.mark.parametrize(
    "shown",
    ["", "lk_", "lk_a", "lk_a_", "lk_a_" + "0" * 42, "lk_a_" + "0" * 44, "lk_A_" + "0" * 43,
     "lk_a_" + "z" * 43, "lk_a_" + "0" * 42 + "é", "xx_a_" + "0" * 43, "lk__" + "0" * 43],
)  # fmt: skip
def test_what_is_no_secret(shown: str) -> None:
    assert secret_of(shown) is None


def test_the_changes_alone_give_the_same_keys(store: KeyStore, log: Log) -> None:
    _, kept = store.create(sender("kept", certificate_name="web", expire_ms=99), 1, "me")
    store.create(operator("boss"), 2, "me")
    store.create(sender("gone"), 3, "me")
    store.revoke("apiKeys/gone", 4, "me")
    newer = store.rotate("apiKeys/kept", 50, 5, "me")
    again = log.replayed()
    for name in ("apiKeys/kept", "apiKeys/boss", "apiKeys/gone"):
        assert again.get(name) == store.get(name)
    for secret in (kept, newer):
        assert again.guard_of_secret(secret.shown, 6).caller.author == "apiKeys/kept"
    with pytest.raises(errors.Unauthenticated):
        again.guard_of_secret(kept.shown, 55)
    found = again.guard_of_certificate(["other", "web"], 6)
    assert found is not None
    assert found.caller.author == "certificates/web"


def test_a_certificate_stands_for_one_key(store: KeyStore) -> None:
    store.create(sender("a", certificate_name="web"), 1, "me")
    with pytest.raises(errors.AlreadyExists):
        store.create(sender("b", certificate_name="web"), 1, "me")
    store.revoke("apiKeys/a", 2, "me")
    assert store.guard_of_certificate(["web"], 2) is None
    store.create(sender("b", certificate_name="web"), 3, "me")
    assert store.guard_of_certificate(["web"], 3) is not None


def test_the_last_key_that_could_make_another_stays(store: KeyStore) -> None:
    store.create(operator("one"), 1, "me")
    store.create(ApiKey("apiKeys/brief", Role.OPERATOR, expire_ms=50), 1, "me")
    with pytest.raises(errors.FailedPrecondition) as caught:
        store.revoke("apiKeys/one", 2, "me")
    assert caught.value.reason == "LAST_KEY"
    store.create(operator("two"), 3, "me")
    store.revoke("apiKeys/one", 4, "me")
    assert store.revoke("apiKeys/one", 5, "me").revoke_ms == 4


def test_a_key_that_has_ended_gets_no_new_secret(store: KeyStore) -> None:
    store.create(sender("a", expire_ms=5), 1, "me")
    with pytest.raises(errors.FailedPrecondition):
        store.rotate("apiKeys/a", 0, 5, "me")


def test_at_the_ceiling_the_oldest_dead_key_makes_room(
    store: KeyStore, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "API_KEYS_MAX", 3)
    for name in ("a", "b", "c"):
        store.create(sender(name), 1, "me")
    with pytest.raises(errors.ResourceExhausted):
        store.create(sender("d"), 2, "me")
    store.revoke("apiKeys/b", 3, "me")
    store.create(sender("d"), 4, "me")
    assert store.get("apiKeys/b") is None
    assert log.replayed().get("apiKeys/b") is None
    assert log.replayed().get("apiKeys/d") == store.get("apiKeys/d")


def test_the_operators_key_is_made_once(store: KeyStore, tmp_path: Path) -> None:
    path = make_operator_key(store, tmp_path, 1)
    assert path == tmp_path / "operator.key"
    assert path.stat().st_mode & 0o777 == 0o600
    shown = path.read_text().strip()
    assert store.guard_of_secret(shown, 1).caller.accounts is None
    assert make_operator_key(store, tmp_path, 2) is None
    # A file whose key was never journalled is replaced, and a name that is taken is not.
    other = KeyStore()
    other.log = Log()
    other.create(sender("operator"), 1, "me")
    assert make_operator_key(other, tmp_path, 3) == path
    assert path.read_text().startswith("lk_operator-2_")
    assert [each.name for each in tmp_path.iterdir()] == ["operator.key"]


def test_the_audit_forgets_its_oldest_entries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "AUDIT_ENTRIES_MAX", 80)
    log = AuditLog()
    for number in range(1, 201):
        log.note(number, "me", Action.UPDATE, f"policies/p{number}")
        kept = [each.sequence for each in log.newest_before(None)]
        assert kept == list(range(number, number - len(kept), -1))
        assert min(number, 80) <= len(kept) <= 90
    assert next(log.newest_before(150)).sequence == 149
    assert list(log.newest_before(5)) == []
