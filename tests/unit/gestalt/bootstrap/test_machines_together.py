"""What is wrong with machines only together: each alone is as it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.bootstrap.facts import Facts
from gestalt.bootstrap.requirements import Level
from gestalt.bootstrap.zookeeper import servers_of

from .test_bootstrap_plan import BARE, bare, plan_of, site


def with_server(number: str, *addresses: str) -> Facts:
    return replace(BARE, server_id=number, servers=servers_of(addresses), units=frozenset({"gestalt-zookeeper"}))


THREE = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def test_servers_that_are_as_the_file_gives_them_are_left_alone() -> None:
    hosts = site()
    world = bare(hosts) | {f"h{number}": with_server(str(number), *THREE) for number in (1, 2)}
    assert plan_of(hosts, world).doubts == ()


@pytest.mark.parametrize(
    ("machine", "found", "told"),
    [
        ("h2", with_server("2", "10.0.0.1", "10.0.0.2", "10.0.0.9"), "knows of the servers 1 = 10.0.0.1, 2 = 10.0.0.2, 3 = 10.0.0.9"),
        ("h2", with_server("1", *THREE), "it has ZooKeeper server 1; hosts.yaml gives it 2"),
        ("h4", with_server("3", *THREE), "it has ZooKeeper server 3; hosts.yaml gives it none"),
        ("h1", with_server("1", "10.0.0.1"), "the servers 1 = 10.0.0.1; hosts.yaml gives 1 = 10.0.0.1, 2 = 10.0.0.2, 3 = 10.0.0.3"),
    ],
)
def test_a_server_that_the_file_would_number_anew_stops_it(machine: str, found: Facts, told: str) -> None:
    """It would be a second one of its number, or the majority of another set."""
    hosts = site()
    (doubt,) = plan_of(hosts, bare(hosts) | {machine: found}).doubts
    assert (doubt.host, doubt.level, told in doubt.what) == (machine, Level.ERROR, True), doubt
    assert "gestaltctl cluster zookeeper add" in doubt.hint


def test_addresses_are_compared_as_addresses_and_an_ensemble_of_the_site_is_its_own_business() -> None:
    written = [{"name": "h1", "address": "fd00::1"}]
    hosts = site(hosts=written)
    assert plan_of(hosts, {"h1": with_server("1", "fd00:0:0:0:0:0:0:1")}).errors == []
    hosts = site(zookeeper={"hosts": ["z:2181"]})
    assert plan_of(hosts, bare(hosts) | {"h2": with_server("7", "10.0.0.9")}).doubts == ()
