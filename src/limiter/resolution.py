"""Which limits apply to which attempts: from assignments to the plans of the core.

In flow compiled policies and the places they are assigned to; out flows, for one resource and
campaign of an account, the `Plan` of the rules that apply. Where a limit names the zone `ACCOUNT`,
its policy is compiled for each zone that an account lives in.

Of the assignments that match and are not mandatory, the one with the narrowest scope wins and
replaces the wider ones: campaign, then resource, then account, then everything. Mandatory ones
apply on top, in the order of their names. A policy that applies in several ways applies once.

What always holds: everything here is frozen, so a view that was made before a revision goes on
showing what held then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from limiter import kinds, model, zones
from limiter._kinds import Kind, Plan, Rule

# A resource and a campaign; empty where there is none, and both are for the whole account.
Place: TypeAlias = tuple[str, str]

WHOLE_ACCOUNT: Place = ("", "")


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy as the core evaluates it: its rules in order, and the kinds of counter that they
    read, each with the longest time that its window may last (ms)."""

    name: str
    rules: tuple[Rule, ...]
    kinds: Mapping[Kind, int]


def compile_policy(policy: model.Policy, account_zone: str = zones.UTC) -> CompiledPolicy:
    """The rules of a checked policy, for accounts that live in a zone."""
    limits = [limit.in_zone(account_zone) for limit in policy.limits]
    rules = tuple(kinds.compile_rule(policy.name, limit, policy.etag) for limit in limits)
    longest_ms = {
        rule.kind: limit.kind.longest_ms
        for rule, limit in zip(rules, limits, strict=True)
        if rule.kind is not None and limit.kind is not None
    }
    return CompiledPolicy(policy.name, rules, longest_ms)


class PolicyInZones:
    """A policy as it is compiled for the accounts of each zone."""

    def __init__(self, policy: model.Policy) -> None:
        self.policy = policy
        self.follows_account = any(limit.follows_account for limit in policy.limits)
        self._compiled = {zones.UTC: compile_policy(policy)}

    def in_zone(self, account_zone: str) -> CompiledPolicy:
        """The policy for an account that lives there."""
        if not self.follows_account:
            account_zone = zones.UTC
        compiled = self._compiled.get(account_zone)
        if compiled is None:
            compiled = compile_policy(self.policy, account_zone)
            self._compiled[account_zone] = compiled
        return compiled

    def definitions(self) -> set[bytes]:
        """The kinds of counter that the policy reads in any account that there was so far."""
        return {kind.definition for each in self._compiled.values() for kind in each.kinds}

    def own_kinds(self, account_zone: str) -> Mapping[Kind, int]:
        """What an account that lives there must keep itself of a policy that is assigned to
        everything, for which the kinds of UTC are kept everywhere."""
        if not self.follows_account:
            return {}
        everywhere = self.in_zone(zones.UTC).kinds
        kept = self.in_zone(account_zone).kinds
        return {kind: longest_ms for kind, longest_ms in kept.items() if kind not in everywhere}


@dataclass(frozen=True, slots=True)
class Placed:
    """What is assigned to one place: at most one policy that is not mandatory, and the mandatory
    ones by the names of their assignments."""

    overridable: CompiledPolicy | None
    mandatory: tuple[tuple[str, CompiledPolicy], ...]


def place(
    assignments: Iterable[model.Assignment],
    compiled: Mapping[str, PolicyInZones],
    account_zone: str,
) -> Placed:
    """What the assignments to one place put there, for an account that lives in a zone."""
    overridable: CompiledPolicy | None = None
    mandatory: list[tuple[str, CompiledPolicy]] = []
    for assignment in assignments:
        policy = compiled[assignment.policy].in_zone(account_zone)
        if assignment.mandatory:
            mandatory.append((assignment.name, policy))
        else:
            overridable = policy
    return Placed(overridable, tuple(mandatory))


@dataclass(frozen=True, slots=True)
class AccountView:
    """What is assigned to everything, and to each place of one account."""

    everything: Placed
    places: Mapping[Place, Placed]

    def resources(self) -> list[str]:
        """The resources that have assignments of their own."""
        return [resource for resource, _ in self.places if resource]

    def campaigns(self) -> list[str]:
        """The campaigns that have assignments of their own."""
        return [campaign for _, campaign in self.places if campaign]

    def plan(self, resource: str | None, campaign: str | None) -> Plan:
        """The rules for attempts of this resource and campaign; None for any that has no
        assignment of its own."""
        # From the widest to the narrowest.
        path = [WHOLE_ACCOUNT]
        if resource is not None:
            path.append((resource, ""))
        if campaign is not None:
            path.append(("", campaign))
        matching = [self.everything, *(self.places[at] for at in path if at in self.places)]
        overridable = [each.overridable for each in matching if each.overridable is not None]
        mandatory = sorted(
            (entry for each in matching for entry in each.mandatory), key=lambda entry: entry[0]
        )
        policies = overridable[-1:] + [policy for _, policy in mandatory]
        applying = {policy.name: policy for policy in policies}
        rules = [rule for policy in applying.values() for rule in policy.rules]
        return Plan(rules, bool(applying))
