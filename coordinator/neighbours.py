"""What the nodes are told of each other: names and addresses, and who is to be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gestalt.model import NodeState, Peer, Refused
from gestalt.proto.v1 import agent_pb2
from gestalt.wire import to_wire

from .records import Node


class Neighbours:
    """Every node is told the same, so that it is worked out once, and what stays the same is the same object.

    Args:
        nodes: all nodes by id; read, never changed.
        address: where a node is reached; empty = that is not known.
    """

    def __init__(self, nodes: Mapping[str, Node], address: Callable[[str], str]) -> None:
        self._nodes = nodes
        self._address = address
        self._peers: dict[str, Peer] = {}
        self._wire = agent_pb2.NodeState()
        self._refused: Mapping[str, Refused] = {}
        self.refused: Callable[[], Mapping[str, Refused]] = dict
        """Returns whom all nodes but itself are to refuse, by node id."""

    @property
    def known(self) -> dict[str, Peer]:
        """All nodes of the cluster as of the last look; none where there is only one."""
        return self._peers

    def look(self) -> bool:
        """Work out anew what is known, and look whom all are to refuse; return whether any of it is something else."""
        refused, self._refused = self._refused, self.refused()
        now = {item.id: self._peer(item) for item in self._nodes.values() if self._address(item.id)} if len(self._nodes) > 1 else {}
        if now != self._peers:
            self._peers, self._wire = now, to_wire(NodeState(0, 0, peers=now), agent_pb2.NodeState)
            return True
        return refused is not self._refused and refused != self._refused

    def is_news(self, node: str) -> bool:
        """Return whether a look would find something else of a node than is known."""
        record = self._nodes.get(node)
        return len(self._nodes) > 1 and record is not None and self._peers.get(node) != Peer(record.name, self._address(node))

    def _peer(self, node: Node) -> Peer:
        before, address = self._peers.get(node.id), self._address(node.id)
        return before if before is not None and (before.name, before.address) == (node.name, address) else Peer(node.name, address)

    def refused_by(self, node: str) -> dict[str, Refused]:
        """Return whom a node is to refuse: never itself."""
        return {other: item for other, item in self.refused().items() if other != node}

    def put_peers(self, message: agent_pb2.NodeState) -> None:
        """Put the peers, as they were worked out last, into a message."""
        message.MergeFrom(self._wire)
