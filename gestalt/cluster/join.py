"""How a machine joins: it makes its id and its key, asks with a token, and writes what it is told; settings come last.

Id and key are on disk before anybody is asked, so that a join that was interrupted anywhere, or is repeated, gives the same member.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gestalt import __version__
from gestalt.appliance.init import Made
from gestalt.clock import monotonic
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, Settings, TimingSettings
from gestalt.credentials import is_credential
from gestalt.errors import GestaltError, Kind
from gestalt.files import WRITER, ensure_private_folder, write_atomic
from gestalt.pki import AUTHORITY_CERTIFICATE, AUTHORITY_KEY, ensure_key, is_for_key, signing_request
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.rpc import decode_error
from gestalt.settings_file import load_settings

from .layout import ClusterLayout
from .names import check_address, check_labels, check_name, check_roles, split_address
from .secrets import read_secret, write_secret
from .settings import Member, NodeChoices, agent_document, at, coordinator_document, fence_document, have_settings, tls_of
from .token import JoinToken, Purpose

PATIENCE = 20.0
_CALL_LIMIT = 10.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """What the operator chooses. `address` empty: the one by which this machine reaches the cluster. `again`: although it has joined.

    `patience`: seconds for which a leader is looked for.
    """

    name: str
    address: str = ""
    api_port: int = 7400
    join_port: int = 7401
    again: bool = False
    patience: float = PATIENCE
    node: NodeChoices = field(default_factory=NodeChoices)


async def join(layout: ClusterLayout, purpose: Purpose, token: JoinToken, options: JoinOptions) -> list[Made]:
    """Join as `purpose`; return the files that there are now. Nothing is asked when this machine has joined already.

    Raises:
        GestaltError: the token does not admit this machine, nobody answers, or this machine belongs to something else.
        OSError: a file could not be written; the same call, repeated, goes on.
    """
    check_name("--name", options.name)
    check_roles(options.node.roles)
    check_labels(options.node.labels)
    if token.purpose != purpose:
        raise GestaltError(
            Kind.REFUSED,
            f"this token is for joining as {token.purpose}, not as {purpose}",
            hint=f"join with {'gestalt-agent' if token.purpose == 'node' else 'gestalt-coordinator'}, or make another token",
        )
    address = options.address or _own_address(token)
    check_address("--address", address)
    if not options.again and (there := _joined(layout, purpose, token)):
        return there
    _check_other_settings(layout, token)
    applicant = _Applicant(layout, purpose, Member(token.cluster_id, options.name, address))
    applicant.prepare(token)
    reply = await _ask(token, applicant.request(token, options), options.patience)
    applicant.check(token, reply)
    files = applicant.write_files(reply)
    write = applicant.write_node_settings if purpose == "node" else applicant.write_coordinator_settings
    return [*files, *write(reply, options)]


def _joined(layout: ClusterLayout, purpose: Purpose, token: JoinToken) -> list[Made]:
    """Return the settings of a machine that has joined this cluster; none if it has not."""
    found: list[tuple[Path, type[Settings]]] = [(layout.coordinator_settings, CoordinatorSettings)]
    if purpose == "node":
        found = [(layout.fence_settings, FenceSettings), (layout.agent_settings, AgentSettings)]
    if not all(path.exists() for path, _ in found):
        return []
    _check_cluster(found, token)
    return [Made(path, made=False) for path, _ in found]


def _check_other_settings(layout: ClusterLayout, token: JoinToken) -> None:
    kinds: list[tuple[Path, type[Settings]]] = [
        (layout.coordinator_settings, CoordinatorSettings),
        (layout.fence_settings, FenceSettings),
        (layout.agent_settings, AgentSettings),
    ]
    _check_cluster([item for item in kinds if item[0].exists()], token)


def _check_cluster(files: Sequence[tuple[Path, type[Settings]]], token: JoinToken) -> None:
    for path, kind in files:
        cluster = cast(Any, load_settings(path, kind)).cluster_id
        if cluster != token.cluster_id:
            raise GestaltError(
                Kind.CONFLICT,
                f"{path} belongs to another cluster, {cluster}; the token is of {token.cluster_id}",
                hint="an appliance: `gestaltctl cluster export`, then `gestaltctl appliance destroy`; else choose another --root",
            )


@dataclass(frozen=True, slots=True)
class _Secrets:
    """Where a member's secrets are: where the settings that are there name credentials, those, which are not for us to make."""

    key: Path
    zookeeper: Path
    passphrase: Path

    @classmethod
    def of(cls, layout: ClusterLayout, purpose: Purpose) -> _Secrets:
        named: list[Path | None] = [None, None, None]
        if purpose == "coordinator" and layout.coordinator_settings.exists():
            coordinator = load_settings(layout.coordinator_settings, CoordinatorSettings)
            zookeeper = coordinator.zookeeper.secret_file if coordinator.zookeeper is not None else None
            named = [coordinator.tls.key, zookeeper, coordinator.authority_passphrase]
        if purpose == "node" and layout.agent_settings.exists():
            named[0] = load_settings(layout.agent_settings, AgentSettings).tls.key
        if purpose == "node" and layout.fence_settings.exists():
            named[1] = load_settings(layout.fence_settings, FenceSettings).zookeeper.secret_file
        secret = layout.node_secret if purpose == "node" else layout.coordinator_secret
        ours = (layout.pki / f"{purpose}.key", secret, layout.passphrase)
        return cls(*(file if file is not None and is_credential(file) else own for file, own in zip(named, ours, strict=True)))


class _Applicant:
    """A machine that asks to join, with its files. The stem of a node's is "node", of a coordinator's "coordinator"."""

    def __init__(self, layout: ClusterLayout, purpose: Purpose, member: Member) -> None:
        self._layout = layout
        self._purpose = purpose
        self._member = member
        self._secrets = _Secrets.of(layout, purpose)
        self._id_file = layout.pki / f"{purpose}.id"
        self._owner = layout.coordinator_owner if purpose == "coordinator" else WRITER

    @property
    def id(self) -> str:
        return self._id_file.read_text(encoding="ascii").strip()

    def prepare(self, token: JoinToken) -> None:
        """Have the cluster's certificate, an id and a key.

        Raises:
            GestaltError: CONFLICT, when the certificate here is of another cluster; NOT_FOUND, when the key is a credential not given.
        """
        self._layout.settings.mkdir(parents=True, exist_ok=True)
        ensure_private_folder(self._layout.pki, self._owner)
        self._layout.data.mkdir(parents=True, exist_ok=True)
        authority, ours = self._layout.pki / AUTHORITY_CERTIFICATE, _pem(token)
        if authority.exists() and authority.read_bytes() != ours:
            raise GestaltError(
                Kind.CONFLICT,
                f"{authority} is of another cluster than the token",
                hint="remove it if that join was given up, or choose another --root",
            )
        write_atomic(authority, ours)
        if not self._id_file.exists():
            write_atomic(self._id_file, f"{uuid.uuid4()}\n", mode=0o600)
        if is_credential(self._secrets.key):
            read_secret(self._secrets.key)
        else:
            ensure_key(self._secrets.key, self._owner)

    def request(self, token: JoinToken, options: JoinOptions) -> agent_pb2.JoinRequest:
        request = agent_pb2.JoinRequest(
            token=token.id,
            secret=token.secret,
            purpose=self._purpose,
            id=self.id,
            name=self._member.name,
            address=self._member.address,
            signing_request=signing_request(self._secrets.key, self._member.name),
            version=__version__,
            roles=options.node.roles,
            labels=options.node.labels,
        )
        if self._purpose == "coordinator":
            request.address = at(self._member.address, options.api_port)
            request.join_address = at(self._member.address, options.join_port)
        return request

    def check(self, token: JoinToken, reply: agent_pb2.JoinReply) -> None:
        """Refuse an answer that cannot be meant for us.

        Raises:
            GestaltError: FAILED.
        """
        whole = reply.coordinators and reply.zookeeper.hosts and reply.zookeeper.secret
        if reply.cluster_id != token.cluster_id or reply.id != self.id or not whole or not is_for_key(reply.certificate, self._secrets.key):
            raise GestaltError(
                Kind.FAILED, "the coordinator's answer does not fit what was asked", hint="see the log of the coordinator; try again"
            )

    def write_files(self, reply: agent_pb2.JoinReply) -> list[Made]:
        """Write the certificate and the secrets."""
        layout, is_node = self._layout, self._purpose == "node"
        certificate = layout.pki / f"{self._purpose}.crt"
        write_atomic(certificate, reply.certificate, owner=self._owner)
        files = [layout.pki / AUTHORITY_CERTIFICATE, certificate, *self._keep(self._secrets.zookeeper, reply.zookeeper.secret)]
        if reply.zookeeper.ca:
            write_atomic(layout.zookeeper_ca, reply.zookeeper.ca)
            files.append(layout.zookeeper_ca)
        if not is_node:
            files += self._keep(self._secrets.passphrase, reply.authority_passphrase)
            write_atomic(layout.pki / AUTHORITY_KEY, reply.authority_key, mode=0o600, owner=self._owner)
            files.append(layout.pki / AUTHORITY_KEY)
        return [Made(path, made=True) for path in files]

    def _keep(self, file: Path, secret: str) -> list[Path]:
        """Write a secret, and return the file; nothing, where it is a credential."""
        if is_credential(file):
            return []
        write_secret(file, secret, self._owner)
        return [file]

    def write_node_settings(self, reply: agent_pb2.JoinReply, options: JoinOptions) -> list[Made]:
        layout, member = self._layout, self._member
        access, timing = self._zookeeper(reply), _timing(reply)
        _, fence = have_settings(layout.fence_settings, FenceSettings, lambda: fence_document(layout, member, reply.id, access, timing))
        coordinators = list(reply.coordinators)
        _, agent = have_settings(
            layout.agent_settings, AgentSettings, lambda: agent_document(layout, member, reply.id, coordinators, options.node)
        )
        return [fence, agent]

    def write_coordinator_settings(self, reply: agent_pb2.JoinReply, options: JoinOptions) -> list[Made]:
        layout, member = self._layout, self._member
        access, timing, ports = self._zookeeper(reply), _timing(reply), (options.api_port, options.join_port)
        _, made = have_settings(
            layout.coordinator_settings,
            CoordinatorSettings,
            lambda: coordinator_document(layout, member, access, timing, ports, storage_fence=reply.storage_fence or "none"),
        )
        return [made]

    def _zookeeper(self, reply: agent_pb2.JoinReply) -> dict[str, Any]:
        access: dict[str, Any] = {"hosts": list(reply.zookeeper.hosts), "root": reply.zookeeper.root}
        ca = self._layout.zookeeper_ca if reply.zookeeper.ca else None
        return access | ({"tls": tls_of(self._layout, self._purpose, ca)} if reply.zookeeper.tls else {})


def _timing(reply: agent_pb2.JoinReply) -> TimingSettings:
    timing = reply.timing
    return TimingSettings(session=timing.session, lease=timing.lease, kill=timing.kill, margin=timing.margin)


async def _ask(token: JoinToken, request: agent_pb2.JoinRequest, patience: float) -> agent_pb2.JoinReply:
    """Ask the coordinators in turn until the leader has answered.

    Raises:
        GestaltError: what the leader answered, or UNAVAILABLE.
    """
    until = monotonic() + patience
    while True:
        said = []
        for address in token.addresses:
            try:
                return await _call(address, token, request)
            except GestaltError as error:
                if error.kind not in (Kind.UNAVAILABLE, Kind.NOT_LEADER, Kind.TIMED_OUT):
                    raise
                said.append(f"{address}: {error.message}")
        if monotonic() > until:
            raise GestaltError(
                Kind.UNAVAILABLE,
                "no coordinator let this machine in: " + "; ".join(said),
                hint="does a coordinator lead (gestaltctl status), and is its join address reachable from here?",
            )
        await asyncio.sleep(_PAUSE)


async def _call(address: str, token: JoinToken, request: agent_pb2.JoinRequest) -> agent_pb2.JoinReply:
    credentials = grpc.ssl_channel_credentials(_pem(token))
    async with grpc.aio.secure_channel(address, credentials, (("grpc.enable_http_proxy", 0),)) as channel:
        try:
            return await cast("agent_pb2_grpc.JoinsAsyncStub", agent_pb2_grpc.JoinsStub(channel)).Join(request, timeout=_CALL_LIMIT)
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error


def _pem(token: JoinToken) -> bytes:
    try:
        return x509.load_der_x509_certificate(token.ca).public_bytes(Encoding.PEM)
    except ValueError as error:
        raise GestaltError(Kind.INVALID, "the token holds no certificate", hint="copy the whole line, or make a new token") from error


def _own_address(token: JoinToken) -> str:
    """Return the address from which this machine reaches the cluster. Nothing is sent for it."""
    host, port = split_address("token", token.addresses[0])
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise GestaltError(
            Kind.UNAVAILABLE, f"there is no way from here to {host}: {error.strerror}", hint="name this machine's address: --address"
        ) from error
