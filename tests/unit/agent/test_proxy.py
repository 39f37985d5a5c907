"""How routes and observations are joined, and how the manager of the load balancer behaves towards its driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from gestalt.agent.board import Board
from gestalt.agent.node import ProxyKeeper
from gestalt.agent.proxy import LocalServer, ProxyManager, effective_routes
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, TlsSettings
from gestalt.model import HttpService, Route, Server
from gestalt.plugin.loadbalancer import LoadBalancerDriver, ServerLoad
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused


def route(*servers: Server, key: str = "/t/web:http") -> Route:
    return Route(key, "/t/web", "http", HttpService((), "/"), None, servers)


def one(ready: bool, drain: bool = False) -> Server:
    return Server("web-1", "127.0.0.1", 3000, ready, drain)


@pytest.mark.parametrize(
    ("server", "seen", "stopping", "ready", "drain"),
    [
        (one(ready=True), None, (), True, False),
        (one(ready=False), None, (), False, False),
        (one(ready=True), LocalServer(ready=False), (), False, False),
        (one(ready=False), LocalServer(ready=True), (), True, False),
        (one(ready=True), LocalServer(ready=True, draining=True), (), False, True),
        (one(ready=True, drain=True), LocalServer(ready=True), (), False, True),
        (one(ready=True), LocalServer(ready=True), ("web-1",), False, True),
        (one(ready=True), None, ("web-1",), False, True),
        (one(ready=True), None, ("web-2",), True, False),
    ],
    ids=[
        "nothing seen: the coordinator's word", "nothing seen: not ready", "seen: not ready", "seen: ready", "seen: draining",
        "the coordinator drains", "to stop", "to stop, nothing seen", "another stops",
    ],
)  # fmt: skip
def test_what_a_server_gets(server: Server, seen: LocalServer | None, stopping: tuple[str, ...], ready: bool, drain: bool) -> None:
    ((found,),) = [item.servers for item in effective_routes({"/t/web:http": route(server)}, {"web-1": seen} if seen else {}, stopping)]
    assert found == replace(server, ready=ready, drain=drain)


@pytest.mark.parametrize(("seen", "lost"), [(None, True), (LocalServer(ready=True), False)], ids=["elsewhere", "seen here"])
def test_lost_is_only_what_is_not_seen_here(seen: LocalServer | None, lost: bool) -> None:
    server = replace(one(ready=True), lost=True)
    ((found,),) = [item.servers for item in effective_routes({"/t/web:http": route(server)}, {"web-1": seen} if seen else {})]
    assert (found.lost, found.ready) == (lost, not lost)


def test_routes_are_in_the_order_of_their_keys() -> None:
    routes = {key: route(key=key) for key in ("/c", "/a", "/b")}
    assert [item.key for item in effective_routes(routes, {})] == ["/a", "/b", "/c"]


class Recorder(LoadBalancerDriver):
    """A load balancer in memory that remembers what it was told, and fails as often as it is asked to."""

    name = "recorder"

    def __init__(self) -> None:
        self.applied: list[tuple[Route, ...]] = []
        self.failures: list[Exception] = []
        self.connections: dict[str, int] = {}
        self.serving: set[str] = set()
        self.on_death: Callable[[], None] = lambda: None
        self.gate = asyncio.Event()
        self.gate.set()
        self.leftovers = 0
        self.looks = 0

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        raise NotImplementedError

    async def start(self, on_death: Callable[[], None]) -> None:
        self.on_death = on_death

    async def apply(self, routes: Sequence[Route]) -> None:
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.applied.append(tuple(routes))

    async def load(self) -> Mapping[str, ServerLoad]:
        self.looks += 1
        return {name: ServerLoad(count, "", serving=name in self.serving) for name, count in self.connections.items()}

    async def stop(self) -> None: ...

    async def close(self) -> None: ...

    def unfinished(self) -> bool:
        self.leftovers -= 1
        return self.leftovers >= 0


@pytest.fixture
async def driver() -> Recorder:
    return Recorder()


@pytest.fixture
async def manager(driver: Recorder) -> AsyncIterator[ProxyManager]:
    manager = ProxyManager(driver, resync=60.0)
    await manager.start()
    yield manager
    await manager.close()


async def test_how_often_is_looked_can_change(driver: Recorder) -> None:
    tls = TlsSettings(ca=Path("/ca"), certificate=Path("/crt"), key=Path("/key"))
    settings = AgentSettings(node_id="n", node_name="n", cluster_id="c", coordinators=(), tls=tls).model_copy(update={"resync": 0.01})
    manager = ProxyManager(driver, resync=3600.0)
    keeper = ProxyKeeper(manager, Board())
    await keeper.renew(settings)
    manager.set_routes({})
    await keeper.ensure()
    await until(lambda: len(driver.applied) >= 4)
    await keeper.close()


async def test_nothing_is_changed_before_the_routes_are_known(manager: ProxyManager, driver: Recorder) -> None:
    manager.set_local("web-1", ready=True)
    assert not await manager.wait_applied(0.1)
    assert driver.applied == []
    manager.set_routes({})
    assert await manager.wait_applied(5)
    assert driver.applied == [()]


async def test_an_adopted_load_balancer_goes_on_as_it_was_until_something_is_seen(driver: Recorder) -> None:
    driver.connections, driver.serving = {"web-1": 0, "web-2": 0}, {"web-1", "web-2"}
    manager = ProxyManager(driver, resync=60.0)
    manager.set_local("web-2", ready=False)
    await manager.start()
    manager.set_routes({"a": route(one(ready=False), Server("web-2", "127.0.0.1", 3001))})
    assert await manager.wait_applied(5)
    assert [server.ready for server in driver.applied[-1][0].servers] == [True, False]
    await manager.close()


async def test_many_changes_during_one_apply_cost_one_more(manager: ProxyManager, driver: Recorder) -> None:
    driver.gate.clear()
    manager.set_routes({"a": route(one(ready=False))})
    await asyncio.sleep(0)
    for number in range(100):
        manager.set_local("web-1", ready=number % 2 == 1)
    driver.gate.set()
    assert await manager.wait_applied(5)
    assert len(driver.applied) <= 2
    assert driver.applied[-1][0].servers[0].ready


async def test_the_same_again_wakes_nobody(manager: ProxyManager, driver: Recorder) -> None:
    for _ in range(5):
        manager.set_routes({"a": route(one(ready=False))}, ["web-9"])
        manager.set_local("web-1", ready=True)
        manager.forget("unknown")
        assert await manager.wait_applied(5)
    assert len(driver.applied) <= 2
    manager.set_all_local({"web-1": LocalServer(ready=True)})
    assert len(driver.applied) <= 2


async def test_an_unavailable_driver_is_tried_again_and_told(manager: ProxyManager, driver: Recorder) -> None:
    driver.gate.clear()
    driver.failures = [DriverUnavailable("HAProxy sleeps")] * 3
    manager.set_routes({"a": route()})
    driver.gate.set()
    await until(lambda: manager.problems == ("HAProxy sleeps",))
    assert await manager.wait_applied(5)
    assert manager.problems == ()


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (FileNotFoundError(2, "No such file or directory"), "[Errno 2] No such file or directory"),
        (KeyError("a fault of the driver"), "the driver of the load balancer failed, see the log of the agent"),
    ],
)
async def test_whatever_goes_wrong_is_told_and_tried_again(manager: ProxyManager, driver: Recorder, failure: Exception, told: str) -> None:
    driver.gate.clear()
    driver.failures = [failure] * 3
    manager.set_routes({"a": route()})
    driver.gate.set()
    await until(lambda: manager.problems == (told,))
    assert await manager.wait_applied(5)
    assert manager.problems == ()


async def test_a_refusal_is_told_and_not_repeated_until_something_changes(manager: ProxyManager, driver: Recorder) -> None:
    driver.failures = [LaunchRefused("a bad line")]
    manager.set_routes({"a": route()})
    assert await manager.wait_applied(5)
    assert manager.problems == ("a bad line",)
    assert driver.applied == []
    manager.set_routes({})
    assert await manager.wait_applied(5)
    assert manager.problems == ()


async def test_a_death_is_answered_at_once_and_more_in_a_row_with_pauses(
    manager: ProxyManager, driver: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gestalt.agent.proxy._FIRST_PAUSE", 0.4)
    manager.set_routes({"a": route()})
    assert await manager.wait_applied(5)
    took = []
    for number in (1, 2):
        begun = monotonic()
        driver.on_death()
        await until(lambda count=number: len(driver.applied) > count)  # type: ignore[misc]
        took.append(monotonic() - begun)
    assert took[0] < 0.4 <= took[1]


async def test_what_was_still_in_use_is_looked_at_again_soon(
    manager: ProxyManager, driver: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gestalt.agent.proxy._UNFINISHED_PAUSE", 0.01)
    driver.leftovers = 3
    manager.set_routes({"a": route()})
    await until(lambda: len(driver.applied) == 4)


async def test_draining_waits_for_the_last_connection_and_looks_only_while_somebody_waits(manager: ProxyManager, driver: Recorder) -> None:
    driver.connections = {"web-1": 2, "web-2": 0}
    manager.set_routes({"a": route(one(ready=True))}, ["web-1"])
    assert await manager.wait_drained("web-2", 5)
    assert await manager.wait_drained("unknown", 5)
    assert not await manager.wait_drained("web-1", 0.1)
    waiting = asyncio.create_task(manager.wait_drained("web-1", 5))
    driver.connections["web-1"] = 0
    assert await waiting
    looks = driver.looks
    await asyncio.sleep(0.15)
    assert driver.looks == looks


async def test_draining_first_waits_for_the_drain_to_be_in_effect(manager: ProxyManager, driver: Recorder) -> None:
    driver.gate.clear()
    looks = driver.looks
    manager.set_routes({"a": route(one(ready=True))}, ["web-1"])
    assert not await manager.wait_drained("web-1", 0.1)
    assert driver.looks == looks
    driver.gate.set()
    assert await manager.wait_drained("web-1", 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what the driver was told raises no event
            await asyncio.sleep(0.001)
