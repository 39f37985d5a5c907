"""The life of a daemon, as systemd and an operator see it: a real process, real signals, a real notify socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.daemon import watch_loop
from gestalt.shell import child_environment

LIMIT = 10.0
PROGRAM = """
import asyncio, sys
import gestalt.daemon
from pathlib import Path
from gestalt.config import CoordinatorSettings
from gestalt.daemon import Life, Service, daemon_command, load_model
from gestalt.errors import GestaltError, Kind

class Sample(Service[CoordinatorSettings]):
    async def reload(self, settings):
        if "{mode}" == "says":
            self.life.say("well again")
        print(settings.heartbeat, settings.task_retention, flush=True)
    async def stop(self):
        if "{mode}" == "hangs":
            print("stopping", flush=True)
            await asyncio.sleep(3600)
        if "{mode}" == "lingers":
            print("stopping", flush=True)
            await asyncio.sleep(1)
        print("stopped", flush=True)

async def build(settings, life: Life):
    print("building", flush=True)
    if "{mode}" == "slow":
        try:
            await asyncio.sleep(3600)
        finally:
            print("cancelled", flush=True)
    if "{mode}" == "invalid":
        raise GestaltError(Kind.INVALID, "that will never do")
    if "{mode}" == "unavailable":
        raise GestaltError(Kind.UNAVAILABLE, "not now")
    if "{mode}" == "unread":
        raise GestaltError(Kind.NOT_FOUND, "not mounted yet")
    if "{mode}" == "dies":
        asyncio.get_running_loop().call_later(0.05, life.die, "the disk is gone")
    life.worked()
    if "{mode}" == "says":
        life.say("well")
    service = Sample()
    service.life = life
    return service

gestalt.daemon.READ_LIMIT = 1.0
if "{mode}" == "lingers":
    gestalt.daemon._WATCH_PERIOD = 0.1

class Odd:
    reads = 0
    def load(self, path, kind):
        self.reads += 1
        if "{mode}" == "odd" and self.reads > 1:
            raise ZeroDivisionError("read twice")
        return load_model(path, kind)

sys.exit(daemon_command("sample", CoordinatorSettings, Path("/nowhere"), build, load=Odd().load))
"""
SETTINGS = "cluster_id: c\ntls: {ca: /a, certificate: /b, key: /c}\nheartbeat: 2s\n"


class Run:
    """A daemon that runs, and what it told the service manager."""

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket, config: Path) -> None:
        self.process = process
        self.channel = channel
        self.config = config

    async def says(self, line: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT):
            seen = await self.process.stdout.readline()
        assert seen.decode().strip() == line

    async def notified(self) -> list[str]:
        async with asyncio.timeout(LIMIT):
            return (await asyncio.get_running_loop().sock_recv(self.channel, 4096)).decode().splitlines()

    async def ends(self) -> tuple[int, str]:
        code, _, errors = await self.output()
        return code, errors

    async def output(self) -> tuple[int, str, str]:
        async with asyncio.timeout(LIMIT):
            output, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()


def fill(path: Path) -> None:
    """Leave no room in the queue of a manager that is busy."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender, contextlib.suppress(BlockingIOError):
        while True:
            sender.sendto(b"OTHER=1", str(path))


@contextlib.asynccontextmanager
async def daemon(folder: Path, mode: str, *arguments: str, is_full: bool = False) -> AsyncIterator[Run]:
    config = folder / "sample.yaml"
    if not config.exists():
        config.write_text(SETTINGS, encoding="utf-8")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.bind(str(folder / "notify"))
        if is_full:
            fill(folder / "notify")
        environment = {**child_environment(), "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "4000000"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM.replace("{mode}", mode), "--config", str(config), *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        try:
            yield Run(process, channel, config)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def test_ready_reload_stop(tmp_path: Path) -> None:
    async with daemon(tmp_path, "plain") as run:
        await run.says("building")
        assert await run.notified() == ["WATCHDOG=1"]
        assert await run.notified() == ["READY=1"]
        run.config.write_text(SETTINGS + "task_retention: 7\n", encoding="utf-8")
        run.process.send_signal(signal.SIGHUP)
        reloading = await run.notified()
        assert reloading[0] == "RELOADING=1"
        assert abs(int(reloading[1].removeprefix("MONOTONIC_USEC=")) / 1e6 - time.monotonic()) < LIMIT
        await run.says("2.0 7")
        assert await run.notified() == ["READY=1"]
        run.process.send_signal(signal.SIGTERM)
        assert await run.notified() == ["STOPPING=1"]
        await run.says("stopped")
        assert (await run.ends())[0] == 0


async def test_a_bad_reload_keeps_the_old_settings(tmp_path: Path) -> None:
    async with daemon(tmp_path, "plain") as run:
        await run.says("building")
        run.config.write_text(SETTINGS + "heartbeet: 1\n", encoding="utf-8")
        run.process.send_signal(signal.SIGHUP)
        told = [await run.notified() for _ in range(4)]
        assert [lines[0] for lines in told] == ["WATCHDOG=1", "READY=1", "RELOADING=1", "READY=1"]
        assert told[3][1:] == ["STATUS=the settings were refused, the old ones stay"]
        run.config.write_text(SETTINGS, encoding="utf-8")
        run.process.send_signal(signal.SIGHUP)
        await run.says("2.0 1000")
        told = [await run.notified() for _ in range(2)]
        assert told[1] == ["READY=1", "STATUS="]
        run.process.send_signal(signal.SIGINT)
        await run.says("stopped")
        code, errors = await run.ends()
        assert code == 0
        assert "the old ones stay" in errors
        assert "did you mean 'heartbeat'?" in errors


async def test_what_counts_after_a_restart_only_is_named_and_not_taken_over(tmp_path: Path) -> None:
    async with daemon(tmp_path, "plain") as run:
        await run.says("building")
        run.config.write_text(SETTINGS.replace("2s", "3s") + "task_retention: 7\n", encoding="utf-8")
        run.process.send_signal(signal.SIGHUP)
        await run.says("2.0 7")
        told = [await run.notified() for _ in range(4)]
        assert told[3] == ["READY=1", "STATUS=a restart is needed for changed settings: heartbeat"]
        run.process.send_signal(signal.SIGHUP)
        await run.says("2.0 7")
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopped")
        _, errors = await run.ends()
    assert errors.count(f"taken over: task_retention is 7, was 1000 ({run.config}:4)") == 1
    assert errors.count(f"counts after a restart of sample: heartbeat is 3, was 2 ({run.config}:3)") == 2


async def test_drop_ins_that_change_are_taken_over_or_refused_without_being_asked(tmp_path: Path) -> None:
    folder = tmp_path / "sample.d"
    async with daemon(tmp_path, "plain") as run:
        await run.says("building")
        folder.mkdir()
        (folder / "10.yaml").write_text("task_retention: 7\n", encoding="utf-8")
        await run.says("2.0 7")
        (folder / "10.yaml").write_text("task_retention: many\n", encoding="utf-8")
        told = [await run.notified() for _ in range(6)]
        assert told[-1] == ["READY=1", "STATUS=the settings were refused, the old ones stay"]
        (folder / "10.yaml").unlink()
        await run.says("2.0 1000")
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopped")
        code, errors = await run.ends()
    assert code == 0
    assert errors.count("the settings were refused") == 1, "a refusal is told once, not at every look"
    assert f"{folder}/10.yaml:1: task_retention: " in errors
    assert errors.count(f"the drop-ins of {run.config} have changed") == 3


async def test_what_yaml_cannot_make_a_value_of_is_refused_while_it_runs_and_at_the_start(tmp_path: Path) -> None:
    drop_in = tmp_path / "sample.d" / "10.yaml"
    async with daemon(tmp_path, "plain") as run:
        await run.says("building")
        drop_in.parent.mkdir()
        drop_in.write_text("name: 2026-13-45\n", encoding="utf-8")
        told = [await run.notified() for _ in range(4)]
        assert told[-1] == ["READY=1", "STATUS=the settings were refused, the old ones stay"]
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopped")
        code, errors = await run.ends()
    assert (code, errors.count(f"{drop_in}:1: '2026-13-45' is no timestamp")) == (0, 1)
    for arguments in ((), ("--check-config",)):
        (tmp_path / "notify").unlink()
        async with daemon(tmp_path, "plain", *arguments) as run:
            code, errors = await run.ends()
        assert (code, "Traceback" in errors) == (78, False)
        assert f"{drop_in}:1: '2026-13-45' is no timestamp" in errors


async def test_a_reload_that_fails_in_an_unknown_way_is_a_refusal(tmp_path: Path) -> None:
    async with daemon(tmp_path, "odd") as run:
        await run.says("building")
        run.process.send_signal(signal.SIGHUP)
        told = [await run.notified() for _ in range(4)]
        assert told[-1] == ["READY=1", "STATUS=the settings were refused, the old ones stay"]
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopped")
        code, errors = await run.ends()
    assert code == 0
    assert "ZeroDivisionError: read twice" in errors


async def test_a_manager_without_room_is_told_once_it_has_some(tmp_path: Path) -> None:
    async with daemon(tmp_path, "plain", is_full=True) as run:
        assert run.process.stderr is not None
        async with asyncio.timeout(LIMIT):
            while b"was not told READY=1" not in await run.process.stderr.readline():
                pass
        await run.says("building")
        while (told := await run.notified())[0] != "READY=1":
            assert told[0] in {"OTHER=1", "WATCHDOG=1"}
        fill(tmp_path / "notify")
        run.process.send_signal(signal.SIGHUP)
        await run.says("2.0 1000")
        async with asyncio.timeout(LIMIT):
            while b"was not told READY=1" not in await run.process.stderr.readline():
                pass
        while (told := await run.notified())[0] != "READY=1":
            assert told[0] in {"OTHER=1", "WATCHDOG=1"}


async def test_how_it_stands_and_what_became_of_its_settings_are_told_together(tmp_path: Path) -> None:
    async def reloaded(text: str) -> list[str]:
        run.config.write_text(text, encoding="utf-8")
        run.process.send_signal(signal.SIGHUP)
        while (told := await run.notified())[0] != "READY=1":
            statuses.extend(line for line in told if line.startswith("STATUS="))
        return told

    statuses: list[str] = []
    async with daemon(tmp_path, "says") as run:
        while (told := await run.notified())[0] != "READY=1":
            statuses += told
        assert told == ["READY=1", "STATUS=well"]
        refused = "the settings were refused, the old ones stay"
        assert await reloaded("cluster: c\n") == ["READY=1", f"STATUS=well; {refused}"]
        assert await reloaded(SETTINGS.replace("2s", "1s")) == [
            "READY=1",
            "STATUS=well again; a restart is needed for changed settings: heartbeat",
        ]
        assert await reloaded("cluster: c\n") == ["READY=1", f"STATUS=well again; {refused}"]
        assert await reloaded(SETTINGS) == ["READY=1", "STATUS=well again"]
    assert f"STATUS=well again; {refused}" in statuses, "what it says of itself takes nothing away"


@pytest.mark.parametrize("link", ["sample.d", "sample.d/10.yaml"])
async def test_what_is_not_mounted_yet_is_tried_again(tmp_path: Path, link: str) -> None:
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / "mount")
    async with daemon(tmp_path, "plain") as run:
        code, errors = await run.ends()
        assert (code, "tried again" in errors) == (66, True), "systemd starts it again"
        assert f"{tmp_path / link} cannot be read: " in errors
    (tmp_path / "notify").unlink()
    async with daemon(tmp_path, "plain", "--check-config") as run:
        assert (await run.ends())[0] == 66
    (tmp_path / "notify").unlink()
    async with daemon(tmp_path, "plain") as run:
        assert run.process.stderr is not None
        async with asyncio.timeout(LIMIT):
            assert b"tried again" in await run.process.stderr.readline()
        if link.endswith(".yaml"):
            (tmp_path / "mount").write_text("task_retention: 3\n", encoding="utf-8")
        else:
            (tmp_path / "mount").mkdir()
        await run.says("building")


async def test_a_signal_while_it_starts_ends_it_in_order(tmp_path: Path) -> None:
    async with daemon(tmp_path, "slow") as run:
        await run.says("building")
        run.process.send_signal(signal.SIGTERM)
        await run.says("cancelled")
        assert (await run.ends())[0] == 0


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [("invalid", 78, "that will never do"), ("unavailable", 1, "not now"), ("unread", 1, "not mounted yet")],
)
async def test_a_start_that_fails_tells_why(tmp_path: Path, mode: str, code: int, words: str) -> None:
    async with daemon(tmp_path, mode) as run:
        ended, errors = await run.ends()
        assert ended == code
        assert words in errors
        assert "Traceback" not in errors


async def test_a_service_that_cannot_go_on_stops_in_order_and_fails(tmp_path: Path) -> None:
    async with daemon(tmp_path, "dies") as run:
        code, errors = await run.ends()
        assert code == 1
        assert "the disk is gone" in errors


async def test_a_second_signal_cuts_a_hanging_stop_short(tmp_path: Path) -> None:
    async with daemon(tmp_path, "hangs") as run:
        await run.says("building")
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopping")
        run.process.send_signal(signal.SIGTERM)
        code, errors = await run.ends()
        assert code == 1
        assert "cut short" in errors


@pytest.mark.parametrize("what", ["SIGHUP", "drop-ins"])
async def test_new_settings_do_not_cut_a_stop_short(what: str, tmp_path: Path) -> None:
    async with daemon(tmp_path, "lingers") as run:
        await run.says("building")
        await run.notified()
        run.process.send_signal(signal.SIGTERM)
        await run.says("stopping")
        if what == "SIGHUP":
            run.process.send_signal(signal.SIGHUP)
        else:
            (tmp_path / "sample.d").mkdir()
            (tmp_path / "sample.d/x.yaml").write_text("task_retention: 3\n", encoding="utf-8")
        await run.says("stopped")
        code, errors = await run.ends()
        assert code == 0
        assert "drop-ins" not in errors, "nobody looks at them any more"


async def test_check_config_says_where_each_value_comes_from_and_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "sample.d").mkdir()
    (tmp_path / "sample.d" / "10-site.yaml").write_text("timing: {session: 1s}\n", encoding="utf-8")
    (tmp_path / "sample.d" / "20-site.yml").write_text("heartbeat: 9s\n", encoding="utf-8")
    async with daemon(tmp_path, "plain", "--check-config") as run:
        code, output, errors = await run.output()
    assert (code, errors) == (0, "")
    rows = [line.split() for line in output.splitlines()]
    assert ["heartbeat", "2", f"{tmp_path}/sample.yaml:3"] in rows
    assert ["timing.session", "1", f"{tmp_path}/sample.d/10-site.yaml:1"] in rows
    assert ["timing.lease", "8", "default"] in rows
    assert f"read as drop-in: {tmp_path}/sample.d/10-site.yaml" in output
    assert f"not read, as its name does not end in .yaml: {tmp_path}/sample.d/20-site.yml" in output
    assert "building" not in output


async def test_check_config_can_be_quiet(tmp_path: Path) -> None:
    async with daemon(tmp_path, "plain", "--check-config", "--quiet") as run:
        assert await run.output() == (0, "", "")


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
async def test_check_config_tells_what_is_wrong_from_what_is_not_there(tmp_path: Path, quiet: tuple[str, ...]) -> None:
    (tmp_path / "sample.yaml").write_text("cluster: c\n", encoding="utf-8")
    async with daemon(tmp_path, "plain", "--check-config", *quiet) as run:
        code, output, errors = await run.output()
        assert (code, output) == (78, "")
        assert "sample.yaml:1: cluster: is not a setting; did you mean 'cluster_id'?" in errors
    (tmp_path / "notify").unlink()
    async with daemon(tmp_path, "plain", "--check-config", "--config", str(tmp_path / "none"), *quiet) as run:
        code, output, errors = await run.output()
        assert (code, output) == (66, "")
        assert "cannot be read" in errors
    (tmp_path / "notify").unlink()
    async with daemon(tmp_path, "plain", "--config", str(tmp_path / "none")) as run:
        assert (await run.output())[0] == 78, "systemd knows this one only, and does not start it again"


async def test_a_blocked_loop_is_told(caplog: pytest.LogCaptureFixture) -> None:
    monitor = asyncio.create_task(watch_loop())
    deadline = time.monotonic() + LIMIT
    try:
        with caplog.at_level(logging.WARNING):
            while not caplog.records:
                assert time.monotonic() < deadline, "a loop that is blocked again and again was never reported"
                time.sleep(0.2)  # noqa: ASYNC251 - this is the fault
                await asyncio.sleep(0.01)
    finally:
        monitor.cancel()
    assert "blocked for" in caplog.text


def test_children_do_not_inherit_what_systemd_meant_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.setenv(name, "1")
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(child_environment())
