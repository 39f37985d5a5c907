"""No request is lost while servers come, go and die, or while HAProxy is reloaded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

import pytest

from gestalt.clock import monotonic
from gestalt.plugins.loadbalancer.haproxy import HaproxyLoadBalancer

from .haproxy_lab import (
    PATIENCE,
    Backend,
    Lab,
    OpenLoop,
    backends,
    exchange,
    free_port,
    http_route,
    lab,
    request,
    tcp_route,
    until,
)

pytestmark = pytest.mark.real


async def drained(driver: HaproxyLoadBalancer, servers: Sequence[Backend]) -> None:
    async def idle() -> bool:
        load = await driver.load()
        return all(load[server.name].connections == 0 for server in servers)

    await until("no connections are left", idle)


async def scale_down(made: Lab, kept: Sequence[Backend], leaving: Sequence[Backend]) -> None:
    """Take servers out the way the agent does: drain, wait, kill, forget."""
    await made.driver.apply([http_route([*(item.server() for item in kept), *(item.server(drain=True) for item in leaving)])])
    await drained(made.driver, leaving)
    for server in leaving:
        server.kill()
    await made.driver.apply([http_route(item.server() for item in kept)])


async def test_scaling_two_to_ten_and_back_loses_nothing_and_never_reloads() -> None:
    async with lab() as made, backends(10, delay=0.005) as fleet:
        await made.driver.apply([http_route(item.server() for item in fleet[:2])])
        before = await made.settled()
        async with OpenLoop(made.http_port, rate=300) as client:
            await client.answered(200)
            await made.driver.apply([http_route(item.server() for item in fleet)])
            await client.answered(300)
            await scale_down(made, fleet[:2], fleet[2:])
            await client.answered(300)
        assert client.failures == []
        assert set(client.answers) == {item.name for item in fleet}, "each server was used"
        assert await made.processes() == before, "the same worker, no reload"


async def test_reloads_under_kept_alive_load_lose_nothing() -> None:
    async with lab() as made, backends(2) as fleet:
        routes = [http_route(item.server() for item in fleet)]
        await made.driver.apply(routes)
        async with OpenLoop(made.http_port, rate=300) as client:
            for number in range(6):
                await client.answered(100)
                routes.append(http_route([fleet[0].server()], app=f"/org/lab/test/more{number}", path=f"/more{number}"))
                await made.driver.apply(routes)
            await client.answered(100)
        assert client.failures == []
        assert (await made.processes()).reloads == 7


@pytest.mark.parametrize("warm", [True, False], ids=["kept-alive servers", "new connections"])
async def test_a_killed_server_costs_no_get(warm: bool) -> None:
    """Nobody has told HAProxy yet: retry and redispatch alone see to it."""
    async with lab() as made, backends(2, delay=0.02) as (victim, other):
        await made.driver.apply([http_route([victim.server(), other.server()])])
        async with OpenLoop(made.http_port, rate=200) as client:
            await client.answered(200 if warm else 1)
            victim.kill()
            await client.answered(400)
        assert client.failures == []
        assert client.slowest < 2.0


async def told_of_death(made: Lab, earlier: int) -> int | None:
    """Kill a server by a POST, the next of so many requests of its connection; return the status, or None if only an end came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.http_port)
    try:
        for _ in range(earlier):
            assert (await exchange(reader, writer))[0] == 200
        with contextlib.suppress(asyncio.IncompleteReadError):
            return (await exchange(reader, writer, "/die", method="POST"))[0]
        return None
    finally:
        writer.close()


@pytest.mark.parametrize(("earlier", "told"), [(0, {502}), (3, {502, None})], ids=["first of its connection", "after others"])
async def test_a_post_whose_server_died_is_not_sent_to_another(earlier: int, told: set[int | None]) -> None:
    """It may have had its effect: its sender is told, by the end of its connection if that has been of use before."""
    async with lab() as made, backends(3) as fleet:
        await made.driver.apply([http_route(item.server() for item in fleet)])
        assert await told_of_death(made, earlier) in told
        ends = [asyncio.create_task(item.process.wait()) for item in fleet]
        await asyncio.wait(ends, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        answers = [await made.get(method="POST") for _ in range(8)]
        assert {status for status, _ in answers} == {200}, "a connection that was refused is tried elsewhere, whatever the method"
        assert len({name for _, name in answers}) == 2
        assert sum(end.done() for end in ends) == 1, "exactly one server died"


async def test_a_post_that_came_to_a_dying_server_is_not_sent_to_another() -> None:
    """Its connection was accepted. Whether anybody read it is known to nobody but the dead; a GET may be asked again."""
    async with lab() as made, backends(2) as (dying, other):
        await made.driver.apply([http_route([dying.server(), other.server()])])
        await dying.freeze()
        asked = []
        for number, method in enumerate(("POST", "GET"), start=1):
            asked += [asyncio.create_task(made.get(method=method)) for _ in range(2)]

            async def arrived(wanted: int = number) -> bool:
                return dying.unread() == wanted

            await until(f"one of two {method}s has come to each server", arrived)
        dying.kill()
        *posts, get, other_get = await asyncio.gather(*asked)
        assert sorted(status for status, _ in posts) == [200, 502]
        assert get == other_get == (200, other.name)


async def test_a_replacement_in_place_gets_requests_at_once() -> None:
    """The same instance on another port, while nobody else is there: no request fails, and it takes milliseconds.

    HAProxy sends requests there before the driver has brought its file to the disk, which is not what is measured here.
    """
    took = []
    async with lab() as made, backends(2) as fleet:
        places = [Backend("web", item.port, item.process) for item in fleet]
        await made.driver.apply([http_route([places[0].server()])])
        before = await made.settled()
        async with OpenLoop(made.http_port, rate=50) as client:
            for number in range(1, 6):
                begun = monotonic()
                change = asyncio.create_task(made.driver.apply([http_route([places[number % 2].server()])]))
                await until("the new one answers", partial(answered_by, made, fleet[number % 2]))
                took.append(monotonic() - begun)
                await change
                assert await made.get() == (200, fleet[number % 2].name)
        assert client.failures == []
        assert await made.processes() == before, "no reload"
    assert min(took) < 0.2, "each time, so that it is not the machine's other work"


async def answered_by(made: Lab, server: Backend) -> bool:
    return await made.get() == (200, server.name)


async def test_idle_connections_are_ended_before_servers_end_them() -> None:
    """A POST that is sent in the moment in which a server ends its idle connection is lost. HAProxy's own default is 15 to 25 s."""
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()])])
        clients = [await asyncio.open_connection("127.0.0.1", made.http_port) for _ in range(10)]
        for _ in range(3):
            await asyncio.gather(*(exchange(*client) for client in clients))

        async def none_left() -> bool:
            return not server.received()

        await until("no connection is left", none_left, within=5)
        assert {await exchange(*client) for client in clients} == {(200, server.name)}, "clients keep theirs"
        for _, writer in clients:
            writer.close()


async def test_leftovers_are_removed_once_their_connections_end() -> None:
    """A server with a connection cannot be removed: it gets no requests any more, and goes later."""
    async with lab() as made, backends(2) as (kept, leaving):
        await made.driver.apply([http_route([kept.server(), leaving.server()])])
        await leaving.freeze()
        asked = [asyncio.create_task(made.get()) for _ in range(2)]

        async def arrived() -> bool:
            return leaving.unread() == 1

        await until("one of two GETs has come to it", arrived)
        await made.driver.apply([http_route([kept.server()])])
        assert made.driver.unfinished()
        assert {*(await asyncio.gather(*asked)), *[await made.get() for _ in range(4)]} == {(200, kept.name)}
        leaving.kill()
        await leaving.process.wait()

        async def gone() -> bool:
            await made.driver.apply([http_route([kept.server()])])
            return not made.driver.unfinished() and leaving.name not in await made.driver.load()

        await until("the server is gone", gone)


async def test_a_tcp_connection_outlives_a_reload() -> None:
    async with lab(hard_stop_after=30) as made, backends(1) as (server,):
        port = free_port()
        await made.driver.apply([tcp_route([server.server()], port)])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(3):
            await made.driver.apply([tcp_route([server.server()], port), http_route([], app=f"/org/lab/test/{number}")])
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readuntil(server.name.encode())).endswith(server.name.encode())
            assert (await made.driver.load())[server.name].connections == 1, "the old worker's connection counts"
        writer.close()
        assert await request(port) == (200, server.name)


async def test_old_workers_end_at_their_limit() -> None:
    async with lab(hard_stop_after=0.5) as made, backends(1) as (server,):
        port = free_port()
        await made.driver.apply([tcp_route([server.server()], port)])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(server.name.encode())
        cut = asyncio.create_task(end_of(reader))
        begun = monotonic()
        await made.driver.apply([tcp_route([server.server()], port), http_route([])])
        assert await asyncio.wait_for(cut, PATIENCE) - begun >= 0.5, "it had its time"

        async def ended() -> bool:
            return not (await made.processes()).old_workers

        await until("the old worker has ended", ended)
        writer.close()


async def end_of(reader: asyncio.StreamReader) -> float:
    """Wait for the end of a connection and return when it came."""
    assert await reader.read() == b""
    return monotonic()
