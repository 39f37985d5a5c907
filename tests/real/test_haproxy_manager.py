"""The manager with a real HAProxy: what an agent relies on when instances come and go."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gestalt.agent.proxy import ProxyManager
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer

from .haproxy_lab import Lab, OpenLoop, backends, http_route, lab, new_folder, request, settings_for, until

pytestmark = pytest.mark.real


@asynccontextmanager
async def managed() -> AsyncIterator[tuple[Lab, ProxyManager]]:
    async with lab() as made:
        manager = ProxyManager(made.driver)
        await manager.start()
        try:
            yield made, manager
        finally:
            await manager.close()


async def test_replacing_every_instance_under_load_loses_nothing() -> None:
    """What a rolling update does: a new one becomes ready, an old one is drained and stopped, again and again."""
    async with managed() as (made, manager), backends(6, delay=0.01) as fleet:
        route = http_route(item.server(ready=False) for item in fleet)
        manager.set_routes({route.key: route})
        for item in fleet:
            manager.set_local(item.name, ready=item in fleet[:2])
        assert await manager.wait_applied(10)
        async with OpenLoop(made.http_port, rate=300) as client:
            await client.answered(100)
            for old, new in zip(fleet, fleet[2:], strict=False):
                manager.set_local(new.name, ready=True)
                manager.set_local(old.name, ready=True, draining=True)
                assert await manager.wait_drained(old.name, 10)
                old.kill()
                manager.set_local(old.name, ready=False)
                await client.answered(60)
        assert client.failures == []
        assert set(client.answers) == {item.name for item in fleet}


async def test_draining_waits_for_a_request_in_flight() -> None:
    async with managed() as (made, manager), backends(1) as (slow,):
        route = http_route([slow.server()])
        manager.set_routes({route.key: route})
        assert await manager.wait_applied(10)
        await slow.freeze()
        request = asyncio.create_task(made.get())
        await until("the request is in flight", partial(connections, made, slow.name))
        manager.set_routes({route.key: route}, [slow.name])
        assert await manager.wait_applied(10)
        assert not await manager.wait_drained(slow.name, 0.1)
        slow.thaw()
        assert await manager.wait_drained(slow.name, 10)
        assert await request == (200, slow.name)


async def connections(made: Lab, instance: str) -> int:
    return (await made.driver.load())[instance].connections


async def test_agent_down_leaves_traffic_and_node_leave_ends_it() -> None:
    async with managed() as (made, manager), backends(1) as (server,):
        route = http_route([server.server()])
        manager.set_routes({route.key: route})
        assert await manager.wait_applied(10)
        await manager.close()
        assert await made.get() == (200, server.name)
        heir = ProxyManager(type(made.driver).create(made.settings))
        await heir.start()
        await heir.end()
        with pytest.raises(ConnectionRefusedError):
            await made.get()


async def test_a_folder_that_cannot_be_made_is_told_and_made_once_it_can() -> None:
    folder = new_folder()
    settings = settings_for(folder / "run")
    settings.run_dir.write_text("in the way")
    manager = ProxyManager(HaproxyLoadBalancer.create(settings))
    await manager.start()
    try:
        async with backends(1) as (server,):
            route = http_route([server.server()])
            manager.set_routes({route.key: route})
            assert not await manager.wait_applied(0.3)
            assert "run/haproxy cannot be made" in " ".join(manager.problems)
            settings.run_dir.unlink()
            assert await manager.wait_applied(10)
            assert manager.problems == ()
            assert await request(settings.proxy.http_port) == (200, server.name)
    finally:
        await manager.end()
        shutil.rmtree(folder)
