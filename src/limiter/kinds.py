"""From limits to what the core evaluates: kinds of counters and compiled rules.

In flow checked limits, canonical definitions (from the journal) and serialized inline limits; out
flow `Kind` and `Rule` objects of the core.

What always holds: while anybody holds the `Kind` of a definition, the same definition gives that
same object, so the core may compare kinds by identity.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from limiter import errors, model, timing, zones
from limiter._calendar import Window, Zone
from limiter._hours import Hours
from limiter._kinds import Kind, Rule
from limiter._ramp import Ramp
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


def kind_of(limit: model.Limit) -> Kind | None:
    """The kind of counter that a checked limit reads; None for hours."""
    described = limit.kind
    if described is None:
        return None
    definition = conversion.kind_to_bytes(described)
    known = _kinds.get(definition)
    return _make_kind(definition, described) if known is None else known


def compile_rule(policy: str, limit: model.Limit, etag: str = "") -> Rule:
    """The checked limit of the policy called `policy` (empty: none), of the version with this etag,
    as the core evaluates it."""
    rule = limit.rule
    max_count, ramp, hours = 0, None, None
    if isinstance(rule, timing.Hours):
        hours = _compile_hours(rule)
    elif isinstance(rule, timing.Pause):
        max_count = rule.after_count
    else:
        max_count = rule.max_count
        ramp = None if rule.ramp is None else _compile_ramp(rule.ramp, max_count)
    return Rule(
        policy,
        limit.limit_id,
        kind_of(limit),
        max_count,
        limit.enforcement,
        _compile_match(model.canonical_match(limit.applies_to)),
        ramp,
        hours,
        limit.follows_account,
        etag,
    )


def compile_inline(limit_bytes: bytes, account_zone: str = "") -> Rule:
    """The rule of one serialized `limiter.v1.Limit` that came with a request, for an account that
    lives in `account_zone`. Without that, one that names the zone `ACCOUNT` only says so: it must
    be compiled again for its account.

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
    return compile_rule("", limit.in_zone(account_zone) if account_zone else limit)


# The measure of a pause's counter, which is none of the API's.
_RUN: Final = 4


def _make_kind(definition: bytes, described: model.CounterKind | model.RunKind) -> Kind:
    if isinstance(described, model.RunKind):
        measure, window = _RUN, Window.rolling(described.duration_ms)
    else:
        measure, window = described.measure, _compile_window(described.window)
    kind = Kind(definition, measure, described.per, window, _compile_match(described.counts))
    _kinds[definition] = kind
    return kind


def _compile_window(window: model.Window) -> Window:
    if isinstance(window, model.RollingWindow):
        return Window.rolling(window.duration_ms)
    return Window.calendar(window.unit, _zone(window.time_zone), window.count)


def _compile_ramp(ramp: timing.Ramp, max_count: int) -> Ramp:
    zone = _zone(ramp.time_zone)
    schedule = ramp.schedule
    if isinstance(schedule, timing.Tiers):
        tiers = [(tier.start_day, tier.max_count) for tier in schedule.tiers]
        return Ramp.tiers(zone, max_count, tiers)
    return Ramp.daily(
        zone, max_count, schedule.start_day, schedule.start_count, schedule.step_count
    )


def _compile_hours(hours: timing.Hours) -> Hours:
    return Hours(hours.minutes(), _zone(hours.own_zone), hours.by_recipient)


def _zone(name: str) -> Zone:
    return _some_accounts_zone() if name == zones.ACCOUNT else zones.zone(name)


@cache
def _some_accounts_zone() -> Zone:
    """Stands where the account is not known yet. Nothing is ever decided by it."""
    table = zones.zone_table(zones.UTC)
    return Zone(zones.ACCOUNT, table.transition_ms, table.offset_ms)


def _compile_match(match: model.Match) -> tuple[Condition, ...]:
    return tuple((each.dimension, each.values, each.negate) for each in match)
