"""Without ZooKeeper, go on with what is exclusive while every coordinator promises to replace nothing. Only where the setting says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import grpc

from gestalt.clock import boottime
from gestalt.config import AgentSettings
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.rpc import decode_error
from gestalt.rpc_server import channel_credentials

from .fence_link import FenceLink
from .fence_state import LeaseState
from .ongoing import Ongoing

log = logging.getLogger(__name__)

ROUNDS = 4
"""How often coordinators are asked within a lease."""

NAPS = 0.25


@dataclass(frozen=True, slots=True)
class Promised:
    """What one coordinator answered. `reason`: why it does not promise, empty when it does, for `seconds`."""

    coordinator: str
    seconds: float = 0.0
    reason: str = ""


def extension(sent: float, promises: Sequence[Promised], lease: LeaseState) -> float | None:
    """Return from when on the lease counts anew; None when not every coordinator promised.

    What is at work ends within a lease and the time for killing after that moment, which must not be later than the first promise ends.
    """
    if not promises or any(promise.reason for promise in promises):
        return None
    shortest = min(promise.seconds for promise in promises)
    return sent + min(shortest - lease.length - lease.kill, 0.0)


class Failsafe:
    """The manager of that. `coordinators`: all that the cluster has, as known now."""

    name = "failsafe"

    def __init__(self, settings: AgentSettings, link: FenceLink, coordinators: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._link = link
        self._coordinators = coordinators
        self._task = Ongoing("failsafe", self._run)
        self._complaint = ""

    async def ensure(self) -> None:
        """Have somebody look whether it is time to ask. Idempotent."""
        self._task.begin()

    async def close(self) -> None:
        await self._task.end(again=0.1)

    async def _run(self) -> None:
        while True:
            lease = self._link.lease
            if not (self._link.answers and lease.held and not lease.connected):
                self._complaint = ""
                await asyncio.sleep(NAPS)
                continue
            began = boottime()
            try:
                self._complain(await self._round(lease))
            except Exception:  # whatever it is, the next round may do better
                log.exception("asking for promises failed")
            await asyncio.sleep(max(began + lease.length / ROUNDS - boottime(), NAPS))

    async def _round(self, lease: LeaseState) -> str:
        """Ask every coordinator; return why the lease is not extended, or nothing."""
        sent, limit = boottime(), lease.length / ROUNDS
        promises = await asyncio.gather(*(self._ask(address, lease.incarnation, limit) for address in self._coordinators()))
        since = extension(sent, promises, lease)
        if since is None:
            return "; ".join(f"{item.coordinator}: {item.reason}" for item in promises if item.reason) or "no coordinator is known"
        return await self._link.extend(lease.incarnation, since)

    async def _ask(self, address: str, incarnation: int, limit: float) -> Promised:
        request = agent_pb2.PromiseRequest(node_id=self._settings.node_id, incarnation=incarnation)
        try:
            async with grpc.aio.secure_channel(address, channel_credentials(self._settings.tls)) as channel:
                stub = cast("agent_pb2_grpc.PromisesAsyncStub", agent_pb2_grpc.PromisesStub(channel))
                reply = await stub.Promise(request, timeout=limit)
        except grpc.aio.AioRpcError as error:
            return Promised(address, reason=decode_error(error).message)
        return Promised(address, reply.seconds, "" if reply.promised else reply.reason or "it does not promise")

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            log.warning("without ZooKeeper: %s", complaint or "every coordinator promises to replace nothing, what is exclusive goes on")
            self._complaint = complaint
