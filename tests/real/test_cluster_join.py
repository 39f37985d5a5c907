"""Joining, from the first machine's init to a node that is removed: the real commands against a real leader and a real ZooKeeper."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gestalt.agent.renewal import Renewal
from gestalt.clock import wall
from gestalt.cluster.issuing import load_authority, renew_own
from gestalt.cluster.join import JoinOptions, join
from gestalt.cluster.layout import ClusterLayout
from gestalt.cluster.token import decode_token
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, TlsSettings, ZooKeeperSettings
from gestalt.errors import GestaltError, Kind
from gestalt.pki import NODE_HOST, Authority, Identity, Role, identity_in, is_for_key, is_worn, signing_request
from gestalt.proto.v1 import agent_pb2, agent_pb2_grpc
from gestalt.settings_file import load_settings
from gestalt.zk.client import Zk, ZkRefused
from gestalt.zk.paths import Paths
from tests.real.cluster_rig import Cluster
from tests.real.coordinator_rig import eventually, refused
from tests.real.simulated_agent import SimulatedAgent
from tests.real.zookeeper_lab import Ensemble, free_ports, until


@pytest.fixture
async def cluster(tmp_path: Path, ensemble: Ensemble) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, ensemble)
    made = await cluster.init()
    assert made.code == 0, made.err
    assert "next: systemctl enable --now gestalt-coordinator gestalt-fence gestalt-agent" in made.out
    await cluster.up()
    yield cluster
    await cluster.down()


def node_settings(cluster: Cluster, machine: str) -> tuple[AgentSettings, FenceSettings]:
    layout = ClusterLayout(cluster.folder / machine)
    return load_settings(layout.agent_settings, AgentSettings), load_settings(layout.fence_settings, FenceSettings)


async def zk_as(settings: ZooKeeperSettings) -> Zk:
    return await Zk.connect(settings, session=4.0, name="test")


async def test_a_machine_joins_with_a_token_and_is_a_node_with_its_own_identity(cluster: Cluster) -> None:
    joined = await cluster.join(await cluster.token(), "two", "--role", "edge", "--label", "rack=b")
    assert joined.code == 0, joined.err
    assert "next: systemctl enable --now gestalt-fence gestalt-agent" in joined.out
    agent, fence = node_settings(cluster, "two")
    assert (agent.node_name, agent.address, agent.coordinators) == ("two", "127.0.0.1", (cluster.settings.listen,))
    assert (fence.node_id, fence.cluster_id, fence.timing) == (agent.node_id, agent.cluster_id, cluster.settings.timing)
    certificate = x509.load_pem_x509_certificate(agent.tls.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(cluster.settings.tls.ca.read_bytes()))
    assert identity_in(certificate) == Identity(agent.cluster_id, Role.NODE, agent.node_id)
    assert fence.zookeeper.secret_file is not None
    for secret in (agent.tls.key, fence.zookeeper.secret_file, agent.tls.key.with_name("node.id")):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert cluster.leader is not None
    record = cluster.leader.ledger.state.nodes[agent.node_id]
    assert (record.name, record.roles, record.labels) == ("two", ("edge",), {"rack": "b"})
    listed = json.loads((await cluster.ctl("nodes", "-o", "json")).out)
    assert {node["name"] for node in listed["nodes"]} == {"one", "two"}


async def test_a_node_may_use_its_own_znode_and_no_other(cluster: Cluster) -> None:
    joined = await cluster.join(await cluster.token(), "two")
    assert joined.code == 0, joined.err
    first, second = (node_settings(cluster, machine)[1] for machine in ("one", "two"))
    paths, zk = Paths(cluster.root), await zk_as(second.zookeeper)
    try:
        await zk.create(paths.member(second.node_id), b"{}", ephemeral=True)
        forbidden = (paths.member(first.node_id), paths.node("another"), f"{paths.election}/c-", f"{paths.grants}/x", f"{paths.root}/store")
        for path in forbidden:
            with pytest.raises(ZkRefused) as told:
                await zk.create(path, b"")
            assert told.value.reason == "denied", path
        with pytest.raises(ZkRefused):
            await zk.delete(paths.node(first.node_id))
    finally:
        await zk.close()
    nobody = await zk_as(ZooKeeperSettings(hosts=cluster.ensemble.hosts, root=cluster.root))
    try:
        with pytest.raises(ZkRefused):
            await nobody.create(paths.member(second.node_id), b"")
    finally:
        await nobody.close()


async def test_a_token_admits_one_machine_and_that_one_again(cluster: Cluster) -> None:
    token = await cluster.token()
    assert (await cluster.join(token, "two")).code == 0
    before = node_settings(cluster, "two")
    again = await cluster.join(token, "two", "--again")
    assert again.code == 0, again.err
    assert node_settings(cluster, "two") == before
    kept = await cluster.join(token, "two")
    assert (kept.code, "joined already" in kept.out) == (0, True)
    other = await cluster.join(token, "three")
    assert (other.code, "used already" in other.err) == (1, True), other.err
    assert not ClusterLayout(cluster.folder / "three").agent_settings.exists()


async def test_a_join_that_was_interrupted_anywhere_gives_the_same_node(cluster: Cluster) -> None:
    token, layout = await cluster.token(), ClusterLayout(cluster.folder / "two")
    assert (await cluster.join(token, "two")).code == 0
    identity = node_settings(cluster, "two")[0].node_id
    order = [layout.agent_settings, layout.fence_settings, layout.node_secret, layout.pki / "node.crt"]
    for count in range(1, len(order) + 1):
        for path in order[:count]:
            path.unlink()
        again = await cluster.join(token, "two")
        assert again.code == 0, again.err
        agent, _ = node_settings(cluster, "two")
        assert agent.node_id == identity
        assert is_for_key(agent.tls.certificate.read_text(), agent.tls.key)
    assert cluster.leader is not None
    assert len(cluster.leader.ledger.state.nodes) == 2


async def test_wrong_tokens_are_refused_with_the_way_out(cluster: Cluster) -> None:
    good = decode_token(await cluster.token())
    cases = {
        "not a join token": "hello",
        "not valid in this cluster": _changed(good.encode(), secret="guess"),
        "for joining as coordinator": await cluster.token("--coordinator"),
    }
    assert good.purpose == "node"
    for number, (words, token) in enumerate(cases.items()):
        refusal = await cluster.join(token, f"m{number}")
        assert refusal.code != 0, words
        assert words in refusal.err, refusal.err
        assert "hint:" in refusal.err
        assert good.secret not in refusal.err
    assert cluster.leader is not None
    assert len(cluster.leader.ledger.state.nodes) == 1


def _changed(text: str, **fields: str) -> str:
    return replace(decode_token(text), **fields).encode()  # type: ignore[arg-type]


async def test_an_expired_token_says_since_when_and_how_to_get_another(cluster: Cluster) -> None:
    text = await cluster.token("--lifetime", "1s")
    assert cluster.leader is not None
    (kept,) = cluster.leader.ledger.state.tokens.values()
    ends = datetime.fromisoformat(kept.expires_at)
    await eventually(lambda: wall() > ends, "the token has expired")
    refusal = await cluster.join(text, "two")
    assert refusal.code == 1, refusal.err
    assert f"this token expired at {ends:%Y-%m-%d %H:%M} UTC" in refusal.err
    assert "gestaltctl node token" in refusal.err
    assert not ClusterLayout(cluster.folder / "two").agent_settings.exists()
    assert len(cluster.leader.ledger.state.nodes) == 1
    assert (await cluster.join(await cluster.token(), "two")).code == 0


async def test_a_token_of_another_cluster_trusts_nobody_here(cluster: Cluster, tmp_path: Path) -> None:
    stranger = Authority.ensure(tmp_path / "stranger", "another")
    ca = x509.load_pem_x509_certificate(stranger.certificate.read_bytes()).public_bytes(Encoding.DER)
    token = replace(decode_token(await cluster.token()), ca=ca)
    options = JoinOptions("two", "127.0.0.1", patience=0.0)
    with pytest.raises(GestaltError, match="no coordinator let this machine in") as told:
        await join(ClusterLayout(tmp_path / "two"), "node", token, options)
    assert told.value.kind is Kind.UNAVAILABLE
    assert cluster.leader is not None
    assert not any(known.used_by for known in cluster.leader.ledger.state.tokens.values()), "the secret was not sent"


async def test_the_names_of_nodes_are_their_own(cluster: Cluster) -> None:
    refusal = await cluster.join(await cluster.token(), "two", "--name", "one")
    assert refusal.code == 1
    assert "there is a node called one already" in refusal.err
    assert "--name" in refusal.err


async def test_a_machine_of_another_cluster_is_left_alone(cluster: Cluster, ensemble: Ensemble, tmp_path: Path) -> None:
    other = Cluster(tmp_path / "other", ensemble)
    assert (await other.init()).code == 0
    refusal = await cluster.join(await cluster.token(), "other/one", "--name", "two")
    assert refusal.code == 1
    assert "belongs to another cluster" in refusal.err
    stolen = await cluster.init(root=other.root)
    assert stolen.code == 0
    assert "keeps its own --zookeeper-root" in stolen.out
    third = Cluster(tmp_path / "third", ensemble, root=other.root)
    refused_root = await third.init()
    assert refused_root.code == 5, refused_root.err
    assert "belongs to something else" in refused_root.err


async def test_a_removed_node_is_out_at_once_and_comes_back_with_a_new_token_only(cluster: Cluster) -> None:
    token = await cluster.token()
    assert (await cluster.join(token, "two")).code == 0
    agent, fence = node_settings(cluster, "two")
    port = int(cluster.settings.listen.rpartition(":")[2])
    simulated = SimulatedAgent(port, agent.tls, agent.cluster_id, agent.node_id, name="two")
    await simulated.start()
    leader = cluster.leader
    assert leader is not None
    try:
        await eventually(lambda: leader.link(agent.node_id), "the node is connected")
        removed = await cluster.ctl("node", "remove", "two", "-o", "json")
        assert removed.code == 0, removed.err
        assert cluster.zk is not None
        assert await cluster.zk.exists(Paths(cluster.root).node(fence.node_id)) is None
        await eventually(lambda: leader.link(agent.node_id) is None, "its session ends")
    finally:
        await simulated.stop()
    error = await refused(_renew(cluster, agent))
    assert error.kind is Kind.REFUSED
    assert "no member" in error.message
    assert "was removed" in (await cluster.join(token, "two", "--again")).err
    back = await cluster.join(await cluster.token(), "two", "--again")
    assert back.code == 0, back.err
    assert agent.node_id in leader.ledger.state.nodes


async def test_a_removal_is_carried_through_when_its_caller_is_gone(cluster: Cluster) -> None:
    assert (await cluster.join(await cluster.token(), "two")).code == 0
    agent, fence = node_settings(cluster, "two")
    simulated = SimulatedAgent(int(cluster.settings.listen.rpartition(":")[2]), agent.tls, agent.cluster_id, agent.node_id, name="two")
    await simulated.start()
    leader, znode = cluster.leader, Paths(cluster.root).node(fence.node_id)
    assert leader is not None

    async def absent() -> bool:
        assert cluster.zk is not None
        return await cluster.zk.exists(znode) is None

    try:
        await eventually(lambda: leader.link(agent.node_id), "the node is connected")
        async with leader.ledger.draft("admin", "the commit of a call that ends with it") as draft:
            draft.delete("node", agent.node_id)
        await eventually(lambda: leader.link(agent.node_id) is None, "its session ends")
        await until("its znode to be gone", absent)
    finally:
        await simulated.stop()


async def _renew(cluster: Cluster, agent: AgentSettings) -> agent_pb2.RenewReply:
    async with cluster.channel(agent.tls) as channel:
        request = agent_pb2.RenewRequest(signing_request=signing_request(agent.tls.key, "any"))
        reply: agent_pb2.RenewReply = await agent_pb2_grpc.AgentsStub(channel).Renew(request, timeout=10)
    return reply


async def test_a_coordinator_joins_and_can_open_the_authority(cluster: Cluster) -> None:
    api, join = free_ports(2)
    joined = await cluster.join(
        await cluster.token("--coordinator"), "two", "--api-port", str(api), "--join-port", str(join), program="gestalt-coordinator"
    )
    assert joined.code == 0, joined.err
    layout = ClusterLayout(cluster.folder / "two")
    settings = load_settings(layout.coordinator_settings, CoordinatorSettings)
    assert (settings.name, settings.advertise, settings.mode) == ("two", f"127.0.0.1:{api}", "cluster")
    assert load_authority(settings) is not None
    assert b"ENCRYPTED" in (layout.pki / "ca.key").read_bytes()
    assert settings.zookeeper is not None
    zk = await zk_as(settings.zookeeper)
    try:
        await zk.create(f"{Paths(cluster.root).election}/c-", b"", ephemeral=True, sequence=True)
    finally:
        await zk.close()
    then = decode_token(await cluster.token())
    assert then.addresses == (cluster.settings.join_listen, f"127.0.0.1:{join}")
    joined = await cluster.join(await cluster.token(), "three")
    assert joined.code == 0, joined.err
    assert set(node_settings(cluster, "three")[0].coordinators) == {cluster.settings.listen, f"127.0.0.1:{api}"}


async def test_the_storage_fence_and_the_hosts_file_are_chosen_when_a_cluster_is_made(tmp_path: Path, ensemble: Ensemble) -> None:
    cluster = Cluster(tmp_path, ensemble)
    made = await cluster.init("--storage-fence", "netfilter", "--hosts-file", "/run/hosts")
    assert made.code == 0, made.err
    await cluster.up()
    try:
        assert node_settings(cluster, "one")[0].hosts_file == Path("/run/hosts")
        assert cluster.settings.storage_fence == "netfilter"
        api, join = map(str, free_ports(2))
        token = await cluster.token("--coordinator")
        joined = await cluster.join(token, "two", "--api-port", api, "--join-port", join, program="gestalt-coordinator")
        assert joined.code == 0, joined.err
        settings = load_settings(ClusterLayout(cluster.folder / "two").coordinator_settings, CoordinatorSettings)
        assert settings.storage_fence == "netfilter", "a coordinator that differs would let everybody in when it leads"
        joined = await cluster.join(await cluster.token(), "three", "--hosts-file", "/etc/hosts")
        assert joined.code == 0, joined.err
        assert node_settings(cluster, "three")[0].hosts_file == Path("/etc/hosts")
    finally:
        await cluster.down()


async def test_the_join_address_tells_strangers_nothing_else(cluster: Cluster) -> None:
    credentials = grpc.ssl_channel_credentials(cluster.settings.tls.ca.read_bytes())
    async with grpc.aio.secure_channel(cluster.settings.join_listen, credentials) as channel:
        for method in (
            "/gestalt.v1.Nodes/List",
            "/gestalt.v1.Agents/Renew",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await channel.unary_unary(method)(b"", timeout=10)
            assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_operators_cordon_label_and_confirm(cluster: Cluster) -> None:
    cordoned = await cluster.ctl("node", "cordon", "one", "--request-id", "r1", "-o", "json")
    assert cordoned.code == 0, cordoned.err
    assert json.loads(cordoned.out)["changed"] is True
    again = await cluster.ctl("node", "cordon", "one", "--request-id", "r1", "-o", "json")
    assert json.loads(again.out)["changed"] is True, "the same request is answered alike"
    assert "it was so already" in (await cluster.ctl("node", "cordon", "one")).err
    assert (await cluster.ctl("node", "uncordon", "one", "--request-id", "r1")).code == 5, "the id belongs to another request"
    assert (await cluster.ctl("node", "uncordon", "one")).code == 0
    assert (await cluster.ctl("node", "label", "one", "rack=a", "disk=ssd", "--role", "edge")).code == 0
    assert (await cluster.ctl("node", "label", "one", "rack-", "disk=nvme")).code == 0
    assert cluster.leader is not None
    (node,) = cluster.leader.ledger.state.nodes.values()
    assert (node.admin, node.labels, node.roles) == ("ready", {"disk": "nvme"}, ("edge",))
    assert (await cluster.ctl("node", "label", "one")).code == 2
    assert (await cluster.ctl("node", "cordon", "nine")).code == 3
    refusal = await cluster.ctl("node", "confirm-dead", "one")
    assert (refusal.code, "is not lost" in refusal.err) == (4, True)
    actors = {audit.actor for audit in cluster.leader.ledger.state.audits.values() if audit.action.startswith("node.")}
    assert actors == {"admin"}


async def test_the_first_node_is_noted_once(cluster: Cluster) -> None:
    assert cluster.leader is not None
    (first,) = cluster.leader.ledger.state.nodes.values()
    assert (first.name, first.address) == ("one", "127.0.0.1")
    assert (await cluster.ctl("node", "remove", "one")).code == 0
    await cluster.down()
    await cluster.up()
    assert not cluster.leader.ledger.state.nodes, "what was removed does not come back with the next leader"


async def test_init_without_zookeeper_says_so_and_is_completed_later(tmp_path: Path, ensemble: Ensemble) -> None:
    cluster = Cluster(tmp_path, ensemble)
    (nobody,) = free_ports(1)
    failed = await cluster.init(hosts=f"127.0.0.1:{nobody}")
    assert failed.code == 6, failed.err
    assert "ZooKeeper cannot be reached" in failed.err
    before = cluster.settings
    text = cluster.layout.coordinator_settings.read_text()
    cluster.layout.coordinator_settings.write_text(text.replace(f"127.0.0.1:{nobody}", ensemble.hosts[0]))
    done = await cluster.init()
    assert done.code == 0, done.err
    assert cluster.settings.cluster_id == before.cluster_id
    again = await cluster.init()
    assert "made" not in again.out


def _age(cluster: Cluster, tls: TlsSettings, identity: Identity) -> bytes:
    """Put a certificate in place of which less than a third of its life is left; return it."""
    authority = load_authority(cluster.settings)
    assert authority is not None
    worn = authority.sign(signing_request(tls.key, "any"), identity, dns=(NODE_HOST,), life=timedelta(minutes=2))
    tls.certificate.write_text(worn)
    assert is_worn(x509.load_pem_x509_certificate(worn.encode()), wall())
    return worn.encode()


async def test_an_agent_renews_its_certificate_by_itself(cluster: Cluster) -> None:
    agent, _ = node_settings(cluster, "one")
    identity = Identity(agent.cluster_id, Role.NODE, agent.node_id)
    worn, key = _age(cluster, agent.tls, identity), agent.tls.key.read_bytes()
    renewal = Renewal(agent, lambda: agent.coordinators)
    try:
        await renewal.ensure()
        await eventually(lambda: agent.tls.certificate.read_bytes() != worn, "the certificate is renewed")
    finally:
        await renewal.close()
    fresh = x509.load_pem_x509_certificate(agent.tls.certificate.read_bytes())
    assert identity_in(fresh) == identity
    assert not is_worn(fresh, wall())
    assert agent.tls.key.read_bytes() == key
    assert is_for_key(agent.tls.certificate.read_text(), agent.tls.key)
    assert (await _renew(cluster, agent)).certificate, "the renewed one is accepted"


async def test_a_renewal_that_fails_is_told_and_leaves_the_certificate(cluster: Cluster) -> None:
    agent, _ = node_settings(cluster, "one")
    worn = _age(cluster, agent.tls, Identity(agent.cluster_id, Role.NODE, agent.node_id))
    assert (await cluster.ctl("node", "remove", "one")).code == 0
    renewal = Renewal(agent, lambda: agent.coordinators)
    try:
        problem = ""
        deadline = asyncio.get_running_loop().time() + 10
        while not problem:
            assert asyncio.get_running_loop().time() < deadline, "the failure is told"
            try:
                await renewal.ensure()
            except GestaltError as error:
                problem = error.message
            await asyncio.sleep(0.02)
    finally:
        await renewal.close()
    assert "cannot be" in problem
    assert "no member of this cluster" in problem
    assert agent.tls.certificate.read_bytes() == worn


async def test_a_coordinator_renews_its_own_certificate(cluster: Cluster) -> None:
    settings = cluster.settings
    authority = load_authority(settings)
    assert authority is not None
    assert not renew_own(settings, authority)
    worn = _age(cluster, settings.tls, Identity(settings.cluster_id, Role.COORDINATOR, settings.name))
    assert renew_own(settings, authority)
    assert settings.tls.certificate.read_bytes() != worn
    answer = await cluster.ctl("nodes")
    assert answer.code == 0, answer.err
