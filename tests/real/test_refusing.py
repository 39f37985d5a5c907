"""A node refuses a lost one, with real packets and the real nft: nothing passes but what is admitted, until it is lifted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gestalt.agent.board import Board
from gestalt.agent.desired import Desired
from gestalt.agent.firewall.refusing import Netfilter, Refusing
from gestalt.model import NodeState, Refused

from .agent_rig import until
from .network_lab import Namespace, connect, namespaces

pytestmark = pytest.mark.real

LOST = "00000000-0000-4000-8000-000000000002"
STORAGE, ZOOKEEPER, PUBLISHED = 24007, 2181, 3005
INCARNATION = 7


def wanted(address: str = "", *, complete: bool = True) -> Desired:
    """Return a desired state in which the node of this address is refused; nobody by default."""
    refused = {LOST: Refused(address, INCARNATION, (ZOOKEEPER,))} if address else {}
    return Desired(NodeState(1, 1, refused=refused), complete=complete)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Namespace, Namespace]]:
    """Have a node of ours, and one that is to be refused, each with a storage and a ZooKeeper."""
    async with namespaces("198.18.78.1", "198.18.78.2") as (node, lost):
        await connect(node, lost)
        for one in (node, lost):
            await one.serve(STORAGE, ZOOKEEPER)
        yield node, lost


@asynccontextmanager
async def keeper(node: Namespace, board: Board) -> AsyncIterator[Refusing]:
    refusing = Refusing(board, node.address, Netfilter(node.inside))
    try:
        yield refusing
    finally:
        await refusing.close()


async def refuse(refusing: Refusing, board: Board, lost: Namespace) -> None:
    """Refuse the lost node, and wait for the confirmation."""
    await refusing.ensure()
    refusing.set_desired(wanted(lost.address))
    await until("the confirmation", lambda: board.refusing == {LOST: INCARNATION})


async def test_nothing_passes_but_what_is_admitted_until_it_is_lifted() -> None:
    board = Board()
    async with pair() as (node, lost), keeper(node, board) as refusing:
        before = [await lost.talk(node, STORAGE), await node.talk(lost, STORAGE), await lost.talk(node, ZOOKEEPER)]
        assert [await talk.answered() for talk in before] == [True, True, True]
        await refuse(refusing, board, lost)
        assert [await talk.answered() for talk in before] == [False, False, True]  # what was connected before is cut off, too
        assert [await lost.reaches(node, port) for port in (STORAGE, ZOOKEEPER)] == [False, True]
        assert [await node.reaches(lost, port) for port in (STORAGE, ZOOKEEPER)] == [False, True]  # its ZooKeeper is a member, too
        assert not await lost.reaches(node, STORAGE, "udp")
        assert not await lost.reaches(node, ZOOKEEPER, "udp")
        refusing.set_desired(wanted())
        await until("nobody to be refused", lambda: not board.refusing)
        assert await lost.reaches(node, STORAGE)
        await until("old connections to go on", before[0].answered)
        assert await node.run("nft", "list", "tables") == ""


async def test_an_admitted_port_opens_nothing_from_there() -> None:
    """Who takes that port for its own end reaches what it answers, and begins nothing."""
    board = Board()
    async with pair() as (node, lost), keeper(node, board) as refusing:
        await refuse(refusing, board, lost)
        program = f"import socket; s = socket.create_connection(('{node.address}', {STORAGE}), 0.6, ('{lost.address}', 7999))"
        refusing.set_desired(Desired(NodeState(1, 2, refused={LOST: Refused(lost.address, 8, (7999,))}), complete=True))
        await until("the confirmation", lambda: board.refusing == {LOST: 8})
        with pytest.raises(AssertionError, match="timed out"):
            await lost.run("python3", "-c", program)


async def test_containers_are_refused_and_judged_by_their_published_ports() -> None:
    """A container listens on a port of ZooKeeper's number, published as another one: that other one counts."""
    board = Board()
    async with namespaces("198.18.78.1", "198.18.78.2", "198.18.79.2") as (node, lost, inner):
        await connect(node, lost)
        await connect(node, inner, ("198.18.79.1", inner.address))
        await inner.serve(ZOOKEEPER)
        await lost.serve(STORAGE)
        await node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        await inner.run("ip", "route", "add", "default", "via", "198.18.79.1")
        chain = "chain p { type nat hook %s priority %s; %s; };"
        published = chain % ("prerouting", "dstnat", f"tcp dport {PUBLISHED} dnat to {inner.address}:{ZOOKEEPER}")
        masked = chain.replace("p {", "q {") % ("postrouting", "srcnat", f"ip saddr {inner.address} masquerade")
        await node.run("nft", f"table ip docker {{ {published} {masked} }}")
        await inner.run("nft", "table ip seen { chain c { type filter hook input priority 0; counter; }; }")
        async with keeper(node, board) as refusing:
            inward, outward = await lost.talk(node, PUBLISHED), await inner.talk(lost, STORAGE)
            assert [await inward.answered(), await outward.answered()] == [True, True]
            await refuse(refusing, board, lost)
            before = await inner.run("nft", "list", "table", "ip", "seen")
            assert "packets 0" not in before
            assert [await inward.answered(), await outward.answered()] == [False, False]
            assert [await lost.reaches(node, PUBLISHED), await inner.reaches(lost, STORAGE)] == [False, False]
            assert await inner.run("nft", "list", "table", "ip", "seen") == before, "a packet came in, though no answer went out"


async def test_the_rules_stay_while_the_agent_is_away() -> None:
    """Nothing is taken out before the first full state, also when nothing is known of before; then what is over goes."""
    board = Board()
    async with pair() as (node, lost):
        async with keeper(node, board) as refusing:
            await refuse(refusing, board, lost)
        assert not await lost.reaches(node, STORAGE)
        for left in (wanted(complete=False), wanted(lost.address, complete=False)):
            board = Board()
            async with keeper(node, board) as restarted:
                restarted.set_desired(left)
                await restarted.ensure()
                assert board.refusing == ({LOST: INCARNATION} if left.state.refused else {})
            assert not await lost.reaches(node, STORAGE)
        async with keeper(node, board) as restarted:
            restarted.set_desired(wanted())
            await restarted.ensure()
            assert await lost.reaches(node, STORAGE)


async def test_a_leader_that_is_recovering_lifts_nothing() -> None:
    board = Board()
    async with namespaces("198.18.78.1") as (node,), keeper(node, board) as refusing:
        refusing.set_desired(wanted("198.18.78.2"))
        await refusing.ensure()
        for state, left in (({"recovering": True}, {LOST: INCARNATION}), ({}, {})):
            refusing.set_desired(Desired(NodeState(2, 1, **state), complete=True))
            await refusing.ensure()
            assert board.refusing == left


async def test_what_somebody_flushed_is_put_back() -> None:
    board = Board()
    async with pair() as (node, lost), keeper(node, board) as refusing:
        await refuse(refusing, board, lost)
        for damage in ("flush ruleset", "delete element inet gestalt refused4 { %s }", "flush chain inet gestalt incoming"):
            await node.run("nft", damage.replace("%s", lost.address))
            await refusing.ensure()
            assert not await lost.reaches(node, STORAGE)
        others = "table inet theirs { chain c { type filter hook input priority 0; }; }"
        await node.run("nft", others)
        await refusing.ensure()
        refusing.set_desired(wanted())
        await refusing.ensure()
        assert await node.run("nft", "list", "tables") == "table inet theirs\n"


async def test_an_untouched_table_is_not_written_again() -> None:
    board = Board()
    async with pair() as (node, lost), keeper(node, board) as refusing:
        await refuse(refusing, board, lost)
        assert not await lost.reaches(node, STORAGE)
        before = await node.run("nft", "list", "table", "inet", "gestalt")
        assert "packets 0" in before
        assert any(f"packets {count} " in before for count in range(1, 20))
        await refusing.ensure()
        after = await node.run("nft", "list", "table", "inet", "gestalt")
        assert any(f"packets {count} " in after for count in range(1, 20)), "the counters began anew"


async def test_without_nft_nothing_is_claimed() -> None:
    board = Board()
    refusing = Refusing(board, "198.18.78.1", Netfilter(("/nonexistent/ip",)))
    await refusing.ensure()
    refusing.set_desired(wanted())
    await refusing.ensure()
    assert board.problems() == ()  # nobody needs it
    refusing.set_desired(wanted("198.18.78.2"))
    await refusing.ensure()
    assert not board.refusing
    [problem] = board.problems()
    assert "install the package nftables" in problem
    await refusing.close()
