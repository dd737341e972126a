"""Generated keys and calls: a call is let in if and only if a model of a few lines says so."""

from __future__ import annotations

import contextlib
import contextvars
from typing import Any

from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from limiter import access, errors, keys, kinds, zones
from limiter._core import Core
from limiter._hot import Decider
from limiter.access import ApiKey, Permission, Role
from limiter.policy import PolicyStore
from limiter.service.authorization import METHODS, Gate
from tests.integration.access_requests import PERMISSIONS, REQUESTS, SERVICES

PATH_OF = {
    method.name: f"/{service.full_name}/{method.name}"
    for service in SERVICES
    for method in service.methods
}
HOT = ("Check", "Commit", "CheckBatch", "CommitBatch", "GetUsage")

# --- The model ------------------------------------------------------------------------------------

ATTEMPTS = {*HOT, "CommitStream", "WatchUsage", "Plan"}
# What reaches more than some resources or campaigns of an account.
WHOLE = {
    *("Confirm", "Cancel", "GetActivity", "SimulatePolicy"),
    *("CreatePolicy", "UpdatePolicy", "DeletePolicy", "ClonePolicy", "RollbackPolicy"),
    *("UpdateAccount", "AddSuppressions", "RemoveSuppressions", "ListSuppressions"),
    "ForgetContact",
    *("CreateGroup", "UpdateGroup", "DeleteGroup"),
}
# What names no account; the servicer looks at each key and each account by itself.
BY_ITSELF = {"ListAccounts", "CreateApiKey", "ListApiKeys", "RevokeApiKey", "RotateApiKey"}

MASTERS = {each for each in Permission if each is not Permission.ACCESS_WRITE}
SENDERS = {Permission.DECISIONS_CHECK, Permission.DECISIONS_COMMIT, Permission.USAGE_READ}
VIEWERS = {
    Permission.DECISIONS_CHECK,
    Permission.USAGE_READ,
    Permission.RESTRICTIONS_READ,
    Permission.POLICIES_READ,
}


def may(key: ApiKey, method: str, account: str, resource: str, campaign: str) -> bool:
    """Whether somebody with this key may do this."""
    if key.role is Role.OPERATOR:
        return True
    roles: dict[Any, Any] = {Role.VIEWER: VIEWERS, Role.SENDER: SENDERS, Role.MASTER: MASTERS}
    if PERMISSIONS[method] not in (roles[key.role] if key.role else key.own_permissions):
        return False
    if method not in BY_ITSELF and account not in key.accounts:
        return False
    if method in ATTEMPTS:
        return (not key.resources or resource in key.resources) and (
            not key.campaigns or campaign in key.campaigns
        )
    return method not in WHOLE or not (key.resources or key.campaigns)


# --- What is tested -------------------------------------------------------------------------------


class Log:
    """Takes changes of keys and keeps none."""

    def append(self, change: keys.Change) -> None:
        """Nothing to do."""


class Shown:
    """A call that shows something as `authorization`."""

    def __init__(self, text: str | None) -> None:
        self._text = text

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [] if self._text is None else [("authorization", self._text)]

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}


def request_of(method: str, account: str, resource: str, campaign: str) -> Message:
    request: Any = REQUESTS[method](account)
    if method in ATTEMPTS:
        request.attempt.resource = resource
        request.attempt.campaign = campaign
    return request  # type: ignore[no-any-return]


def is_let_in(gate: Gate, method: str, shown: str | None, request: Message) -> bool:
    """Whether the gate lets a call in, as it does with those that are not hot."""
    try:
        # Who calls is known to the call alone, not to the tests that come after.
        context = contextvars.copy_context()
        context.run(gate.enter, PATH_OF[method], Shown(shown)).check(request)
    except (errors.Unauthenticated, errors.PermissionDenied, errors.NotFound):
        return False
    return True


def is_decided(gate: Gate, method: str, shown: str | None, request: Message, now_ms: int) -> bool:
    """Whether a hot call is decided."""
    core = Core(bytes(32), PolicyStore().bind, kinds.define_kind)
    decider: Any = Decider(core, kinds.compile_inline, zones.zone)
    hot = {"GetUsage": "get_usage", "CheckBatch": "check_batch", "CommitBatch": "commit_batch"}
    try:
        guard = gate.guard_of_context(Shown(shown))
        getattr(decider, hot.get(method, method.lower()))(
            request.SerializeToString(), now_ms, guard
        )
    except (errors.Unauthenticated, errors.PermissionDenied):
        assert core.pending_bytes == 0
        return False
    return True


labels = st.lists(st.sampled_from(["r", "s", "t"]), max_size=2, unique=True).map(tuple)


@st.composite
def api_keys(draw: st.DrawFn) -> ApiKey:
    """Any key that may be made."""
    role = draw(st.none() | st.sampled_from(Role))
    expire_ms = draw(st.none() | st.integers(11, 30))
    if role is Role.OPERATOR:
        return ApiKey("apiKeys/k", role, expire_ms=expire_ms)
    permissions = st.frozensets(st.sampled_from(Permission), min_size=1)
    accounts = st.lists(st.sampled_from(["a", "aa", "b", "ab"]), min_size=1, unique=True)
    return ApiKey(
        "apiKeys/k",
        role,
        own_permissions=frozenset() if role else draw(permissions),
        accounts=tuple(draw(accounts)),
        resources=draw(labels),
        campaigns=draw(labels),
        expire_ms=expire_ms,
    )


@given(
    key=api_keys(),
    calls=st.lists(
        st.tuples(
            st.sampled_from(sorted(REQUESTS)),
            st.sampled_from(["a", "aa", "b", "ab", "c"]),
            st.sampled_from(["", "r", "s", "x"]),
            st.sampled_from(["", "r", "s", "x"]),
        ),
        min_size=1,
        max_size=20,
    ),
    now_ms=st.integers(10, 35),
    fate=st.sampled_from(["kept", "revoked", "rotated", "grace"]),
    shows=st.sampled_from(["key", "key", "key", "old", "nothing", "wrong", "bare"]),
)
@example(ApiKey("apiKeys/k", Role.SENDER, accounts=("a",)), [("Check", "a", "", "")], 10, "kept",
         "key")  # fmt: skip
def test_a_call_is_let_in_iff_the_model_says_so(
    key: ApiKey, calls: list[tuple[str, str, str, str]], now_ms: int, fate: str, shows: str
) -> None:
    key.check("api_key", 10)
    store = keys.KeyStore()
    store.log = Log()
    spare = ApiKey("apiKeys/spare", Role.OPERATOR)
    store.create(spare, 10, "test")
    _, old = store.create(key, 10, "test")
    instant = 10
    gate = Gate(demanded=True)
    gate.attach(store, lambda: instant)
    with contextlib.suppress(errors.Unauthenticated):
        # A guard that is out already is one that must end.
        early = gate.guard_of_header(f"Bearer {old.shown}")
    newest = old
    if fate == "revoked":
        store.revoke(key.name, 10, "test")
    elif fate in {"rotated", "grace"}:
        newest = store.rotate(key.name, 8 if fate == "grace" else 0, 10, "test")
    instant = now_ms
    secret = old if shows == "old" else newest
    is_good = (
        shows in {"key", "old"}
        and fate != "revoked"
        and (key.expire_ms is None or now_ms < key.expire_ms)
        and (secret is newest or (fate == "grace" and now_ms < 18))
    )
    wrong = secret.shown[:-1] + ("0" if secret.shown[-1] != "0" else "1")
    shown = {
        "nothing": None,
        "wrong": f"Bearer {wrong}",
        "bare": secret.shown,
    }.get(shows, f"Bearer {secret.shown}")
    for method, account, resource, campaign in calls:
        request = request_of(method, account, resource, campaign)
        expected = is_good and may(key, method, account, resource, campaign)
        assert is_let_in(gate, method, shown, request) is expected, method
        if method in HOT:
            assert is_decided(gate, method, shown, request, now_ms) is expected, method
    is_old_good = old is newest or (fate == "grace" and now_ms < 18)
    is_live = fate != "revoked" and (key.expire_ms is None or now_ms < key.expire_ms)
    try:
        early.renew(now_ms)
    except errors.Unauthenticated:
        assert not (is_old_good and is_live)
    else:
        assert is_old_good
        assert is_live


@given(maker=api_keys(), made=api_keys())
def test_nobody_grants_more_than_he_has(maker: ApiKey, made: ApiKey) -> None:
    """What a key that a caller covers can do, he can do, and for as long."""
    who = maker.caller()
    if not who.covers(made):
        return
    assert maker.expire_ms is None or (made.expire_ms or 99) <= maker.expire_ms
    for method in REQUESTS:
        for account in ("a", "b"):
            for resource in ("", "r", "s"):
                if may(made, method, account, resource, "r"):
                    assert may(maker, method, account, resource, "r")


def test_the_model_knows_every_method() -> None:
    assert set(REQUESTS) == set(PERMISSIONS) == set(PATH_OF)
    assert set(PATH_OF.values()) <= set(METHODS)
    assert access.ANONYMOUS.accounts is None
