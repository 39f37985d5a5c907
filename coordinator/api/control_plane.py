"""The service ControlPlane: coordinators taken out, upgrades finalized, users' certificates renewed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gestalt import __version__
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc

from ..election import Candidate
from ..enrolment import Enrolment
from ..ledger import Ledger
from ..members import check_coordinator_removable
from ..nodes import NodeView, Tracker
from ..requests import Call, answered, check_request, put_answer
from ..store import formats
from ..upgrade import check_finalizable
from .guard import Context, caller, unary

_UNHEARD = NodeView("", "")


@dataclass(frozen=True, slots=True)
class ControlPlaneServicer(api_pb2_grpc.ControlPlaneServicer):
    """Of the leader, whose name is `me`."""

    cluster_id: str
    me: str
    ledger: Ledger
    enrolment: Enrolment
    tracker: Tracker
    roster: Callable[[], Sequence[Candidate]] = tuple
    """The coordinators that run; none in an appliance."""

    @unary
    async def RemoveCoordinator(self, request: api_pb2.RemoveCoordinatorRequest, context: Context) -> api_pb2.RemoveCoordinatorReply:
        """Bar it first, then forget it: cut short in between, the same request goes on."""
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        call = Call(actor, "coordinator.remove", request, request.request)
        async with self.ledger.draft(actor, f"coordinator.remove {request.name}"[:500], request.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.RemoveCoordinatorReply.FromString(data)
            found = check_coordinator_removable(self.ledger.state.coordinators, request.name, self.me)
            if self.enrolment.bars is None:
                raise GestaltError(Kind.REFUSED, "an appliance has one coordinator, which cannot be removed")
            await self.enrolment.bars.bar(found.name)
            reply = api_pb2.RemoveCoordinatorReply(changed=True)
            draft.delete("coordinator", found.name)
            draft.tell("coordinator.removed", found.name, f"{actor} removed coordinator {found.name} at {found.address}")
            put_answer(draft, call, reply)
        return reply

    @unary
    async def FinalizeUpgrade(self, request: api_pb2.FinalizeRequest, context: Context) -> api_pb2.FinalizeReply:
        """Let the store have the newest format, then write the audit record: cut short in between, the same request goes on."""
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        call = Call(actor, "cluster.finalize-upgrade", request, request.request)
        async with self.ledger.draft(actor, call.method, request.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.FinalizeReply.FromString(data)
            target, roster = formats.newest(), self.roster()
            check_finalizable(__version__, target, roster, self.ledger.state.coordinators, self._agents())
            reply = api_pb2.FinalizeReply(changed=await self.ledger.raise_format(target), format=target)
            if reply.changed:
                draft.tell("cluster.finalized", "cluster", f"{actor} finalized the upgrade to {__version__}: format {target}")
                put_answer(draft, call, reply)
        return reply

    def _agents(self) -> dict[str, str]:
        """Return the version of each member's agent that has been heard."""
        views = self.tracker.nodes
        return {
            node.name: views[node.id].agent_version
            for node in self.ledger.state.nodes.values()
            if views.get(node.id, _UNHEARD).agent_version
        }

    @unary
    async def RenewCertificate(self, request: api_pb2.RenewCertificateRequest, context: Context) -> api_pb2.RenewCertificateReply:
        """Sign for who calls, and for nobody else. Making certificates changes nothing here."""
        name = caller(context, self.cluster_id, Role.USER).name
        return api_pb2.RenewCertificateReply(certificate=self.enrolment.renew_user(name, request.signing_request))
