"""The service Jobs."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt.identity import Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc

from .. import run_cancel, runs
from ..present import Presenter
from ..requests import Call, Requests
from .guard import Context, caller, unary


@dataclass(frozen=True, slots=True)
class JobsServicer(api_pb2_grpc.JobsServicer):
    """Starts, cancels and shows the runs of jobs."""

    cluster_id: str
    requests: Requests
    presenter: Presenter

    @unary
    async def Run(self, request: api_pb2.RunRequest, context: Context) -> api_pb2.ChangeReply:
        call = Call(caller(context, self.cluster_id, Role.USER).name, "run", request, request.request)
        return await self.requests.change(
            call, {request.app: lambda draft, asked: runs.begin(draft, request.app, request.parameters, asked)}
        )

    @unary
    async def CancelRun(self, request: api_pb2.CancelRunRequest, context: Context) -> api_pb2.ChangeReply:
        call = Call(caller(context, self.cluster_id, Role.USER).name, "cancel-run", request, request.request)
        return await self.requests.change(
            call, {request.app: lambda draft, asked: run_cancel.cancel(draft, request.app, request.run, asked)}
        )

    @unary
    async def Runs(self, request: api_pb2.GetRequest, context: Context) -> api_pb2.RunsReply:
        caller(context, self.cluster_id, Role.USER)
        return api_pb2.RunsReply(runs=self.presenter.runs(self.presenter.ledger.state.app(request.app)))
