"""HAProxy's own life: it dies and comes back, outlives agents, is never mixed up with another, and bad configurations stay out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from gestalt.agent.proxy import ProxyManager
from gestalt.clock import monotonic
from gestalt.model import Route
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.plugins.loadbalancer.haproxy_pids import find_processes
from gestalt.plugins.loadbalancer.haproxy_process import HaproxyProcess
from gestalt.plugins.loadbalancer.haproxy_socket import ask

from .haproxy_lab import (
    IN_UNIT,
    PATIENCE,
    Lab,
    backends,
    exchange,
    free_port,
    http_route,
    lab,
    new_folder,
    run_haproxy,
    settings_for,
    tcp_route,
    until,
)

pytestmark = pytest.mark.real

EXTRA = http_route([], app="/org/lab/test/extra", path="/extra")
"""A service more, which takes a reload."""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


async def heir_of(made: Lab) -> HaproxyLoadBalancer:
    """Let the agent be killed, as far as its HAProxy can tell, and return the next one's driver."""
    await made.driver.close()
    made.driver = HaproxyLoadBalancer.create(made.settings)
    await made.driver.start(made.died)
    return made.driver


async def test_its_files_are_for_nobody_else() -> None:
    async with lab() as made:
        folder = made.folder / "haproxy"
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in (folder, *folder.iterdir())}
        assert modes["haproxy"] == 0o700
        assert {modes["master.sock"], modes["worker.sock"], modes["haproxy.cfg"]} == {0o600}
        worker = (await made.processes()).workers[0]
        assert Path(f"/proc/{worker}").stat().st_uid != 0, "the worker has given up its rights"


async def test_it_is_no_child_of_ours_and_inherits_no_notify_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    async with lab() as made:
        master = (await made.processes()).master
        status = Path(f"/proc/{master}/stat").read_text().rsplit(")", 1)[1].split()
        assert int(status[1]) != os.getpid()
        assert int(status[3]) == master, "a session of its own"
        assert b"NOTIFY_SOCKET=/nowhere" not in Path(f"/proc/{master}/environ").read_bytes()


@pytest.mark.parametrize("victim", ["master", "worker"])
async def test_a_killed_haproxy_is_back_at_once(victim: str) -> None:
    async with lab() as made, backends(2) as fleet:
        manager = ProxyManager(made.driver)
        await manager.start()
        manager.set_routes({"web": http_route(item.server() for item in fleet)})
        assert await manager.wait_applied(10), manager.problems
        for _ in range(3):
            processes = await made.processes()
            os.kill(processes.master if victim == "master" else processes.workers[0], signal.SIGKILL)
            killed = monotonic()
            await until("it answers again", partial(answers, made, processes.master))
            assert monotonic() - killed < 3.0, "not after a time-out of ours: the shortest is longer"
        await manager.close()


async def answers(made: Lab, old_master: int) -> bool:
    try:
        return (await made.processes()).master != old_master and (await made.get())[0] == 200
    except (DriverUnavailable, OSError, asyncio.IncompleteReadError):
        return False


async def test_the_next_agent_adopts_it_with_the_same_processes_and_hears_of_its_death() -> None:
    async with lab() as made, backends(2) as (one, two):
        routes = [http_route([one.server(), two.server(ready=False)])]
        await made.driver.apply(routes)
        before = await made.settled()
        heir = await heir_of(made)
        assert made.deaths == []
        await heir.apply(routes)
        await heir.apply([http_route([two.server(), one.server(ready=False)])])
        assert await made.get() == (200, two.name)
        assert await made.processes() == before
        os.kill(before.master, signal.SIGKILL)

        async def told() -> bool:
            return len(made.deaths) == 1

        await until("the death is told", told)


async def test_death_while_no_agent_was_there_is_mended_with_the_last_configuration() -> None:
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()])])
        await made.driver.close()
        os.kill((await made.processes()).master, signal.SIGKILL)
        await until("it is gone", lambda: gone(made))
        await heir_of(made)
        assert await made.get() == (200, server.name), "before any route is known again"


async def gone(made: Lab) -> bool:
    return not list(find_processes(made.folder / "haproxy/haproxy.cfg"))


@pytest.mark.parametrize("hangs", ["all of it", "the master"])
async def test_one_that_hangs_is_replaced(hangs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()])])
        processes = await made.settled()
        monkeypatch.setattr("gestalt.plugins.loadbalancer.haproxy_process._RELOAD_LIMIT", 4.0)
        for pid in (processes.master, *(processes.workers if hangs == "all of it" else ())):
            os.kill(pid, signal.SIGSTOP)
        await heir_of(made)
        assert await made.get() == (200, server.name)
        assert (await made.processes()).master != processes.master


async def test_another_haproxy_is_never_touched() -> None:
    folder = new_folder()
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(f"defaults\n mode http\n timeout client 5s\nfrontend x\n bind 127.0.0.1:{port}\n http-request return status 418\n")
    await run_haproxy(config, folder / "pid")
    foreign = int((folder / "pid").read_text())
    try:
        async with lab() as made:
            assert (await made.get(port=port))[0] == 418
            await made.driver.apply([http_route([])])
            await made.driver.stop()
            assert (await made.get(port=port))[0] == 418
    finally:
        os.kill(foreign, signal.SIGKILL)


async def test_a_port_that_somebody_has_costs_only_the_service_on_it(taken: int) -> None:
    async with lab() as made, backends(1) as (server,):
        free = free_port()
        routes = [
            tcp_route([server.server()], taken, app="/t/a"),
            tcp_route([server.server()], free, app="/t/b"),
            http_route([server.server()]),
        ]
        await made.driver.apply(routes)
        (problem,) = made.driver.problems()
        assert f"port {taken} (/t/a:sql) is taken by" in problem
        assert f"(process {os.getpid()})" in problem
        assert await made.get() == (200, server.name)
        assert await made.get(port=free) == (200, server.name)
        before = await made.settled()
        await made.driver.apply(routes)
        assert await made.processes() == before, "no reload as long as nothing changes"


async def test_a_port_that_becomes_free_is_taken_at_the_next_apply() -> None:
    async with lab() as made, backends(1) as (server,):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            await made.driver.apply([tcp_route([server.server()], port)])
            assert made.driver.problems()
        await made.driver.apply([tcp_route([server.server()], port)])
        assert made.driver.problems() == ()
        assert await made.get(port=port) == (200, server.name)


async def test_it_starts_although_its_http_port_is_taken(taken: int) -> None:
    async with lab(http_port=taken) as made, backends(1) as (server,):
        port = free_port()
        await made.driver.apply([http_route([server.server()]), tcp_route([server.server()], port)])
        assert f"port {taken} (the http services) is taken by" in made.driver.problems()[0]
        assert await made.get(port=port) == (200, server.name)


async def test_a_reload_that_fails_is_taken_back(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is lost between our look at it and the reload."""
    monkeypatch.setattr("gestalt.plugins.loadbalancer.haproxy.closed_ports", lambda listeners, ours: {})
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server(), two.server()])])
        config = made.folder / "haproxy/haproxy.cfg"
        before, text = await made.processes(), config.read_text()
        with pytest.raises(LaunchRefused, match="old one still works"):
            await made.driver.apply([http_route([one.server(), two.server(ready=False)]), tcp_route([], taken)])
        assert config.read_text() == text
        assert (await made.processes()).failed == 0, "the reload was repeated with the old configuration"
        assert (await made.processes()).master == before.master
        assert {await made.get() for _ in range(4)} == {(200, one.name)}, "servers follow nevertheless"


async def begun_reload(made: Lab, routes: list[Route], monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[None]:
    """Begin a change that takes a reload, and return when the new worker answers and the old one, which has a request, stands still.

    It stands still from the moment in which the new one is there: told to stop listening by then, whether it came to it or not.
    """
    before = await made.settled()
    reader, writer = await asyncio.open_connection("127.0.0.1", made.http_port)
    await exchange(reader, writer)
    writer.write(b"GET / HTTP/1.1\r\nhost: any.example\r\n")  # more would follow
    await made.get()
    process, frozen = made.driver._process, asyncio.Event()
    answers = process._worker_answers

    async def freeze_first(workers: tuple[int, ...], end: float) -> None:
        os.kill(before.workers[0], signal.SIGSTOP)
        frozen.set()
        await answers(workers, end)

    monkeypatch.setattr(process, "_worker_answers", freeze_first)
    change = asyncio.create_task(made.driver.apply(routes))
    async with asyncio.timeout(PATIENCE):
        await frozen.wait()

    async def new_one_answers() -> bool:
        return f"Pid: {before.workers[0]}\n" not in await ask(made.folder / "haproxy/worker.sock", ["show info"])

    await until("the new worker answers", new_one_answers)
    return change


async def stays_open(change: asyncio.Task[None]) -> bool:
    await asyncio.wait([change], timeout=0.3)
    return not change.done()


async def test_a_reload_is_over_when_the_replaced_worker_takes_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then requests may go by the old configuration, and commands for the new worker to the old one."""
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server()])])
        (old,) = (await made.settled()).workers
        change = await begun_reload(made, [http_route([two.server()]), EXTRA], monkeypatch)
        assert await stays_open(change)
        os.kill(old, signal.SIGCONT)
        await change
        assert {await made.get() for _ in range(8)} == {(200, two.name)}


async def test_the_next_agent_waits_for_a_worker_that_was_replaced_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server()])])
        (old,) = (await made.settled()).workers
        change = await begun_reload(made, [http_route([two.server()]), EXTRA], monkeypatch)
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
        heir = await heir_of(made)
        mending = asyncio.create_task(heir.apply([http_route([two.server()]), EXTRA]))
        assert await stays_open(mending)
        os.kill(old, signal.SIGCONT)
        await mending
        assert {await made.get() for _ in range(8)} == {(200, two.name)}


async def test_a_replaced_worker_that_never_stops_listening_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gestalt.plugins.loadbalancer.haproxy_replaced._LIMIT", 0.5)
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server()])])
        before = await made.settled()
        await (await begun_reload(made, [http_route([two.server()]), EXTRA], monkeypatch))
        after = await made.settled()
        assert after.master == before.master
        assert before.workers[0] not in find_processes(made.folder / "haproxy/haproxy.cfg")
        assert {await made.get() for _ in range(8)} == {(200, two.name)}


async def test_an_agent_that_is_cut_off_anywhere_in_a_change_leaves_nothing_that_the_next_one_cannot_mend() -> None:
    """Structural changes and server changes, given up after growing times; HAProxy answers all the while."""
    async with lab() as made, backends(2) as fleet:
        master = (await made.processes()).master
        await made.driver.apply([http_route([fleet[0].server()])])
        for step in range(12):
            extra = http_route([], app="/org/lab/test/extra", path=f"/extra{step}")
            change = asyncio.create_task(made.driver.apply([http_route([fleet[step % 2].server()]), extra]))
            await asyncio.wait([change], timeout=step * 0.012)
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
            assert (await made.get())[0] == 200
            heir = await heir_of(made)
            await heir.apply([http_route([fleet[1].server()]), extra])
            assert await made.get() == (200, fleet[1].name)
            assert (await made.get(f"/extra{step}"))[0] == 503
        assert (await made.processes()).master == master


async def test_a_torn_or_foreign_file_does_not_stop_the_start() -> None:
    """Nobody writes it but us, atomically; still, whatever lies there, HAProxy starts."""
    async with lab() as made, backends(1) as (server,):
        await made.driver.stop()
        (made.folder / "haproxy/haproxy.cfg").write_text("global\n  nonsense\x00")
        await heir_of(made)
        assert (await made.get())[0] == 404
        await made.driver.apply([http_route([server.server()])])
        assert await made.get() == (200, server.name)


async def test_no_haproxy_installed_says_what_to_install() -> None:
    process = HaproxyProcess(new_folder() / "haproxy", program="no-such-haproxy")
    process.prepare(lambda: None)
    with pytest.raises(DriverUnavailable, match="install the package haproxy"):
        await process.launch()
    process.close()


@pytest.mark.skipif(IN_UNIT, reason="systemd itself waits for a start")
async def test_one_that_ends_right_after_its_start_costs_no_time_out() -> None:
    process = HaproxyProcess(new_folder() / "haproxy", program="true")
    process.prepare(lambda: None)
    async with asyncio.timeout(5):
        with pytest.raises(DriverUnavailable, match="ended right after its start"):
            await process.launch()
    process.close()


async def test_a_folder_too_deep_for_a_socket_says_so() -> None:
    driver = HaproxyLoadBalancer.create(settings_for(Path("/tmp") / ("x" * 90)))
    with pytest.raises(DriverUnavailable, match="set a shorter run_dir"):
        await driver.start(lambda: None)
    await driver.close()
