"""Lets machines in: checks their tokens, makes their znodes, notes them, signs their keys. Of a leader; an appliance lets nobody in."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gestalt import __version__, clock
from gestalt.cluster.init import read_founder
from gestalt.cluster.issuing import coordinator_names, load_authority
from gestalt.cluster.names import split_address
from gestalt.cluster.secrets import COORDINATOR_IDENTITY, new_secret, node_identity, node_secret, read_secret
from gestalt.cluster.token import JoinToken
from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.pki import AUTHORITY_KEY, NODE_HOST, Authority, Identity, Role
from gestalt.proto.v1 import agent_pb2, api_pb2
from gestalt.versions import check_compatible
from gestalt.zk.paths import Paths

from .ledger import Ledger
from .members import Asked, admit_coordinator, admit_node, check_asked, check_token, new_token, stale_tokens
from .records import Coordinator, Node, Token
from .state import Draft

if TYPE_CHECKING:
    from gestalt.zk.client import Zk

log = logging.getLogger(__name__)

EXPULSION_LIMIT = 5.0
"""Seconds for which the removal of a node is waited for."""
EXPEL_AGAIN = 1.0


class NodeTree(Protocol):
    """What is made in ZooKeeper for each node; see `gestalt.cluster.tree.Tree`."""

    async def admit(self, node: str) -> None: ...

    async def expel(self, node: str) -> None: ...

    async def known(self) -> list[str]: ...


class CoordinatorBars(Protocol):
    """What keeps removed coordinators from leading; see `admission.Bars`."""

    async def bar(self, coordinator: str) -> None: ...

    async def lift(self, coordinator: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The one who lets in. `authority` None: of an appliance, which refuses everything."""

    settings: CoordinatorSettings
    ledger: Ledger
    authority: Authority | None = None
    tree: NodeTree | None = None
    bars: CoordinatorBars | None = None
    servers: Callable[[], Sequence[str]] = tuple
    """Where ZooKeeper's servers are now; empty = as in the settings."""
    expulsions: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Of removed nodes, by id, as long as something of them is left in ZooKeeper."""

    @classmethod
    def create(cls, settings: CoordinatorSettings, ledger: Ledger, zk: Zk | None) -> Enrolment:
        """Return the one of a leader. Without an authority in the settings it refuses everything.

        Raises:
            GestaltError: the authority, or the secret for ZooKeeper, cannot be used.
        """
        tree, bars, zookeeper = None, None, settings.zookeeper
        if zk is not None and zookeeper is not None:
            from gestalt.cluster.tree import Rights, Tree  # ZooKeeper's client: an appliance needs none

            from .admission import Bars

            bars = Bars(zk, Paths(zookeeper.root))
            if zookeeper.secret_file is not None:
                tree = Tree(zk, zookeeper.root, Rights(read_secret(zookeeper.secret_file)))
        return cls(settings, ledger, load_authority(settings), tree, bars, lambda: zk.hosts if zk is not None else ())

    async def begin(self) -> None:
        """After taking office: note ourselves, and the first node of a new cluster; sweep up what removed nodes left in ZooKeeper.

        Raises:
            GestaltError: the store cannot be used.
        """
        if self.authority is None:
            return
        settings = self.settings
        async with self.ledger.draft("leader", f"note coordinator {settings.name}") as draft:
            known = draft.coordinator(settings.name)
            own = Coordinator(
                settings.name, settings.advertise or settings.listen, settings.join_listen, known.joined_at if known else _now()
            )
            if known != own:
                draft.put(own)
            self._note_founder(draft)
        await self._sweep()

    def _note_founder(self, draft: Draft) -> None:
        state, founder = self.ledger.state, read_founder(self.settings.authority) if self.settings.authority else None
        if founder is None or state.nodes or state.audits:
            return
        draft.put_node(
            Node(founder.id, founder.name, address=founder.address, roles=founder.roles, labels=founder.labels, joined_at=_now())
        )
        draft.tell("node.joined", founder.name, f"node {founder.name} is the first of the cluster")

    async def _sweep(self) -> None:
        """Nothing joins meanwhile: we do not listen yet."""
        if self.tree is None:
            return
        for node in await self.tree.known():
            if node not in self.ledger.state.nodes:
                log.warning("the znode of %s, which is no node of this cluster, is removed", node)
                await self.tree.expel(node)

    async def token(self, request: api_pb2.TokenRequest, actor: str) -> api_pb2.TokenReply:
        """Make a token. A repeated call makes another one: nothing that is kept tells the secret of the first.

        Raises:
            GestaltError: INVALID; REFUSED in an appliance.
        """
        authority = self._require()
        identity, secret, now = str(uuid.uuid4()), new_secret(), clock.wall()
        token = new_token(identity, secret, request.purpose or "node", request.lifetime, actor=actor, now=now)
        async with self.ledger.draft(actor, f"token for a {token.purpose}", request.request.id) as draft:
            for stale in stale_tokens(self.ledger.state.tokens.values(), now):
                draft.delete("token", stale)
            draft.put(token)
            draft.tell("token.made", identity, f"{actor} made a token that admits one {token.purpose}")
        certificate = x509.load_pem_x509_certificate(authority.certificate.read_bytes()).public_bytes(Encoding.DER)
        text = JoinToken(identity, secret, token.purpose, self.settings.cluster_id, self._join_addresses(), certificate).encode()
        reply = api_pb2.TokenReply(token=text)
        reply.expires_at.FromJsonString(token.expires_at)
        return reply

    def _join_addresses(self) -> tuple[str, ...]:
        """Return where machines may join: at us first, at the others should they lead by then."""
        others = (known.join_address for known in self.ledger.state.coordinators.values())
        found = tuple(dict.fromkeys(filter(None, (self.settings.join_listen, *others))))
        if not found:
            raise GestaltError(Kind.REFUSED, "no coordinator listens for machines that join", hint="set join_listen in coordinator.yaml")
        return found

    async def join(self, request: agent_pb2.JoinRequest) -> agent_pb2.JoinReply:
        """Admit a machine. Asked again with the same token and id, it gives the same member another certificate.

        Raises:
            GestaltError: its token does not admit it, its name is taken, or what it says is malformed.
        """
        authority, asked = self._require(), _asked(request)
        token = self._token(asked)
        check_compatible(f"{asked.purpose} {asked.name}", request.version, "the coordinator", __version__)
        check_asked(asked)
        if asked.purpose == "coordinator":
            return await self._join_coordinator(authority, asked, request.signing_request)
        admit_node(self.ledger.state.nodes, token, asked, "")  # refused before anything is made
        certificate = authority.sign(request.signing_request, Identity(self.settings.cluster_id, Role.NODE, asked.id), dns=(NODE_HOST,))
        if self.tree is not None:
            await self._require_no_leftover(asked.id)
            await self.tree.admit(asked.id)
        async with self.ledger.draft(f"token:{token.id}", f"join node {asked.name}") as draft:
            token = self._token(asked)
            node = admit_node(self.ledger.state.nodes, token, asked, _now())
            if not token.used_by:
                draft.put_node(node)
                draft.tell("node.joined", node.name, f"node {node.name} at {node.address} joined, with a token of {token.created_by}")
                draft.put(_used(token, asked.id))
        return self._reply(asked, certificate)

    async def _join_coordinator(self, authority: Authority, asked: Asked, signing_request: str) -> agent_pb2.JoinReply:
        async with self.ledger.draft(f"token:{asked.token}", f"join coordinator {asked.name}") as draft:
            token = self._token(asked)
            coordinator = admit_coordinator(self.ledger.state.coordinators, token, asked, _now())
            identity = Identity(self.settings.cluster_id, Role.COORDINATOR, coordinator.name)
            names = coordinator_names(split_address("address", coordinator.address)[0])
            certificate = authority.sign(signing_request, identity, dns=names.dns, addresses=names.addresses)
            if not token.used_by:
                if self.bars is not None:
                    await self.bars.lift(coordinator.name)
                draft.put(coordinator)
                draft.tell("coordinator.joined", asked.name, f"coordinator {asked.name} at {asked.address} joined")
                draft.put(_used(token, asked.id))
        reply = self._reply(asked, certificate)
        assert self.settings.authority is not None
        reply.authority_key = (self.settings.authority / AUTHORITY_KEY).read_text(encoding="ascii")
        if self.settings.authority_passphrase is not None:
            reply.authority_passphrase = read_secret(self.settings.authority_passphrase)
        return reply

    def renew(self, node: str, request: agent_pb2.RenewRequest) -> agent_pb2.RenewReply:
        """Give a node another certificate for its identity.

        Raises:
            GestaltError: it is no member, or its request cannot be used.
        """
        authority = self._require()
        if node not in self.ledger.state.nodes:
            raise not_a_member(node)
        identity = Identity(self.settings.cluster_id, Role.NODE, node)
        return agent_pb2.RenewReply(certificate=authority.sign(request.signing_request, identity, dns=(NODE_HOST,)))

    def renew_user(self, name: str, signing_request: str) -> str:
        """Return another certificate for a user, PEM.

        Raises:
            GestaltError: the request cannot be used, or we sign nothing.
        """
        if self.authority is None:
            hint = "in an appliance `gestaltctl appliance init` renews it; in a cluster set authority in coordinator.yaml"
            raise GestaltError(Kind.REFUSED, "this coordinator signs no certificates", hint=hint)
        return self.authority.sign(signing_request, Identity(self.settings.cluster_id, Role.USER, name))

    def committed(self, draft: Draft) -> None:
        """Have nothing left in ZooKeeper of the nodes that were removed, whoever waits for it."""
        for (kind, node), record in draft.records.items():
            if kind == "node" and record is None and self.tree is not None:
                self.expulsions[node] = task = asyncio.create_task(self._expel(self.tree, node), name=f"removal of {node}")
                task.add_done_callback(lambda _, node=node: self.expulsions.pop(node, None))  # type: ignore[misc]

    async def expelled(self, node: str) -> None:
        """Return when nothing of a removed node is left in ZooKeeper, or after a moment: it goes on by itself."""
        if (task := self.expulsions.get(node)) is not None:
            await asyncio.wait((task,), timeout=EXPULSION_LIMIT)

    async def _require_no_leftover(self, node: str) -> None:
        await self.expelled(node)
        if node in self.expulsions:
            hint = "try again in a moment; gestalt-coordinator's log says what is in the way"
            raise GestaltError(Kind.UNAVAILABLE, f"node {node} was removed, and ZooKeeper still has something of it", hint=hint)

    async def _expel(self, tree: NodeTree, node: str) -> None:
        """Try until it is done; a later leader sweeps up what is left when the office ends."""
        while self.ledger.office.holds():
            try:
                await tree.expel(node)
                return
            except GestaltError as error:
                log.error("node %s was removed, its znode is still there: %s", node, error)
            await asyncio.sleep(EXPEL_AGAIN)

    def close(self) -> None:
        """Leave what is not done yet to the next leader."""
        for task in tuple(self.expulsions.values()):
            task.cancel()

    def _token(self, asked: Asked) -> Token:
        token = self.ledger.state.tokens.get(asked.token)
        check_token(token, asked, clock.wall())
        assert token is not None
        return token

    def _require(self) -> Authority:
        if self.authority is None:
            raise _lets_nobody_in(self.settings.mode)
        return self.authority

    def _reply(self, asked: Asked, certificate: str) -> agent_pb2.JoinReply:
        settings, timing = self.settings, self.settings.timing
        assert self.authority is not None
        reply = agent_pb2.JoinReply(
            cluster_id=settings.cluster_id,
            id=asked.id,
            certificate=certificate,
            ca=self.authority.certificate.read_text(encoding="ascii"),
            coordinators=coordinators_of(self.ledger),
            storage_fence=settings.storage_fence,
            timing=agent_pb2.Timing(session=timing.session, lease=timing.lease, kill=timing.kill, margin=timing.margin),
        )
        zookeeper = settings.zookeeper
        if zookeeper is not None and zookeeper.secret_file is not None:
            reply.zookeeper.hosts.extend(self.servers() or zookeeper.hosts)
            reply.zookeeper.root, reply.zookeeper.tls = zookeeper.root, zookeeper.tls is not None
            if zookeeper.tls is not None and zookeeper.tls.ca != self.authority.certificate:
                reply.zookeeper.ca = zookeeper.tls.ca.read_text(encoding="ascii")
            secret, is_node = read_secret(zookeeper.secret_file), asked.purpose == "node"
            reply.zookeeper.identity = node_identity(asked.id) if is_node else COORDINATOR_IDENTITY
            reply.zookeeper.secret = node_secret(secret, asked.id) if is_node else secret
        return reply


def coordinators_of(ledger: Ledger) -> list[str]:
    """Return the addresses of all coordinators' API."""
    return [known.address for known in ledger.state.coordinators.values()]


def not_a_member(node: str) -> GestaltError:
    """Return the refusal of a node that was removed, or never joined."""
    return GestaltError(
        Kind.REFUSED,
        f"node {node} is no member of this cluster: it was removed, or never joined",
        hint="on an operator's machine: gestaltctl node token; then here: gestalt-agent join --token-file FILE",
    )


def _lets_nobody_in(mode: str) -> GestaltError:
    if mode == "appliance":
        hint = "make a cluster with `gestaltctl cluster init` on another machine; `gestaltctl cluster export` here, `import` there"
        return GestaltError(Kind.REFUSED, "this is an appliance, which has exactly one node", hint=hint)
    return GestaltError(Kind.REFUSED, "this coordinator has no authority to let machines in", hint="set authority in coordinator.yaml")


def _asked(request: agent_pb2.JoinRequest) -> Asked:
    return Asked(
        token=request.token,
        secret=request.secret,
        purpose=request.purpose,
        id=request.id,
        name=request.name,
        address=request.address,
        join_address=request.join_address,
        roles=tuple(request.roles),
        labels=dict(request.labels),
    )


def _used(token: Token, by: str) -> Token:
    return replace(token, used_by=by)


def _now() -> str:
    return clock.wall().isoformat()
