"""The services about members: what operators do with nodes, how machines join, and the ways in which nodes end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from gestalt import clock
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc, api_pb2

from .. import drain, maintenance, moving
from ..balancer import Balancer, Wish, cut_off
from ..changes import Asked
from ..enrolment import Enrolment
from ..ledger import Ledger
from ..members import Holding, check_removable, confirmed_dead, find_node, relabelled
from ..present import move_message
from ..records import Node, Task
from ..requests import Call, Requests, answered, check_request, put_answer
from ..state import Draft, State
from .guard import Context, caller, unary
from .views import NodesServicer

Change = Callable[[Node], Node]
_Asking = api_pb2.NodeRequest | api_pb2.DrainRequest | api_pb2.LabelRequest | api_pb2.RebalanceRequest | api_pb2.MaintenanceRequest


@dataclass(frozen=True, slots=True)
class MembersServicer(NodesServicer):
    """The whole service Nodes."""

    ledger: Ledger
    enrolment: Enrolment
    requests: Requests
    balancer: Balancer

    @unary
    async def Token(self, request: api_pb2.TokenRequest, context: Context) -> api_pb2.TokenReply:
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        return await self.enrolment.token(request, actor)

    @unary
    async def Cordon(self, request: api_pb2.NodeRequest, context: Context) -> api_pb2.NodeReply:
        return await self._change(self._call("cordon", request, context), request.node, lambda node: replace(node, admin="cordoned"))

    @unary
    async def Uncordon(self, request: api_pb2.NodeRequest, context: Context) -> api_pb2.NodeReply:
        return await self._change(self._call("uncordon", request, context), request.node, lambda node: replace(node, admin="ready"))

    @unary
    async def Drain(self, request: api_pb2.DrainRequest, context: Context) -> api_pb2.ChangeReply:
        limits = limits_of(request)

        def work(draft: Draft, asked: Asked) -> Task | None:
            node = find_node(self.ledger.state.nodes.values(), request.node)
            return drain.begin(draft, node, self.presenter.node_state(node.id), asked, limits)

        return await self.requests.change(self._call("drain", request, context), {request.node: work})

    @unary
    async def Maintain(self, request: api_pb2.MaintenanceRequest, context: Context) -> api_pb2.ChangeReply:
        wish = None if request.end else wish_of(request)

        def work(draft: Draft, asked: Asked) -> Task | None:
            node = find_node(self.ledger.state.nodes.values(), request.node)
            if wish is None:
                return maintenance.end(draft, node, asked)
            return maintenance.begin(draft, node, self.presenter.node_state(node.id), asked, wish)

        return await self.requests.change(self._call("maintenance", request, context), {request.node: work})

    @unary
    async def PlanRebalance(self, request: api_pb2.RebalanceRequest, context: Context) -> api_pb2.RebalancePlan:
        caller(context, self.cluster_id, Role.USER)
        search = await self.balancer.search(Wish.of(request), is_trial=True)
        return api_pb2.RebalancePlan(
            moves=[move_message(self.ledger.state, move) for move in search.moves],
            may_be_more=search.may_be_more,
            cut_off=cut_off(search, is_trial=True),
        )

    @unary
    async def Rebalance(self, request: api_pb2.RebalanceRequest, context: Context) -> api_pb2.ChangeReply:
        call, wish = self._call("rebalance", request, context), Wish.of(request)
        search = await self.balancer.search(wish, is_trial=False)

        def work(draft: Draft, asked: Asked) -> Task | None:
            return moving.begin(draft, search.moves, wish.parallel, asked, cut_off(search, is_trial=False))

        return await self.requests.change(call, {"the cluster": work})

    @unary
    async def Label(self, request: api_pb2.LabelRequest, context: Context) -> api_pb2.NodeReply:
        def change(node: Node) -> Node:
            return relabelled(node, request.put, request.drop, request.add_roles, request.drop_roles)

        return await self._change(self._call("label", request, context), request.node, change)

    @unary
    async def ConfirmDead(self, request: api_pb2.NodeRequest, context: Context) -> api_pb2.NodeReply:
        return await self._change(self._call("confirm-dead", request, context), request.node, confirmed_dead)

    @unary
    async def Remove(self, request: api_pb2.NodeRequest, context: Context) -> api_pb2.NodeReply:
        call = self._call("remove", request, context)
        async with self.ledger.draft(call.actor, f"node.remove {request.node}"[:500], call.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                reply = api_pb2.NodeReply.FromString(data)
            else:
                reply = self._remove(draft, call, request)
        await self.enrolment.expelled(reply.node.id)
        return reply

    def _remove(self, draft: Draft, call: Call, request: api_pb2.NodeRequest) -> api_pb2.NodeReply:
        node = find_node(self.ledger.state.nodes.values(), request.node)
        check_removable(node, self.presenter.node_state(node.id), holding(self.ledger.state, node.id), force=request.force)
        reply = api_pb2.NodeReply(changed=True)
        reply.node.id, reply.node.name = node.id, node.name
        drain.given_up(draft, node, replace(node, admin="removed"), "remove", clock.wall().isoformat())
        draft.delete("node", node.id)
        draft.tell("node.removed", node.name, f"{call.actor} removed node {node.name}")
        put_answer(draft, call, reply)
        return reply

    def _call(self, verb: str, request: _Asking, context: Context) -> Call:
        actor = caller(context, self.cluster_id, Role.USER).name
        check_request(request.request)
        return Call(actor, f"node.{verb}", request, request.request)

    async def _change(self, call: Call, text: str, change: Change) -> api_pb2.NodeReply:
        """Change what is decided about one node. The answer that is kept is short: a repeated call shows the node as it is then."""
        action = f"{call.method} {text}"[:500]
        async with self.ledger.draft(call.actor, action, call.request.id) as draft:
            if (data := answered(draft, call)) is not None:
                reply = api_pb2.NodeReply.FromString(data)
            else:
                node = find_node(self.ledger.state.nodes.values(), text)
                changed = drain.given_up(draft, node, change(node), call.method.removeprefix("node."), clock.wall().isoformat())
                reply = api_pb2.NodeReply(changed=changed != node)
                reply.node.id, reply.node.name = node.id, node.name
                if reply.changed:
                    draft.put_node(changed)
                    draft.tell(call.method, node.name, f"{call.actor}: {call.method.removeprefix('node.')} {node.name}")
                    put_answer(draft, call, reply)
        if reply.node.id in self.ledger.state.nodes:
            reply.node.CopyFrom(self.presenter.node(reply.node.id))
        return reply


@dataclass(frozen=True, slots=True)
class JoinsServicer(agent_pb2_grpc.JoinsServicer):
    """Lets machines in. Whoever calls has no certificate: the token says everything."""

    enrolment: Enrolment

    @unary
    async def Join(self, request: agent_pb2.JoinRequest, context: Context) -> agent_pb2.JoinReply:
        return await self.enrolment.join(request)


def limits_of(request: api_pb2.DrainRequest) -> drain.Limits:
    """Return the limits that a request sets.

    Raises:
        GestaltError: INVALID, when it both sets a deadline and takes it away.
    """
    if request.no_deadline and request.HasField("deadline"):
        detail = Detail("no_deadline", "goes with no deadline", "one of both")
        raise GestaltError(Kind.INVALID, f"{detail.field}: {detail.problem}; allowed: {detail.allowed}", details=[detail])
    deadline = request.deadline if request.HasField("deadline") else math.inf if request.no_deadline else None
    return drain.Limits(deadline, request.parallel if request.HasField("parallel") else None)


def wish_of(request: api_pb2.MaintenanceRequest) -> maintenance.Wish:
    """Return what a request asks for.

    Raises:
        GestaltError: INVALID, when it is to last no time.
    """
    if request.HasField("lasts") and request.lasts <= 0:
        raise maintenance.no_time(request.lasts)
    deadline = request.deadline if request.HasField("deadline") else None
    limits = drain.Limits(deadline, request.parallel if request.HasField("parallel") else None)
    return maintenance.Wish(request.reason, request.lasts, request.keep, limits)


def holding(state: State, node: str) -> Holding:
    """Return what is placed on a node."""
    apps = sorted(path for path, placements in state.placements.items() if any(placed.node == node for placed in placements.instances))
    known = [state.apps[path] for path in apps if path in state.apps]
    exclusive = [app.path for app in known if state.version(app.path, app.version).spec.placement.exclusive]
    return Holding(tuple(apps), tuple(exclusive))
