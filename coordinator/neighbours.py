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
        self.refused: Callable[[], Mapping[str, Refused]] = dict
        """Returns whom all nodes but itself are to refuse, by node id."""

    def peers(self) -> dict[str, Peer]:
        """Return all nodes of the cluster; none where there is only one."""
        now = {item.id: self._peer(item) for item in self._nodes.values() if self._address(item.id)} if len(self._nodes) > 1 else {}
        if now != self._peers:
            self._peers, self._wire = now, to_wire(NodeState(0, 0, peers=now), agent_pb2.NodeState)
        return self._peers

    def _peer(self, node: Node) -> Peer:
        before, address = self._peers.get(node.id), self._address(node.id)
        return before if before is not None and (before.name, before.address) == (node.name, address) else Peer(node.name, address)

    def refused_by(self, node: str) -> dict[str, Refused]:
        """Return whom a node is to refuse: never itself."""
        return {other: item for other, item in self.refused().items() if other != node}

    def put_peers(self, message: agent_pb2.NodeState) -> agent_pb2.NodeState:
        """Put the peers, as they were worked out last, into a message; return it."""
        message.MergeFrom(self._wire)
        return message
