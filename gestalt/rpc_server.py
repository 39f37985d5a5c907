"""The gRPC server of a daemon: mutual TLS, the standard health service, reflection. Nothing listens in clear."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gestalt.config import TlsSettings
from gestalt.credentials import hint_for, named
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, identity_of

log = logging.getLogger(__name__)

Register = Callable[[grpc.aio.Server], Sequence[str]]
"""Adds services to the server; returns their full names ("gestalt.v1.Apps")."""

JOIN_MESSAGE_MAX = 64 * 1024
JOINS_AT_ONCE = 16

_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two daemons on one port are a mistake to be told, not to be shared
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 100),  # clients that wait for an answer ask every 0.7 s whether we live
    ("grpc.max_receive_message_length", 64 * 1024**2),
    ("grpc.max_send_message_length", 64 * 1024**2),
)


class RpcServer:
    """A listening server. It as a whole says SERVING from `start` to `stop`; its services do, unless `set_serving` says otherwise."""

    def __init__(self, server: grpc.aio.Server, health: HealthServicer, services: Sequence[str], port: int) -> None:
        self._server = server
        self._health = health
        self._services = tuple(services)
        self.port = port

    @classmethod
    async def start(
        cls,
        listen: str,
        tls: TlsSettings,
        register: Register,
        *,
        serving: bool = True,
    ) -> RpcServer:
        """Listen on `listen` ("127.0.0.1:7400"; port 0 = any free one, see `port`).

        Args:
            serving: what the health service says of the registered services; the server as a whole is SERVING in any case.

        Raises:
            GestaltError: the certificate files cannot be used, or the address is taken.
        """
        server = grpc.aio.server(options=_OPTIONS)
        health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        services = tuple(register(server))
        reflection.enable_server_reflection((*services, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
        port = _bind(server, listen, server_credentials(tls))
        await server.start()
        started = cls(server, health, services, port)
        await started.set_serving(serving=serving)
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        log.info("listening on %s", listen, extra={"port": port})
        return started

    @classmethod
    async def start_open(cls, listen: str, tls: TlsSettings, register: Register) -> RpcServer:
        """Listen for callers that have no certificate yet: TLS proves who we are, not who they are. Small messages, few at once.

        Raises:
            GestaltError: as `start`.
        """
        limits = (("grpc.max_receive_message_length", JOIN_MESSAGE_MAX), ("grpc.so_reuseport", 0))
        server = grpc.aio.server(options=limits, maximum_concurrent_rpcs=JOINS_AT_ONCE)
        services = tuple(register(server))
        port = _bind(server, listen, server_credentials(tls, clients_known=False))
        await server.start()
        log.info("listening on %s for those who join", listen, extra={"port": port})
        return cls(server, HealthServicer(), services, port)

    async def set_serving(self, *, serving: bool) -> None:
        """Tell the health service, for each of the server's services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self._health.set(service, status)

    async def stop(self, grace: float = 1.0) -> None:
        """Refuse new calls at once, give running ones `grace` seconds. Idempotent."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise GestaltError(
            Kind.UNAVAILABLE,
            f"cannot listen on {listen}: {error}",
            hint=f"see who uses the address: ss -ltnp 'sport = :{listen.rpartition(':')[2]}'",
        ) from error


def server_credentials(tls: TlsSettings, *, clients_known: bool = True) -> grpc.ServerCredentials:
    """Return credentials that insist on a client certificate of our CA, if clients are known; renewed files count for new connections.

    Raises:
        GestaltError: a file cannot be read.
    """
    files = _TlsFiles(tls)
    renewed = cast("Callable[[], grpc.ServerCertificateConfiguration]", files.renewed)  # gRPC takes None, its types do not know it
    return grpc.dynamic_ssl_server_credentials(files.first, renewed, require_client_authentication=clients_known)


def channel_credentials(tls: TlsSettings) -> grpc.ChannelCredentials:
    """Return the credentials of a client.

    Raises:
        GestaltError: a file cannot be read.
    """
    ca, key, certificate = (_read(file) for file in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, certificate)


def peer_identity(context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
    """Return who is calling, as its certificate says.

    Raises:
        GestaltError: UNAUTHENTICATED, when its certificate names no one.
    """
    return identity_of(context.auth_context().get("x509_subject_alternative_name", ()))


class _TlsFiles:
    """The PEM files, read again when one of them changed. `first`: what they held at the begin."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._seen = self._stamp()
        self.first = self._configuration()

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what new connections are to use from now on, None for what they use already; files that cannot be read change nothing.

        Called for each connection, in threads of gRPC's. It takes over without a lock what is returned: to return the same again and
        again ends the process as soon as many connect at once ("Check failed: prior > 0", gRPC 1.85).
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            return self._configuration()
        except GestaltError as error:
            log.error("the renewed certificate is not used: %s", error.message)
            return None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        key, certificate = _read(self._tls.key), _read(self._tls.certificate)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], _read(self._tls.ca))

    def _stamp(self) -> tuple[int, ...]:
        return tuple(_modified(file) for file in (self._tls.ca, self._tls.certificate, self._tls.key))


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        hint = hint_for(file, "see the section tls of the settings")
        raise GestaltError(Kind.NOT_FOUND, f"{named(file)} cannot be read: {error}", hint=hint) from error
