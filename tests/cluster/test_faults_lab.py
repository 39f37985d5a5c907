"""The lab itself: every fault bites, and ends when it is healed. A fault that does nothing would make every other test here worthless."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gestalt.clock import monotonic
from gestalt.plugins.runtime.docker_options import LABEL_APP, LABEL_ATTEMPT, LABEL_INSTANCE

from .lab import nodes as power
from .lab.engine import WEB_IMAGE
from .lab.ensemble import PORT
from .lab.http import HttpFailed, get
from .lab.invariants import double_holders
from .lab.lab import Lab
from .lab.nodes import LabError, Node, can_run
from .lab.observer import Eyes, Observer

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]

PATIENCE = 30.0
_LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 9))
s.settimeout(float(sys.argv[1]))
seen = set()
try:
    while (data := s.recv(9)) != b"end":
        seen.add(data)
except TimeoutError:
    pass
print(len(seen))
"""
_SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(100):
    s.sendto(str(number).encode(), (sys.argv[1], 9))
    time.sleep(0.005)
"""


async def until(what: str, condition: Callable[[], Awaitable[object]], limit: float = PATIENCE) -> None:
    deadline = monotonic() + limit
    while not (seen := await condition()):
        assert monotonic() < deadline, f"waited {limit:g} s for {what}; last seen: {seen!r}"
        await asyncio.sleep(0.05)


async def connects(source: Node, target: Node, port: int = PORT) -> bool:
    return (await source.run("timeout", "1.5", "bash", "-c", f"</dev/tcp/{target.address}/{port}")).ok


async def arrive(source: Node, target: Node) -> int:
    """Return how many of 100 datagrams from source arrive at target."""
    listening = asyncio.create_task(target.python("-c", _LISTEN, "2"))

    async def bound() -> bool:
        return ":0009 " in await target.do("cat", "/proc/net/udp")

    await until("the listener", bound)
    await source.python("-c", _SEND, target.address)
    return int((await listening).stdout)


async def main_pid(node: Node, unit: str) -> str:
    return await node.do("systemctl", "show", "--property=MainPID", "--value", unit)


async def test_a_cut_separates_two_nodes_and_no_others(lab: Lab) -> None:
    one, two, three = lab.nodes
    assert await connects(one, two)
    await lab.faults.cut(one, two)
    assert await asyncio.gather(connects(one, two), connects(two, one)) == [False, False]
    assert await asyncio.gather(connects(one, three), connects(three, two)) == [True, True]
    assert await lab.ensemble.role(one), "the host reaches both"
    await lab.faults.heal()
    assert await connects(one, two)


async def test_a_one_way_cut_loses_packets_one_way(lab: Lab) -> None:
    one, two, _ = lab.nodes
    await lab.faults.cut_one_way(one, two)
    assert await arrive(one, two) == 0
    assert await arrive(two, one) > 75


async def test_a_refused_way_still_works_the_other_way(lab: Lab) -> None:
    one, two, _ = lab.nodes
    await lab.faults.refuse(one, two)
    assert await asyncio.gather(connects(one, two), connects(two, one)) == [False, True]


async def test_an_isolated_leader_of_zookeeper_is_replaced_and_follows_when_it_is_back(lab: Lab) -> None:
    leader = await lab.ensemble.leader()
    await lab.faults.isolate(leader)
    assert await lab.ensemble.role(leader) == ""
    assert await lab.ensemble.leader() != leader
    await lab.faults.heal()
    await until("the old leader to follow", lambda: _follows(lab, leader))


async def _follows(lab: Lab, node: Node) -> bool:
    return await lab.ensemble.role(node) == "follower"


async def test_a_split_leaves_the_minority_without_quorum(lab: Lab) -> None:
    one, two, three = lab.nodes
    await lab.faults.split([one])

    async def without() -> bool:
        return not await lab.ensemble.role(one)

    await until("the minority to stop serving", without)
    assert await connects(two, three)
    assert await lab.ensemble.leader() in (two, three)


async def test_packets_are_lost_at_random(lab: Lab) -> None:
    one, two, _ = lab.nodes
    await lab.faults.lose(one, two, 50)
    assert 20 < await arrive(one, two) < 80


async def test_a_killed_node_is_gone_and_boots_with_its_disks(lab: Lab) -> None:
    one, two, _ = lab.nodes
    await one.do("docker", "run", "--detach", "--name", "kept", WEB_IMAGE)
    await lab.faults.kill(one)
    assert await one.pid() == 0
    assert not await connects(two, one)
    await lab.faults.boot(one)
    await lab.ensemble.until_serving(one)
    assert await one.do("docker", "ps", "--quiet") == ""
    assert await one.do("docker", "ps", "--all", "--filter", "name=kept", "--format", "{{.Names}}") == "kept"
    await one.do("docker", "rm", "kept")


async def test_a_paused_node_accepts_connections_and_answers_nothing(lab: Lab) -> None:
    one, two, _ = lab.nodes
    await one.do("docker", "run", "--detach", "--name", "web", "--publish", "8080:80", WEB_IMAGE)
    assert await get(one.address, 8080, "/index.html") == "hello\n"
    await lab.faults.pause(one)
    assert await connects(two, one)
    with pytest.raises(HttpFailed, match="no answer"):
        await get(one.address, 8080, "/index.html", limit=1)
    await lab.faults.unpause(one)
    assert await get(one.address, 8080, "/index.html") == "hello\n"
    await one.do("docker", "rm", "--force", "web")


async def test_a_frozen_server_is_silent_until_it_thaws(lab: Lab) -> None:
    leader = await lab.ensemble.leader()
    await lab.faults.freeze(leader, "zookeeper")
    assert await connects(lab.nodes[0], leader)
    assert await lab.ensemble.role(leader) == ""
    await lab.faults.thaw(leader, "zookeeper")
    await lab.ensemble.until_serving(leader)


async def test_a_crash_of_docker_leaves_its_containers_at_work(lab: Lab) -> None:
    one = lab.nodes[0]
    await one.do("docker", "run", "--detach", "--name", "web", "--publish", "8080:80", WEB_IMAGE)
    before = await main_pid(one, "docker")
    await lab.faults.crash(one, "docker")
    assert await get(one.address, 8080, "/cgi-bin/who")

    async def another() -> bool:
        return await main_pid(one, "docker") not in (before, "0") and (await one.run("docker", "ps")).ok

    await until("systemd to start Docker again", another)
    assert await get(one.address, 8080, "/index.html") == "hello\n"
    await one.do("docker", "rm", "--force", "web")


async def test_a_stopped_part_stays_away_until_it_is_started(lab: Lab) -> None:
    one = lab.nodes[0]
    await lab.faults.stop(one, "docker")
    assert not (await one.run("docker", "ps")).ok
    await lab.faults.start(one, "docker")
    assert (await one.run("docker", "ps")).ok


async def test_a_part_that_crashed_for_good_was_killed_and_stays_dead_until_it_is_started(lab: Lab) -> None:
    server = lab.nodes[0]
    await lab.faults.crash_for_good(server, "zookeeper")
    how = await server.do("systemctl", "show", "--property=ActiveState,ExecMainStatus,Result", "zookeeper")
    assert how.split()[:2] == ["Result=signal", "ExecMainStatus=9"]
    assert how.split()[2] in ("ActiveState=failed", "ActiveState=inactive"), how  # inactive: systemd was about to start it again
    await lab.faults.start(server, "zookeeper")
    await lab.ensemble.until_serving(server)


async def test_what_is_no_part_or_has_no_unit_is_told(lab: Lab) -> None:
    with pytest.raises(LabError, match="haproxy is not started and stopped by hand"):
        await lab.faults.stop(lab.nodes[0], "haproxy")
    with pytest.raises(LabError, match=r"'engine' is no part of a node; there are agent, .*zookeeper"):
        await lab.faults.crash(lab.nodes[0], "engine")


def _labels(app: str, instance: str) -> list[str]:
    labels = {LABEL_APP: app, LABEL_INSTANCE: instance, LABEL_ATTEMPT: "1"}
    return [part for label, value in labels.items() for part in ("--label", f"{label}={value}")]


async def test_the_observer_sees_what_runs_whatever_is_wrong_with_the_node(lab: Lab) -> None:
    one, two, _ = lab.nodes
    for node, instance in ((one, "solo-1"), (two, "solo-2")):
        await node.do("docker", "run", "--detach", "--name", "solo", *_labels("/t/t/t/solo", instance), WEB_IMAGE)
    eyes = await Eyes.on(lab.nodes)
    both = [(one.name, "solo-1"), (two.name, "solo-2")]

    def seen() -> list[tuple[str, str]]:
        return [(copy.node, copy.instance) for copy in eyes.look().copies if not copy.frozen]

    async with Observer(eyes) as observer:
        await until("samples", lambda: asyncio.sleep(0, len(observer.samples) > 3))
    assert double_holders(observer.samples, {"/t/t/t/solo"}), "the judge finds two real holders"
    await lab.faults.freeze(one, "docker")
    await lab.faults.stop(two, "docker")
    assert sorted(seen()) == both, "containers outlive their Engine"
    await lab.faults.pause(one)
    assert seen() == both[1:], "what is frozen is not at work"
    assert len(eyes.look().copies) == 2
    await lab.faults.kill(two)
    assert seen() == []
    await lab.faults.heal_all()
    assert seen() == both[:1]
    await asyncio.gather(*(node.do("docker", "rm", "--force", "solo") for node in (one, two)))
    assert eyes.look().copies == ()


async def test_everything_is_healed_at_once(lab: Lab) -> None:
    one, two, three = lab.nodes
    await lab.faults.kill(one)
    await lab.faults.freeze(two, "docker")
    await lab.faults.isolate(two)
    await lab.faults.pause(three)
    assert await power.paused(three)
    await lab.faults.heal_all()
    assert not await power.paused(three)
    for node in lab.nodes:
        await lab.ensemble.until_serving(node)
        assert (await node.run("docker", "ps")).ok
