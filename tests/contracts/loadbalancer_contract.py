"""What every load balancer driver promises; a driver's test module subclasses it with the real product."""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

import pytest

from gestalt.config import AgentSettings
from gestalt.plugin.loadbalancer import LoadBalancerDriver
from gestalt.plugin.runtime import LaunchRefused

from ..real.haproxy_lab import Backend, OpenLoop, backends, free_port, http_route, new_folder, request, settings_for, tcp_route, until


class LoadBalancerContract(ABC):
    """Each test gets a started driver and three real servers."""

    driver: type[LoadBalancerDriver]

    @abstractmethod
    async def processes(self, settings: AgentSettings) -> object:
        """Return what identifies the running product, the same for as long as neither restart nor reload took place."""

    @pytest.fixture
    async def settings(self) -> AsyncIterator[AgentSettings]:
        settings = settings_for(new_folder())
        yield settings
        last = self.driver.create(settings)
        await last.stop()
        await last.close()
        shutil.rmtree(settings.run_dir)

    @pytest.fixture
    async def started(self, settings: AgentSettings) -> AsyncIterator[LoadBalancerDriver]:
        driver = self.driver.create(settings)
        await driver.start(lambda: None)
        yield driver
        await driver.close()

    @pytest.fixture
    async def servers(self) -> AsyncIterator[list[Backend]]:
        async with backends(3) as running:
            yield running

    @staticmethod
    async def names(settings: AgentSettings, count: int = 12) -> set[str]:
        answers = [await request(settings.proxy.http_port) for _ in range(count)]
        return {body if status == 200 else str(status) for status, body in answers}

    async def test_without_routes_nothing_is_found(self, started: LoadBalancerDriver, settings: AgentSettings) -> None:
        await started.apply([])
        assert await self.names(settings, 1) == {"404"}

    async def test_only_ready_servers_get_requests(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        ready, draining, out = servers
        await started.apply([http_route([ready.server(), draining.server(drain=True), out.server(ready=False)])])
        assert await self.names(settings) == {ready.name}

    async def test_no_ready_server_is_503(self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]) -> None:
        await started.apply([http_route([servers[0].server(ready=False)])])
        assert await self.names(settings, 1) == {"503"}

    async def test_changes_of_servers_keep_the_same_processes(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        await started.apply([http_route([])])
        before = await self.processes(settings)
        for chosen in (servers[:1], servers, servers[1:], servers[:2]):
            await started.apply([http_route(server.server() for server in chosen)])
            assert await self.names(settings) == {server.name for server in chosen}
        assert await self.processes(settings) == before

    async def test_a_server_that_moves_is_followed(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        moved = Backend(servers[0].name, servers[1].port, servers[1].process)
        await started.apply([http_route([servers[0].server()])])
        await started.apply([http_route([moved.server()])])
        assert await self.names(settings) == {servers[1].name}

    async def test_the_same_again_changes_nothing(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        routes = [http_route(server.server() for server in servers), tcp_route([servers[0].server()], free_port())]
        await started.apply(routes)
        before = await self.processes(settings)
        for again in (routes, routes[::-1]):
            await started.apply(again)
        assert await self.processes(settings) == before

    async def test_tcp_services_have_their_port(self, started: LoadBalancerDriver, servers: Sequence[Backend]) -> None:
        port = free_port()
        await started.apply([tcp_route([servers[0].server()], port)])
        assert await request(port) == (200, servers[0].name)
        await started.apply([])
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await request(port)

    async def test_load_counts_connections_by_instance(self, started: LoadBalancerDriver, settings: AgentSettings) -> None:
        async with backends(1, delay=30.0) as (slow,):
            await started.apply([http_route([slow.server()]), http_route([slow.server()], app="/org/lab/test/too", path="/too")])
            asked = [asyncio.create_task(request(settings.proxy.http_port, path)) for path in ("/", "/too")]
            await until("both requests are counted", lambda: _connections(started, slow.name, 2))
            await started.apply([http_route([slow.server(drain=True)])])
            await until("the requests in flight go on", lambda: _connections(started, slow.name, 2))
            slow.kill()
            await until("nothing is in flight", lambda: _connections(started, slow.name, 0))
            await asyncio.gather(*asked, return_exceptions=True)

    async def test_traffic_counts_requests_by_instance(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        port = free_port()
        routes = [http_route(server.server() for server in servers[:2]), tcp_route([servers[2].server()], port)]
        await started.apply(routes)
        before = await started.traffic()
        await self.names(settings, 10)
        async with OpenLoop(settings.proxy.http_port, rate=100) as kept_alive:
            await kept_alive.answered(30)
        await request(port)
        after = await started.traffic()
        grown = {server.name: after[server.name].requests - before[server.name].requests for server in servers}
        served = grown[servers[0].name] + grown[servers[1].name] - 10
        assert kept_alive.total <= served <= kept_alive.total + 5, "what was under way at the end has no answer"
        assert min(grown[servers[0].name], grown[servers[1].name]) > 0
        assert grown[servers[2].name] == 0, "connections are no requests"

    async def test_traffic_counts_what_is_under_way(self, started: LoadBalancerDriver, settings: AgentSettings) -> None:
        async with backends(1, delay=30.0) as (slow,):
            await started.apply([http_route([slow.server()])])
            asked = [asyncio.create_task(request(settings.proxy.http_port)) for _ in range(3)]
            await until("all are counted", lambda: _queue(started, slow.name, 3))
            await started.apply([http_route([slow.server()]), tcp_route([], free_port())])
            assert await _queue(started, slow.name, 3), "a change of services makes nobody idle"
            slow.kill()
            await until("nothing is under way", lambda: _queue(started, slow.name, 0))
            await asyncio.gather(*asked, return_exceptions=True)

    async def test_it_outlives_its_driver_and_is_adopted(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        await started.apply([http_route([servers[0].server()])])
        before = await self.processes(settings)
        await started.close()
        assert await self.names(settings) == {servers[0].name}
        heir = self.driver.create(settings)
        await heir.start(lambda: None)
        assert await self.names(settings) == {servers[0].name}, "nothing changes before the first apply"
        await heir.apply([http_route([servers[0].server()])])
        assert await self.processes(settings) == before
        await heir.close()

    async def test_stop_ends_it_and_may_be_repeated(self, started: LoadBalancerDriver, settings: AgentSettings) -> None:
        await started.stop()
        await started.stop()
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            await request(settings.proxy.http_port)

    async def test_apply_starts_one_that_was_stopped(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        await started.stop()
        await started.apply([http_route([servers[0].server()])])
        assert await self.names(settings) == {servers[0].name}

    async def test_what_the_product_rejects_is_kept_out(
        self, started: LoadBalancerDriver, settings: AgentSettings, servers: Sequence[Backend]
    ) -> None:
        one, two, _ = servers
        await started.apply([http_route([one.server(), two.server()])])
        before = await self.processes(settings)
        await started.close()
        proxy = settings.proxy.model_copy(update={"bind": "no-such-address.invalid"})
        broken = self.driver.create(settings.model_copy(update={"proxy": proxy}))
        await broken.start(lambda: None)
        with pytest.raises(LaunchRefused) as refused:
            await broken.apply([http_route([one.server(), two.server(ready=False)])])
        assert "no-such-address.invalid" in str(refused.value), "the product's own words"
        assert await self.processes(settings) == before
        assert await self.names(settings) == {one.name}, "servers follow nevertheless"
        await broken.close()


async def _connections(driver: LoadBalancerDriver, instance: str, wanted: int) -> bool:
    load = (await driver.load()).get(instance)
    return (load.connections if load else 0) == wanted


async def _queue(driver: LoadBalancerDriver, instance: str, expected: int) -> bool:
    found = (await driver.traffic()).get(instance)
    return (found.queue if found else 0) == expected
