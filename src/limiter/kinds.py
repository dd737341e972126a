"""From limits to what the core evaluates: kinds of counters and compiled rules.

In flow checked limits, canonical definitions (from the journal) and serialized inline limits; out
flow `Kind` and `Rule` objects of the core.

What always holds: while anybody holds the `Kind` of a definition, the same definition gives that
same object, so the core may compare kinds by identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from limiter import errors, model, zones
from limiter._calendar import Window
from limiter._kinds import Kind, Rule
from limiter.service import conversion
from limiter.v1 import policy_pb2

if TYPE_CHECKING:
    from limiter._kinds import Condition

_kinds: Final[WeakValueDictionary[bytes, Kind]] = WeakValueDictionary()

# The decider names the request's field by its place; a limit alone does not know it.
_INLINE_FIELD: Final = "inline_limits[]"


def define_kind(definition: bytes) -> Kind:
    """The kind of counter with these canonical bytes.

    Raises `ValueError` for bytes that define none.
    """
    known = _kinds.get(definition)
    return (
        _make_kind(definition, conversion.kind_from_bytes(definition)) if known is None else known
    )


def kind_of(limit: model.Limit) -> Kind:
    """The kind of counter that a checked limit reads."""
    described = limit.kind
    definition = conversion.kind_to_bytes(described)
    known = _kinds.get(definition)
    return _make_kind(definition, described) if known is None else known


def compile_rule(policy: str, limit: model.Limit) -> Rule:
    """The checked limit of the policy called `policy` (empty: none) as the core evaluates it."""
    return Rule(
        policy,
        limit.limit_id,
        kind_of(limit),
        limit.cap.max_count,
        limit.enforcement,
        _compile_match(model.canonical_match(limit.applies_to)),
    )


def compile_inline(limit_bytes: bytes) -> Rule:
    """The rule of one serialized `limiter.v1.Limit` that came with a request.

    Raises `InvalidArgument` about `inline_limits[]` and the field in it that breaks a rule.
    """
    try:
        message = policy_pb2.Limit.FromString(limit_bytes)
    except DecodeError:
        raise errors.InvalidArgument.for_field(
            _INLINE_FIELD, "not a limiter.v1.Limit", "MALFORMED_REQUEST"
        ) from None
    limit = conversion.limit_from_message(message, _INLINE_FIELD)
    limit.check(_INLINE_FIELD)
    return compile_rule("", limit)


def _make_kind(definition: bytes, described: model.CounterKind) -> Kind:
    kind = Kind(
        definition,
        described.measure,
        described.per,
        _compile_window(described.window),
        _compile_match(described.counts),
    )
    _kinds[definition] = kind
    return kind


def _compile_window(window: model.Window) -> Window:
    if isinstance(window, model.RollingWindow):
        return Window.rolling(window.duration_ms)
    return Window.calendar(window.unit, zones.zone(window.time_zone), window.count)


def _compile_match(match: model.Match) -> tuple[Condition, ...]:
    return tuple((each.dimension, each.values, each.negate) for each in match)
