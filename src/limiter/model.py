"""The domain in plain Python: limits, policies, scopes and assignments, and the rules they obey.

In flow values that `limiter.service.conversion` has read from messages; out flow the same values,
checked, and the kinds of counters that they need. Everything here is frozen and knows no messages,
no storage and no clock.

What always holds after `check(field)` has returned: every number is inside `limiter.bounds`, every
time zone is known, every name has its form, and nothing is set that is not served yet. A check that
fails raises `InvalidArgument` about the full path of the field, with the rule and the way out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, TypeAlias

from limiter import bounds, errors, zones
from limiter.timing import Hours, Pause, Ramp, check_per, check_zone, zone_in

# "Not yet": the time of a resource that no revision has stored.
UNSTORED_MS: Final = -1

# In place of an account's id in a resource name: all accounts.
ALL_ACCOUNTS: Final = "-"


class Dimension(IntEnum):
    """One property of an attempt."""

    CONTACT = 1
    ADDRESS = 2
    CHANNEL = 3
    RESOURCE = 4
    CAMPAIGN = 5
    AGENT = 6
    TEAM = 7
    SOURCE = 8
    CATEGORY = 9


class Measure(IntEnum):
    """What a cap counts."""

    MESSAGES = 1
    CONTACTS = 2
    ADDRESSES = 3


class Enforcement(IntEnum):
    """What happens to an attempt that does not fit a limit."""

    ENFORCED = 1
    GOAL = 2
    SHADOW = 3


class CalendarUnit(IntEnum):
    """A unit of the calendar."""

    HOUR = 1
    DAY = 2
    WEEK = 3
    MONTH = 4


# The dimension that a distinct measure tells apart.
MEASURED_DIMENSION: Final = {
    Measure.CONTACTS: Dimension.CONTACT,
    Measure.ADDRESSES: Dimension.ADDRESS,
}

# How long a unit may last, in milliseconds, whatever the zone does: a day across the date line may
# last twice as long as others, and a change of offset may come on top.
_LONGEST_UNIT_MS: Final = {
    CalendarUnit.HOUR: bounds.HOUR_MS,
    CalendarUnit.DAY: 50 * bounds.HOUR_MS,
    CalendarUnit.WEEK: 9 * bounds.DAY_MS,
    CalendarUnit.MONTH: 33 * bounds.DAY_MS,
}


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument.for_field(field, description)


def missing(field: str, description: str) -> errors.InvalidArgument:
    """The error of a required field at path `field` that is not set."""
    return errors.InvalidArgument.for_field(field, description, "MISSING_FIELD")


def not_served(field: str, description: str) -> errors.InvalidArgument:
    """The error of a field at path `field` that has a meaning but is not served yet."""
    return errors.InvalidArgument.for_field(field, description, "FIELD_NOT_SERVED")


@dataclass(frozen=True, slots=True)
class RollingWindow:
    """The last `duration_ms` milliseconds."""

    duration_ms: int

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the duration is inside the bounds."""
        if not bounds.WINDOW_MS_MIN <= self.duration_ms <= bounds.WINDOW_MS_MAX:
            days = bounds.WINDOW_MS_MAX // bounds.DAY_MS
            raise _invalid(
                f"{field}.rolling",
                f"a rolling window lasts {bounds.WINDOW_MS_MIN} ms to {days} days"
                f" ({bounds.WINDOW_MS_MAX // 1000} s), not {self.duration_ms} ms",
            )

    @property
    def longest_ms(self) -> int:
        """The longest time for which a send is inside."""
        return self.duration_ms


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """The current `unit` of the calendar of `time_zone` and the `count - 1` units before it."""

    unit: CalendarUnit
    time_zone: str = zones.UTC
    count: int = 1

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the zone is known and the count inside the bounds."""
        check_zone(self.time_zone, f"{field}.calendar.time_zone")
        count_max = bounds.CALENDAR_COUNT_MAX[self.unit]
        if not 1 <= self.count <= count_max:
            raise _invalid(
                f"{field}.calendar.count",
                f"a window covers 1 to {count_max} units of {self.unit.name} (0 means 1), not"
                f" {self.count}",
            )

    @property
    def longest_ms(self) -> int:
        """No send is inside for longer than this, whatever the zone's offset does."""
        return self.count * _LONGEST_UNIT_MS[self.unit]


Window: TypeAlias = RollingWindow | CalendarWindow


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds iff the dimension's value is one of `values`; with `negate`, iff it is none of them."""

    dimension: Dimension
    values: tuple[str, ...]
    negate: bool = False

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the values are different, few and of a fitting length."""
        if not self.values:
            raise missing(f"{field}.values", "a condition needs at least one value to compare with")
        check_count(len(self.values), bounds.CONDITION_VALUES_MAX, f"{field}.values")
        seen: set[str] = set()
        for index, value in enumerate(self.values):
            value_field = f"{field}.values[{index}]"
            if not value:
                raise _invalid(value_field, "an empty value is a missing one; leave it out")
            check_bytes(value, value_field, bounds.LABEL_BYTES_MAX)
            if value in seen:
                raise _invalid(value_field, "the value occurs twice; leave one of them out")
            seen.add(value)

    def canonical(self) -> Condition:
        """The same condition with its values in order."""
        return Condition(self.dimension, tuple(sorted(self.values)), self.negate)


# Conditions that must all hold.
Match: TypeAlias = tuple[Condition, ...]


def check_match(match: Match, field: str) -> None:
    """Raises `InvalidArgument` unless every condition is sound and there are not too many."""
    check_count(len(match), bounds.MATCH_CONDITIONS_MAX, f"{field}.conditions")
    for index, condition in enumerate(match):
        condition.check(f"{field}.conditions[{index}]")


def canonical_match(match: Match) -> Match:
    """The same match with each condition once and everything in order."""
    conditions = {condition.canonical() for condition in match}
    return tuple(sorted(conditions, key=lambda each: (each.dimension, each.negate, each.values)))


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `max_count` of what is measured inside the window, for each combination of `per`;
    with a ramp, up to that with the days."""

    measure: Measure
    max_count: int
    per: tuple[Dimension, ...]
    window: Window
    ramp: Ramp | None = None

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the cap is sound."""
        if not 0 <= self.max_count <= bounds.CAP_MAX_COUNT_MAX:
            raise _invalid(
                f"{field}.max_count",
                f"a maximum is 0 to {bounds.CAP_MAX_COUNT_MAX:,}, not {self.max_count:,}",
            )
        measured = MEASURED_DIMENSION.get(self.measure)
        for index, dimension in enumerate(self.per):
            if dimension is measured:
                raise _invalid(
                    f"{field}.per[{index}]",
                    f"a cap on {self.measure.name} cannot be per {dimension.name}, which is what it"
                    " counts; leave it out, or measure MESSAGES",
                )
        check_per(self.per, f"{field}.per")
        self.window.check(f"{field}.window")
        if self.ramp is not None:
            self.ramp.check(f"{field}.ramp")

    def in_zone(self, account_zone: str) -> Cap:
        """The cap for an account that lives there."""
        window = self.window
        if isinstance(window, CalendarWindow):
            window = replace(window, time_zone=zone_in(account_zone, window.time_zone))
        ramp = None if self.ramp is None else self.ramp.in_zone(account_zone)
        return replace(self, window=window, ramp=ramp)


@dataclass(frozen=True, slots=True)
class CounterKind:
    """What makes two caps read the same counters: everything but their maximum. Canonical: `per`
    and `counts` are in order, so equal kinds are equal values."""

    measure: Measure
    per: tuple[Dimension, ...]
    window: Window
    counts: Match

    @property
    def longest_ms(self) -> int:
        """The longest time for which a send may count."""
        return self.window.longest_ms


@dataclass(frozen=True, slots=True)
class RunKind:
    """The same for pauses: everything but the number of messages after which the break is due."""

    duration_ms: int
    per: tuple[Dimension, ...]
    counts: Match

    @property
    def longest_ms(self) -> int:
        """The longest time for which a send may count if no other follows it."""
        return self.duration_ms


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule with an enforcement.

    `applies_to` says which attempts it limits (empty: all), `counts` which messages its counter
    counts (None: the ones that it applies to; empty: all). Hours count nothing.
    """

    limit_id: str
    rule: Cap | Pause | Hours
    applies_to: Match = ()
    counts: Match | None = None
    enforcement: Enforcement = Enforcement.ENFORCED

    def in_zone(self, account_zone: str) -> Limit:
        """The limit for an account that lives there: the same one if it does not name `ACCOUNT`."""
        rule = self.rule
        if not isinstance(rule, Pause):
            rule = rule.in_zone(account_zone)
        return self if rule == self.rule else replace(self, rule=rule)

    @property
    def follows_account(self) -> bool:
        """Whether it names the zone `ACCOUNT`."""
        return self.in_zone(zones.UTC) is not self

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the limit is sound."""
        check_id(self.limit_id, f"{field}.limit_id")
        self.rule.check(f"{field}.{type(self.rule).__name__.lower()}")
        check_match(self.applies_to, f"{field}.applies_to")
        if self.counts is None:
            return
        if isinstance(self.rule, Hours):
            raise _invalid(f"{field}.counts", "hours count nothing; leave it out")
        check_match(self.counts, f"{field}.counts")

    @property
    def kind(self) -> CounterKind | RunKind | None:
        """The kind of counter that the limit reads; None for hours."""
        rule = self.rule
        if isinstance(rule, Hours):
            return None
        counts = canonical_match(self.applies_to if self.counts is None else self.counts)
        per = tuple(sorted(rule.per))
        if isinstance(rule, Pause):
            return RunKind(rule.duration_ms, per, counts)
        return CounterKind(rule.measure, per, rule.window, counts)


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of limits. `etag` and the times are the store's; empty and unstored before."""

    name: str
    display_name: str = ""
    limits: tuple[Limit, ...] = ()
    access_groups: tuple[str, ...] = ()
    etag: str = ""
    create_ms: int = UNSTORED_MS
    update_ms: int = UNSTORED_MS

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the name and every limit are sound."""
        policy_account(self.name, f"{field}.name")
        check_bytes(self.display_name, f"{field}.display_name", bounds.DISPLAY_NAME_BYTES_MAX)
        check_bytes(self.etag, f"{field}.etag", bounds.ETAG_BYTES_MAX)
        check_count(len(self.limits), bounds.POLICY_LIMITS_MAX, f"{field}.limits")
        self._check_groups(f"{field}.access_groups")
        first_with: dict[str, int] = {}
        for index, limit in enumerate(self.limits):
            limit.check(f"{field}.limits[{index}]")
            first = first_with.setdefault(limit.limit_id, index)
            if first != index:
                raise _invalid(
                    f"{field}.limits[{index}].limit_id",
                    f"limits[{first}] is called {limit.limit_id!r} as well; ids are unique inside"
                    " their policy",
                )

    @property
    def account(self) -> str:
        """The account that the policy belongs to; empty if every account may use it."""
        return account_of(self.name)

    def same_content(self, other: Policy) -> bool:
        """Whether a client would see no difference but in etag and times."""
        return (self.name, self.display_name, self.limits, self.access_groups) == (
            other.name,
            other.display_name,
            other.limits,
            other.access_groups,
        )

    def _check_groups(self, field: str) -> None:
        check_count(len(self.access_groups), bounds.POLICY_GROUPS_MAX, field)
        for index, name in enumerate(self.access_groups):
            account = resource_account(name, f"{field}[{index}]", "groups", "group")
            if not account or account != self.account:
                raise _invalid(
                    f"{field}[{index}]",
                    f"{_shown(name)} is no group of the policy's own account; a policy that every"
                    " account may use is not restricted, but its copy in an account can be",
                )
            if name in self.access_groups[:index]:
                raise _invalid(f"{field}[{index}]", "occurs twice; leave one of them out")


@dataclass(frozen=True, slots=True)
class Scope:
    """The attempts that an assignment covers; all of them when everything is empty."""

    account: str = ""
    resource: str = ""
    campaign: str = ""

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the combination means something."""
        if self.account:
            check_account(self.account, f"{field}.account")
        for label, value in (("resource", self.resource), ("campaign", self.campaign)):
            if value and not self.account:
                raise missing(f"{field}.account", f"the {label} of which account? name it")
            check_bytes(value, f"{field}.{label}", bounds.LABEL_BYTES_MAX)
        if self.resource and self.campaign:
            raise _invalid(
                f"{field}.campaign",
                "a scope names a resource or a campaign, not both; make one assignment for each",
            )

    def __str__(self) -> str:
        parts = [
            ("account", self.account),
            ("resource", self.resource),
            ("campaign", self.campaign),
        ]
        return ", ".join(f"{label} {value!r}" for label, value in parts if value) or "everything"


GLOBAL_SCOPE: Final = Scope()


@dataclass(frozen=True, slots=True)
class Assignment:
    """Puts a policy on a scope. `etag` and the times are the store's; empty and unstored before."""

    name: str
    policy: str
    scope: Scope = GLOBAL_SCOPE
    mandatory: bool = False
    etag: str = ""
    create_ms: int = UNSTORED_MS
    update_ms: int = UNSTORED_MS

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless name, scope and policy belong to the same account."""
        account = assignment_account(self.name, f"{field}.name")
        check_bytes(self.etag, f"{field}.etag", bounds.ETAG_BYTES_MAX)
        self.scope.check(f"{field}.scope")
        if self.scope.account != account:
            belongs = f"account {account!r}" if account else "no account"
            raise _invalid(
                f"{field}.scope.account",
                f"the assignment's name {self.name!r} belongs to {belongs}, its scope is"
                f" {self.scope}; make both the same",
            )
        if not self.policy:
            raise missing(f"{field}.policy", "name the policy that is assigned")
        owner = policy_account(self.policy, f"{field}.policy")
        if owner and owner != account:
            raise _invalid(
                f"{field}.policy",
                f"a policy of account {owner!r} can be assigned inside that account only; use one"
                " that every account may use (policies/…)",
            )

    def same_content(self, other: Assignment) -> bool:
        """Whether a client would see no difference but in etag and times."""
        return (self.name, self.policy, self.scope, self.mandatory) == (
            other.name,
            other.policy,
            other.scope,
            other.mandatory,
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Resources and campaigns of an account. `etag` and the times are the store's; empty and
    unstored before."""

    name: str
    display_name: str = ""
    resources: tuple[str, ...] = ()
    campaigns: tuple[str, ...] = ()
    etag: str = ""
    create_ms: int = UNSTORED_MS
    update_ms: int = UNSTORED_MS

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless the name and all that is in the group are sound."""
        group_account(self.name, f"{field}.name")
        check_bytes(self.display_name, f"{field}.display_name", bounds.DISPLAY_NAME_BYTES_MAX)
        check_bytes(self.etag, f"{field}.etag", bounds.ETAG_BYTES_MAX)
        check_labels(self.resources, f"{field}.resources", bounds.GROUP_LABELS_MAX)
        check_labels(self.campaigns, f"{field}.campaigns", bounds.GROUP_LABELS_MAX)

    def same_content(self, other: Group) -> bool:
        """Whether a client would see no difference but in etag and times."""
        return (self.name, self.display_name, self.resources, self.campaigns) == (
            other.name,
            other.display_name,
            other.resources,
            other.campaigns,
        )

    def holds(self, scope: Scope) -> bool:
        """Whether what the scope covers is in the group."""
        return scope.resource in self.resources or scope.campaign in self.campaigns


@dataclass(frozen=True, slots=True)
class Account:
    """What holds for one account beside its policies; what is empty is as it is for an account that
    was never changed. `etag` and the time are the store's; empty and unstored before."""

    name: str
    time_zone: str = ""
    allowed_categories: tuple[str, ...] = ()
    etag: str = ""
    update_ms: int = UNSTORED_MS

    def check(self, field: str) -> None:
        """Raises `InvalidArgument` unless name, zone and categories are sound."""
        named_account(self.name, f"{field}.name")
        check_bytes(self.etag, f"{field}.etag", bounds.ETAG_BYTES_MAX)
        if self.time_zone:
            zones.zone_table(self.time_zone, f"{field}.time_zone")
        categories_field = f"{field}.allowed_categories"
        check_labels(self.allowed_categories, categories_field, bounds.ALLOWED_CATEGORIES_MAX)

    @property
    def zone(self) -> str:
        """The zone that limits mean by `ACCOUNT`."""
        return self.time_zone or zones.UTC

    def same_content(self, other: Account) -> bool:
        """Whether a client would see no difference but in etag and time."""
        return (self.name, self.time_zone, self.allowed_categories) == (
            other.name,
            other.time_zone,
            other.allowed_categories,
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """One change of policies, assignments, groups and accounts as a whole, as the journal keeps it:
    what was put is complete, with etag and times. `author` is who made it, as the audit has it."""

    number: int
    time_ms: int
    put_policies: tuple[Policy, ...] = ()
    put_assignments: tuple[Assignment, ...] = ()
    deleted_policies: tuple[str, ...] = ()
    deleted_assignments: tuple[str, ...] = ()
    author: str = ""
    put_groups: tuple[Group, ...] = ()
    deleted_groups: tuple[str, ...] = ()
    put_accounts: tuple[Account, ...] = ()


def check_count(count: int, count_max: int, field: str) -> None:
    """Raises `InvalidArgument` if the list at path `field` has more than `count_max` entries."""
    if count > count_max:
        raise _invalid(field, f"at most {count_max:,} of them, not {count:,}")


def check_bytes(text: str, field: str, size_max: int) -> None:
    """Raises `InvalidArgument` if `text` takes more than `size_max` bytes of UTF-8."""
    size = len(text.encode())
    if size > size_max:
        raise _invalid(field, f"at most {size_max} bytes of UTF-8, not {size}")


def check_labels(values: tuple[str, ...], field: str, count_max: int) -> None:
    """Raises `InvalidArgument` unless these are few different names of a dimension's values."""
    check_count(len(values), count_max, field)
    for index, value in enumerate(values):
        if not value:
            raise _invalid(f"{field}[{index}]", "is empty; leave it out")
        check_bytes(value, f"{field}[{index}]", bounds.LABEL_BYTES_MAX)
    check_different(values, field)


def check_different(values: tuple[str, ...], field: str) -> None:
    """Raises `InvalidArgument` about the second of two equal values."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise _invalid(f"{field}[{index}]", "occurs twice; leave one of them out")
        seen.add(value)


def check_id(text: str, field: str) -> None:
    """Raises `InvalidArgument` unless `text` may be the last part of a resource name."""
    if not text:
        raise missing(field, _ID_RULE)
    if not bounds.RESOURCE_ID_PATTERN.fullmatch(text):
        raise _invalid(field, f"{_shown(text)} is not an id; {_ID_RULE}")


_ID_RULE: Final = (
    f"an id is 1 to {bounds.RESOURCE_ID_BYTES_MAX} of a-z, 0-9 and -, with a letter first and no -"
    " last"
)


def check_account(text: str, field: str) -> None:
    """Raises `InvalidArgument` unless `text` is the id of one account."""
    if text == ALL_ACCOUNTS:
        raise _invalid(field, "- stands for all accounts; name one account")
    if not bounds.ACCOUNT_PATTERN.fullmatch(text):
        raise _invalid(
            field,
            f"{_shown(text)} is not an account; an account is 1 to {bounds.ACCOUNT_BYTES_MAX} of"
            " A-Z, a-z, 0-9 and ._~@+-",
        )


def named_account(name: str, field: str) -> str:
    """The id of the account called `name`. Raises `InvalidArgument` about `field` unless the name
    is `accounts/{account}`."""
    if not name:
        raise missing(field, "name accounts/{account}")
    prefix, _, account = name.partition("/")
    if prefix != "accounts":
        raise _invalid(field, f"{_shown(name)} is no account; it is accounts/{{account}}")
    check_account(account, field)
    return account


def policy_account(name: str, field: str) -> str:
    """The account of the policy called `name`, empty if every account may use it.

    Raises `InvalidArgument` about `field` unless the name has the form of a policy's.
    """
    return resource_account(name, field, "policies", "policy")


def assignment_account(name: str, field: str) -> str:
    """The account of the assignment called `name`, empty if its scope is everything.

    Raises `InvalidArgument` about `field` unless the name has the form of an assignment's.
    """
    return resource_account(name, field, "assignments", "assignment")


def group_account(name: str, field: str) -> str:
    """The account of the group called `name`. Raises `InvalidArgument` about `field` unless the
    name has the form of a group's."""
    account = resource_account(name, field, "groups", "group")
    if not account:
        raise _invalid(
            field,
            f"{_shown(name)} names no account; a group is accounts/{{account}}/groups/{{group}}",
        )
    return account


def resource_account(name: str, field: str, collection: str, singular: str) -> str:
    """The account of the resource called `name` in such a collection, empty if it has none.

    Raises `InvalidArgument` about `field` unless the name has that form.
    """
    forms = f"{collection}/{{{singular}}} or accounts/{{account}}/{collection}/{{{singular}}}"
    if not name:
        raise missing(field, f"a name is {forms}")
    parts = name.split("/")
    if len(parts) == 2 and parts[0] == collection:
        account = ""
    elif len(parts) == 4 and parts[0] == "accounts" and parts[2] == collection:
        account = parts[1]
        check_account(account, field)
    else:
        raise _invalid(field, f"{_shown(name)} is not the name of a {singular}; it is {forms}")
    check_id(parts[-1], field)
    return account


def account_of(name: str) -> str:
    """The account of a resource name that has been checked; empty if it has none."""
    return name.split("/", 2)[1] if name.startswith("accounts/") else ""


def account_name(account: str) -> str:
    """The resource name of the account with this id."""
    return f"accounts/{account}"


def parent_account(parent: str, field: str) -> str:
    """The account of a collection's `parent`: empty for none, `ALL_ACCOUNTS` for `accounts/-`.

    Raises `InvalidArgument` about `field` unless the parent has that form.
    """
    if not parent:
        return ""
    prefix, _, account = parent.partition("/")
    if prefix != "accounts":
        raise _invalid(
            field, f"{_shown(parent)} is no parent; leave it empty or name accounts/{{account}}"
        )
    if account != ALL_ACCOUNTS:
        check_account(account, field)
    return account


def child_name(account: str, collection: str, resource_id: str) -> str:
    """The resource name in `collection` of the account, or of no account where it is empty."""
    prefix = f"accounts/{account}/" if account else ""
    return f"{prefix}{collection}/{resource_id}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def check_unique(names: Sequence[str], field: str) -> None:
    """Raises `InvalidArgument` about the second of two equal names at `field[index].name`."""
    first_with: dict[str, int] = {}
    for index, name in enumerate(names):
        first = first_with.setdefault(name, index)
        if first != index:
            raise _invalid(
                f"{field}[{index}].name", f"{field}[{first}] has the same name {_shown(name)}"
            )
