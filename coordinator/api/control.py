"""The whole service Cluster: what operators see and switch of the cluster as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2

from ..export import export_pieces
from ..records import Switches
from ..requests import Call, answered, check_request, put_answer
from ..state import Draft
from .guard import Context, caller, streaming, unary
from .views import ClusterServicer

REASON = 500
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True)
class ControlServicer(ClusterServicer):
    """Status and step-down, and the brakes that operators put on and take off."""

    @unary
    async def Pause(self, request: api_pb2.PauseRequest, context: Context) -> api_pb2.PauseReply:
        """Replace nothing from now on. What an operator asks for, a scale or an update, goes on."""
        return await self._switch("cluster.pause", request, context)

    @unary
    async def Resume(self, request: api_pb2.PauseRequest, context: Context) -> api_pb2.PauseReply:
        """Replace again; it also confirms losses that the leader doubts."""
        return await self._switch("cluster.resume", request, context)

    @streaming
    async def Export(self, request: api_pb2.ExportRequest, context: Context) -> AsyncIterator[api_pb2.ExportChunk]:
        """Send everything that the store holds, as of one commit, as a file."""
        caller(context, self.cluster_id, Role.USER)
        for piece in export_pieces(await self.status.presenter.ledger.snapshot()):
            yield api_pb2.ExportChunk(data=piece)

    async def _switch(self, method: str, request: api_pb2.PauseRequest, context: Context) -> api_pb2.PauseReply:
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        call = Call(actor, method, request, request.request)
        async with self.status.presenter.ledger.draft(actor, method, request.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.PauseReply.FromString(data)
            after = _paused(draft, call, request.reason) if method == "cluster.pause" else _resumed(draft, call)
            reply = api_pb2.PauseReply(changed=after != draft.base.switches)
            if reply.changed:
                draft.put(after)
                put_answer(draft, call, reply)
        return reply


def _paused(draft: Draft, call: Call, reason: str) -> Switches:
    why = f"by {call.actor}" + (f": {reason[:REASON]}" if reason else "")
    if draft.base.switches.paused != why:
        draft.tell("cluster.paused", "cluster", f"automatic replacement is paused {why}")
    return replace(draft.base.switches, paused=why)


def _resumed(draft: Draft, call: Call) -> Switches:
    before = draft.base.switches
    if before.doubted:
        draft.tell("cluster.confirmed", "cluster", f"{call.actor} confirmed that the nodes which vanished are lost")
    if before.paused:
        draft.tell("cluster.resumed", "cluster", f"{call.actor} resumed automatic replacement")
    return replace(before, paused="", doubted=())
