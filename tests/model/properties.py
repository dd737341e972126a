"""The invariants of the design (its section 2.8) and their like, each as one function.

They hold for any service that a driver can be made for; test_invariants tries them on the core by
itself, test_server on a running server. Wherever a `Pair` is used, all replies are compared with
the oracle's besides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from limiter.v1 import attempt_pb2, decision_pb2
from limiter.v1 import decision_service_pb2 as service_pb2
from tests.model import strategies
from tests.model.clocks import run_at
from tests.model.driver import Driver, Fault
from tests.model.limits import MESSAGES, RUN, Limit, limit_of
from tests.model.pair import Pair, same_usage
from tests.model.verdicts import ALLOWED, DENIED, attempt_of
from tests.model.windows import DAY_MS, HOUR_MS, Rolling

# Makes a service that starts at an instant.
MakeDriver = Callable[[int], Driver]

ALL_OR_NOTHING = service_pb2.ATOMICITY_ALL_OR_NOTHING


# --------------------------------------------------------------------------- stories


@dataclass(frozen=True)
class Step:
    """Some time passes, then somebody wants to send."""

    wait_ms: int
    request: service_pb2.CommitRequest


@dataclass(frozen=True)
class Story:
    """A start, the policies from then on, and what happens under them."""

    start_ms: int
    world: strategies.World
    steps: Sequence[Step]

    @property
    def end_ms(self) -> int:
        return self.start_ms + sum(step.wait_ms for step in self.steps)

    def play(self, driver: Driver) -> Pair:
        """Plays all of it, comparing with the oracle."""
        pair = Pair(driver, self.start_ms)
        pair.apply(self.world.policies, self.world.assignments)
        for step in self.steps:
            pair.advance(step.wait_ms)
            pair.commit(step.request)
        return pair


@st.composite
def stories(
    draw: st.DrawFn, *, free: bool = True, ids: bool = False, step_count: int = 20
) -> Story:
    """With `free`, any policies, and fields may be missing; else one policy of unconditional,
    enforced limits on everything, and whole attempts. With `ids`, some requests have ids."""
    pool = draw(strategies.pools())
    world = draw(strategies.worlds(pool) if free else strategies.plain_worlds(pool))
    requests = strategies.commits(whole=None if free else True)
    steps = draw(
        st.lists(
            st.builds(Step, strategies.moves(), requests),
            min_size=step_count // 3,
            max_size=step_count,
        )
    )
    for step in steps:
        if not ids:
            step.request.request_id = ""
    return Story(draw(strategies.starts()), world, steps)


def copy_of(attempt: attempt_pb2.Attempt) -> attempt_pb2.Attempt:
    copied = attempt_pb2.Attempt()
    copied.CopyFrom(attempt)
    return copied


# --------------------------------------------------------------------------- 1 to 3


def inside_counts(
    limit: Limit, sent: Sequence[tuple[int, attempt_pb2.Attempt]], at_ms: int
) -> dict[tuple[str, ...], int]:
    """What stands inside each window of a limit at one instant, straight from the definition; by
    the account and the values of `per`. Of a pause, what stands in its run."""
    assert limit.kind is not None
    found: dict[tuple[str, ...], list[tuple[int, int, str]]] = {}
    for sent_ms, message in sent:
        attempt = attempt_of(message)
        key, member = limit.kind.key(attempt.fields), limit.kind.member(attempt.fields)
        assert key is not None
        assert member is not None
        entry = (sent_ms, attempt.message_count, member)
        found.setdefault((attempt.account, *key), []).append(entry)
    counts = {}
    for key, entries in found.items():
        if limit.kind.measure == RUN:
            assert isinstance(limit.kind.window, Rolling)
            pairs = [(sent_ms, count) for sent_ms, count, _ in entries]
            run = run_at(pairs, limit.kind.window.duration_ms, at_ms)
            counts[key] = sum(count for _, count in run)
            continue
        inside = [each for each in entries if limit.kind.window.inside(each[0], at_ms)]
        messages = sum(count for _, count, _ in inside)
        people = len({member for _, _, member in inside})
        counts[key] = messages if limit.kind.measure == MESSAGES else people
    return counts


def is_open_for(limit: Limit, message: attempt_pb2.Attempt, at_ms: int) -> bool:
    """Whether the hours of a limit are open for a message."""
    assert limit.hours is not None
    return limit.hours.open(limit.hours.zone_for(message.contact_time_zone), at_ms)


def limits_of(world: strategies.World) -> list[Limit]:
    return [limit_of(limit, policy.name) for policy in world.policies for limit in policy.limits]


def no_enforced_limit_is_ever_exceeded(make_driver: MakeDriver, story: Story) -> None:
    """Slides every window of every limit over all that was allowed under one unchanged policy."""
    pair = Pair(make_driver(story.start_ms), story.start_ms)
    pair.apply(story.world.policies, story.world.assignments)
    sent: list[tuple[int, attempt_pb2.Attempt]] = []
    for step in story.steps:
        pair.advance(step.wait_ms)
        response = pair.commit(step.request)
        assert response is not None
        if response.decision.outcome == ALLOWED:
            sent.append((pair.now_ms, step.request.attempt))
            for status in response.decision.limit_statuses:
                assert status.used_count <= status.max_count
    for limit in limits_of(story.world):
        if limit.hours is not None:
            assert all(is_open_for(limit, message, at_ms) for at_ms, message in sent)
            continue
        # What is inside grows only when something is sent, and all of one instant is sent at once.
        for at_ms in sorted({at_ms for at_ms, _ in sent}):
            counts = inside_counts(limit, [each for each in sent if each[0] <= at_ms], at_ms)
            assert all(count <= limit.max_at(at_ms) for count in counts.values()), (limit, counts)
    pair.driver.close()


def a_denial_is_justified(make_driver: MakeDriver, story: Story) -> None:
    """Where the service denies, the limit that it names really has no room."""
    pair = Pair(make_driver(story.start_ms), story.start_ms)
    pair.apply(story.world.policies, story.world.assignments)
    by_id = {limit.limit_id: limit for limit in limits_of(story.world)}
    sent: list[tuple[int, attempt_pb2.Attempt]] = []
    for step in story.steps:
        pair.advance(step.wait_ms)
        response = pair.commit(step.request)
        assert response is not None
        if response.decision.outcome == ALLOWED:
            sent.append((pair.now_ms, step.request.attempt))
            continue
        binding = response.decision.binding_limit
        limit = by_id[binding.limit_id]
        if limit.hours is not None:
            assert not is_open_for(limit, step.request.attempt, pair.now_ms)
            continue
        assert limit.kind is not None
        attempt = attempt_of(step.request.attempt)
        counts = inside_counts(limit, sent, pair.now_ms)
        key = limit.kind.key(attempt.fields)
        assert key is not None
        used = counts.get((attempt.account, *key), 0)
        added = attempt.message_count if limit.kind.sums else 1
        assert binding.used_count == used
        assert used + added > limit.max_at(pair.now_ms)
    pair.driver.close()


def a_denied_commit_changes_no_counter(make_driver: MakeDriver, story: Story) -> None:
    """All limits count or none: after a denial all stand where they stood before."""
    pair = Pair(make_driver(story.start_ms), story.start_ms)
    pair.apply(story.world.policies, story.world.assignments)
    for step in story.steps:
        pair.advance(step.wait_ms)
        pair.get_usage(step.request.attempt)
        before = pair.all_usage()
        response = pair.commit(step.request)
        if response is None or response.decision.outcome == DENIED:
            assert same_usage(before, pair.all_usage())
    pair.driver.close()


# --------------------------------------------------------------------------- 4 and 5


def retry_time_is_right(
    make_driver: MakeDriver, story: Story, request: service_pb2.CommitRequest
) -> None:
    """Sends the same until it is denied; then one millisecond before retry_time it still is, and
    at retry_time it is not."""
    pair = story.play(make_driver(story.start_ms))
    request.request_id = ""
    for _ in range(8):
        response = pair.commit(request)
        if response is None:
            break
        decision = response.decision
        if decision.outcome == DENIED:
            walk_to_retry_time(pair, decision, strategies.check_of(request))
            break
    pair.driver.close()


def walk_to_retry_time(
    pair: Pair, decision: decision_pb2.Decision, check: service_pb2.CheckRequest
) -> None:
    def outcome_at(at_ms: int) -> int:
        pair.advance_to(at_ms)
        response = pair.check(check)
        assert response is not None
        return response.decision.outcome

    if not decision.HasField("retry_time"):
        assert outcome_at(pair.now_ms + 100 * DAY_MS) == DENIED
        assert outcome_at(pair.now_ms + 300 * DAY_MS) == DENIED
        return
    retry_ms = decision.retry_time.ToMilliseconds()
    assert pair.now_ms < retry_ms <= pair.now_ms + 400 * DAY_MS
    assert outcome_at(retry_ms - 1) == DENIED
    assert outcome_at(retry_ms) == ALLOWED


def a_check_says_what_the_commit_does(make_driver: MakeDriver, story: Story) -> None:
    """At the same instant, in every field; and it changes nothing, however often it is asked."""
    pair = Pair(make_driver(story.start_ms), story.start_ms)
    pair.apply(story.world.policies, story.world.assignments)
    for step in story.steps:
        pair.advance(step.wait_ms)
        check = strategies.check_of(step.request)
        first, second = pair.check(check), pair.check(check)
        assert first == second
        response = pair.commit(step.request)
        if response is None:
            assert first is None
        else:
            assert first is not None
            assert response.decision == first.decision
    pair.driver.close()


# --------------------------------------------------------------------------- 6 and 8


def a_request_id_counts_once(make_driver: MakeDriver, story: Story) -> None:
    """However often it is sent, and across restarts; another payload under it is refused."""
    pair = Pair(make_driver(story.start_ms), story.start_ms)
    pair.apply(story.world.policies, story.world.assignments)
    for number, step in enumerate(story.steps):
        pair.advance(step.wait_ms)
        request = service_pb2.CommitRequest()
        request.CopyFrom(step.request)
        request.request_id = f"once-{number}"
        response = pair.commit(request)
        if response is None:
            continue
        before = pair.all_usage()
        if number % 5 == 0:
            pair.restart()
        again = pair.commit(request)
        assert again is not None
        if response.decision.outcome == ALLOWED:
            assert again.replayed
            assert again.commit_id == response.commit_id
            assert again.account_sequence == response.account_sequence
            assert again.decision.decide_time == response.decision.decide_time
            request.attempt.message_count += 5
            assert pair.commit(request) is None, "another payload under the same id"
        assert same_usage(before, pair.all_usage())
    pair.driver.close()


def a_restart_changes_nothing(make_driver: MakeDriver, story: Story) -> None:
    """Plays the story twice, once with restarts in between: every reply is the same."""
    steady, restarting = make_driver(story.start_ms), make_driver(story.start_ms)
    pairs = [Pair(driver, story.start_ms) for driver in (steady, restarting)]
    for pair in pairs:
        pair.apply(story.world.policies, story.world.assignments)
    for number, step in enumerate(story.steps):
        for pair in pairs:
            pair.advance(step.wait_ms)
        if number % 4 == 0:
            pairs[1].restart()
        first, second = (without_id(pair.commit(step.request)) for pair in pairs)
        assert first == second
    pairs[1].restart()
    assert pairs[0].all_usage() == pairs[1].all_usage()
    steady.close()
    restarting.close()


def without_id(
    response: service_pb2.CommitResponse | None,
) -> service_pb2.CommitResponse | None:
    """The reply without the id, which says where in the journal the commit stands."""
    if response is not None:
        response.commit_id = ""
    return response


# --------------------------------------------------------------------------- 7


@dataclass(frozen=True)
class Undoing:
    """Commits that are made and taken back."""

    requests: Sequence[service_pb2.CommitRequest]
    order: Sequence[int]
    seed: int


@st.composite
def undoings(draw: st.DrawFn) -> Undoing:
    """A few commits of all sorts, and in which order they are to be cancelled."""
    count = draw(st.integers(1, 8))
    return Undoing(
        [draw(strategies.commits()) for _ in range(count)],
        draw(st.permutations(range(count))),
        draw(st.integers(0, 2**30)),
    )


def a_cancel_is_as_if_it_had_never_been(
    make_driver: MakeDriver, story: Story, undoing: Undoing
) -> None:
    """Commits, records and holds, and cancels them in any order: all stands where it stood, and
    goes on as it would have."""
    pair = story.play(make_driver(story.start_ms))
    chance = random.Random(undoing.seed)
    dice = strategies.Dice(lambda numbers: chance.randrange(1 << 23))
    for request in undoing.requests:
        pair.get_usage(request.attempt)
    before = pair.all_usage()
    made: dict[int, tuple[str, str]] = {}
    for number, request in enumerate(undoing.requests):
        request.request_id = f"undone-{number}"
        if dice.below(3):
            strategies.set_terms(dice, request, pair.now_ms)
        response = pair.commit(request)
        if response is not None and response.commit_id:
            made[number] = (request.attempt.account, response.commit_id)
        if dice.one_in(4):
            pair.restart()
    for number in undoing.order:
        if number in made:
            account, commit_id = made[number]
            assert pair.cancel(account, commit_id=commit_id) is not None
            assert pair.cancel(account, request_id=f"undone-{number}") is not None
            assert pair.confirm(account, commit_id=commit_id) is None
            assert pair.commit(undoing.requests[number]) is None, "its id is spent"
    assert same_usage(before, pair.all_usage())
    pair.restart()
    for by_ms in (1, 1_000, HOUR_MS, DAY_MS):
        pair.advance(by_ms)
        pair.all_usage()
    pair.driver.close()


# --------------------------------------------------------------------------- 9 and 10


def accounts_never_see_each_other(make_driver: MakeDriver, story: Story) -> None:
    """Each account gets the same replies when it is alone."""
    together = replies_to(make_driver(story.start_ms), story, strategies.ACCOUNTS)
    for account in strategies.ACCOUNTS:
        alone = replies_to(make_driver(story.start_ms), story, (account,))
        assert alone == [
            reply
            for step, reply in zip(story.steps, together, strict=True)
            if step.request.attempt.account == account
        ]


def replies_to(driver: Driver, story: Story, accounts: Sequence[str]) -> list[str]:
    """What the service replies to the steps of some accounts, the others' being left out."""
    driver.apply(story.world.policies, story.world.assignments)
    replies = []
    now_ms = story.start_ms
    for step in story.steps:
        now_ms += step.wait_ms
        driver.set_clock(now_ms)
        if step.request.attempt.account in accounts:
            replies.append(reply_to(driver, step.request))
    driver.close()
    return replies


def reply_to(driver: Driver, request: service_pb2.CommitRequest) -> str:
    try:
        return str(without_id(driver.commit(request)))
    except Fault as fault:
        return str(fault)


def a_partial_batch_is_its_recipients_one_by_one(
    make_driver: MakeDriver, story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    """At one instant, in order: the same decisions, sequences and counters."""
    batch.atomicity = service_pb2.ATOMICITY_PARTIAL
    batch.exclude_duplicates = False
    batch.request_id = ""
    batch.view = decision_pb2.VIEW_FULL
    whole, single = (story.play(make_driver(story.start_ms)) for _ in range(2))
    response = whole.commit_batch(batch)
    if response is not None:
        for recipient, result in zip(batch.recipients, response.results, strict=True):
            one = single.commit(commit_of(batch, recipient))
            assert one is not None
            assert result.decision == one.decision
            assert result.account_sequence == one.account_sequence
            assert result.replayed == one.replayed
        assert same_usage(whole.all_usage(), single.all_usage())
    whole.driver.close()
    single.driver.close()


def commit_of(
    batch: service_pb2.CommitBatchRequest, recipient: service_pb2.Recipient
) -> service_pb2.CommitRequest:
    """The commit that stands for one recipient of a batch."""
    attempt = copy_of(batch.attempt)
    attempt.contact, attempt.address = recipient.contact, recipient.address
    attempt.contact_time_zone = recipient.contact_time_zone
    return service_pb2.CommitRequest(
        attempt=attempt,
        inline_limits=batch.inline_limits,
        request_id=recipient.request_id,
        view=batch.view,
    )


def a_whole_batch_goes_or_nothing_does(
    make_driver: MakeDriver, story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    """If one recipient is denied, all are and nothing counts; retry_time is when all pass."""
    pair = story.play(make_driver(story.start_ms))
    batch.atomicity = ALL_OR_NOTHING
    batch.request_id = ""
    for recipient in batch.recipients:
        recipient.request_id = ""
    before = pair.all_usage()
    response = pair.commit_batch(batch)
    if response is not None:
        decided = [result.decision for result in response.results if not result.duplicate]
        assert len({decision.outcome for decision in decided}) == 1
        if response.denied_count:
            assert response.accepted_count == 0
            assert same_usage(before, pair.all_usage())
            walk_to_retry_time_of_all(pair, decided[0], strategies.check_batch_of(batch))
    pair.driver.close()


def walk_to_retry_time_of_all(
    pair: Pair, decision: decision_pb2.Decision, check: service_pb2.CheckBatchRequest
) -> None:
    def denied_at(at_ms: int) -> int:
        pair.advance_to(at_ms)
        response = pair.check_batch(check)
        assert response is not None
        return response.denied_count

    if not decision.HasField("retry_time"):
        assert denied_at(pair.now_ms + 399 * DAY_MS)
        return
    retry_ms = decision.retry_time.ToMilliseconds()
    assert denied_at(retry_ms - 1)
    assert denied_at(retry_ms) == 0


def duplicates_are_left_out(
    make_driver: MakeDriver, story: Story, batch: service_pb2.CommitBatchRequest
) -> None:
    """The same as the batch without the recipients that have an earlier one's address, or, having
    no address, an earlier one's contact."""
    batch.exclude_duplicates = True
    batch.request_id = ""
    unique = service_pb2.CommitBatchRequest()
    unique.CopyFrom(batch)
    unique.exclude_duplicates = False
    del unique.recipients[:]
    for index, recipient in enumerate(batch.recipients):
        recipient.request_id = ""
        earlier = batch.recipients[:index]
        if recipient.address:
            duplicate = any(each.address == recipient.address for each in earlier)
        else:
            duplicate = any(
                not each.address and each.contact == recipient.contact for each in earlier
            )
        if not duplicate:
            unique.recipients.append(recipient)
    left_out, without = (story.play(make_driver(story.start_ms)) for _ in range(2))
    response, expected = left_out.commit_batch(batch), without.commit_batch(unique)
    if response is not None and expected is not None:
        decided = [result for result in response.results if not result.duplicate]
        assert decided == list(expected.results)
        assert response.duplicate_count == len(batch.recipients) - len(unique.recipients)
        assert same_usage(left_out.all_usage(), without.all_usage())
    left_out.driver.close()
    without.driver.close()
