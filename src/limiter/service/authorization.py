"""Who may call what: one table, and the gate that every call goes through.

In flow the path of a method, what the caller shows, and the decoded request. Out flows the caller,
for the length of the call, or the fault that the call ends with.

What always holds: a method that is not in the table is denied to everybody; a request reaches no
account that is not the caller's. A foreign object answers as a missing one does. Hot methods are
checked by the same guards, inside `limiter._hot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from limiter import drafts, errors, model, tls
from limiter._guard import Guard
from limiter.access import ANONYMOUS, Caller, Permission
from limiter.keys import KeyStore

__all__ = ["METHODS", "Context", "Gate", "Rule", "Visit", "caller", "visit"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call of one method takes.

    Without a `permission` it takes nothing but a credential that is good, and if it `is_open` not
    even that. The next fields are paths in the request (`policy.name`, `groups[].name`):

    - `names` hold the names of resources. One inside a foreign account answers as if it were not
      there. One of no account is there for everybody to read, and where the rule `writes` for
      operators to change. `sources` are the same, and only read.
    - `places` hold `accounts/{account}`, or nothing for what belongs to no account: where something
      is made or looked for. `accounts/-` is all that the caller may see.
    - `accounts` hold the ids of accounts; an empty one means all of them, which only an operator
      may ask for. In `filters` it means all that the caller may see.

    Who is narrowed to resources or campaigns may call only what `narrows`. The fields `resource`
    and `campaign` must then name one of his; where the rule has no such field the method is
    harmless to him, or its servicer asks `Caller.reaches_scope`.
    """

    permission: Permission | None = None
    is_open: bool = False
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    writes: bool = False
    is_operators: bool = False
    narrows: bool = False
    resource: str = ""
    campaign: str = ""


def _attempt(permission: Permission) -> Rule:
    """A method that takes an attempt."""
    return Rule(
        permission,
        accounts=("attempt.account",),
        narrows=True,
        resource="attempt.resource",
        campaign="attempt.campaign",
    )


def _commitment() -> Rule:
    return Rule(Permission.DECISIONS_COMMIT, accounts=("account",))


def _read(*names: str, places: tuple[str, ...] = ()) -> Rule:
    return Rule(Permission.POLICIES_READ, names=names, places=places, narrows=True)


def _write(*names: str, places: tuple[str, ...] = (), narrows: bool = False) -> Rule:
    return Rule(Permission.POLICIES_WRITE, names=names, places=places, writes=True, narrows=narrows)


_DECISIONS: Final = {
    # The first six are hot: `limiter._hot` checks their requests as `_attempt` says.
    "Check": _attempt(Permission.DECISIONS_CHECK),
    "Commit": _attempt(Permission.DECISIONS_COMMIT),
    "CheckBatch": _attempt(Permission.DECISIONS_CHECK),
    "CommitBatch": _attempt(Permission.DECISIONS_COMMIT),
    "CommitStream": _attempt(Permission.DECISIONS_COMMIT),
    "GetUsage": _attempt(Permission.USAGE_READ),
    # An id does not show whose campaign it was.
    "Confirm": _commitment(),
    "Cancel": _commitment(),
    "WatchUsage": _attempt(Permission.USAGE_READ),
    "GetActivity": Rule(Permission.USAGE_READ, accounts=("account",)),
    "Plan": _attempt(Permission.DECISIONS_CHECK),
    # Its servicer shows who is narrowed what is his.
    "ListRestrictions": Rule(Permission.RESTRICTIONS_READ, accounts=("account",), narrows=True),
}

_POLICIES: Final = {
    "CreatePolicy": _write(places=("parent",)),
    "GetPolicy": _read("name"),
    "ListPolicies": _read(places=("parent",)),
    "UpdatePolicy": _write("policy.name"),
    "DeletePolicy": _write("name"),
    "CreateAssignment": _write(places=("parent",), narrows=True),
    "GetAssignment": _read("name"),
    "ListAssignments": _read(places=("parent",)),
    "UpdateAssignment": _write("assignment.name", narrows=True),
    "DeleteAssignment": _write("name", narrows=True),
    "ApplyPolicies": _write("policies[].name", "assignments[].name", "groups[].name", narrows=True),
    "ClonePolicy": Rule(
        Permission.POLICIES_WRITE, sources=("source",), places=("parent",), writes=True
    ),
    "ListPolicyVersions": _read("name"),
    "RollbackPolicy": _write("name"),
    "SimulatePolicy": Rule(Permission.POLICIES_READ, accounts=("account",)),
    # Every account exists, so there is nothing to hide about a foreign one.
    "GetAccount": _read(places=("name",)),
    "ListAccounts": _read(),
    "UpdateAccount": _write(places=("account.name",)),
    "AddSuppressions": _write(places=("parent",)),
    "RemoveSuppressions": _write(places=("parent",)),
    # People of the whole account, in the clear: not for who is narrowed to a part of it.
    "ListSuppressions": Rule(Permission.POLICIES_READ, places=("parent",)),
    # Whoever answers for an account's people: its masters too, for they note who opts out.
    "ForgetContact": _write(places=("name",)),
}

_KEYS: Final = Rule(Permission.ACCESS_WRITE, narrows=True)

_ACCESS: Final = {
    # Which keys a caller may see and make is asked of each key: see `Caller.covers`.
    "CreateApiKey": _KEYS,
    "ListApiKeys": _KEYS,
    "RevokeApiKey": _KEYS,
    "RotateApiKey": _KEYS,
    "CreateGroup": _write(places=("parent",)),
    "GetGroup": _read("name"),
    "ListGroups": _read(places=("parent",)),
    "UpdateGroup": _write("group.name"),
    "DeleteGroup": _write("name"),
    "ListAuditEntries": Rule(
        Permission.POLICIES_READ, sources=("resource",), filters=("account",), narrows=True
    ),
}

# Every method that is served, by its exact path.
METHODS: Final[dict[str, Rule]] = {
    f"/{service}/{method}": rule
    for service, methods in {
        "limiter.v1.DecisionService": _DECISIONS,
        "limiter.v1.PolicyService": _POLICIES,
        "limiter.v1.AccessService": _ACCESS,
        "limiter.v1.TestClockService": {
            "Get": Rule(narrows=True),
            "Set": Rule(Permission.ACCESS_WRITE, is_operators=True),
        },
        # Who watches over a server has no key for it, and learns nothing but that it serves.
        "grpc.health.v1.Health": {
            "Check": Rule(is_open=True),
            "List": Rule(is_open=True),
            "Watch": Rule(is_open=True),
        },
        # The API is no secret; answering anybody who asks for it would cost.
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": Rule(narrows=True)},
    }.items()
    for method, rule in methods.items()
}

_caller: Final[ContextVar[Caller]] = ContextVar("caller", default=ANONYMOUS)


_visit: Final[ContextVar[Visit | None]] = ContextVar("visit", default=None)


def caller() -> Caller:
    """Who makes the call that is being served."""
    return _caller.get()


def visit() -> Visit | None:
    """The call that is being served, as it was let in."""
    return _visit.get()


class Context(Protocol):
    """What a call knows about its client: grpc.aio's context, or ours."""

    def invocation_metadata(self) -> Any:
        """What the client sent before its messages."""

    def auth_context(self) -> Any:
        """What the transport knows of him: property names to sequences of bytes."""


class Gate:
    """What every call goes through. Where no keys are `demanded` everybody may do everything.

    Lets nobody in until it is attached to the keys of a state.
    """

    def __init__(self, demanded: bool) -> None:
        self.demanded = demanded
        self._keys: KeyStore | None = None
        self._now_ms: Callable[[], int] = lambda: 0
        self._absence = errors.Unavailable("JOURNAL_UNAVAILABLE", "the server is starting")

    def attach(self, keys: KeyStore, now_ms: Callable[[], int]) -> None:
        """Asks these keys from now on."""
        self._keys = keys
        self._now_ms = now_ms

    def detach(self, absence: errors.Unavailable) -> None:
        """Knows nobody from now on."""
        if self._keys is not None:
            self._keys.close(absence)
        self._keys = None
        self._absence = absence

    def enter(self, path: str, context: Context) -> Visit:
        """Lets in who calls the method at `path`, as far as that does not hang on the request; from
        here on he is the `caller`. Raises `Unauthenticated`, `PermissionDenied`, `Unavailable`."""
        rule = METHODS.get(path)
        if rule is None:
            raise errors.PermissionDenied("METHOD_DENIED", f"nobody may call {path[:200]}")
        if rule.is_open or not self.demanded:
            names = _certificate_names(context.auth_context())
            who = replace(ANONYMOUS, author=f"certificates/{names[0]}") if names else ANONYMOUS
            return self._let_in(Visit(rule, None, who, self._now_ms))
        guard = self.guard_of_context(context)
        guard.require(rule.permission or 0, self._now_ms())
        who = guard.caller
        if (rule.is_operators and who.accounts is not None) or (
            who.is_narrowed and not rule.narrows
        ):
            raise errors.PermissionDenied(
                "OUT_OF_REACH",
                f"{who.author} is for a part of what this method reaches; it takes a key for"
                + (" all accounts" if rule.is_operators else " the account as a whole"),
            )
        return self._let_in(
            Visit(rule, guard, who, self._now_ms, lambda: self.enter(path, context))
        )

    @staticmethod
    def _let_in(visit: Visit) -> Visit:
        _caller.set(visit.caller)
        _visit.set(visit)
        return visit

    def guard_of_context(self, context: Context) -> Guard:
        """The guard of who calls. Raises `Unauthenticated` and `Unavailable`."""
        shown = [
            value for name, value in context.invocation_metadata() or () if name == "authorization"
        ]
        if len(shown) > 1:
            raise _malformed()
        if shown:
            return self.guard_of_header(shown[0])
        return self.guard_of_certificate(_certificate_names(context.auth_context()))

    def twice(self) -> errors.Unauthenticated:
        """The fault of who shows two values as `authorization`."""
        return _malformed()

    def guard_of_header(self, shown: str | bytes) -> Guard:
        """The guard for the value of an `authorization` header. Raises like `guard_of_context`."""
        text = shown.decode("latin-1") if isinstance(shown, bytes) else shown
        scheme, _, key = text.partition(" ")
        if scheme.lower() != "bearer":
            raise _malformed()
        return self._found().guard_of_secret(key.strip(), self._now_ms())

    def guard_of_peer(self, certificate: Mapping[str, Any] | None) -> Guard:
        """The guard for a client's certificate, or for none. Raises like `guard_of_context`."""
        return self.guard_of_certificate(_certificate_names(tls.auth_context(certificate, True)))

    def guard_of_certificate(self, names: Sequence[str]) -> Guard:
        """The guard for a client certificate with these names. Raises like `guard_of_context`."""
        guard = self._found().guard_of_certificate(names, self._now_ms())
        if guard is None:
            raise errors.Unauthenticated(
                "KEY_MISSING",
                "who calls? show a key as `authorization: Bearer lk_…`"
                + (f"; no key is for the certificate of {', '.join(names)[:200]}" if names else ""),
            )
        return guard

    def _found(self) -> KeyStore:
        if self._keys is None:
            raise self._absence.with_traceback(None)
        return self._keys


class Visit:
    """One call that was let in."""

    def __init__(
        self,
        rule: Rule,
        guard: Guard | None,
        who: Caller,
        now_ms: Callable[[], int],
        enter: Callable[[], Visit] | None = None,
    ) -> None:
        self._rule = rule
        self._guard = guard
        self._caller = who
        self._now_ms = now_ms
        self._enter = enter

    @property
    def caller(self) -> Caller:
        """Who calls."""
        return self._caller

    @property
    def guard(self) -> Guard | None:
        """What guards the call; None where nobody is asked who he is."""
        return self._guard

    def check(self, request: Message) -> None:
        """Raises `NotFound` or `PermissionDenied` for a request that reaches what is not his."""
        who, rule = self._caller, self._rule
        if who.accounts is None:
            return
        for path in (*rule.names, *rule.sources):
            for name in _texts(request, path):
                self._check_name(name, path, rule.writes and path in rule.names)
        for path in rule.places:
            for place in _texts(request, path):
                self._check_place(place, path, rule.writes)
        for path in (*rule.accounts, *rule.filters):
            for account in _texts(request, path):
                if not who.reaches(account) and (account or path in rule.accounts):
                    raise who.is_not_for(path, account)
        for path, values in ((rule.resource, who.resources), (rule.campaign, who.campaigns)):
            for value in _texts(request, path) if path and values else ():
                if value not in values:
                    raise who.is_not_for(path, value)

    def renew(self) -> None:
        """Raises `Unauthenticated` when what let him in has ended meanwhile."""
        if self._guard is not None:
            self._guard.renew(self._now_ms())

    def come_again(self) -> None:
        """Goes through the gate once more, the keys having been recovered anew. Raises like
        `Gate.enter`."""
        if self._enter is not None:
            fresh = copy_context().run(self._enter)
            self._guard, self._caller = fresh.guard, fresh.caller

    def _check_name(self, name: str, path: str, writes: bool) -> None:
        if name.startswith(_ACCOUNTS):
            if not self._caller.reaches(name.split("/")[1]):
                raise drafts.not_found(name)
        elif writes:
            raise self._caller.is_not_for(path, name)

    def _check_place(self, place: str, path: str, writes: bool) -> None:
        account = place.removeprefix(_ACCOUNTS) if place.startswith(_ACCOUNTS) else ""
        if account == model.ALL_ACCOUNTS and not writes:
            return
        if (account or writes or place) and not self._caller.reaches(account):
            raise self._caller.is_not_for(path, place)


_ACCOUNTS: Final = "accounts/"


def _texts(message: Message, path: str) -> Iterator[str]:
    """The texts at a path in a message: several where it leads through a list."""
    head, _, rest = path.partition(".")
    if head.endswith("[]"):
        for each in getattr(message, head.removesuffix("[]")):
            yield from _texts(each, rest)
    elif rest:
        yield from _texts(getattr(message, head), rest)
    else:
        yield getattr(message, head)


def _certificate_names(known: Mapping[str, Sequence[bytes]]) -> tuple[str, ...]:
    """The names in the client's certificate: its subject's, then the alternative ones."""
    found: list[str] = []
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        found += [each.decode("utf-8", "replace") for each in known.get(key, ())]
    # A subject may lack a name.
    return tuple(dict.fromkeys(filter(None, found)))


def _malformed() -> errors.Unauthenticated:
    return errors.Unauthenticated(
        "KEY_MALFORMED", "authorization is one value, `Bearer ` and the key"
    )
