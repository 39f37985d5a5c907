"""Keeps the node's certificate fresh: renewed when less than a third of its life is left, for the same key.

Only the certificate is replaced, in one step, so that it and the key belong together whatever is interrupted. New sessions use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import grpc

from gestalt.clock import monotonic, wall
from gestalt.config import AgentSettings
from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.rpc import decode_error
from gestalt.rpc_server import channel_credentials

log = logging.getLogger(__name__)

PERIOD = 3600.0
"""Seconds between two looks at the certificate."""
AGAIN = 60.0
"""Seconds until a renewal that failed is tried again."""
_LIMIT = 10.0


class Renewal:
    """The manager of the certificate. `addresses`: where coordinators are, as known now. An appliance's `init` renews by itself."""

    name = "certificate"

    def __init__(self, settings: AgentSettings, addresses: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._addresses = addresses
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0
        self._problem = ""

    async def ensure(self) -> None:
        """Have somebody look when it is time to; does not wait for it.

        Raises:
            GestaltError: what went wrong the last time, as long as it does.
        """
        if self._due <= monotonic() and (self._task is None or self._task.done()):
            self._due = monotonic() + PERIOD
            self._task = asyncio.create_task(self._look(), name="renewal")
        if self._problem:
            raise GestaltError(Kind.FAILED, self._problem)

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=1)

    async def _look(self) -> None:
        try:
            request = await asyncio.to_thread(_request_if_worn, self._settings)
            if request:
                await asyncio.to_thread(self._replace, await self._ask(request))
            self._problem = ""
        except (GestaltError, OSError, ValueError) as error:
            self._due = monotonic() + AGAIN
            self._problem = f"the certificate {self._settings.tls.certificate} is to be renewed soon, and cannot be: {error}"
            log.warning("%s", self._problem)

    def _replace(self, certificate: str) -> None:
        from gestalt.pki import is_for_key

        if not is_for_key(certificate, self._settings.tls.key):
            raise GestaltError(Kind.FAILED, "what the coordinator sent is no certificate of our key")
        write_atomic(self._settings.tls.certificate, certificate)
        log.info("the certificate %s was renewed", self._settings.tls.certificate)

    async def _ask(self, request: str) -> str:
        """Return a new certificate, from the coordinator that leads.

        Raises:
            GestaltError: what the leader answered, or what the last of the coordinators did.
        """
        last = GestaltError(Kind.UNAVAILABLE, "no coordinator is known")
        for address in self._addresses():
            try:
                return await self._call(address, request)
            except GestaltError as error:
                if error.kind not in (Kind.UNAVAILABLE, Kind.NOT_LEADER, Kind.TIMED_OUT):
                    raise
                last = error
        raise last

    async def _call(self, address: str, request: str) -> str:
        async with grpc.aio.secure_channel(address, channel_credentials(self._settings.tls)) as channel:
            try:
                stub = cast("agent_pb2_grpc.AgentsAsyncStub", agent_pb2_grpc.AgentsStub(channel))
                reply = await stub.Renew(agent_pb2.RenewRequest(signing_request=request), timeout=_LIMIT)
            except grpc.aio.AioRpcError as error:
                raise decode_error(error) from error
            return reply.certificate


def _request_if_worn(settings: AgentSettings) -> str:
    """Return a signing request when the certificate is to be renewed, else nothing. In a thread: loading the cryptography takes time."""
    from cryptography import x509

    from gestalt.pki import is_worn, signing_request

    certificate: Path = settings.tls.certificate
    if not is_worn(x509.load_pem_x509_certificate(certificate.read_bytes()), wall()):
        return ""
    return signing_request(settings.tls.key, settings.node_name)
