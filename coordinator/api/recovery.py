"""The service Recovery: the end of it."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc

from ..ledger import Ledger
from ..nodes import Tracker
from ..recovery import recovered, strangers, unknown_of
from ..requests import Call, answered, check_request, put_answer
from .guard import Context, caller, unary


@dataclass(frozen=True, slots=True)
class RecoveryServicer(api_pb2_grpc.RecoveryServicer):
    """Lets an operator say that what the restored state does not know may go."""

    cluster_id: str
    ledger: Ledger
    tracker: Tracker

    @unary
    async def Recover(self, request: api_pb2.RecoverRequest, context: Context) -> api_pb2.RecoverReply:
        """End the recovery; the reply lists what is removed from now on."""
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        call = Call(actor, "cluster.recover", request, request.request)
        async with self.ledger.draft(actor, call.method, request.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.RecoverReply.FromString(data)
            unknown = unknown_of(strangers(self.ledger.state, self.tracker))
            reply = api_pb2.RecoverReply(changed=recovered(draft, actor, len(unknown)), unknown=unknown)
            if reply.changed:
                put_answer(draft, call, reply)
        return reply
