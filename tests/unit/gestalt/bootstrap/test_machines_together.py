"""What is wrong with machines only together: each alone is as it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gestalt.bootstrap.facts import Facts
from gestalt.bootstrap.plan import Action
from gestalt.bootstrap.requirements import Level
from gestalt.bootstrap.zookeeper import servers_of
from tests.unit.gestalt.bootstrap.test_bootstrap_plan import BARE, World, bare, carried_out, names, plan_of, site


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


def member(*settings: str, cluster: str = "c", runs: bool = True) -> Facts:
    files = frozenset(f"{name}.yaml" for name in settings)
    units = frozenset({"gestalt-coordinator"}) if runs else frozenset()
    return replace(BARE, settings=files, clusters=frozenset({cluster}), units=units, mode="cluster" if "coordinator" in settings else "")


def finished(count: int) -> World:
    hosts = site(count=count)
    return carried_out(hosts, bare(hosts), plan_of(hosts, bare(hosts)).steps)


def test_a_new_host_at_the_top_joins_the_cluster_that_is_there() -> None:
    """Its place in the file makes it nothing; the hosts that are there are asked for nothing, and nobody is told to empty them."""
    hosts = site(
        zookeeper={"hosts": ["z:2181"]}, hosts=[{"name": name, "address": f"10.0.0.{name[1]}"} for name in ("h4", "h1", "h2", "h3")]
    )
    plan = plan_of(hosts, finished(3) | {"h4": BARE})
    assert (plan.first, plan.doubts) == ("h1", ())
    assert names(plan.pending) == {
        ("h4", action)
        for action in (
            Action.PACKAGES,
            Action.FIREWALL,
            Action.JOIN_COORDINATOR,
            Action.START_COORDINATOR,
            Action.JOIN_NODE,
            Action.START_NODE,
        )
    }


@pytest.mark.parametrize(
    ("world", "first", "told"),
    [
        ({}, "h1", ""),
        ({"h1": member("coordinator", "client"), "h2": member("coordinator")}, "h1", ""),
        ({"h1": member("coordinator"), "h2": member("coordinator", "client")}, "h2", ""),
        ({"h2": member("coordinator", runs=False)}, "h2", ""),
        ({"h2": member("coordinator")}, "h2", "h2 have coordinators, and none of them has /etc/gestalt/client.yaml"),
        ({"h1": member("coordinator", runs=False), "h2": member("agent", runs=False)}, "h1", "none of them has /etc/gestalt/client.yaml"),
        ({"h4": member("coordinator", "client")}, "h1", "h4 have coordinators already, and the file gives coordinators to h1, h2, h3"),
        ({"h1": replace(member("coordinator", "client"), mode="appliance")}, "h1", "it is an appliance"),
    ],
)
def test_the_cluster_is_where_a_coordinator_and_a_context_are(world: World, first: str, told: str) -> None:
    hosts = site()
    plan = plan_of(hosts, bare(hosts) | world)
    assert plan.first == first
    assert [told in doubt.what for doubt in plan.errors] == ([True] if told else [])


def test_one_machine_of_another_cluster_does_not_make_the_others_strangers() -> None:
    hosts = site()
    world = {"h1": member("coordinator", "client", cluster="other"), "h2": member("coordinator", "client"), "h3": member("coordinator")}
    plan = plan_of(hosts, bare(hosts) | world)
    assert plan.first == "h2"
    assert [(doubt.host, doubt.what) for doubt in plan.errors] == [("h1", "it has settings of another cluster in /etc/gestalt: other")]


def at(machine: str, *addresses: str) -> Facts:
    return replace(BARE, machine=machine, addresses=frozenset({"127.0.0.1", "172.17.0.1", *addresses}))


@pytest.mark.parametrize(
    ("world", "told"),
    [
        ({"h1": at("a", "10.0.0.1"), "h2": at("a", "10.0.0.2")}, []),
        ({"h1": at("a", "10.0.0.1", "10.0.0.2"), "h2": at("a", "10.0.0.1", "10.0.0.2")}, [("h2", "it is the same machine as h1")]),
        ({"h2": at("b", "10.0.0.9")}, [("h2", "10.0.0.2 is none of its addresses: 10.0.0.9, 127.0.0.1, 172.17.0.1")]),
        (
            {"h1": at("a", "10.0.0.1"), "h2": at("a", "10.0.0.1")},
            [("h2", "10.0.0.2 is none of its addresses: 10.0.0.1, 127.0.0.1, 172.17.0.1"), ("h2", "it is the same machine as h1")],
        ),
        ({"h1": at("a", "10.0.0.1"), "h2": at("b", "10.0.0.2", "10.0.0.1")}, []),
        ({"h1": at("", "10.0.0.1", "10.0.0.2"), "h2": at("", "10.0.0.1", "10.0.0.2")}, []),
    ],
)
def test_each_host_is_a_machine_of_its_own_that_has_its_address(world: World, told: list[tuple[str, str]]) -> None:
    hosts = site()
    assert [(doubt.host, doubt.what) for doubt in plan_of(hosts, bare(hosts) | world).errors] == told


def test_a_host_before_those_with_servers_changes_no_number_when_they_are_named() -> None:
    written = [{"name": name, "address": f"10.0.0.{name[1]}"} for name in ("h4", "h1", "h2", "h3")]
    world = {f"h{number}": with_server(str(number), *THREE) for number in (1, 2, 3)} | {"h4": BARE}
    (doubt,) = {doubt.hint for doubt in plan_of(site(hosts=written), world).errors}
    assert "name them in zookeeper.servers" in doubt
    named = {"archive": "apache-zookeeper-3.8.4-bin.tar.gz", "servers": ["h1", "h2", "h3"]}
    assert plan_of(site(hosts=written, zookeeper=named), world).errors == []
