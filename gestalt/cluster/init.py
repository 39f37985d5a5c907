"""`gestaltctl cluster init`: the first machine of a cluster, with coordinator and node. Interrupted anywhere, a second run completes it.

As in the appliance, ids lie in the settings files, which are written before anything that holds the ids, and what is there is kept. Then
ZooKeeper is asked: the znodes that have to be there first belong to this cluster, or nothing is made.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from gestalt.appliance.init import USER_NAME, Founding, Made, certificates
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, TimingSettings, ZooKeeperSettings
from gestalt.credentials import is_credential
from gestalt.errors import GestaltError, Kind
from gestalt.files import ensure_private_folder, write_atomic
from gestalt.pki import Authority
from gestalt.settings_file import load_settings
from gestalt.zk.session_length import is_beyond, objection

from .layout import ClusterLayout
from .names import check_address, check_labels, check_name, check_roles
from .secrets import ensure_secret, node_secret, read_secret, write_secret
from .settings import Member, NodeChoices, agent_document, coordinator_document, fence_document, have_settings, tls_of, yaml_of

if TYPE_CHECKING:
    from gestalt.zk.client import Zk

API_PORT, JOIN_PORT = 7400, 7401
CONNECT_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class InitOptions:
    """What the operator chooses for the first machine. `from_appliance`: it is one, and keeps its ids, its authority and what it runs.

    `zookeeper_ca`: the certificate by which ZooKeeper's servers are known: then they are spoken to by TLS. `zookeeper_secret`: what the
    coordinators prove themselves to ZooKeeper with; by default a new one is made.
    """

    zookeeper: tuple[str, ...]
    address: str
    name: str
    zookeeper_root: str = "/gestalt"
    zookeeper_ca: Path | None = None
    zookeeper_secret: Path | None = None
    api_port: int = API_PORT
    join_port: int = JOIN_PORT
    timing: TimingSettings = field(default_factory=TimingSettings)
    storage_fence: str = "none"
    node: NodeChoices = field(default_factory=NodeChoices)
    from_appliance: bool = False
    cluster_id: str = ""


@dataclass(frozen=True, slots=True)
class Founder:
    """The first node, as the first leader notes it."""

    id: str
    name: str
    address: str
    roles: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


async def found(layout: ClusterLayout, options: InitOptions) -> list[Made]:
    """Make what is missing of the first machine; return everything that there is now, in the order in which it was made.

    Raises:
        GestaltError: what is there cannot be completed or belongs to another cluster, or ZooKeeper cannot be used.
        OSError: a file could not be written; nothing is half-written, and the next run goes on.
    """
    check_name("--name", options.name)
    check_address("--address", options.address)
    check_roles(options.node.roles)
    check_labels(options.node.labels)
    for folder in (layout.settings, layout.data):
        folder.mkdir(parents=True, exist_ok=True)
    taken: list[Made] = []
    if options.from_appliance:
        from .takeover import take_over

        taken, options = take_over(layout, options)
    files, coordinator, agent = _settings(layout, options)
    changed = {made.path for made in taken}
    files += _authority_of_zookeeper(layout, options)
    files += _secrets(layout, coordinator, agent.node_id, options.zookeeper_secret)
    files += _certificates(layout, coordinator, agent, options.address)
    files.append(_founder(layout, agent, options))
    files.append(_client(layout, coordinator))
    assert coordinator.zookeeper is not None
    note = await _look_at_sessions(coordinator)
    made = await make_tree(coordinator.zookeeper, coordinator.cluster_id, agent.node_id, coordinator.tls.ca)
    kept = [file for file in files if file.path not in changed]
    return [*taken, *kept, Made(Path(coordinator.zookeeper.root), made, f"in ZooKeeper{note}")]


async def _look_at_sessions(coordinator: CoordinatorSettings) -> str:
    """Ask ZooKeeper for a session of the chosen length; return what to note when it grants another one.

    Raises:
        GestaltError: ZooKeeper cannot be reached, or its sessions are longer than a lease.
    """
    assert coordinator.zookeeper is not None
    timing = coordinator.timing
    zk = await _connect(coordinator.zookeeper, timing.session, coordinator.tls.ca)
    granted = zk.timeout
    await zk.close()
    found = objection(timing.session, granted, timing.lease)
    if is_beyond(granted, timing.lease):
        hint = "correct it, or `timing` in the settings that were made, and run this again: nothing was made in ZooKeeper"
        raise GestaltError(Kind.INVALID, found, hint=hint)
    return f"; note: {found}" if found else ""


async def make_tree(zookeeper: ZooKeeperSettings, cluster_id: str, node: str, authority: Path) -> bool:
    """Have the znodes that are there first, and that of the first node; return whether the root was made.

    `authority`: whose certificates we prove ourselves with by TLS.

    Raises:
        GestaltError: ZooKeeper cannot be reached, or the root belongs to something else.
    """
    from .tree import Rights, Tree

    assert zookeeper.secret_file is not None
    zk = await _connect(zookeeper, CONNECT_LIMIT, authority)
    try:
        tree = Tree(zk, zookeeper.root, Rights(read_secret(zookeeper.secret_file)))
        made = await tree.make(cluster_id)
        await tree.admit(node)
    finally:
        await zk.close()
    return made


async def _connect(zookeeper: ZooKeeperSettings, session: float, authority: Path) -> Zk:
    from gestalt.zk.client import Zk, ZkUnavailable

    try:
        return await Zk.connect(zookeeper, session=session, name="init", limit=CONNECT_LIMIT)
    except ZkUnavailable as error:
        trust = f"; its servers must trust {authority} (ssl.trustStore.location)" if zookeeper.tls is not None else ""
        raise GestaltError(
            Kind.UNAVAILABLE,
            f"ZooKeeper cannot be reached: {error}",
            hint=f"start it, or correct --zookeeper{trust}; run this again then: what was made is kept",
        ) from error


def _settings(layout: ClusterLayout, options: InitOptions) -> tuple[list[Made], CoordinatorSettings, AgentSettings]:
    member = Member(options.cluster_id or str(uuid.uuid4()), options.name, options.address)
    zookeeper: dict[str, Any] = {"hosts": list(options.zookeeper), "root": options.zookeeper_root}
    if options.zookeeper_ca is not None:
        zookeeper["tls"] = tls_of(layout, "coordinator", layout.zookeeper_ca)

    coordinator, first = have_settings(
        layout.coordinator_settings,
        CoordinatorSettings,
        lambda: coordinator_document(
            layout, member, zookeeper, options.timing, (options.api_port, options.join_port), storage_fence=options.storage_fence
        ),
    )
    if coordinator.mode != "cluster" or coordinator.zookeeper is None:
        raise GestaltError(
            Kind.CONFLICT,
            f"{layout.coordinator_settings} is of an appliance",
            hint="make it the first machine of a cluster with --from-appliance, or choose another --root",
        )
    listed = coordinator.zookeeper.model_dump(mode="json", include={"hosts", "root"})
    if coordinator.zookeeper.tls is not None:
        listed["tls"] = tls_of(layout, "node", coordinator.zookeeper.tls.ca)
    ours = Member(coordinator.cluster_id, options.name, options.address)
    agent, second = have_settings(
        layout.agent_settings,
        AgentSettings,
        lambda: agent_document(layout, ours, str(uuid.uuid4()), [coordinator.advertise], options.node),
    )
    _, third = have_settings(
        layout.fence_settings, FenceSettings, lambda: fence_document(layout, ours, agent.node_id, listed, coordinator.timing)
    )
    if agent.cluster_id != coordinator.cluster_id:
        raise GestaltError(
            Kind.CONFLICT,
            f"{layout.agent_settings} and {layout.coordinator_settings} are of two clusters",
            hint="put the right file back, or choose another --root",
        )
    return [_noted(first, options, coordinator), second, third], coordinator, agent


def _noted(made: Made, options: InitOptions, coordinator: CoordinatorSettings) -> Made:
    """Say what was asked for and differs in settings that were there already."""
    assert coordinator.zookeeper is not None
    pairs = {
        "--zookeeper": (options.zookeeper, coordinator.zookeeper.hosts),
        "--zookeeper-root": (options.zookeeper_root, coordinator.zookeeper.root),
        "--address": (options.address, coordinator.advertise.rpartition(":")[0].strip("[]")),
        "--name": (options.name, coordinator.name),
        "--storage-fence": (options.storage_fence, coordinator.storage_fence),
        **{f"--{name}": (getattr(options.timing, name), chosen) for name, chosen in coordinator.timing.model_dump().items()},
    }
    kept = [name for name, (asked, there) in pairs.items() if asked != there]
    return Made(made.path, made.made, f"keeps its own {', '.join(kept)}: edit it to change that" if kept else "")


def _authority_of_zookeeper(layout: ClusterLayout, options: InitOptions) -> list[Made]:
    """Have the certificate by which ZooKeeper's servers are known beside ours."""
    if options.zookeeper_ca is None or layout.zookeeper_ca.exists():
        return []
    try:
        content = options.zookeeper_ca.read_bytes()
        x509.load_pem_x509_certificates(content)
    except (OSError, ValueError) as error:
        raise GestaltError(
            Kind.INVALID, f"--zookeeper-ca: {options.zookeeper_ca} holds no certificate: {error}", hint="a PEM file is needed"
        ) from error
    ensure_private_folder(layout.pki, layout.coordinator_owner)
    write_atomic(layout.zookeeper_ca, content)
    return [Made(layout.zookeeper_ca, made=True)]


def _secrets(layout: ClusterLayout, coordinator: CoordinatorSettings, node: str, given: Path | None) -> list[Made]:
    owner, places = layout.coordinator_owner, _places(layout, coordinator)
    if given is not None and not (places[0].exists() or is_credential(places[0])):
        write_secret(places[0], read_secret(given), owner)
    files = [Made(path, ensure_secret(path, owner)) for path in places if not is_credential(path)]
    if is_credential(load_settings(layout.fence_settings, FenceSettings).zookeeper.secret_file):
        return files
    made = not layout.node_secret.exists()
    if made:
        write_secret(layout.node_secret, node_secret(read_secret(places[0]), node))
    return [*files, Made(layout.node_secret, made)]


def _places(layout: ClusterLayout, coordinator: CoordinatorSettings) -> tuple[Path, Path]:
    """Return where the coordinators' secret for ZooKeeper and the passphrase of the authority are; credentials are not for us to make."""
    assert coordinator.zookeeper is not None
    secret, phrase = coordinator.zookeeper.secret_file, coordinator.authority_passphrase
    return (
        secret if secret is not None and is_credential(secret) else layout.coordinator_secret,
        phrase if phrase is not None and is_credential(phrase) else layout.passphrase,
    )


def _certificates(layout: ClusterLayout, coordinator: CoordinatorSettings, agent: AgentSettings, address: str) -> list[Made]:
    phrase = read_secret(_places(layout, coordinator)[1])
    authority = Authority.ensure(layout.pki, coordinator.cluster_id, phrase.encode(), owner=layout.coordinator_owner)
    return certificates(authority, Founding(coordinator, coordinator.name, address, agent), layout.coordinator_owner)


def _founder(layout: ClusterLayout, agent: AgentSettings, options: InitOptions) -> Made:
    made = not layout.founder.exists()
    if made:
        founder = Founder(agent.node_id, agent.node_name, agent.address, options.node.roles, options.node.labels)
        write_atomic(layout.founder, json.dumps(asdict(founder), indent=2) + "\n")
    return Made(layout.founder, made)


def read_founder(authority: Path) -> Founder | None:
    """Return the first node, as `gestaltctl cluster init` left it beside the authority; None on other machines."""
    file = authority / "founder.json"
    if not file.exists():
        return None
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return Founder(**document | {"roles": tuple(document["roles"])})


def _client(layout: ClusterLayout, coordinator: CoordinatorSettings) -> Made:
    if layout.client_settings.exists():
        return Made(layout.client_settings, made=False)
    context = {"coordinators": [coordinator.advertise], **tls_of(layout, USER_NAME)}
    write_atomic(layout.client_settings, yaml_of({"current": "cluster", "contexts": {"cluster": context}}))
    return Made(layout.client_settings, made=True)
