"""The traffic of five products, by the quarter of an hour of a driven clock.

What flows in: a server, random numbers, and how much there is to be of it. What flows out: calls of
every kind, and their answers, counted. An answer that cannot be right ends the run: a repeat that
counts again, an account beyond its cap, a cancelled commit that is none.

People come and go: every day brings new contacts, campaigns and accounts, and most of them never
come again.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from limiter.v1 import (
    account_pb2,
    attempt_pb2,
    commitment_pb2,
    decision_pb2,
    decision_service_pb2,
    policy_pb2,
    policy_service_pb2,
    test_clock_service_pb2,
)
from tests.integration.process import START_MS, ServerProcess

__all__ = ["DAY_MS", "QUARTERS", "Traffic"]

_EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"

QUARTERS: Final = 96
_QUARTER_MS: Final = 15 * 60_000
_HOUR_MS: Final = 4 * _QUARTER_MS
DAY_MS: Final = QUARTERS * _QUARTER_MS

# Accounts of each product that are there all the time, and those that come for one day each.
_NETWORKS: Final = [f"network-{number}" for number in range(10)]
_STUDIOS: Final = ["studio-berlin", "studio-rolling"]
_SHOPS: Final = [f"shop-{number}" for number in range(4)]
_TEXTS: Final = [f"texts-{number}" for number in range(3)]
_DESKS: Final = ["helpdesk-0", "helpdesk-1"]
_GUESTS: Final = 20

_ALLOWED: Final = decision_pb2.OUTCOME_ALLOWED
_CAP: Final = 200
_HOLD_MS: Final = 2 * _QUARTER_MS

# Days for which somebody who has opted out stays so.
_OPTED_OUT_DAYS: Final = 7


class Traffic:
    """Sends as much as a small service does in a day, `scale` times; each day for so many
    `quarters` of an hour."""

    def __init__(
        self, server: ServerProcess, rng: random.Random, scale: float, quarters: int
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._server = server
        self._rng = rng
        self._scale = scale
        self._quarters = quarters
        self._number = 0
        self._now_ms = START_MS
        # Of the last quarter of an hour: what to repeat, with the answer, and what is held.
        self._recent: list[
            tuple[decision_service_pb2.CommitRequest, decision_service_pb2.CommitResponse]
        ] = []
        self._held: list[tuple[str, str]] = []
        self._inline = _parsed("batch_sms/inline.yaml", policy_pb2.Limit())

    def set_up(self) -> None:
        """Applies the policies of the examples, to more accounts."""
        for product, template, accounts in (
            ("contact_cap", "network", _NETWORKS),
            ("social_outbox", "", []),
            ("marketing", "shop", _SHOPS),
            ("batch_sms", "texts", _TEXTS),
            ("support_desk", "helpdesk", _DESKS),
        ):
            request = _parsed(f"{product}/policy.yaml", policy_service_pb2.ApplyPoliciesRequest())
            for assignment in list(request.assignments) if template else ():
                for account in accounts:
                    added = request.assignments.add()
                    added.CopyFrom(assignment)
                    added.scope.account = account
                    added.name = assignment.name.replace(f"/{template}/", f"/{account}/")
                request.assignments.remove(assignment)
            if product == "contact_cap":
                request.assignments.add(name="assignments/everyone", policy="policies/hard-limit")
            self._server.policies.ApplyPolicies(request)

    def day(self, number: int) -> None:
        """One day, from its first quarter of an hour on."""
        self._change(number)
        # What was held last is left to lapse.
        self._held.clear()
        for quarter in range(self._quarters):
            self._now_ms = START_MS + number * DAY_MS + quarter * _QUARTER_MS
            instant = test_clock_service_pb2.SetTestClockRequest()
            instant.current_time.FromMilliseconds(self._now_ms)
            self._server.test_clock.Set(instant)
            self._quarter(number)
        self._check(number)

    def _quarter(self, day: int) -> None:
        requests: list[decision_service_pb2.CommitRequest] = []
        for account in _NETWORKS:
            requests += [self._to_somebody(account, day) for _ in range(self._some(2.5))]
        for account in _SHOPS:
            requests += [self._newsletter(account, day) for _ in range(self._some(2))]
        for account in _STUDIOS:
            requests += [
                self._commit(account, f"fan-{day}-{self._rng.randrange(90)}", source=source)
                for source in ("queue", "queue", "manual")[: self._some(2)]
            ]
        for number in range(_GUESTS):
            if self._rng.random() < 0.03 * self._scale:
                requests.append(self._commit(f"guest-{day}-{number}", f"host-{number}"))
        self._repeat()
        self._send(requests)
        self._desk(day)
        if self._rng.random() < 0.25:
            self._batch(day)

    # --- one attempt ------------------------------------------------------------------------------

    def _commit(
        self, account: str, contact: str, **fields: Any
    ) -> decision_service_pb2.CommitRequest:
        self._number += 1
        attempt = attempt_pb2.Attempt(account=account, contact=contact, **fields)
        return decision_service_pb2.CommitRequest(attempt=attempt, request_id=f"r{self._number}")

    def _to_somebody(self, account: str, day: int) -> decision_service_pb2.CommitRequest:
        """Somebody who is new on this day, or was written to earlier on it."""
        return self._commit(account, f"person-{day}-{self._rng.randrange(300)}")

    def _newsletter(self, account: str, day: int) -> decision_service_pb2.CommitRequest:
        """To somebody of this week or an old customer: some as invoices, some under a campaign with
        limits of its own, some sent by hand an hour ago."""
        if self._rng.random() < 0.5:
            contact = f"customer-{self._rng.randrange(2_000)}"
        else:
            contact = f"visitor-{day // 7}-{self._rng.randrange(500)}"
        category = "transactional" if self._rng.random() < 0.1 else "marketing"
        request = self._commit(
            account,
            contact,
            address=f"{contact}@example.org",
            resource=self._rng.choice(("web", "club")),
            channel=self._rng.choice(("email", "push")),
            campaign=self._rng.choice((f"news-{day}", "launch", "recall")),
            category=category,
        )
        if self._rng.random() < 0.02:
            request.mode = decision_service_pb2.COMMIT_MODE_RECORD
            request.event_time.FromMilliseconds(self._now_ms - _HOUR_MS)
        return request

    # --- calls ------------------------------------------------------------------------------------

    def _send(self, requests: list[decision_service_pb2.CommitRequest]) -> None:
        """Commits over one stream; takes some of it back, and remembers some to repeat it."""
        replies = list(self._server.decisions.CommitStream(iter(requests)))
        assert len(replies) == len(requests)
        cancelled: list[tuple[str, str]] = []
        for request, reply in zip(requests, replies, strict=True):
            assert not reply.replayed, f"a new request was taken for a repeat: {request}"
            if self._counted(reply.decision) and self._rng.random() < 0.05:
                cancelled.append((request.attempt.account, reply.commit_id))
            elif reply.commit_id and self._rng.random() < 0.1:
                self._recent.append((request, reply))
        self._cancel(cancelled)

    def _counted(self, decision: decision_pb2.Decision) -> bool:
        is_allowed = decision.outcome == _ALLOWED
        self.counts["allowed" if is_allowed else "denied"] += 1
        return is_allowed

    def _cancel(self, commits: list[tuple[str, str]]) -> None:
        requests = [
            commitment_pb2.CancelRequest(account=account, commit_id=commit_id)
            for account, commit_id in commits
        ]
        for reply in _at_once(self._server.decisions.Cancel, requests):
            assert reply.commitment.state == commitment_pb2.COMMITMENT_STATE_CANCELLED
            self.counts["cancelled"] += 1

    def _repeat(self) -> None:
        """Asks once more for some of what was allowed of late: nothing counts again."""
        requests = [request for request, _ in self._recent]
        replies = _at_once(self._server.decisions.Commit, requests)
        for (_, before), again in zip(self._recent, replies, strict=True):
            assert again.replayed
            assert again.commit_id == before.commit_id
            self.counts["repeated"] += 1
        self._recent.clear()

    def _desk(self, day: int) -> None:
        """Agents hold what they may be about to send, and send it, or not, or forget it."""
        decisions = self._server.decisions
        draws = [(self._rng.random(), *held) for held in self._held]
        confirmed = [
            commitment_pb2.ConfirmRequest(account=account, commit_id=commit_id)
            for draw, account, commit_id in draws
            if draw < 0.6
        ]
        self.counts["confirmed"] += len(_at_once(decisions.Confirm, confirmed))
        self._cancel([(account, name) for draw, account, name in draws if 0.6 <= draw < 0.8])
        requests = [
            self._commit(
                account,
                f"client-{day}-{self._rng.randrange(40)}",
                agent=f"agent-{self._rng.randrange(10)}",
            )
            for account in _DESKS
            for _ in range(self._some(1.5))
        ]
        for request in requests:
            request.hold_duration.FromMilliseconds(_HOLD_MS)
        replies = _at_once(decisions.Commit, requests)
        self._held = [
            (request.attempt.account, reply.commit_id)
            for request, reply in zip(requests, replies, strict=True)
            if self._counted(reply.decision)
        ]

    def _batch(self, day: int) -> None:
        """A campaign to a list, with a daily limit of its own; some go whole or not at all."""
        request = decision_service_pb2.CommitBatchRequest(exclude_duplicates=True)
        request.exclude_opt_outs = True
        self._number += 1
        request.request_id = f"b{self._number}"
        request.attempt.account = self._rng.choice(_TEXTS)
        request.attempt.campaign = f"texts-{day}-{self._rng.randrange(3)}"
        limit = request.inline_limits.add()
        limit.CopyFrom(self._inline)
        limit.cap.max_count = 250
        if self._rng.random() < 0.2:
            request.atomicity = decision_service_pb2.ATOMICITY_ALL_OR_NOTHING
        for _ in range(self._some(120)):
            number = f"+49-{day}-{self._rng.randrange(2_000)}"
            request.recipients.add(contact=number, address=number)
        for is_repeat in (False, self._rng.random() < 0.2):
            reply = self._server.decisions.CommitBatch(request)
            if is_repeat:
                assert all(each.replayed for each in reply.results if each.commit_id)
                self.counts["repeated"] += reply.accepted_count
                continue
            self.counts["allowed"] += reply.accepted_count
            self.counts["denied"] += reply.denied_count
            if not reply.accepted_count:
                break

    # --- by the day -------------------------------------------------------------------------------

    def _change(self, day: int) -> None:
        """What changes from day to day: a goal, and who has opted out."""
        outbox = self._server.policies.GetPolicy(
            policy_service_pb2.GetPolicyRequest(name="policies/outbox-midnight")
        )
        changed = copy.deepcopy(outbox)
        changed.limits[0].cap.max_count = 100 + day % 50
        request = policy_service_pb2.UpdatePolicyRequest(
            policy=changed, update_mask=FieldMask(paths=["limits"])
        )
        self._server.policies.UpdatePolicy(request)
        parent = f"accounts/{_TEXTS[0]}"
        add = policy_service_pb2.AddSuppressionsRequest(parent=parent, suppressions=_opted_out(day))
        self._server.policies.AddSuppressions(add)
        if day >= _OPTED_OUT_DAYS:
            remove = policy_service_pb2.RemoveSuppressionsRequest(
                parent=parent, suppressions=_opted_out(day - _OPTED_OUT_DAYS)
            )
            self._server.policies.RemoveSuppressions(remove)

    def _check(self, day: int) -> None:
        """No account has gone beyond its cap on people."""
        for account in (*_NETWORKS, f"guest-{day}-0"):
            request = decision_service_pb2.GetUsageRequest()
            request.attempt.account = account
            for status in self._server.decisions.GetUsage(request).limit_statuses:
                assert status.max_count == _CAP
                assert status.used_count <= _CAP, f"{account}: {status}"

    def _some(self, mean: float) -> int:
        """About so many, times the scale."""
        whole = mean * self._scale
        return int(whole) + (self._rng.random() < whole % 1)


def _at_once(method: Any, requests: Sequence[Any]) -> list[Any]:
    """Calls that are under way together; their replies in order."""
    calls = [method.future(request) for request in requests]
    return [call.result() for call in calls]


def _opted_out(day: int) -> list[account_pb2.Suppression]:
    return [account_pb2.Suppression(contact=f"+49-{day}-{number}") for number in range(20)]


def _parsed(path: str, message: Any) -> Any:
    """A file of the examples."""
    content = yaml.safe_load((_EXAMPLES / path).read_text(encoding="utf-8"))
    return json_format.ParseDict(content, message)
