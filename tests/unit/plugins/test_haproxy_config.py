"""The configuration of HAProxy as a function of routes: its text, its order, what it never lets in."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt.model import HttpService, Route, Server, TcpService
from gestalt.plugins.loadbalancer.haproxy_config import Options, affordable_connections, render
from gestalt.plugins.loadbalancer.haproxy_routes import ServerEntry, ServerState, resolve

OPTIONS = Options("*", 80, 0, 2000, 60.0, Path("/run/gestalt/agent/haproxy/worker.sock"), "haproxy", "haproxy", Path("/run/gestalt/empty"))
GOLDEN = Path(__file__).with_name("haproxy_golden.cfg")


def http(app: str, *servers: Server, hosts: tuple[str, ...] = (), path: str = "/") -> Route:
    return Route(f"{app}:http", app, "http", HttpService(hosts, path), None, servers)


def tcp(app: str, port: int, *servers: Server) -> Route:
    return Route(f"{app}:sql", app, "sql", None, TcpService(port), servers)


ROUTES = (
    http("/org/shop/prod/web", Server("web-3fa9c1-1", "127.0.0.1", 3000, ready=True), Server("web-3fa9c1-2", "127.0.0.1", 3001)),
    http("/org/shop/prod/api", Server("api-0b12aa-7", "10.0.0.7", 3000, ready=True, drain=True), hosts=("shop.example",), path="/api/"),
    http("/org/shop/prod/docs", hosts=("Shop.Example.", "*.docs.example", "*.de.docs.example"), path="/docs"),
    tcp("/org/shop/prod/db", 5432, Server("db-77aa01-1", "fd00:0::1", 3005, ready=True)),
)


def test_the_whole_text() -> None:
    assert render(ROUTES, OPTIONS).text == GOLDEN.read_text()


def test_the_order_of_routes_and_servers_does_not_matter() -> None:
    expected = render(ROUTES, OPTIONS)
    for seed in range(20):
        shuffled = [replace(route, servers=tuple(random.Random(seed).sample(route.servers, len(route.servers)))) for route in ROUTES]
        random.Random(seed).shuffle(shuffled)
        assert render(shuffled, OPTIONS) == expected


def test_servers_are_no_part_of_the_structure() -> None:
    without = [replace(route, servers=()) for route in ROUTES]
    assert render(without, OPTIONS).structure == render(ROUTES, OPTIONS).structure
    assert render(without, OPTIONS).text != render(ROUTES, OPTIONS).text


@pytest.mark.parametrize(
    "changed",
    [
        {"bind": "127.0.0.1"}, {"http_port": 81}, {"http_port": 0}, {"stats_port": 8404}, {"max_connections": 100},
        {"hard_stop_after": 5.0}, {"user": ""}, {"chroot": None}, {"socket": Path("/elsewhere")},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_is_part_of_the_structure(changed: dict[str, object]) -> None:
    assert render(ROUTES, replace(OPTIONS, **changed)).structure != render(ROUTES, OPTIONS).structure  # type: ignore[arg-type]


def test_the_states_of_servers() -> None:
    servers = render(ROUTES, OPTIONS).servers
    by_name = {name: entry for (_, name), entry in servers.items()}
    assert by_name["web-3fa9c1-1"] == ServerEntry("127.0.0.1", 3000, ServerState.READY)
    assert by_name["web-3fa9c1-2"].state is ServerState.MAINT
    assert by_name["api-0b12aa-7"].state is ServerState.DRAIN
    assert by_name["db-77aa01-1"].address == "fd00::1"


def rules(*routes: Route) -> list[tuple[tuple[str, ...], str]]:
    return [(rule.hosts, rule.path) for rule in resolve(routes).http_rules]


def test_exact_hosts_come_first_then_long_suffixes_then_any_host_each_with_long_paths_first() -> None:
    assert rules(
        http("/a", path="/very/long/path"),
        http("/b"),
        http("/c", hosts=("*.example",)),
        http("/d", hosts=("*.x.example",), path="/p"),
        http("/e", hosts=("*.x.example",)),
        http("/f", hosts=("x.example", "y.example")),
        http("/g", hosts=("x.example",), path="/p/q"),
    ) == [
        (("x.example",), "/p/q/"),
        (("x.example", "y.example"), "/"),
        (("*.x.example",), "/p/"),
        (("*.x.example",), "/"),
        (("*.example",), "/"),
        ((), "/very/long/path/"),
        ((), "/"),
    ]


def test_two_claims_on_one_host_and_path_go_to_the_first_key_and_are_told() -> None:
    topology = resolve([http("/b", hosts=("X.example",), path="/p/"), http("/a", hosts=("x.example",), path="/p")])
    assert len(topology.http_rules) == 1
    assert topology.http_rules[0].backend == resolve([http("/a")]).http_rules[0].backend
    assert topology.problems == ("/b:http: x.example /p/ is taken by /a:http",)


def test_two_claims_on_one_port_go_to_the_first_key_and_are_told() -> None:
    topology = resolve([tcp("/b", 5432), tcp("/a", 5432), tcp("/c", 80)], reserved_ports=[80])
    assert [rule.owner for rule in topology.tcp_rules] == ["/a:sql"]
    assert topology.problems == ("/b:sql: port 5432 is taken by /a:sql", "/c:sql: port 80 is taken by the proxy itself")


def test_a_star_alone_is_any_host() -> None:
    assert rules(http("/a", hosts=("*",))) == [((), "/")]


def test_closed_ports_are_left_out_but_their_servers_stay_known() -> None:
    open_text, closed = render(ROUTES, OPTIONS), render(ROUTES, OPTIONS, closed={80, 5432})
    assert "frontend http" not in closed.text
    assert "tcp_5432" not in closed.text
    assert closed.servers == open_text.servers
    assert closed.structure != open_text.structure


HOSTILE = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        "x' }\nbackend evil", "a b", "x\n    server evil 6.6.6.6:1", "/p' } or { always_true", "#", '"', "\\", "$HOME", "${HOME}",
        "%[env(HOME)]", "\u2028x", "\x00",
    ]
)  # fmt: skip
PORTS = st.integers(-5, 70_000)
LINE = re.compile(
    r"|defaults|global|(frontend|backend) [a-z0-9_]+|# [ -~]*"
    r"|    use_backend http_[0-9a-f]{12} if "
    r"(\{ var\(txn\.host\) -m (str|end)( '[a-z0-9_.-]+')+ \} )?\{ var\(txn\.path\) -m beg '/[!-&(-~]*' \}"
    r"|    server [A-Za-z0-9._-]+ ([0-9.]+|\[[0-9a-f:.]+\]):\d+( disabled)?"
    r"|    bind [*]:\d+|    default_backend tcp_[0-9a-f]{12}|    description gestalt [0-9a-f]{16}"
)


@given(app=HOSTILE, host=HOSTILE, path=HOSTILE, server=st.builds(Server, HOSTILE, HOSTILE, PORTS, st.booleans()), port=PORTS)
def test_nothing_that_someone_else_wrote_becomes_configuration(app: str, host: str, path: str, server: Server, port: int) -> None:
    """Whatever comes in, every line is one of the fixed ones or has one of the shapes that we write."""
    routes = [http(app, server, hosts=(host,), path=path), http(app + "2", hosts=(host,), path="/" + path), tcp(app, port, server)]
    fixed = set(GOLDEN.read_text().split("\n"))
    foreign = [line for line in render(routes, OPTIONS).text.split("\n") if line not in fixed and not LINE.fullmatch(line)]
    assert not foreign


@pytest.mark.parametrize("path", ["no-slash", "/a b", "/a'b", "/a\nb", "/a#b", '/a"b', "/ä", "/a\\b", "/a{b}", "/a?b"])
def test_odd_paths_are_told_and_left_out(path: str) -> None:
    topology = resolve([http("/a", path=path)])
    assert topology.http_rules == ()
    assert "path prefix" in topology.problems[0]


@pytest.mark.parametrize(
    "host", ["a b", "a'b", "-a", "a..b", "*.*.a", "a.*", "ä.example", "[::1]", "a:80", "x" * 64, ".".join(["abc"] * 70), "**"]
)
def test_odd_hosts_are_told_and_left_out(host: str) -> None:
    topology = resolve([http("/a", hosts=(host, "good.example"))])
    assert [rule.hosts for rule in topology.http_rules] == [("good.example",)]
    assert "host name" in topology.problems[0]


@pytest.mark.parametrize(
    "server",
    [
        Server("a b", "127.0.0.1", 1), Server("", "127.0.0.1", 1), Server("a/b", "127.0.0.1", 1), Server("a;b", "127.0.0.1", 1),
        Server("a", "localhost", 1), Server("a", "127.0.0.1", 0), Server("a", "127.0.0.1", 65536), Server("a", "fe80::1%eth0", 1),
    ],
    ids=str,
)  # fmt: skip
def test_odd_servers_are_told_and_left_out(server: Server) -> None:
    topology = resolve([http("/a", server)])
    assert topology.http_backends[0].servers == {}
    assert "is not valid" in topology.problems[0]


def test_a_socket_path_that_cannot_be_quoted_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        render(ROUTES, replace(OPTIONS, socket=Path("/it's/here")))


@pytest.mark.parametrize(
    ("wanted", "descriptors", "listeners", "expected"),
    [(2000, 20_000, 3, 2000), (2000, 1024, 4, 460), (2000, 50, 0, 1), (2000, 4100, 0, 2000)],
)
def test_connections_are_what_the_file_limit_allows(wanted: int, descriptors: int, listeners: int, expected: int) -> None:
    assert affordable_connections(wanted, descriptors, listeners) == expected
