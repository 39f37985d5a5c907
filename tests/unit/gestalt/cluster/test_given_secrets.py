"""Keys and secrets that systemd hands to units: neither a second init nor a join that is repeated makes others beside them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gestalt.appliance import init as appliance
from gestalt.cluster import init as cluster
from gestalt.cluster.join import JoinOptions, _Applicant
from gestalt.cluster.layout import ClusterLayout
from gestalt.cluster.settings import Member
from gestalt.cluster.token import JoinToken
from gestalt.errors import GestaltError, Kind
from gestalt.identity import Identity, Role
from gestalt.pki import Authority
from gestalt.proto.v1 import agent_pb2

OPTIONS = cluster.InitOptions(("127.0.0.1:1",), "10.0.0.1", "one")
PLACES = {"coordinator": "coordinator.yaml", "node": "agent.yaml"}


@pytest.fixture
def layout(tmp_path: Path) -> ClusterLayout:
    return ClusterLayout(tmp_path / "root")


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what a unit was given."""
    folder = tmp_path / "gestalt.service"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    monkeypatch.setattr(cluster, "CONNECT_LIMIT", 0.05)
    return folder


def give(settings: Path, given: Path, **places: str) -> None:
    """Make what settings name, as "tls.key", by the words of a file, a credential: it is moved there."""
    document = yaml.safe_load(settings.read_text(encoding="utf-8"))
    for name, credential in places.items():
        part: dict[str, Any] = document
        *sections, last = name.split("__")
        for section in sections:
            part = part[section]
        shutil.move(part[last], given / credential)
        part[last] = f"credential:{credential}"
    settings.write_text(yaml.safe_dump(document), encoding="utf-8")


def files_of(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_a_second_init_of_an_appliance_leaves_pairs_alone_whose_keys_are_given(layout: ClusterLayout, given: Path) -> None:
    appliance.initialise(layout, appliance.InitOptions())
    for stem, name in PLACES.items():
        give(layout.settings / name, given, tls__key=stem)
    before = files_of(layout.root, given)
    assert not any(made.made for made in appliance.initialise(layout, appliance.InitOptions()))
    assert files_of(layout.root, given) == before


async def init(layout: ClusterLayout) -> None:
    """All files are made before ZooKeeper is asked."""
    with pytest.raises(GestaltError, match="ZooKeeper cannot be reached") as told:
        await cluster.found(layout, OPTIONS)
    assert told.value.kind is Kind.UNAVAILABLE


async def test_a_second_init_of_a_cluster_leaves_pairs_and_secrets_alone_that_are_given(layout: ClusterLayout, given: Path) -> None:
    await init(layout)
    for stem, name in PLACES.items():
        give(layout.settings / name, given, tls__key=stem)
    give(layout.coordinator_settings, given, zookeeper__secret_file="zookeeper", authority_passphrase="phrase")
    give(layout.fence_settings, given, zookeeper__secret_file="fence")
    before = files_of(layout.root, given)
    await init(layout)
    assert files_of(layout.root, given) == before


class Leader:
    """Answers who joins, by an authority of its own."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority.ensure(folder, "c", b"phrase")
        der = x509.load_pem_x509_certificate(self._authority.certificate.read_bytes()).public_bytes(Encoding.DER)
        self.token = JoinToken("t", "s", "coordinator", "c", ("10.0.0.1:7401",), der)

    def reply(self, request: agent_pb2.JoinRequest) -> agent_pb2.JoinReply:
        role = Role.COORDINATOR if request.purpose == "coordinator" else Role.NODE
        reply = agent_pb2.JoinReply(cluster_id="c", id=request.id, coordinators=["10.0.0.1:7400"], authority_passphrase="new phrase")
        reply.certificate = self._authority.sign(request.signing_request, Identity("c", role, request.name))
        reply.authority_key = (self._authority.folder / "ca.key").read_text(encoding="ascii")
        reply.zookeeper.hosts.append("127.0.0.1:1")
        reply.zookeeper.root, reply.zookeeper.secret = "/gestalt", "new secret"
        reply.timing.session, reply.timing.lease, reply.timing.kill, reply.timing.margin = 4, 8, 2, 1
        return reply


def joined(leader: Leader, layout: ClusterLayout, purpose: Any) -> None:
    applicant, options = _Applicant(layout, purpose, Member("c", "two", "10.0.0.2")), JoinOptions("two")
    applicant.prepare(leader.token)
    reply = leader.reply(applicant.request(leader.token, options))
    applicant.check(leader.token, reply)
    files = applicant.write_files(reply)
    assert all(made.path.exists() for made in files)
    write = applicant.write_node_settings if purpose == "node" else applicant.write_coordinator_settings
    write(reply, options)


@pytest.mark.parametrize("purpose", ["coordinator", "node"])
def test_a_join_that_is_repeated_uses_the_key_that_is_given_and_writes_no_secret_that_is(
    purpose: str, layout: ClusterLayout, given: Path, tmp_path: Path
) -> None:
    leader = Leader(tmp_path / "leader")
    joined(leader, layout, purpose)
    give(layout.settings / PLACES[purpose], given, tls__key="key")
    if purpose == "coordinator":
        give(layout.coordinator_settings, given, zookeeper__secret_file="zookeeper", authority_passphrase="phrase")
    else:
        give(layout.fence_settings, given, zookeeper__secret_file="zookeeper")
    before = files_of(layout.root, given)
    joined(leader, layout, purpose)
    after = files_of(layout.root, given)
    certificate = layout.pki / f"{purpose}.crt"
    assert {path for path in after if after[path] != before.get(path)} == {certificate}
    (given / "key").unlink()
    with pytest.raises(GestaltError, match=r"the secret in the credential key of gestalt\.service"):
        joined(leader, layout, purpose)
    assert files_of(layout.root) == {path: data for path, data in after.items() if path.is_relative_to(layout.root)}
