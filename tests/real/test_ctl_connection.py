"""gestaltctl and the connection: coordinators in turn, certificates, lost and slow ones, retries that act once."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from gestalt.client import Client, Target
from gestalt.ctl.exits import Exit
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.pki import Authority, Identity, Role
from gestalt.proto.v1 import api_pb2
from tests.real.ctl_server import CLUSTER, PROGRAM, WEB, Apps, CtlServer, add_app

pytestmark = pytest.mark.real


@contextmanager
def closed_port() -> Iterator[int]:
    """A port on which nobody listens and nobody can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_nobody_there_is_told_at_once_with_what_to_do(server: CtlServer) -> None:
    with closed_port() as port:
        config = server.write_config(name="dead.yaml")
        config.write_text(config.read_text().replace(f":{server.port}", f":{port}"))
        began = time.monotonic()
        ended = server.ctl("--config", str(config), "ps")
    assert time.monotonic() - began < 5
    assert ended.returncode == Exit.UNREACHABLE
    assert ended.stderr.startswith(f"error: no coordinator answers: 127.0.0.1:{port}: ")
    assert "Connection refused" in ended.stderr
    assert "gestaltctl appliance status" in ended.stderr


def test_the_next_coordinator_is_tried(server: CtlServer) -> None:
    with closed_port() as port:
        config = server.write_config(name="second.yaml", ports=(port,))
        assert server.ctl("--config", str(config), "ps", "-o", "name").returncode == Exit.OK


def test_a_listener_that_never_answers_is_given_up(server: CtlServer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = server.write_config(name="silent.yaml")
        config.write_text(config.read_text().replace(f":{server.port}", f":{silent.getsockname()[1]}"))
        ended = server.ctl("--config", str(config), "ps")
    assert (ended.returncode, "no answer" in ended.stderr) == (Exit.UNREACHABLE, True), ended.stderr


def test_the_proxy_of_the_web_browser_is_not_asked(server: CtlServer) -> None:
    assert server.ctl("ps", env={"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}).returncode == Exit.OK


def test_a_cluster_of_another_ca_is_not_trusted(server: CtlServer, tmp_path: Path) -> None:
    other = Authority.ensure(tmp_path / "pki", CLUSTER)
    ended = server.ctl("--config", str(server.write_config(ca=other.certificate, name="other.yaml")), "ps")
    assert ended.returncode == Exit.UNAUTHENTICATED
    assert "no coordinator proved to be of the cluster" in ended.stderr


def test_a_certificate_of_another_ca_is_told_as_such(server: CtlServer, tmp_path: Path) -> None:
    other = Authority.ensure(tmp_path / "pki", CLUSTER)
    pair = other.issue(Identity(CLUSTER, Role.USER, "stranger"), "stranger")
    for file in (pair.certificate, pair.key):
        (server.folder / "pki" / file.name).write_bytes(file.read_bytes())
    ended = server.ctl("--config", str(server.write_config(pair="stranger", name="stranger.yaml")), "ps")
    assert ended.returncode == Exit.UNAUTHENTICATED
    assert "was not issued by the CA" in ended.stderr


def test_an_expired_certificate_is_told_as_such(server: CtlServer) -> None:
    server.authority.issue(Identity(CLUSTER, Role.USER, "old"), "old", life=timedelta(seconds=-60))
    ended = server.ctl("--config", str(server.write_config(pair="old", name="old.yaml")), "ps")
    assert ended.returncode == Exit.UNAUTHENTICATED
    assert "expired on" in ended.stderr


def test_certificate_files_that_are_missing_or_closed(server: CtlServer) -> None:
    ended = server.ctl("--config", str(server.write_config(pair="nobody", name="nobody.yaml")), "ps")
    assert (ended.returncode, "nobody.key cannot be read: No such file" in ended.stderr) == (Exit.USAGE, True), ended.stderr


def test_a_coordinator_that_restarts_is_found_again_and_the_task_followed(server: CtlServer) -> None:
    add_app(server.world, "/x/endless", count=1)
    with subprocess.Popen([*PROGRAM, "restart", "/x/endless"], stdout=-1, stderr=-1, text=True, env=server.environment()) as following:
        assert following.stdout
        while "starting" not in following.stdout.readline():
            assert following.poll() is None
        server.stop()
        server.world.tasks["0001-restart"].app = "/x/now-it-ends"
        server.start()
        printed, told = following.communicate(timeout=20)
    assert "succeeded: 2 of 2 instances are healthy" in printed
    assert told.splitlines() == ["the connection to the coordinator is lost, looking for it again", "the coordinator answers again"]
    assert following.returncode == Exit.OK


def _target(server: CtlServer) -> Target:
    folder = server.folder / "pki"
    return Target([f"127.0.0.1:{server.port}"], folder / "ca.crt", folder / "user.crt", folder / "user.key")


async def test_a_call_is_repeated_with_the_same_request_id(server: CtlServer) -> None:
    async with Client(_target(server)) as client:
        await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        server.world.hang = True
        call = asyncio.create_task(client.call(lambda api: api.apps.Stop, api_pb2.AppRequest(app=WEB)))
        await _until(lambda: isinstance(server.world.requests[-1], api_pb2.AppRequest), "the call arrived")
        await asyncio.to_thread(server.stop)
        server.world.hang = False
        await asyncio.to_thread(server.start)
        assert (await call).tasks[0].kind == "stop"
    asked = [asked.request.id for asked in server.world.requests if isinstance(asked, api_pb2.AppRequest)]
    assert len(asked) == 2
    assert asked[0] == asked[1] != ""


async def test_events_go_on_after_the_last_one_seen(server: CtlServer) -> None:
    tokens = []
    async with Client(_target(server)) as client:
        async for batch in client.follow_events(api_pb2.WatchEventsRequest(after="4.2", follow=True)):
            tokens += [event.token for event in batch.events]
            if batch.events:
                await asyncio.to_thread(server.stop)
                await asyncio.to_thread(server.start)
            else:
                break
    assert tokens == ["4.3", "4.4"]
    assert server.world.requests[-1].after == "4.4"


async def test_a_coordinator_that_stays_away_is_given_up_after_the_patience(server: CtlServer) -> None:
    try:
        async with Client(_target(server), patience=0.5) as client:
            await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
            await asyncio.to_thread(server.stop)
            with pytest.raises(GestaltError, match="no coordinator answers") as caught:
                await client.call(lambda api: api.apps.Stop, api_pb2.AppRequest(app=WEB))
    finally:
        await asyncio.to_thread(server.start)
    assert caught.value.kind is Kind.UNAVAILABLE


async def _inputs(instance: str, *command: str) -> AsyncIterator[api_pb2.ExecInput]:
    yield api_pb2.ExecInput(open=api_pb2.ExecInput.Open(instance=instance, command=command))
    for _ in range(20):
        yield api_pb2.ExecInput(stdin=b"x" * 1000)
    yield api_pb2.ExecInput(stdin_closed=True)


async def test_a_refused_exec_is_told_although_input_waits_to_be_sent(server: CtlServer) -> None:
    async with Client(_target(server)) as client:
        for _ in range(20):
            with pytest.raises(GestaltError, match="there is no instance nope-1") as caught:
                [output async for output in client.exec(_inputs("nope-1", "cat"))]
            assert caught.value.kind is Kind.NOT_FOUND
            assert [item.exit_code async for item in client.exec(_inputs("web-3fa9c1-1", "exit", "5"))][-1] == 5


async def test_input_is_not_held_back_once_the_coordinator_accepted(server: CtlServer) -> None:
    async with Client(_target(server)) as client:
        await client.call(lambda api: api.cluster.Status, api_pb2.StatusRequest())
        began = time.monotonic()
        outputs = [output async for output in client.exec(_inputs("web-3fa9c1-1", "greet"))]
        assert time.monotonic() - began < 0.25
        assert len(outputs) == 22
        assert outputs[-1].HasField("exit_code")


async def test_a_call_has_a_deadline(server: CtlServer) -> None:
    server.world.hang = True
    async with Client(_target(server), patience=0) as client:
        with pytest.raises(GestaltError, match="did not answer in time") as caught:
            await client.call(lambda api: api.apps.Stop, api_pb2.AppRequest(app=WEB), limit=0.3)
    assert caught.value.kind is Kind.TIMED_OUT


async def test_a_call_that_is_not_answered_is_made_again_with_the_same_request_id(server: CtlServer) -> None:
    server.world.hang = True

    def answer_from_now_on(_: str) -> None:
        server.world.hang = False

    async with Client(_target(server), on_notice=answer_from_now_on) as client:
        reply = await client.call(lambda api: api.apps.Stop, api_pb2.AppRequest(app=WEB), limit=1.0)
    assert reply.tasks
    first, second = (request.request.id for request in server.world.requests)
    assert first
    assert first == second


async def test_the_largest_error_passes_a_client_with_default_limits(server: CtlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    details = [Detail(f"env.NAME_{index}", "é" * 500, "x" * 500) for index in range(300)]

    def broken(*_: object) -> None:
        raise GestaltError(Kind.INVALID, "ü" * 5000, hint="h" * 5000, details=details)

    monkeypatch.setattr(Apps, "find", broken)
    async with Client(_target(server)) as client:
        with pytest.raises(GestaltError, match="üü") as caught:
            await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=WEB))
    assert caught.value.details[-1].problem.endswith("more problems")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_a_key_that_this_user_may_not_read_is_a_matter_of_identity(server: CtlServer) -> None:
    with tempfile.TemporaryDirectory(prefix="gestalt-ctl-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(server.folder / "pki", folder / "pki")
        (folder / "pki").chmod(0o755)
        shutil.copy(server.config, folder)
        script = f"import grpc, os; os.setgid(65534); os.setuid(65534); {PROGRAM[2]}"
        environment = server.environment() | {"GESTALT_CONFIG": str(folder / "config.yaml")}
        ended = subprocess.run([PROGRAM[0], "-c", script, "ps"], capture_output=True, text=True, env=environment, check=False, timeout=30)
    assert (ended.returncode, "may not be read by this user" in ended.stderr) == (Exit.UNAUTHENTICATED, True), ended.stderr


async def _until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, f"not within 10 s: {what}"
        await asyncio.sleep(0.01)
