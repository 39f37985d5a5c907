"""The service Changes: an operator steers a change that is under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc

from .. import steering
from ..changes import Asked
from ..present import Presenter
from ..records import Task
from ..requests import Call, Requests
from ..state import Draft
from .guard import Context, caller, unary


@dataclass(frozen=True, slots=True)
class ChangesServicer(api_pb2_grpc.ChangesServicer):
    """Promotes, pauses, resumes and cancels."""

    cluster_id: str
    requests: Requests
    presenter: Presenter

    async def _do(
        self, verb: str, work: Callable[[Draft, str, Asked], Task | None], request: api_pb2.AppRequest, context: Context
    ) -> api_pb2.ChangeReply:
        actor = caller(context, self.cluster_id, Role.USER).name
        call = Call(actor, verb, request, request.request)
        return await self.requests.change(call, {request.app: lambda draft, asked: work(draft, request.app, asked)})

    @unary
    async def Promote(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        """Make the canary the wanted version."""

        def work(draft: Draft, path: str, asked: Asked) -> Task:
            return steering.promote(draft, path, self.presenter.unready(path), asked)

        return await self._do("promote", work, request, context)

    @unary
    async def Pause(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        """Hold the change where it is."""
        return await self._do("pause", steering.pause, request, context)

    @unary
    async def Resume(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        """Let it go on."""
        return await self._do("resume", steering.resume, request, context)

    @unary
    async def Cancel(self, request: api_pb2.AppRequest, context: Context) -> api_pb2.ChangeReply:
        """Go back to what was before."""
        return await self._do("cancel", steering.cancel, request, context)
