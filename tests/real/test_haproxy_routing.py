"""Which application answers for a host and a path."""

from __future__ import annotations

import pytest

from gestalt.model import Route, Server

from .haproxy_lab import backends, free_port, http_route, lab, request, tcp_route

pytestmark = pytest.mark.real


async def test_hosts_and_paths() -> None:
    claims: dict[str, tuple[tuple[str, ...], str]] = {
        "any": ((), "/"),
        "any-api": ((), "/api"),
        "exact": (("shop.example",), "/"),
        "exact-api": (("shop.example",), "/api"),
        "exact-deep": (("shop.example",), "/api/v2/"),
        "wild": (("*.shop.example",), "/"),
        "wild-longer": (("*.de.shop.example",), "/"),
    }
    asked = [
        ("nobody.example", "/", "any"),
        ("nobody.example", "/api", "any-api"),
        ("nobody.example", "/api/", "any-api"),
        ("nobody.example", "/api?x=/api/v2", "any-api"),
        ("nobody.example", "/apix", "any"),
        ("shop.example", "/", "exact"),
        ("SHOP.example:8080", "/x/api", "exact"),
        ("shop.example", "/api/v1", "exact-api"),
        ("shop.example", "/api/v2", "exact-deep"),
        ("shop.example", "/api/v2/x/y", "exact-deep"),
        ("shop.example", "/api/v22", "exact-api"),
        ("xshop.example", "/", "any"),
        ("a.shop.example", "/", "wild"),
        ("a.b.shop.example", "/api", "wild"),
        ("a.de.shop.example", "/", "wild-longer"),
        ("de.shop.example", "/", "wild"),
    ]
    async with lab() as made, backends(len(claims)) as fleet:
        names = dict(zip(claims, fleet, strict=True))
        routes = [http_route([names[app].server()], app=f"/t/{app}", hosts=hosts, path=path) for app, (hosts, path) in claims.items()]
        await made.driver.apply(routes)
        found = {(host, path): (await made.get(path, host))[1] for host, path, _ in asked}
        assert found == {(host, path): names[app].name for host, path, app in asked}


async def test_what_nobody_claims_is_404_and_says_so() -> None:
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()], hosts=("shop.example",), path="/api")])
        for host, path in (("other.example", "/api"), ("shop.example", "/"), ("shop.example", "/apix")):
            assert await made.get(path, host) == (404, "no application is routed for this host and path\n")
        assert await made.get("/api", "shop.example") == (200, server.name)


async def test_two_apps_that_claim_the_same_are_told_and_the_first_has_it() -> None:
    async with lab() as made, backends(2) as (first, second):
        port = free_port()
        routes = [
            http_route([second.server()], app="/t/b"),
            http_route([first.server()], app="/t/a"),
            tcp_route([second.server()], port, app="/t/b"),
            tcp_route([first.server()], port, app="/t/a"),
        ]
        await made.driver.apply(routes)
        assert await made.get() == (200, first.name)
        assert await request(port) == (200, first.name)
        assert made.driver.problems() == ("/t/b:http: any host / is taken by /t/a:http", f"/t/b:sql: port {port} is taken by /t/a:sql")


@pytest.mark.parametrize("evil", ["x' }\nbackend evil", "a b", "${HOME}", '"', "#", "\\"])
async def test_names_with_tricks_do_no_harm(evil: str) -> None:
    """HAProxy itself accepts what we make of them, and the good route goes on."""
    async with lab() as made, backends(1) as (server,):
        bad = [
            http_route([Server(evil, "127.0.0.1", 1, ready=True)], app=f"/t/{evil}", hosts=(evil,), path="/" + evil),
            Route(evil, evil, evil, None, None, (Server(evil, evil, 1),)),
            tcp_route([Server(evil, evil, 1)], free_port(), app=evil),
        ]
        await made.driver.apply([*bad, http_route([server.server()])])
        assert await made.get() == (200, server.name)
        assert made.driver.problems()


async def test_headers_tell_the_application_who_asked() -> None:
    async with lab() as made, backends(1) as (server,):
        await made.driver.apply([http_route([server.server()])])
        _, head = await made.get("/echo", host="shop.example:81")
        assert {"host: shop.example:81", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"} <= set(head.split("\r\n"))
