"""A reload that was asked for and that the master has not begun: whoever comes next works after it, not beside it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gestalt import shell
from gestalt.model import Route
from gestalt.plugin.runtime import DriverUnavailable
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer
from gestalt.plugins.loadbalancer.haproxy_socket import Processes, ask

from .haproxy_lab import Lab, backends, http_route, lab, until

pytestmark = pytest.mark.real

EXTRA = http_route([], app="/org/lab/test/extra", path="/extra")
"""A service more, which takes a reload."""


class Killed(Exception):
    """What the agent has no more time for."""


async def pending_reload(made: Lab, routes: list[Route], ends: Exception, monkeypatch: pytest.MonkeyPatch) -> Processes:
    """Begin a change that takes a reload and ends in the moment in which that is asked for; the master stands still.

    Return how the processes were before it.
    """
    before = await made.settled()

    async def ask_and_end(path: Path, commands: list[str], **options: Any) -> str:
        if commands != ["reload"]:
            return await ask(path, commands, **options)
        os.kill(before.master, signal.SIGSTOP)
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b"reload\n")
        writer.close()
        await writer.wait_closed()
        raise ends

    with monkeypatch.context() as patched:
        patched.setattr("gestalt.plugins.loadbalancer.haproxy_process.ask", ask_and_end)
        with pytest.raises(type(ends)):
            await made.driver.apply(routes)
    await questions(made, 1)
    return before


async def questions(made: Lab, count: int) -> None:
    """Wait until so many connections wait for the master, which stands still."""

    async def waiting() -> list[str]:
        listed = await shell.run(["ss", "-xlH", "src", f"unix:{made.folder}/haproxy/master.sock*"], limit=5)
        rows = [line.split() for line in listed.stdout.decode().splitlines()]
        return rows[0] if any(int(row[2]) >= count for row in rows) else []

    await until(f"{count} connections wait for the master", waiting)


async def applied(driver: HaproxyLoadBalancer, routes: list[Route]) -> None:
    """Apply as the manager does: again, when HAProxy does not answer. Questions that wait when a reload begins get no answer."""

    async def done() -> bool:
        try:
            await driver.apply(routes)
        except DriverUnavailable:
            return False
        return True

    await until("the routes are applied", done)


async def start_heir(made: Lab) -> asyncio.Task[None]:
    """Let go as an agent does that is killed, and have the next one begin."""
    await made.driver.close()
    made.driver = HaproxyLoadBalancer.create(made.settings)
    return asyncio.create_task(made.driver.start(made.died))


async def test_the_next_agent_works_after_a_reload_that_the_master_had_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it, a change by the socket could go to a worker that is about to be replaced."""
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server()])])
        before = await pending_reload(made, [http_route([one.server()]), EXTRA], Killed(), monkeypatch)
        heir = await start_heir(made)
        await questions(made, 2)
        os.kill(before.master, signal.SIGCONT)
        await heir
        await applied(made.driver, [http_route([two.server()])])
        await only_one_serves(made, two.name)
        assert ((await made.settled()).master, made.deaths) == (before.master, [])


async def test_an_agent_that_gave_a_reload_up_goes_on_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as made, backends(2) as (one, two):
        await made.driver.apply([http_route([one.server()])])
        before = await pending_reload(made, [http_route([one.server()]), EXTRA], DriverUnavailable("it took too long"), monkeypatch)
        change = asyncio.create_task(applied(made.driver, [http_route([two.server()])]))
        await questions(made, 2)
        os.kill(before.master, signal.SIGCONT)
        await change
        await only_one_serves(made, two.name)
        assert (await made.settled()).master == before.master


async def only_one_serves(made: Lab, name: str) -> None:
    """Make sure that what was applied last is what serves, now and when all reloads are over."""
    for _ in range(2):
        assert {await made.get(path) for path in ("/", "/extra") * 4} == {(200, name)}
        await made.settled()


async def test_the_next_agent_ends_no_haproxy_that_serves_while_its_master_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()])])
        await server.freeze()
        request = asyncio.create_task(made.get())

        async def arrived() -> bool:
            return server.unread() == 1

        await until("the request is with its server", arrived)
        before = await pending_reload(made, [http_route([server.server()]), EXTRA], Killed(), monkeypatch)
        heir = await start_heir(made)
        await questions(made, 3)  # one of the heir's was given up
        os.kill(before.master, signal.SIGCONT)
        await heir
        server.thaw()
        assert await request == (200, server.name)
        assert (await made.processes()).master == before.master
