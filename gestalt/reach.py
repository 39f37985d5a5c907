"""The coordinators that a client knows: which to try next, and the connections to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import grpc

from gestalt.dial import LASTING, Unreached, dial
from gestalt.errors import GestaltError, Kind
from gestalt.lookout import leader_elsewhere, other_leader
from gestalt.proto.v1 import api_pb2_grpc

if TYPE_CHECKING:
    from gestalt.proto.v1.api_pb2_grpc import (
        AppsAsyncStub,
        ChangesAsyncStub,
        ClusterAsyncStub,
        ControlPlaneAsyncStub,
        EventsAsyncStub,
        JobsAsyncStub,
        NodesAsyncStub,
        RecoveryAsyncStub,
        TasksAsyncStub,
    )

_TLS_WORDS = ("handshake", "certificate", "ssl_error", "tls")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the coordinators are and with which PEM files to speak to them."""

    coordinators: Sequence[str]
    ca: Path
    certificate: Path
    key: Path


class Api:
    """The stubs of the public API on one channel to the coordinator at `address`."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel
        self.apps = cast("AppsAsyncStub", api_pb2_grpc.AppsStub(channel))
        self.jobs = cast("JobsAsyncStub", api_pb2_grpc.JobsStub(channel))
        self.changes = cast("ChangesAsyncStub", api_pb2_grpc.ChangesStub(channel))
        self.nodes = cast("NodesAsyncStub", api_pb2_grpc.NodesStub(channel))
        self.tasks = cast("TasksAsyncStub", api_pb2_grpc.TasksStub(channel))
        self.events = cast("EventsAsyncStub", api_pb2_grpc.EventsStub(channel))
        self.cluster = cast("ClusterAsyncStub", api_pb2_grpc.ClusterStub(channel))
        self.recovery = cast("RecoveryAsyncStub", api_pb2_grpc.RecoveryStub(channel))
        self.control_plane = cast("ControlPlaneAsyncStub", api_pb2_grpc.ControlPlaneStub(channel))


class Reach:
    """Connects to a coordinator: to a named leader first, else to the one that was tried longest ago. `limit`: seconds for each."""

    def __init__(self, target: Target, limit: float) -> None:
        self._target = target
        self._limit = limit
        self._held: grpc.ChannelCredentials | None = None
        self._order = list(target.coordinators)
        """The addresses in the order in which they are tried: those at the end were tried last. A named leader comes first."""
        self._lasting: Api | None = None

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """Our own.

        Raises:
            GestaltError: a file cannot be read.
        """
        if self._held is None:
            self._held = _credentials(self._target)
        return self._held

    async def connect(self) -> Api:
        """Return the stubs of a coordinator that answers.

        Raises:
            GestaltError: UNAVAILABLE or UNAUTHENTICATED, when none does.
        """
        try:
            return Api(*await dial(list(self._order), self.credentials, self._limit, self._try_last))
        except Unreached as unreached:
            error = self.unreachable(unreached.problems)
            if error.kind is Kind.UNAVAILABLE:
                self.check_certificate()
            raise error from unreached

    async def lasting(self, address: str) -> Api:
        """Return the stubs of one coordinator on a connection that is not given up soon; it is kept until `close`."""
        if self._lasting is None or self._lasting.address != address:
            await self.close()
            self._lasting = Api(address, grpc.aio.secure_channel(address, self.credentials, options=LASTING))
        return self._lasting

    async def close(self) -> None:
        """Close what was kept. Idempotent."""
        api, self._lasting = self._lasting, None
        if api is not None:
            await api.channel.close(None)

    def prefer(self, address: str) -> None:
        """Try this one first, which is named as the leader."""
        if address in self._order:
            self._order.remove(address)
        self._order.insert(0, address)

    async def other_leader(self, than: str) -> str:
        """Return the leader that the other coordinators name, once they name another one than this."""
        return await other_leader(than, self._others(than), self.credentials)

    async def leader_elsewhere(self, than: str) -> str:
        """Return the leader that another coordinator names at once, empty if none does."""
        return await leader_elsewhere(than, self._others(than), self.credentials)

    def _others(self, than: str) -> list[str]:
        return [address for address in self._target.coordinators if address != than]

    def check_certificate(self) -> None:
        """Raise GestaltError when our own certificate explains why a coordinator hangs up."""
        from gestalt.client_certificate import check_certificate  # heavy, and only for this message

        check_certificate(self._target.certificate, self._target.key, self._target.ca)

    def unreachable(self, problems: Sequence[str]) -> GestaltError:
        """Return the error of a client to which no coordinator answers."""
        return _unreachable(problems, self._target)

    def _try_last(self, address: str) -> None:
        """Move an address to the end; one that we only heard of is forgotten, until it is named again."""
        self._order.remove(address)
        if address in self._target.coordinators:
            self._order.append(address)


def _credentials(target: Target) -> grpc.ChannelCredentials:
    contents = []
    for file in (target.ca, target.key, target.certificate):
        try:
            contents.append(file.read_bytes())
        except PermissionError as error:
            hint = "run this as the owner of the file, for example with sudo, or use a context of your own"
            raise GestaltError(Kind.UNAUTHENTICATED, f"{file} may not be read by this user", hint=hint) from error
        except OSError as error:
            hint = "correct the path in the context: gestaltctl context show"
            raise GestaltError(Kind.INVALID, f"{file} cannot be read: {error.strerror}", hint=hint) from error
    return grpc.ssl_channel_credentials(*contents)


def _unreachable(problems: Sequence[str], target: Target) -> GestaltError:
    text = "; ".join(problems)
    if any(word in text.lower() for word in _TLS_WORDS):
        return GestaltError(
            Kind.UNAUTHENTICATED,
            f"no coordinator proved to be of the cluster whose CA is {target.ca}: {text}",
            hint="use the ca, certificate and key of this cluster: gestaltctl context show",
        )
    return GestaltError(
        Kind.UNAVAILABLE,
        f"no coordinator answers: {text}",
        hint="is the coordinator running? gestaltctl appliance status; is the address right? gestaltctl context show",
    )
