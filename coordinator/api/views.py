"""The services that only show: Nodes, Tasks, Events, Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2

from ..events import EventRing
from ..office import Office
from ..present import Presenter, event
from ..records import Event, Task, TaskState
from ..slices import gather
from ..status import Status
from .guard import Context, caller, streaming, unary

BATCH = 500
LOOK_AGAIN = 0.5
"""Seconds between looks at a task's soft progress; durable changes are told at once."""


@dataclass(frozen=True, slots=True)
class NodesServicer(api_pb2_grpc.NodesServicer):
    cluster_id: str
    presenter: Presenter

    @unary
    async def List(self, request: api_pb2.ListNodesRequest, context: Context) -> api_pb2.ListNodesReply:
        caller(context, self.cluster_id, Role.USER)
        return api_pb2.ListNodesReply(nodes=await gather(self.presenter.nodes()))


@dataclass(frozen=True, slots=True)
class TasksServicer(api_pb2_grpc.TasksServicer):
    cluster_id: str
    presenter: Presenter
    events: EventRing

    @unary
    async def Get(self, request: api_pb2.GetTaskRequest, context: Context) -> model_pb2.Task:
        caller(context, self.cluster_id, Role.USER)
        return self.presenter.task(self._find(request.id))

    @unary
    async def List(self, request: api_pb2.ListTasksRequest, context: Context) -> api_pb2.ListTasksReply:
        caller(context, self.cluster_id, Role.USER)
        tasks = sorted(self.presenter.ledger.state.tasks.values(), key=lambda task: task.created_at, reverse=True)
        chosen = [task for task in tasks if _matches(task, request)][: request.limit or 100]
        now = self.presenter.ledger.state.tasks
        return api_pb2.ListTasksReply(tasks=await gather(self.presenter.task(now.get(task.id, task)) for task in chosen))

    @streaming
    async def Watch(self, request: api_pb2.GetTaskRequest, context: Context) -> AsyncIterator[model_pb2.Task]:
        """Send the task whenever it changed, elapsed time apart, until it has ended."""
        caller(context, self.cluster_id, Role.USER)
        identity = self._find(request.id).id
        told = b""
        while True:
            message = self.presenter.task(self._find(identity))
            elapsed, message.elapsed = message.elapsed, 0
            content = message.SerializeToString(deterministic=True)
            if content != told:
                told, message.elapsed = content, elapsed
                yield message
            if message.state != TaskState.RUNNING:
                return
            await self.events.changed(LOOK_AGAIN)

    def _find(self, text: str) -> Task:
        tasks = self.presenter.ledger.state.tasks
        found = [tasks[text]] if text in tasks else [task for key, task in tasks.items() if text and key.startswith(text)]
        if len(found) != 1:
            problem = f"{len(found)} tasks begin with {text!r}" if found else f"there is no task {text!r}"
            raise GestaltError(Kind.NOT_FOUND, problem, hint="`gestaltctl tasks` lists them")
        return found[0]


def _matches(task: Task, request: api_pb2.ListTasksRequest) -> bool:
    stem = request.app.rstrip("/")
    below = not stem or task.app == stem or task.app.startswith(stem + "/")
    return below and (task.state is TaskState.RUNNING or not request.running_only)


@dataclass(frozen=True, slots=True)
class EventsServicer(api_pb2_grpc.EventsServicer):
    cluster_id: str
    events: EventRing

    @streaming
    async def Watch(self, request: api_pb2.WatchEventsRequest, context: Context) -> AsyncIterator[api_pb2.EventBatch]:
        caller(context, self.cluster_id, Role.USER)
        after = request.after or self.events.last
        async with aclosing(self.events.watch(after, follow=request.follow)) as batches:
            async for events, gap in batches:
                chosen = [item for item in events if _wanted(item, request)]
                for start in range(0, len(chosen), BATCH):
                    yield api_pb2.EventBatch(events=map(event, chosen[start : start + BATCH]), gap=gap and start == 0)
                    await asyncio.sleep(0)
                if gap and not chosen:
                    yield api_pb2.EventBatch(gap=True)


def _wanted(item: Event, request: api_pb2.WatchEventsRequest) -> bool:
    stem = request.app.rstrip("/")
    below = not stem or item.app == stem or item.app.startswith(stem + "/")
    return below and (not request.kinds or any(item.kind == kind or item.kind.startswith(kind + ".") for kind in request.kinds))


@dataclass(frozen=True, slots=True)
class ClusterServicer(api_pb2_grpc.ClusterServicer):
    cluster_id: str
    status: Status
    office: Office

    @unary
    async def Status(self, request: api_pb2.StatusRequest, context: Context) -> api_pb2.StatusReply:
        caller(context, self.cluster_id, Role.USER)
        return await self.status.reply()

    @unary
    async def StepDown(self, request: api_pb2.StepDownRequest, context: Context) -> api_pb2.StepDownReply:
        """End the office, after the answer. One that has ended already is answered alike, so that a repeated request ends no other."""
        identity = caller(context, self.cluster_id, Role.USER)
        epoch = self.status.presenter.ledger.epoch
        if 0 < request.epoch < epoch:
            return api_pb2.StepDownReply(epoch=request.epoch)
        check_step_down(request.epoch, epoch, self.status)
        reason = f"{identity.name} asked for it" + (f": {request.reason[:200]}" if request.reason else "")

        context.add_done_callback(lambda _: self.office.end(reason))  # type: ignore[arg-type]  # their stubs want a class
        return api_pb2.StepDownReply(epoch=epoch)


def check_step_down(wanted: int, epoch: int, status: Status) -> None:
    """Refuse to end an office that is not ours, or that nobody else could take.

    Raises:
        GestaltError: CONFLICT or REFUSED.
    """
    if wanted > epoch:
        raise GestaltError(Kind.CONFLICT, f"epoch {wanted} is to end, this is epoch {epoch}", hint="look again: gestaltctl status")
    if len(status.roster()) < 2:
        raise GestaltError(
            Kind.REFUSED,
            "no other coordinator stands by to take over",
            hint="an appliance has one coordinator; in a cluster see which ones run: gestaltctl status",
        )
