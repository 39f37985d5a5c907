"""The storage-side fence of a real leader with a real ZooKeeper: who is refused, when that counts as done, and when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gestalt.coordinator.records import Coordinator
from gestalt.coordinator.storage_fence import NetfilterFence
from gestalt.model import Observed, Peer, Phase
from tests.real.members_rig import Members
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real

ADDRESSES = {"a": "198.18.77.1", "b": "198.18.77.2", "c": "198.18.77.3"}
STRAY = "old-0000aa-1"


@pytest.fixture
async def rig(ensemble: Ensemble, tmp_path: Path) -> AsyncIterator[Members]:
    rig = Members(tmp_path, ensemble=ensemble, settings={"storage_fence": "netfilter"})
    await rig.up()
    for name in ADDRESSES:
        await rig.node(name, address=ADDRESSES[name], incarnation=1)
    await rig.until(lambda: all(rig.record(name).address == ADDRESSES[name] for name in ADDRESSES), "the addresses are noted")
    yield rig
    await rig.down()


def fence(rig: Members) -> NetfilterFence:
    assert rig.leader is not None
    return rig.leader.storage_fence


def secured(rig: Members, name: str = "a") -> bool:
    """Ask as the leader's grants do."""
    return fence(rig).secured(rig.ids[name], rig.incarnations[name], ADDRESSES[name])


def told(rig: Members, name: str) -> dict[str, int]:
    """Return whom an agent was told to refuse, by name."""
    names = {identity: known for known, identity in rig.ids.items()}
    return {names[node]: item.incarnation for node, item in rig.by_name[name].state.refused.items()}


async def lose(rig: Members, name: str = "a") -> None:
    """End the membership of a node, and its stream."""
    await rig.disconnect(name)
    await rig.end(name)
    await rig.until_state(name, "lost")


async def come_back(rig: Members, name: str, **fields: Any) -> None:
    await rig.join(name)
    await rig.connect(name, address=ADDRESSES[name], incarnation=rig.incarnations[name], **fields)


async def test_it_is_secured_when_all_others_refuse_it(rig: Members) -> None:
    rig.by_name["c"].refuses = False
    heard: list[bool] = []
    fence(rig).on_change(lambda: heard.append(secured(rig)))
    await lose(rig)
    await rig.until(lambda: rig.record("a").lost == 1, "the loss is noted")
    assert told(rig, "b") == {}, "nobody asked: it held nothing that is exclusive"
    assert not secured(rig)
    await rig.until(lambda: told(rig, "b") == told(rig, "c") == {"a": 1}, "the others are told")
    await rig.until(lambda: fence(rig).missing(rig.ids["a"], 1) == ("c",), "one has confirmed")
    assert not secured(rig)
    rig.by_name["c"].refuse()
    await rig.until(lambda: heard and heard[-1], "it is secured, and whoever asked hears of it")
    (refused,) = rig.by_name["b"].state.refused.values()
    assert refused.address == ADDRESSES["a"]
    assert rig.ensemble is not None
    assert set(refused.admitted_ports) == {2888, 3888, *rig.ensemble.ports}
    assert len(rig.events("node.refused")) == 1


async def test_the_way_to_a_new_coordinator_is_open_at_once(rig: Members) -> None:
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    assert rig.leader is not None
    async with rig.leader.ledger.draft("test", "join") as draft:
        draft.put(Coordinator("another", "198.18.77.4:7999", "198.18.77.4:7998"))
    refused = lambda: rig.by_name["b"].state.refused[rig.ids["a"]]  # noqa: E731
    await rig.until(lambda: {7998, 7999} <= set(refused().admitted_ports), "it can be reached")
    assert secured(rig)


async def test_what_is_refused_is_written_before_anybody_hears_of_it(rig: Members) -> None:
    await lose(rig)
    secured(rig)
    await rig.until(lambda: told(rig, "b"), "the others are told")
    assert (rig.record("a").refused, rig.record("a").refused_at) == (1, ADDRESSES["a"])


async def test_nodes_that_are_lost_do_not_count_but_one_has_to(rig: Members) -> None:
    rig.by_name["c"].refuses = False
    await lose(rig)
    assert not secured(rig)
    await rig.until(lambda: fence(rig).missing(rig.ids["a"], 1) == ("c",), "one has confirmed")
    await lose(rig, "c")
    assert secured(rig)
    await rig.disconnect("b")
    await rig.until(lambda: not secured(rig), "nobody is there who could refuse it")
    assert fence(rig).missing(rig.ids["a"], 1) == ("any node",)


async def test_a_new_session_has_to_confirm_anew(rig: Members) -> None:
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    await rig.disconnect("b")
    await rig.connect("b", address=ADDRESSES["b"], incarnation=1, refuses=False)
    await rig.until_state("b", "ready")
    await rig.until(lambda: fence(rig).missing(rig.ids["a"], 1) == ("b",), "its word of before does not count")


async def test_it_is_let_in_again_when_it_is_back_with_nothing_old_at_work(rig: Members) -> None:
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    old = Observed(STRAY, 1, Phase.RUNNING, app="/never/heard/of/it")
    await come_back(rig, "a", running={STRAY: old}, stuck=True)
    await rig.until_state("a", "ready")
    await rig.until(lambda: rig.record("a").lost == 0, "the return is noted")
    rig.by_name["a"].report(old)
    await rig.until(lambda: rig.leader and STRAY in rig.leader.tracker.nodes[rig.ids["a"]].unknown, "it still has something at work")
    assert told(rig, "b") == {"a": 1}
    assert told(rig, "a") == {}, "nobody refuses itself"
    refused = "node a: the other nodes refuse its packets until it is back with nothing of its membership 1 at work"
    assert refused in (await rig.status()).problems
    rig.by_name["a"].report(Observed(STRAY, 1, Phase.STOPPED, app="/never/heard/of/it"))
    await rig.until(lambda: told(rig, "b") == told(rig, "c") == {}, "it is let in again")
    assert rig.record("a").refused == 0
    assert len(rig.events("node.admitted")) == 1


async def test_nobody_is_sent_to_a_node_that_does_not_get_it(rig: Members) -> None:
    """A node that is back and still refused is given instances; the others do not send requests to them."""
    await rig.outcome(await rig.launch(2))
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    old = Observed(STRAY, 1, Phase.RUNNING, app="/never/heard/of/it")
    await come_back(rig, "a", running={STRAY: old}, stuck=True)
    await rig.until_state("a", "ready")
    rig.by_name["a"].report(old)
    await rig.outcome(await rig.launch(6))

    def of_a() -> list[bool]:
        (route,) = rig.by_name["b"].state.routes.values()
        return [server.lost for server in route.servers if server.address == ADDRESSES["a"]]

    await rig.until(lambda: of_a() and all(of_a()), "no requests for what runs there")
    rig.by_name["a"].report(Observed(STRAY, 1, Phase.STOPPED, app="/never/heard/of/it"))
    await rig.until(lambda: of_a() and not any(of_a()), "it gets requests again")


async def test_a_session_of_the_old_membership_does_not_let_it_in(rig: Members) -> None:
    """Its agent goes on talking with us while its fence begins anew: what it says now was not said under the new membership."""
    await rig.end("a")
    await rig.until_state("a", "lost")
    await rig.until(lambda: secured(rig), "it is secured")
    await rig.join("a")
    await rig.until(lambda: rig.record("a").lost == 0, "the return is noted")
    rig.by_name["a"].refuse()
    rig.by_name["b"].refuse()
    await rig.until(lambda: rig.leader and rig.leader.tracker.nodes[rig.ids["a"]].heard, "its stream stands")
    assert rig.record("a").refused == 1
    await rig.disconnect("a")
    await rig.connect("a", address=ADDRESSES["a"], incarnation=2)
    await rig.until(lambda: rig.record("a").refused == 0, "it is let in again")


async def test_a_new_leader_goes_on_refusing_and_lets_in_again(rig: Members) -> None:
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    await rig.leave_office()
    for name in ("b", "c"):
        await rig.disconnect(name)
    await rig.take_office()
    assert not secured(rig), "nobody has confirmed to this leader"
    for name in ("b", "c"):
        await rig.connect(name, address=ADDRESSES[name], incarnation=1)
    await rig.until(lambda: secured(rig), "the others confirm anew")
    assert told(rig, "b") == {"a": 1}
    await come_back(rig, "a")
    await rig.until(lambda: told(rig, "b") == told(rig, "c") == {}, "it is let in again")


async def test_a_leader_without_the_fence_lets_everybody_in(rig: Members) -> None:
    await lose(rig)
    await rig.until(lambda: secured(rig), "it is secured")
    await rig.leave_office()
    rig.settings["storage_fence"] = "none"
    await rig.take_office()
    await rig.until(lambda: rig.record("a").refused == 0, "the refusal is taken back")


async def test_an_address_of_two_nodes_is_never_refused(rig: Members, caplog: pytest.LogCaptureFixture) -> None:
    await rig.disconnect("b")
    await rig.connect("b", address=ADDRESSES["a"], incarnation=1)
    await rig.until(lambda: rig.record("b").address == ADDRESSES["a"], "its new address is noted")
    await lose(rig)
    assert not secured(rig)
    await rig.until(lambda: "node b has its address" in caplog.text, "it is told why not")
    assert rig.record("a").refused == 0
    await rig.disconnect("b")
    await rig.connect("b", address=ADDRESSES["b"], incarnation=1)
    await rig.until(lambda: secured(rig), "it is refused when that concerns nobody else")


async def test_nodes_are_told_of_each_other(rig: Members) -> None:
    expected = {rig.ids[name]: Peer(name, address) for name, address in ADDRESSES.items()}
    await rig.until(lambda: all(agent.state.peers == expected for agent in rig.agents), "all know all")
    await lose(rig)
    assert rig.leader is not None
    async with rig.leader.ledger.draft("test", "remove") as draft:
        draft.delete("node", rig.ids["a"])
    del expected[rig.ids["a"]]
    await rig.until(lambda: rig.by_name["b"].state.peers == expected, "who is removed is forgotten")
    await rig.disconnect("c")
    await rig.connect("c", incarnation=1, wants_peers=False)
    await rig.until(lambda: rig.by_name["c"].state.epoch > 0, "c is told what to run")
    assert rig.by_name["c"].state.peers == {}, "it keeps no hosts file, so that a thousand names are nothing to it"
