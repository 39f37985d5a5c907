"""The service Apps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import partial

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, spec_pb2
from gestalt.spec.dependencies import in_order
from gestalt.spec.load import find_cycle, validate_spec
from gestalt.spec.mistakes import show_place
from gestalt.spec.schema import AppSpec
from gestalt.wire import spec_document

from .. import changes
from ..changes import Asked
from ..dependencies import Set
from ..members import find_node
from ..planner import Planner
from ..present import Presenter, versions
from ..records import Task, Verb
from ..requests import Call, Outcome, Requests, Work
from ..state import Draft
from ..streams import Streams
from .guard import Context, caller, streaming, unary


@dataclass(frozen=True, slots=True)
class AppsServicer(api_pb2_grpc.AppsServicer):
    """Launches, changes and shows apps."""

    cluster_id: str
    requests: Requests
    presenter: Presenter
    planner: Planner
    streams: Streams

    def _call(
        self,
        context: Context,
        method: str,
        message: api_pb2.LaunchRequest
        | api_pb2.AppRequest
        | api_pb2.ScaleRequest
        | api_pb2.RollbackRequest
        | api_pb2.MigrateRequest
        | api_pb2.DeleteRequest,
    ) -> Call:
        identity = caller(context, self.cluster_id, Role.USER)
        return Call(identity.name, method, message, message.request)

    @unary
    async def Launch(self, request: api_pb2.LaunchRequest, context: Context) -> api_pb2.ChangeReply:
        return await self._describe(self._call(context, "launch", request), request, Verb.LAUNCH)

    @unary
    async def Update(self, request: api_pb2.LaunchRequest, context: Context) -> api_pb2.ChangeReply:
        return await self._describe(self._call(context, "update", request), request, Verb.UPDATE)

    @unary
    async def Apply(self, request: api_pb2.LaunchRequest, context: Context) -> api_pb2.ChangeReply:
        return await self._describe(self._call(context, "apply", request), request, None)

    async def _describe(self, call: Call, request: api_pb2.LaunchRequest, verb: Verb | None) -> api_pb2.ChangeReply:
        specs = ordered(read_specs(request.apps))
        together = {spec.path: spec.depends_on for spec in specs}
        if len(specs) > 1 and request.request.expected_version:
            raise GestaltError(Kind.INVALID, "expected_version goes with one app only", hint="send one request an app")
        work: dict[str, Work] = {}
        warnings, victims = [], set[str]()
        for spec in specs:
            told = self.planner.warnings(spec) + await self.planner.preempted(spec, victims)
            await asyncio.sleep(0)  # many apps and many nodes must not hold the loop
            warnings += [f"{spec.path}: {sentence}" for sentence in told]
            work[spec.path] = partial(_describe, verb=verb, spec=spec, warnings=tuple(told), together=together)
        reply = await self.requests.change(call, work)
        reply.warnings[:] = warnings
        return reply

    @unary
    async def Plan(self, request: api_pb2.PlanRequest, context: Context) -> api_pb2.PlanReply:
        caller(context, self.cluster_id, Role.USER)
        specs = ordered(read_specs(request.apps))
        together = {spec.path: spec.depends_on for spec in specs}
        plans, victims = [self.planner.plan(spec, together) for spec in specs], set[str]()
        for spec, plan in zip(specs, plans, strict=True):
            plan.warnings.extend(await self.planner.preempted(spec, victims))
        return api_pb2.PlanReply(apps=plans)

    async def _one(self, call: Call, path: str, work: Work) -> api_pb2.ChangeReply:
        return await self.requests.change(call, {path: work})

    @unary
    async def Scale(self, request: api_pb2.ScaleRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "scale", request)
        return await self._one(call, request.app, lambda draft, asked: changes.scale(draft, request.app, request.count, asked))

    @unary
    async def Migrate(self, request: api_pb2.MigrateRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "migrate", request)
        nodes = self.presenter.ledger.state.nodes

        def work(draft: Draft, asked: Asked) -> Task | None:
            source, target = (find_node(nodes.values(), text) if text else None for text in (request.from_node, request.to_node))
            return changes.migrate(draft, request.app, source, target, asked)

        return await self._one(call, request.app, work)

    @unary
    async def Stop(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "stop", request)
        return await self._one(call, request.app, lambda draft, asked: changes.stop(draft, request.app, asked))

    @unary
    async def Start(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "start", request)
        return await self._one(call, request.app, lambda draft, asked: changes.start(draft, request.app, asked))

    @unary
    async def Restart(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "restart", request)
        return await self._one(call, request.app, lambda draft, asked: changes.restart(draft, request.app, asked))

    @unary
    async def Rollback(self, request: api_pb2.RollbackRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "rollback", request)
        return await self._one(call, request.app, lambda draft, asked: changes.rollback(draft, request.app, request.to_version, asked))

    @unary
    async def Delete(self, request: api_pb2.DeleteRequest, context: Context) -> api_pb2.ChangeReply:
        call = self._call(context, "delete", request)
        return await self._one(call, request.app, lambda draft, asked: changes.delete(draft, request.app, asked, force=request.force))

    @unary
    async def Get(self, request: api_pb2.GetRequest, context: Context) -> api_pb2.AppReply:
        caller(context, self.cluster_id, Role.USER)
        app = self.presenter.ledger.state.app(request.app)
        await self.presenter.tracker.usages.gather()
        return api_pb2.AppReply(app=self.presenter.app(app), instances=self.presenter.instances(app), runs=self.presenter.runs(app))

    @unary
    async def List(self, request: api_pb2.ListRequest, context: Context) -> api_pb2.ListReply:
        caller(context, self.cluster_id, Role.USER)
        reply = api_pb2.ListReply()
        if request.with_instances:
            await self.presenter.tracker.usages.gather()
        for app in list(self.presenter.ledger.state.below(request.prefix)):
            reply.apps.append(self.presenter.app(app))
            if request.with_instances:
                reply.instances.extend(self.presenter.instances(app))
            await asyncio.sleep(0)
        return reply

    @unary
    async def History(self, request: api_pb2.GetRequest, context: Context) -> api_pb2.HistoryReply:
        caller(context, self.cluster_id, Role.USER)
        state = self.presenter.ledger.state
        app = state.app(request.app)
        return api_pb2.HistoryReply(versions=versions(app, state.versions_of(app.path)))

    @streaming
    async def Logs(self, request: api_pb2.LogsRequest, context: Context) -> AsyncIterator[api_pb2.LogChunk]:
        caller(context, self.cluster_id, Role.USER)
        async for chunk in self.streams.logs(request):
            yield chunk

    @streaming
    async def Exec(self, request: AsyncIterator[api_pb2.ExecInput], context: Context) -> AsyncIterator[api_pb2.ExecOutput]:
        identity = caller(context, self.cluster_id, Role.USER)

        async def accepted() -> None:
            """Tell the client that it may send input: a refusal after it began would reach it garbled."""
            await context.send_initial_metadata((("gestalt-exec", "accepted"),))

        async for output in self.streams.exec(identity.name, request, accepted):
            yield output


def _describe(
    draft: Draft, asked: changes.Asked, *, verb: Verb | None, spec: AppSpec, warnings: tuple[str, ...], together: Set
) -> Task | None:
    return changes.describe(draft, verb, spec, warnings, asked, together=together)


def ordered(specs: tuple[AppSpec, ...]) -> tuple[AppSpec, ...]:
    """Return descriptions, each after those that it depends on.

    Raises:
        GestaltError: INVALID, when they depend on each other in a circle.
    """
    by_path = {spec.path: spec for spec in specs}
    if (found := find_cycle(specs)) is not None:
        path, mistake = found
        detail = Detail(f"apps[{list(by_path).index(path)}].{show_place(mistake.place)}", mistake.problem, mistake.allowed)
        message = f"{detail.field}: {detail.problem}"
        raise GestaltError(Kind.INVALID, message, hint="leave one of them out of depends_on", details=[detail])
    order = in_order(by_path, lambda path: [other for other in by_path[path].depends_on if other in by_path])
    return tuple(by_path[path] for path in order)


def read_specs(messages: Iterable[spec_pb2.AppSpec]) -> tuple[AppSpec, ...]:
    """Return the descriptions of a request, validated.

    Raises:
        GestaltError: INVALID with all mistakes of all of them.
    """
    specs: dict[str, AppSpec] = {}
    details: list[Detail] = []
    for index, message in enumerate(messages):
        try:
            spec = validate_spec(spec_document(message))
        except GestaltError as error:
            details += [Detail(f"apps[{index}].{detail.field}", detail.problem, detail.allowed) for detail in error.details]
            continue
        if spec.path in specs:
            details.append(Detail(f"apps[{index}].path", f"{spec.path} stands in the request twice", "one description an app"))
        specs[spec.path] = spec
    if details:
        raise GestaltError(Kind.INVALID, "the description is not valid", details=details)
    if not specs:
        raise GestaltError(Kind.INVALID, "there is no description in the request", hint="name at least one app")
    return tuple(specs.values())


def change_reply(presenter: Presenter, outcome: Outcome) -> api_pb2.ChangeReply:
    """Return the reply to a change."""
    return api_pb2.ChangeReply(tasks=[presenter.task(task) for task in outcome.tasks], unchanged=outcome.unchanged)
