"""The whole service Cluster: what operators see and switch of the cluster as a whole."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2
from gestalt.spec.values import POOL_LENGTH, POOL_NAME

from ..export import export_pieces
from ..records import Node, Switches
from ..requests import Call, answered, check_request, put_answer
from ..scheduler.strategies import KNOWN, doubts
from ..scheduler.values import DEFAULT_POOL
from ..state import Draft
from .guard import Context, caller, streaming, unary
from .views import ClusterServicer

REASON = 500
"""Characters of a reason that are kept."""
POOLS = 1000
"""Of so many pools something may be said."""


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

    @unary
    async def SetStrategy(self, request: api_pb2.StrategyRequest, context: Context) -> api_pb2.StrategyReply:
        """Say by which strategy apps are placed that say nothing themselves. What is placed stays where it is."""
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        check_strategy(request)
        call = Call(actor, "cluster.strategy", request, request.request)
        async with self.status.presenter.ledger.draft(actor, f"cluster.strategy {_meant(request)}", request.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                return api_pb2.StrategyReply.FromString(data)
            switches = draft.base.switches
            after = switches.strategies.put(request.pool, request.strategy)
            if len(after.pools) > POOLS:
                hint = "take back what was said of pools that are no more: gestaltctl cluster strategy --unset --pool POOL"
                raise GestaltError(Kind.REFUSED, f"something is said of {POOLS} pools, which is as many as may be", hint=hint)
            changed = after != switches.strategies
            warnings = doubts(switches.strategies, request.pool, request.strategy, map(_pool_of, draft.base.nodes.values()))
            reply = api_pb2.StrategyReply(changed=changed, strategy=after.cluster, pool_strategies=after.pools, warnings=warnings)
            if changed:
                draft.put(replace(switches, strategies=after))
                placed = f"apps of {_meant(request)} that name no strategy are placed by {request.strategy}"
                said = placed if request.strategy else f"what was said of {_meant(request)} is taken back"
                draft.tell("cluster.strategy", "cluster", f"{actor}: {said}")
                put_answer(draft, call, reply)
        return reply

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


def _meant(request: api_pb2.StrategyRequest) -> str:
    return f"pool {request.pool}" if request.pool else "the cluster"


def _pool_of(node: Node) -> str:
    return node.labels.get("pool") or DEFAULT_POOL


def check_strategy(request: api_pb2.StrategyRequest) -> None:
    """Refuse a strategy that there is not, or a pool that no app could name.

    Raises:
        GestaltError: INVALID, with every mistake.
    """
    details = []
    if request.strategy not in ("", *KNOWN):
        details.append(Detail("strategy", f"is {request.strategy!r}", f"{' or '.join(KNOWN)}, or nothing, to take it back"))
    if request.pool and not (len(request.pool) <= POOL_LENGTH and re.fullmatch(POOL_NAME, request.pool)):
        details.append(Detail("pool", f"is {request.pool[:100]!r}", f"a-z, 0-9 and inner dashes, at most {POOL_LENGTH} characters"))
    if details:
        message = "; ".join(f"{item.field}: {item.problem}; allowed: {item.allowed}" for item in details)
        raise GestaltError(Kind.INVALID, message, details=details)


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
