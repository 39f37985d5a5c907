"""The service Promises: given by every coordinator, whether it leads or not. It lets holders go on while ZooKeeper has no quorum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc

from .guard import Context, caller, unary


@dataclass(frozen=True, slots=True)
class PromisesServicer(agent_pb2_grpc.PromisesServicer):
    """Promises to give nothing to anybody else for `seconds`, lease + kill + margin, unless it leads or knows who does.

    Why that is enough: whoever takes office, and this coordinator too, waits that long from then on before it gives to one node what may
    be held by another, whatever an earlier leader has waited already (see `grants`). So as long as no coordinator leads at the moment at
    which it is asked, none can give anything away for `seconds` from then. What was given away before was given when nobody could hold
    it any more, and whoever held it does not ask. That every coordinator has promised, within one lease, is for the holder to see to.

    The holder may know too few coordinators, such as when one has joined while it was cut off: so one that sees a leader at work refuses as
    well. Without a quorum none of them sees any.

    A standby has no state, and needs none: that the caller is a node its certificate says. `leads`: whether this coordinator holds an
    office now; `leader`: where another one does, as far as it knows, else empty. To be asked at each call.
    """

    cluster_id: str
    seconds: float
    leads: Callable[[], bool]
    leader: Callable[[], str] = lambda: ""

    @unary
    async def Promise(self, request: agent_pb2.PromiseRequest, context: Context) -> agent_pb2.PromiseReply:
        identity = caller(context, self.cluster_id, Role.NODE)
        if request.node_id != identity.name or request.incarnation <= 0:
            raise GestaltError(
                Kind.UNAUTHENTICATED,
                f"the certificate is of node {identity.name}, it is asked for incarnation {request.incarnation} of {request.node_id}",
                hint="check node_id and tls in the agent's settings",
            )
        if self.leads():
            return agent_pb2.PromiseReply(reason="this coordinator leads: it gives what is exclusive to other nodes when it must")
        if leader := self.leader():
            return agent_pb2.PromiseReply(reason=f"{leader} leads: it gives what is exclusive to other nodes when it must")
        return agent_pb2.PromiseReply(promised=True, seconds=self.seconds)
