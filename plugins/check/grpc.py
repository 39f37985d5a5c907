"""Checks through the standard gRPC health service."""

from __future__ import annotations

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.spec.schema import Check

from .wording import find_port, no_answer, no_port, result

_METHOD = "/grpc.health.v1.Health/Check"
# A subchannel that runs share while they overlap would carry the back-off of one failure into the other.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0))


class GrpcCheck(CheckDriver):
    """Kind `grpc`: `grpc.health.v1.Health/Check` of `service` (empty = the whole server) says SERVING. Without TLS."""

    name = "grpc"

    async def run(self, check: Check, target: CheckTarget) -> CheckResult:
        port = find_port(check, target)
        if port is None:
            return no_port(check)
        host = f"[{target.host}]" if ":" in target.host else target.host
        # Without it gRPC goes on trying to connect for 20 s after the channel was closed.
        options = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", max(1, round(check.timeout * 1000))))
        async with grpc.aio.insecure_channel(f"{host}:{port}", options=options) as channel:
            ask = channel.unary_unary(
                _METHOD,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = await ask(health_pb2.HealthCheckRequest(service=check.service), timeout=check.timeout)
            except grpc.aio.AioRpcError as error:
                return _explain(error, check, f"{target.host}:{port}")
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        names = health_pb2.HealthCheckResponse.ServingStatus
        known = answer.status in names.values()
        return result(serving, f"gRPC health: {names.Name(answer.status) if known else answer.status}")


def _explain(error: grpc.aio.AioRpcError, check: Check, place: str) -> CheckResult:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return no_answer(check)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return result(False, f"{place} has no grpc.health.v1.Health service")
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return result(False, f"the health service of {place} knows no service called {check.service!r}")
    return result(False, f"gRPC {error.code().name} from {place}: {error.details()}")
