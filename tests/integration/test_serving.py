"""A server's life: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import lmdb
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from limiter import bounds, errors, recovery
from limiter.server import Config, Server
from limiter.v1 import decision_service_pb2, test_clock_service_pb2
from tests.integration import transports
from tests.integration.inside import Inside, refused, serving
from tests.integration.process import START_MS, ServerProcess
from tests.integration.requests import assign, cap, commit_request, fault_of

pytestmark = transports.BOTH

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def check_request(account: str) -> decision_service_pb2.CheckRequest:
    request = decision_service_pb2.CheckRequest()
    request.attempt.account = account
    request.attempt.contact = "c"
    return request


def used(server: ServerProcess, account: str) -> int:
    """What stands in the account's only limit."""
    request = decision_service_pb2.GetUsageRequest()
    request.attempt.account = account
    (limit,) = server.decisions.GetUsage(request).limit_statuses
    return limit.used_count


async def decides(inside: Inside) -> bool:
    reply = await inside.decisions.Check(check_request("a"))
    return bool(reply.decision.outcome)


class TestProcess:
    """What only a process of its own shows."""

    def test_one_line_says_where_it_serves(self, data_dir: Path) -> None:
        with ServerProcess(data_dir) as server:
            port = server.address.rsplit(":", 1)[1]
            assert server.ready_line == f"limiter serving on 127.0.0.1:{port}\n"
            assert server.decisions.Check(check_request("a")).decision.outcome
            assert "neither client certificates nor keys" in server.log
            second = ServerProcess(data_dir)
            try:
                assert second.ready_line == ""
                assert second.wait() == 3
                assert f"process {server.process.pid}, listening on {server.address}" in second.log
                assert "Traceback" not in second.log
            finally:
                second.close()
            assert server.terminate() == 0
            assert server.rest_of_output() == ""
            assert "stopped" in server.log
            assert "Traceback" not in server.log
            assert (data_dir / "lock").read_bytes() == b""

    def test_health_follows_the_servers_life(self, data_dir: Path) -> None:
        with ServerProcess(data_dir) as server:
            health: Any = health_pb2_grpc.HealthStub(server.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            begun_s = time.monotonic()
            server.signal(signal.SIGINT)
            assert next(watch).status == NOT_SERVING
            with pytest.raises(grpc.RpcError):
                next(watch)
            assert server.wait() == 0
            # An open watch does not hold up the end for as long as a call may.
            assert time.monotonic() - begun_s < bounds.DRAIN_MS_MAX / 1_000

    def test_calls_under_way_are_finished(self, data_dir: Path) -> None:
        """Commits run from several threads while the server is told to stop: every one that is
        acknowledged is there afterwards, and nothing is counted that nobody asked for."""
        acknowledged: list[str] = []
        asked: list[str] = []
        with ServerProcess(data_dir) as server:
            assign(server, "a", cap(1_000_000))

            def client(name: int) -> None:
                for number in range(100_000):
                    contact = f"{name}-{number}"
                    asked.append(contact)
                    try:
                        server.decisions.Commit(commit_request("a", contact), timeout=30)
                    except grpc.RpcError:
                        return
                    acknowledged.append(contact)

            clients = [threading.Thread(target=client, args=(name,)) for name in range(4)]
            for each in clients:
                each.start()
            while len(acknowledged) < 20:
                time.sleep(0.01)
            assert server.terminate() == 0
            for each in clients:
                each.join()
        with ServerProcess(data_dir) as server:
            before = used(server, "a")
            assert len(acknowledged) <= before <= len(asked)
            for contact in acknowledged:
                server.decisions.Commit(commit_request("a", contact))
            assert used(server, "a") == before
            server.kill()
        with ServerProcess(data_dir) as server:
            assert used(server, "a") == before


class TestInterruptedStart:
    async def test_a_long_recovery_can_be_ended(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            await inside.decisions.Commit(commit_request("a", "c"))
        server = Server(Config(data_dir=data_dir, listen="127.0.0.1:0", clock="driven"))
        server.interrupt()
        with pytest.raises(errors.Unavailable) as caught:
            await server.start()
        assert caught.value.reason == "DRAINING"
        async with serving(data_dir) as inside:
            assert await decides(inside)

    async def test_a_start_that_is_cancelled_lets_go_of_everything(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replaying = threading.Event()
        release = threading.Event()
        recover = recovery.recover

        def slow(*arguments: Any, **options: Any) -> recovery.Recovered:
            replaying.set()
            assert release.wait(10)
            return recover(*arguments, **options)

        monkeypatch.setattr(recovery, "recover", slow)
        server = Server(Config(data_dir=data_dir, listen="127.0.0.1:0", clock="driven"))
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(replaying.wait, 10)
        starting.cancel()
        await asyncio.sleep(0.05)
        # The thread still reads the journal: until it has ended, nothing is closed.
        assert not starting.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        monkeypatch.undo()
        async with serving(data_dir) as inside:
            assert await decides(inside)


class TestExclusion:
    async def test_a_folder_has_one_server(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            error = await refused(data_dir)
            assert error.reason == "DATA_FOLDER_IN_USE"
            assert f"process {os.getpid()}, listening on {inside.server.address}" in error.message
            assert await decides(inside)
        async with serving(data_dir) as inside:
            assert await decides(inside)

    async def test_a_port_has_one_server(self, data_dir: Path, tmp_path: Path) -> None:
        async with serving(data_dir) as inside:
            address = inside.server.address
            error = await refused(tmp_path / "other", listen=address)
            assert error.reason == "PORT_IN_USE"
            assert error.message == (
                f"another server listens on {address}: stop it, or choose another port with "
                "--listen"
            )
            listen = f"localhost:{inside.server.port}"
            assert (await refused(tmp_path / "other", listen=listen)).reason == "PORT_IN_USE"
            assert await decides(inside)

    async def test_a_port_that_others_share_is_refused_too(self, data_dir: Path) -> None:
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            listen = f"127.0.0.1:{holder.getsockname()[1]}"
            assert (await refused(data_dir, listen=listen)).reason == "PORT_IN_USE"

    async def test_a_name_stands_for_all_its_addresses(self, data_dir: Path) -> None:
        async with serving(data_dir, listen="localhost:0") as inside:
            assert inside.server.address == f"localhost:{inside.server.port}"
            assert await decides(inside)


class TestExposure:
    @pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
    async def test_it_asks_others_for_keys(self, data_dir: Path, listen: str) -> None:
        async with serving(data_dir, listen=listen, clock="system") as inside:
            address = f"localhost:{inside.server.port}"
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await decides(Inside(inside.server, channel))
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "clear text" in inside.server.warning
            assert (data_dir / "operator.key").stat().st_mode & 0o777 == 0o600

    async def test_with_leave_it_does(self, data_dir: Path) -> None:
        async with serving(data_dir, listen="0.0.0.0:0", clock="system", insecure=True) as inside:
            address = f"127.0.0.1:{inside.server.port}"
            async with grpc.aio.insecure_channel(address) as channel:
                assert await decides(Inside(inside.server, channel))

    async def test_a_driven_clock_is_never_for_others(self, data_dir: Path) -> None:
        error = await refused(data_dir, listen="0.0.0.0:0", insecure=True)
        assert error.reason == "CLOCK_EXPOSED"

    async def test_an_address_that_is_not_ours_is_refused(self, data_dir: Path) -> None:
        error = await refused(data_dir, listen="192.0.2.1:0", clock="system", insecure=True)
        assert error.reason == "ADDRESS_UNUSABLE"
        assert error.message.startswith("cannot listen on 192.0.2.1:0: ")

    async def test_a_name_that_stands_for_nothing_is_refused(self, data_dir: Path) -> None:
        error = await refused(data_dir, listen="nowhere.invalid:0")
        assert error.reason == "ADDRESS_UNUSABLE"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "127.0.0.1"}, "listen: must be HOST:PORT"),
        ({"listen": ":50051"}, "listen: must be HOST:PORT"),
        ({"listen": "::1:50051"}, "listen: must be HOST:PORT"),
        ({"listen": "127.0.0.1:"}, "listen: must be HOST:PORT"),
        ({"listen": "127.0.0.1:-1"}, "listen: must be HOST:PORT"),
        ({"listen": "127.0.0.1:65536"}, "listen: there is no port 65536"),
        ({"listen": "127.0.0.1:" + "9" * 5_000}, "listen: there is no port"),
        ({"transport": "http"}, "transport: must be native or grpcio"),
        ({"clock": "sundial"}, "clock: must be system or driven"),
        ({"clock": "system", "clock_start_ms": 5}, "clock_start: needs a driven clock"),
        ({"clock": "driven", "clock_start_ms": -1}, "clock_start: must lie between"),
        (
            {"clock": "driven", "clock_start_ms": bounds.INSTANT_MS_MAX + 1},
            "clock_start: must lie between",
        ),
        ({"journal_bytes_max": 0}, "journal_bytes_max: must be positive"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        Config(**settings)
    assert words in caught.value.message


async def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (await refused(tmp_path / "file" / "data")).reason == "DATA_FOLDER_UNUSABLE"


class TestClockAtStart:
    async def commit_at(self, data_dir: Path, instant_ms: int) -> None:
        """Leaves a folder whose journal ends at that instant."""
        async with serving(data_dir, clock_start_ms=instant_ms) as inside:
            await inside.decisions.Commit(commit_request("a", "c"))

    async def decided_ms(self, inside: Inside) -> int:
        reply = await inside.decisions.Commit(commit_request("a", "c"))
        return reply.decision.decide_time.ToMilliseconds()

    async def test_a_system_clock_behind_the_journal_is_refused(self, data_dir: Path) -> None:
        ahead_ms = time.time_ns() // 1_000_000 + 2 * bounds.DAY_MS
        await self.commit_at(data_dir, ahead_ms)
        error = await refused(data_dir, clock="system")
        assert error.reason == "CLOCK_IMPLAUSIBLE"
        assert "2.00 days behind" in error.message
        assert "--accept-clock" in error.message
        async with serving(data_dir, clock="system", accept_clock=True) as inside:
            assert ahead_ms <= await self.decided_ms(inside) < ahead_ms + bounds.MINUTE_MS

    async def test_a_system_clock_far_ahead_is_refused(self, data_dir: Path) -> None:
        await self.commit_at(data_dir, time.time_ns() // 1_000_000 - 500 * bounds.DAY_MS)
        assert "500.00 days ahead of" in (await refused(data_dir, clock="system")).message
        async with serving(data_dir, clock="system", accept_clock=True) as inside:
            decided_ms = await self.decided_ms(inside)
            assert abs(decided_ms - time.time_ns() // 1_000_000) < bounds.MINUTE_MS

    async def test_a_driven_clock_goes_on_where_the_journal_ends(self, data_dir: Path) -> None:
        await self.commit_at(data_dir, START_MS + 77)
        error = await refused(data_dir, clock_start_ms=START_MS + 76)
        assert error.reason == "CLOCK_BACKWARD"
        async with serving(data_dir) as inside:
            now = await inside.test_clock.Get(test_clock_service_pb2.GetTestClockRequest())
            assert now.current_time.ToMilliseconds() == START_MS + 77


class TestTestClock:
    async def put(self, inside: Inside, seconds: int, nanos: int = 0) -> int:
        request = test_clock_service_pb2.SetTestClockRequest()
        request.current_time.seconds = seconds
        request.current_time.nanos = nanos
        return (await inside.test_clock.Set(request)).current_time.ToMilliseconds()

    async def test_it_moves_forward_only(self, data_dir: Path) -> None:
        second = START_MS // 1_000
        async with serving(data_dir, clock_start_ms=START_MS) as inside:
            assert await self.put(inside, second, 5_000_000) == START_MS + 5
            assert await self.put(inside, second, 5_000_000) == START_MS + 5
            with pytest.raises(grpc.RpcError) as caught:
                await self.put(inside, second, 4_000_000)
            fault = fault_of(caught.value)
            assert fault.code is grpc.StatusCode.FAILED_PRECONDITION
            assert fault.reason == "CLOCK_BACKWARD"
            decision = (await inside.decisions.Check(check_request("a"))).decision
            assert decision.decide_time.ToMilliseconds() == START_MS + 5
            last_s = bounds.INSTANT_MS_MAX // 1_000
            assert await self.put(inside, last_s, 999_000_000) == bounds.INSTANT_MS_MAX

    async def test_what_is_no_instant_is_refused(self, data_dir: Path) -> None:
        second = START_MS // 1_000
        async with serving(data_dir, clock_start_ms=START_MS) as inside:
            for seconds, nanos in [
                (second, 1),
                (second, -1),
                (second, 2_000_000_000),
                (-1, 0),
                (2**62, 0),
                (-(2**62), 0),
                (bounds.INSTANT_MS_MAX // 1_000 + 1, 0),
            ]:
                with pytest.raises(grpc.RpcError) as caught:
                    await self.put(inside, seconds, nanos)
                fault = fault_of(caught.value)
                assert fault.code is grpc.StatusCode.INVALID_ARGUMENT
                assert fault.reason == "INVALID_FIELD"
                assert set(fault.fields) == {"current_time"}
            with pytest.raises(grpc.RpcError) as caught:
                await inside.test_clock.Set(test_clock_service_pb2.SetTestClockRequest())
            assert fault_of(caught.value).reason == "MISSING_FIELD"

    async def test_another_clock_is_not_served(self, data_dir: Path) -> None:
        async with serving(data_dir, clock="system") as inside:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inside.test_clock.Get(test_clock_service_pb2.GetTestClockRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestHealthAndReflection:
    async def test_every_service_has_the_health_of_the_server(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            health: Any = health_pb2_grpc.HealthStub(inside.channel)
            for name in (
                "",
                "limiter.v1.AccessService",
                "limiter.v1.DecisionService",
                "limiter.v1.PolicyService",
                "limiter.v1.TestClockService",
            ):
                request = health_pb2.HealthCheckRequest(service=name)
                assert (await health.Check(request)).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_a_watch_that_its_client_ends_leaves_nothing(
        self, data_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(data_dir) as inside:
            health: Any = health_pb2_grpc.HealthStub(inside.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == SERVING
            watch.cancel()
            await asyncio.sleep(0.05)
        assert [record for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_reflection_names_every_service_and_its_messages(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            channel: Any = inside.channel
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            symbols = [
                "limiter.v1.AccessService",
                "limiter.v1.DecisionService",
                "limiter.v1.PolicyService",
            ]
            requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
            requests += [
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
                for symbol in symbols
            ]
            replies = [reply async for reply in stub.ServerReflectionInfo(iter(requests))]
            assert {each.name for each in replies[0].list_services_response.service} == {
                *symbols,
                "limiter.v1.TestClockService",
                "grpc.health.v1.Health",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            for reply in replies[1:]:
                assert reply.file_descriptor_response.file_descriptor_proto

    async def test_a_method_that_is_not_there_is_unimplemented(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            call: Any = inside.channel.unary_unary("/limiter.v1.DecisionService/Guess")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class TestDamage:
    async def fill(self, data_dir: Path) -> None:
        async with serving(data_dir) as inside:
            for number in range(5):
                await inside.decisions.Commit(commit_request("a", f"c{number}"))

    async def test_a_damaged_group_is_named(self, data_dir: Path) -> None:
        await self.fill(data_dir)
        with (
            lmdb.open(str(data_dir / "journal")) as environment,
            environment.begin(write=True) as transaction,
        ):
            key = (3).to_bytes(8, "big")
            record = transaction.get(key)
            assert record is not None
            transaction.put(key, record[:-1] + bytes([record[-1] ^ 1]))
        error = await refused(data_dir)
        assert error.code == "DATA_LOSS"
        assert error.reason == "JOURNAL_CORRUPT"
        assert error.message == "journal shard 0, group 3: its checksum does not match its bytes"

    async def test_a_missing_group_is_named(self, data_dir: Path) -> None:
        await self.fill(data_dir)
        with (
            lmdb.open(str(data_dir / "journal")) as environment,
            environment.begin(write=True) as transaction,
        ):
            assert transaction.delete((2).to_bytes(8, "big"))
        error = await refused(data_dir)
        assert error.message == "journal shard 0, group 2 is missing"

    async def test_a_lost_key_is_refused(self, data_dir: Path) -> None:
        await self.fill(data_dir)
        (data_dir / "digest-key").unlink()
        assert (await refused(data_dir)).reason == "DIGEST_KEY_MISSING"

    async def test_another_key_is_not_taken_for_the_folders(self, data_dir: Path) -> None:
        """The digests in the journal were made with the key: another one would count afresh."""
        await self.fill(data_dir)
        (data_dir / "digest-key").write_bytes(bytes(32))
        assert (await refused(data_dir)).reason == "DIGEST_KEY_FOREIGN"
