"""One account's doings beside another's: a story of both, played with and without the other.

Whatever one account does, the other's replies are the same to the byte, but for commit ids, which
say where in the journal a commit lies. Both use the same names, people and request ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from limiter.v1 import account_pb2, commitment_pb2, plan_pb2, policy_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.driver import Driver, Fault
from tests.model.properties import MakeDriver
from tests.model.strategies import Dice

# The account whose replies are looked at, and the one that does whatever it likes.
ONE: Final = "acme"
OTHER: Final = "bolt"

KINDS: Final = (
    *("commit", "commit", "commit_on_terms", "check", "batch", "batch", "check_batch"),
    *("usage", "plan", "settle", "settle", "settle_by_request_id", "opt", "account", "policies"),
)


@dataclass(frozen=True)
class Deed:
    """What an account does, after some time; what exactly, the dice say."""

    wait_ms: int
    account: str
    kind: str
    dice: tuple[int, ...]


@dataclass(frozen=True)
class Story:
    """The policies of everybody, the inline limits to choose from, and the deeds of both."""

    start_ms: int
    pool: Sequence[policy_pb2.Window]
    world: strategies.World
    choices: Sequence[policy_pb2.Limit]
    deeds: Sequence[Deed]


@st.composite
def stories(draw: st.DrawFn, deed_count: int) -> Story:
    pool = draw(strategies.pools())
    deed = st.builds(
        Deed,
        strategies.moves(),
        st.sampled_from((ONE, OTHER, OTHER)),
        st.sampled_from(KINDS),
        st.tuples(*[st.integers(0, (1 << 23) - 1)] * 24),
    )
    return Story(
        draw(strategies.starts()),
        pool,
        draw(strategies.worlds(pool)),
        draw(strategies.inline_choices(pool)),
        draw(st.lists(deed, min_size=deed_count // 2, max_size=deed_count)),
    )


class Play:
    """A story on its way, of some of the accounts; `replies` are those to ONE."""

    def __init__(self, driver: Driver, story: Story, accounts: Sequence[str]) -> None:
        self.driver = driver
        self.story = story
        self.now_ms = story.start_ms
        self.replies: list[bytes] = []
        self._commit_ids: dict[str, list[str]] = {account: [] for account in accounts}
        self._own: dict[str, strategies.World] = {}
        self._apply()
        for deed in story.deeds:
            self.now_ms = min(self.now_ms + deed.wait_ms, strategies.LAST_MS)
            driver.set_clock(self.now_ms)
            if deed.account in accounts:
                reply = self._do(deed)
                if deed.account == ONE:
                    self.replies.append(reply)
        driver.close()

    def _do(self, deed: Deed) -> bytes:
        numbers = iter(deed.dice * 100)
        dice = Dice(lambda _strategy: next(numbers))
        try:
            reply: bytes = getattr(self, f"_{deed.kind}")(dice, deed.account)
        except Fault as fault:
            # What is said of it may name a commit.
            return f"{fault.code} {fault.reason} {fault.fields}".encode()
        return reply

    # ---- attempts

    def _commit(self, dice: Dice, account: str, *, on_terms: bool = False) -> bytes:
        request = strategies.make_commit(dice, self.story.choices)
        request.attempt.account = account
        if on_terms:
            strategies.set_terms(dice, request, self.now_ms)
        response = self.driver.commit(request)
        self._note(account, response)
        return response.SerializeToString()

    def _commit_on_terms(self, dice: Dice, account: str) -> bytes:
        return self._commit(dice, account, on_terms=True)

    def _check(self, dice: Dice, account: str) -> bytes:
        request = strategies.check_of(strategies.make_commit(dice, self.story.choices))
        request.attempt.account = account
        return self.driver.check(request).SerializeToString()

    def _make_batch(self, dice: Dice, account: str) -> service_pb2.CommitBatchRequest:
        request = strategies.make_batch(dice, self.story.choices)
        request.attempt.account = account
        return request

    def _batch(self, dice: Dice, account: str) -> bytes:
        response = self.driver.commit_batch(self._make_batch(dice, account))
        for result in response.results:
            self._note(account, result)
        return response.SerializeToString()

    def _check_batch(self, dice: Dice, account: str) -> bytes:
        request = strategies.check_batch_of(self._make_batch(dice, account))
        return self.driver.check_batch(request).SerializeToString()

    def _usage(self, dice: Dice, account: str) -> bytes:
        attempt = strategies.make_attempt(dice)
        attempt.account = account
        request = service_pb2.GetUsageRequest(attempt=attempt)
        return self.driver.get_usage(request).SerializeToString()

    def _plan(self, dice: Dice, account: str) -> bytes:
        batch = self._make_batch(dice, account)
        request = plan_pb2.PlanRequest(attempt=batch.attempt, inline_limits=batch.inline_limits)
        for recipient in batch.recipients:
            request.recipients.add(
                contact=recipient.contact,
                address=recipient.address,
                contact_time_zone=recipient.contact_time_zone,
            )
        return self.driver.plan(request).SerializeToString()

    def _note(
        self, account: str, committed: service_pb2.CommitResponse | service_pb2.BatchResult
    ) -> None:
        if committed.commit_id:
            self._commit_ids[account].append(committed.commit_id)
            committed.commit_id = "some"

    # ---- what becomes of them

    def _settle(self, dice: Dice, account: str) -> bytes:
        """Cancels or confirms one of the newest commits; the other account tries its hand at those
        of this one too."""
        known = self._commit_ids[account]
        if account == OTHER and dice.one_in(3):
            known = self._commit_ids.get(ONE, known)
        if not known:
            return b""
        commit_id = known[-1 - dice.below(len(known))]
        if dice.one_in(2):
            return _unnamed(
                self.driver.confirm(
                    commitment_pb2.ConfirmRequest(account=account, commit_id=commit_id)
                ).commitment
            )
        return _unnamed(
            self.driver.cancel(
                commitment_pb2.CancelRequest(account=account, commit_id=commit_id)
            ).commitment
        )

    def _settle_by_request_id(self, dice: Dice, account: str) -> bytes:
        request_id = dice.pick(("id-1", "id-2", "id-3"))
        if dice.one_in(2):
            return _unnamed(
                self.driver.confirm(
                    commitment_pb2.ConfirmRequest(account=account, request_id=request_id)
                ).commitment
            )
        return _unnamed(
            self.driver.cancel(
                commitment_pb2.CancelRequest(account=account, request_id=request_id)
            ).commitment
        )

    # ---- what holds for an account

    def _opt(self, dice: Dice, account: str) -> bytes:
        changed = self.driver.opt(account, strategies.make_people(dice), not dice.one_in(3))
        return f"{changed} {self.driver.opted_out(account)}".encode()

    def _account(self, dice: Dice, account: str) -> bytes:
        changed = strategies.make_account(dice)
        self.driver.set_account(
            account_pb2.Account(
                name=f"accounts/{account}",
                time_zone=changed.time_zone,
                allowed_categories=changed.allowed_categories,
            )
        )
        return b""

    def _policies(self, dice: Dice, account: str) -> bytes:
        """A policy of the account's own, on all of it and on top, or none."""
        name = f"accounts/{account}/policies/changing"
        limits = [
            strategies.make_limit(dice, f"limit-{number}", self.story.pool)
            for number in range(dice.below(4))
        ]
        parent = f"accounts/{account}/assignments"
        scope = policy_pb2.Scope(account=account)
        self._own[account] = strategies.World(
            (policy_pb2.Policy(name=name, limits=limits),),
            tuple(
                policy_pb2.Assignment(
                    name=f"{parent}/changing-{number}", policy=name, scope=scope, mandatory=True
                )
                for number in range(dice.below(3))
            ),
        )
        self._apply()
        return b""

    def _apply(self) -> None:
        worlds = (self.story.world, *self._own.values())
        self.driver.apply(
            [policy for world in worlds for policy in world.policies],
            [assignment for world in worlds for assignment in world.assignments],
        )


def _unnamed(commitment: commitment_pb2.Commitment) -> bytes:
    commitment.commit_id = "some"
    return commitment.SerializeToString()


def the_other_makes_no_difference(make_driver: MakeDriver, story: Story) -> None:
    """ONE gets the same replies whether or not OTHER is there."""
    together = Play(make_driver(story.start_ms), story, (ONE, OTHER))
    alone = Play(make_driver(story.start_ms), story, (ONE,))
    assert together.replies == alone.replies
