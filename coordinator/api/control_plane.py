"""The service ControlPlane: coordinators taken out, upgrades finalized, users' certificates renewed."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc

from ..enrolment import Enrolment
from ..ledger import Ledger
from ..members import check_coordinator_removable
from ..requests import Call, answered, check_request, put_answer
from .guard import Context, caller, unary


@dataclass(frozen=True, slots=True)
class ControlPlaneServicer(api_pb2_grpc.ControlPlaneServicer):
    """Of the leader, whose name is `me`."""

    cluster_id: str
    me: str
    ledger: Ledger
    enrolment: Enrolment

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
        """Nothing to do yet."""
        caller(context, self.cluster_id, Role.USER)
        return api_pb2.FinalizeReply(changed=False, format=1)

    @unary
    async def RenewCertificate(self, request: api_pb2.RenewCertificateRequest, context: Context) -> api_pb2.RenewCertificateReply:
        """Sign for who calls, and for nobody else. Making certificates changes nothing here."""
        name = caller(context, self.cluster_id, Role.USER).name
        return api_pb2.RenewCertificateReply(certificate=self.enrolment.renew_user(name, request.signing_request))
