"""At which ports a refused node is still let in."""

from __future__ import annotations

import pytest

from gestalt.coordinator.admitted import admitted_ports, quorum_ports


@pytest.mark.parametrize(
    ("configuration", "ports"),
    [
        (b"", set()),
        (b"version=0\n", set()),
        (b"server.1=10.0.0.1:2888:3888:participant;0.0.0.0:2181\nversion=0", {2888, 3888, 2181}),
        (b"server.1=zk1.example:12888:13888:observer;12181", {12888, 13888, 12181}),
        (b"server.1=a:1:2\nserver.2=b:3:4", {1, 2, 3, 4}),
        (b"server.1=a:1:2|b:3:4:participant;[fd00::5:6]:7", {1, 2, 3, 4, 7}),
        (b"server.1=[fd00::8]:1:2:participant;[::]:3", {1, 2, 3}),
        (b"server.1=a:70000:0:x;\xff", set()),
    ],
)
def test_zookeeper_tells_its_ports(configuration: bytes, ports: set[int]) -> None:
    assert quorum_ports(configuration) == ports


def test_the_usual_ones_count_where_it_does_not() -> None:
    assert admitted_ports(("10.0.0.1:2181", "[fd00::1]:7400", "10.0.0.1:7401", ""), b"") == (2181, 2888, 3888, 7400, 7401)
    assert admitted_ports(("10.0.0.1:2181", "10.0.0.2:2181"), b"server.1=a:5:6") == (5, 6, 2181)
