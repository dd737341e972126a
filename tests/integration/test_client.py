"""`limiter.Client` and `limiter.AsyncClient` against a server of each transport."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

import limiter
from limiter import Attempt, Outcome, Reason, Recipient, Retries, bounds, errors
from tests.integration import transports
from tests.integration.clients import KINDS, Face
from tests.integration.inside import serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import DAY_S, assign, cap

START = datetime.fromtimestamp(START_MS / 1_000, UTC)

# Long enough for a slow machine to start a server again.
PATIENCE_S = 60


pytestmark = transports.BOTH


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp(f"client-{transport}") / "data"
    with ServerProcess(folder, clock_start_ms=START_MS) as running:
        yield running


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture
def client(server: ServerProcess, kind: Any) -> Iterator[Face]:
    with kind(server.address) as made:
        yield made


_numbers = itertools.count(1)


@pytest.fixture
def account(server: ServerProcess) -> str:
    """An account of its own, under a limit of three people a day."""
    name = f"account-{next(_numbers)}"
    assign(server, name, cap(3))
    return name


class TestOne:
    def test_a_commit_is_decided_and_typed(self, client: Face, account: str) -> None:
        for number in range(3):
            decision = client.commit(account, contact=f"c{number}")
            assert isinstance(decision, limiter.Commit)
            assert decision.allowed
            assert decision.outcome is Outcome.ALLOWED
            assert decision.account_sequence == number + 1
            assert decision.commit_id
            assert not decision.replayed
            assert decision.limit_statuses[0].remaining_count == 2 - number
            assert (decision.retry_time, decision.wait) == (None, None)
        denied = client.commit(account, contact="c3")
        assert not denied.allowed
        assert denied.reason is Reason.CONTACT_CAP
        assert denied.binding_limit.limit_id == "cap"
        assert denied.binding_limit.enforcement is limiter.Enforcement.ENFORCED
        assert denied.decide_time == START
        assert denied.retry_time == START + timedelta(days=1)
        assert denied.wait == timedelta(days=1)
        assert denied.commit_id == ""

    def test_a_check_changes_nothing(self, client: Face, account: str) -> None:
        for number in range(5):
            assert client.check(account, contact=f"c{number}").allowed
        assert client.check(account, contact="c", view="basic").limit_statuses == ()
        (status,) = client.usage(account)
        assert (status.used_count, status.max_count) == (0, 3)

    def test_a_repeat_under_the_callers_id_counts_once(self, client: Face, account: str) -> None:
        first = client.commit(account, contact="c", request_id="r")
        again = client.commit(account, contact="c", request_id="r")
        assert (first.replayed, again.replayed) == (False, True)
        assert again.commit_id == first.commit_id
        assert again.request_id == "r"
        with pytest.raises(errors.InvalidArgument) as caught:
            client.commit(account, contact="other", request_id="r")
        assert caught.value.reason == "REQUEST_ID_REUSED"

    def test_ids_are_made_where_none_is_given(self, client: Face, account: str) -> None:
        made = {client.commit(account, contact="c").request_id for _ in range(3)}
        assert len(made) == 3
        assert client.commit(account, contact="c", request_id="").request_id == ""

    def test_limits_may_come_with_the_attempt(self, client: Face, account: str) -> None:
        day = {"rolling": f"{DAY_S}s"}
        limit = {
            "limitId": "one",
            "cap": {"measure": "MEASURE_MESSAGES", "maxCount": 1, "window": day},
            "enforcement": "ENFORCEMENT_ENFORCED",
        }
        assert client.commit(account, contact="c", inline_limits=[limit]).allowed
        denied = client.commit(account, contact="c", inline_limits=[limit])
        assert denied.binding_limit.limit_id == "one"
        assert denied.binding_limit.policy == ""
        with pytest.raises(errors.InvalidArgument, match=r"inline_limits\[0\].*max_count"):
            client.check(account, contact="c", inline_limits=[{"cap": {"max_count": "many"}}])

    def test_what_is_wrong_is_said_by_field(self, client: Face, account: str) -> None:
        with pytest.raises(errors.InvalidArgument) as caught:
            client.commit(account)
        assert caught.value.reason == "MISSING_FIELD"
        assert [each.field for each in caught.value.violations] == ["attempt.contact"]
        assert len(caught.value.metadata["request_id"]) == 32


class TestBatch:
    def test_one_result_for_each_recipient_in_order(self, client: Face, account: str) -> None:
        recipients = ["a", Recipient(contact="b", reference="second"), "a", "c", "d"]
        batch = client.commit_batch(account, recipients, exclude_duplicates=True)
        assert [each.allowed for each in batch] == [True, True, False, True, False]
        assert [each.duplicate for each in batch] == [False, False, True, False, False]
        assert batch.results[1].recipient.reference == "second"
        assert batch.results[4].decision.reason is Reason.CONTACT_CAP
        counts = (batch.accepted_count, batch.denied_count, batch.duplicate_count)
        assert counts == (3, 1, 1)
        again = client.commit_batch(
            account, recipients, exclude_duplicates=True, request_id=batch.request_id
        )
        assert [each.replayed for each in again] == [each.allowed for each in batch]

    def test_whole_or_not_at_all(self, client: Face, account: str) -> None:
        batch = client.commit_batch(account, ["a", "b", "c", "d"], all_or_nothing=True)
        assert batch.accepted_count == 0
        assert batch.results[0].decision.reason is Reason.BATCH_REJECTED
        assert client.check_batch(account, ["a", "b", "c"], all_or_nothing=True).accepted_count == 3
        assert (
            client.commit_batch(account, ["a", "b", "c"], all_or_nothing=True).accepted_count == 3
        )

    def test_more_than_one_call_takes(
        self, client: Face, account: str, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Calls of 100 take 251 people under a limit of 200, the last one being the first too."""
        monkeypatch.setattr(bounds, "BATCH_RECIPIENTS_MAX", 100)
        name = f"{account}-large"
        assign(server, name, cap(200))
        people = [*(f"c{number}" for number in range(250)), "c0"]
        batch = client.commit_batch(name, people, exclude_duplicates=True)
        assert [each.recipient.contact for each in batch] == people
        assert [each.allowed for each in batch] == [True] * 200 + [False] * 51
        assert [each.account_sequence for each in batch] == [*range(1, 201)] + [0] * 51
        assert batch.results[-1].duplicate
        counts = (batch.accepted_count, batch.denied_count, batch.duplicate_count)
        assert counts == (200, 50, 1)
        again = client.commit_batch(
            name, people, exclude_duplicates=True, request_id=batch.request_id
        )
        assert [each.replayed for each in again] == [each.allowed for each in batch]
        assert again.accepted_count == 200
        for all_or_nothing, ask in ((True, client.commit_batch), (False, client.check_batch)):
            with pytest.raises(errors.InvalidArgument, match="of 100 recipients"):
                ask(name, people, all_or_nothing=all_or_nothing)


class TestStream:
    def test_replies_come_in_order(self, client: Face, server: ServerProcess, account: str) -> None:
        name = f"{account}-stream"
        assign(server, name, cap(1_500))
        attempts = [Attempt(account=name, contact=f"c{number}") for number in range(2_000)]
        commits = list(client.commit_stream(attempts, view="basic", window_count=100))
        assert [each.account_sequence for each in commits] == [*range(1, 1_501)] + [0] * 500
        assert len({each.request_id for each in commits}) == 2_000

    def test_an_answer_may_be_wanted_for_the_next_attempt(self, client: Face, account: str) -> None:
        """Attempts that are taken ahead of their answers need not be there."""
        seen: list[bool] = []

        def attempts() -> Iterator[Attempt]:
            for number in range(5):
                assert number - len(seen) <= 1
                yield Attempt(account=account, contact=f"c{number}")

        for commit in client.commit_stream(attempts(), window_count=1):
            seen.append(commit.allowed)  # noqa: PERF401 - the attempts look at what is seen
        assert seen == [True, True, True, False, False]

    def test_none_is_none(self, client: Face) -> None:
        assert list(client.commit_stream([])) == []

    def test_one_that_is_refused_ends_it(self, client: Face, account: str) -> None:
        attempts = [
            Attempt(account=account, contact="a"),
            Attempt(account=account, request_id="wrong"),
            Attempt(account=account, contact="b"),
        ]
        replies = client.commit_stream(attempts)
        assert next(replies).allowed
        with pytest.raises(errors.InvalidArgument) as caught:
            next(replies)
        assert caught.value.violations[0].field == "attempt.contact"
        assert caught.value.metadata["request_id"] == "wrong"
        (status,) = client.usage(account)
        assert status.used_count == 1

    def test_what_the_caller_raises_comes_after_the_answers(
        self, client: Face, account: str
    ) -> None:
        def attempts() -> Iterator[Attempt]:
            yield Attempt(account=account, contact="a")
            raise LookupError("no more")

        replies = client.commit_stream(attempts())
        assert next(replies).allowed
        with pytest.raises(LookupError, match="no more"):
            next(replies)

    def test_it_may_be_left_in_the_middle(self, client: Face, account: str) -> None:
        attempts = (Attempt(account=account, contact="a") for _ in itertools.count())
        replies = client.commit_stream(attempts)
        assert next(replies).allowed
        replies.close()
        assert client.check(account, contact="a").allowed

    @pytest.mark.parametrize("window_count", [0, 1_025])
    def test_a_window_has_bounds(self, client: Face, window_count: int) -> None:
        with pytest.raises(errors.InvalidArgument, match="window_count: must be from 1 to 1024"):
            list(client.commit_stream([], window_count=window_count))


class TestFaults:
    def test_nobody_answers(self, kind: Any) -> None:
        """A port that is bound and not listened on."""
        with (
            kind("127.0.0.1:1", retries=Retries(pause_s_min=0.01)) as client,
            pytest.raises(errors.Unavailable) as caught,
        ):
            client.commit("a", contact="c", request_id="r", timeout_s=0.3)
        assert caught.value.reason == "UNAVAILABLE"
        assert caught.value.metadata == {"request_id": "r"}

    def test_one_id_says_which_commit(self, client: Face) -> None:
        for ids in ({}, {"commit_id": "a", "request_id": "b"}):
            with pytest.raises(errors.InvalidArgument, match="either commit_id or request_id"):
                client.cancel("a", **ids)


class Restarting:
    """A server that is killed and started again at the same address while its client works."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running = ServerProcess(folder, clock_start_ms=START_MS)
        self.address = self.running.address

    def restart(self) -> None:
        self.running.kill()
        self.running.close()
        self.running = ServerProcess(self._folder, listen=self.address)


class TestRestarts:
    """Nothing is counted twice and nothing lost, whenever the server dies."""

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Restarting]:
        server = Restarting(tmp_path / "data")
        assign(server.running, "a", cap(10_000))
        try:
            yield server
        finally:
            server.running.close()

    def check(self, client: Face, commits: list[limiter.Commit]) -> None:
        assert [each.account_sequence for each in commits] == [*range(1, len(commits) + 1)]
        assert len({each.commit_id for each in commits}) == len(commits)
        (status,) = client.usage("a")
        assert status.used_count == len(commits)

    def test_a_send_loop(self, server: Restarting, kind: Any) -> None:
        commits: list[limiter.Commit] = []

        def restart() -> None:
            while len(commits) < 20:
                time.sleep(0.001)
            server.restart()

        restarter = threading.Thread(target=restart)
        with kind(server.address, timeout_s=PATIENCE_S) as client:
            restarter.start()
            while restarter.is_alive() or len(commits) < 40:
                commits.append(client.commit("a", contact=f"c{len(commits)}"))
            restarter.join()
            self.check(client, commits)

    def test_a_stream(self, server: Restarting, kind: Any) -> None:
        """It is killed with up to a window of attempts under way."""

        def attempts() -> Iterator[Attempt]:
            for number in range(600):
                if number == 400:
                    server.restart()
                yield Attempt(account="a", contact=f"c{number}")

        with kind(server.address, timeout_s=PATIENCE_S) as client:
            self.check(client, list(client.commit_stream(attempts())))

    def test_batches(self, server: Restarting, kind: Any) -> None:
        with kind(server.address, timeout_s=PATIENCE_S) as client:
            first = client.commit_batch("a", [f"c{number}" for number in range(50)])
            server.restart()
            again = client.commit_batch(
                "a", [f"c{number}" for number in range(50)], request_id=first.request_id
            )
            assert all(each.replayed for each in again)
            assert [each.commit_id for each in again] == [each.commit_id for each in first]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TestTls:
    """The server runs in the test's own loop, the blocking client in a thread."""

    async def ask(self, kind: str, address: str, **settings: Any) -> limiter.Decision:
        if kind == "AsyncClient":
            async with limiter.AsyncClient(address, **settings) as client:
                return await client.check("a", contact="c")

        def wait() -> limiter.Decision:
            with limiter.Client(address, **settings) as client:
                return client.check("a", contact="c")

        return await asyncio.to_thread(wait)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_server_shows_who_it_is(
        self, kind: str, tmp_path: Path, authority: trustme.CA
    ) -> None:
        files = tls_files(tmp_path, authority, "localhost")
        tls = limiter.Tls(ca_file=files.ca, server_name="localhost")
        foreign = tls_files(tmp_path, trustme.CA(), "elsewhere")
        async with serving(tmp_path / "data", tls_cert=files.cert, tls_key=files.key) as inside:
            address = inside.server.address
            assert (await self.ask(kind, address, tls=tls)).allowed
            for unfit in (
                limiter.Tls(ca_file=foreign.ca, server_name="localhost"),
                limiter.Tls(ca_file=files.ca, server_name="limits.example"),
                None,
            ):
                with pytest.raises(errors.Unavailable):
                    await self.ask(kind, address, tls=unfit, timeout_s=0.3)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_client_shows_who_it_is(
        self, kind: str, tmp_path: Path, authority: trustme.CA
    ) -> None:
        files = tls_files(tmp_path, authority, "localhost")
        own = tls_files(tmp_path, authority, "sender")
        settings = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.ca}
        async with serving(tmp_path / "data", **settings) as inside:
            address = inside.server.address
            named = limiter.Tls(
                ca_file=files.ca,
                certificate_file=own.cert,
                key_file=own.key,
                server_name="localhost",
            )
            assert (await self.ask(kind, address, tls=named)).allowed
            nameless = limiter.Tls(ca_file=files.ca, server_name="localhost")
            with pytest.raises(errors.Unavailable):
                await self.ask(kind, address, tls=nameless, timeout_s=0.3)


class TlsFiles(NamedTuple):
    """Paths of an authority's certificate and of one that it has issued, with its key."""

    ca: Path
    cert: Path
    key: Path


def tls_files(folder: Path, authority: trustme.CA, name: str) -> TlsFiles:
    issued = authority.issue_cert(name)
    files = TlsFiles(*(folder / f"{name}-{part}.pem" for part in TlsFiles._fields))
    authority.cert_pem.write_to_path(files.ca)
    issued.private_key_pem.write_to_path(files.key)
    issued.cert_chain_pems[0].write_to_path(files.cert)
    return files
