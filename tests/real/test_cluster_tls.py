"""A cluster whose ZooKeeper speaks TLS alone and has an authority of its own: made, joined and used by the real commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.cluster.layout import ClusterLayout
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, ZooKeeperSettings
from gestalt.pki import Authority, Identity, Role
from gestalt.settings_file import load_settings
from gestalt.zk.client import Zk, ZkUnavailable
from gestalt.zk.paths import Paths
from tests.real.cluster_rig import Cluster
from tests.real.zookeeper_lab import ServerTls, free_ports, zookeeper

pytestmark = pytest.mark.real


def server_tls(folder: Path) -> tuple[Path, ServerTls]:
    """Return the authority of ZooKeeper's servers, and the files of one that trusts nobody else yet."""
    authority = Authority.ensure(folder, "zookeeper")
    pair = authority.issue(Identity("zookeeper", Role.COORDINATOR, "server"), "server", addresses=["127.0.0.1"])
    both, trusted = folder / "server.pem", folder / "trusted.pem"
    both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    trusted.write_bytes(authority.certificate.read_bytes())
    return authority.certificate, ServerTls(both, trusted)


async def works(settings: ZooKeeperSettings, path: str) -> None:
    """Connect, and look at a znode as this member."""
    zk = await Zk.connect(settings, session=10, name="test")
    try:
        assert await zk.get(path) is not None
    finally:
        await zk.close()


async def test_members_speak_tls_to_zookeeper_with_their_own_certificates(tmp_path: Path) -> None:
    ca, tls = server_tls(tmp_path / "zookeeper")
    secret = tmp_path / "given.secret"
    secret.write_text("chosen by the operator\n")
    async with zookeeper(tls=tls) as ensemble:
        cluster = Cluster(tmp_path, ensemble)
        options = ("--zookeeper-ca", str(ca), "--zookeeper-secret-file", str(secret))
        refused = await cluster.init(*options)
        own_ca = cluster.layout.pki / "ca.crt"
        assert (refused.code, f"must trust {own_ca}" in refused.err) == (6, True), refused.err

        with tls.ca.open("ab") as trusted:
            trusted.write(own_ca.read_bytes())
        ensemble.kill(0)
        ensemble.start(0)
        ensemble.wait(0)
        made = await cluster.init(*options)
        assert made.code == 0, made.err
        settings = cluster.settings
        assert settings.zookeeper is not None
        assert settings.zookeeper.secret_file is not None
        assert settings.zookeeper.secret_file.read_text() == secret.read_text()
        await cluster.up()
        try:
            api, join = map(str, free_ports(2))
            for machine, flags, more, program in (
                ("two", (), (), "gestalt-agent"),
                ("three", ("--coordinator",), ("--api-port", api, "--join-port", join), "gestalt-coordinator"),
            ):
                joined = await cluster.join(await cluster.token(*flags), machine, *more, program=program)
                assert joined.code == 0, joined.err
            paths = Paths(cluster.root)
            for machine in ("one", "two"):
                layout = ClusterLayout(tmp_path / machine)
                node = load_settings(layout.agent_settings, AgentSettings).node_id
                fence = load_settings(layout.fence_settings, FenceSettings)
                assert fence.zookeeper.tls is not None
                assert fence.zookeeper.tls.ca.read_bytes() == ca.read_bytes()
                assert fence.zookeeper.tls.certificate == layout.pki / "node.crt"
                await works(fence.zookeeper, paths.node(node))
            third = load_settings(ClusterLayout(tmp_path / "three").coordinator_settings, CoordinatorSettings)
            assert third.zookeeper is not None
            await works(third.zookeeper, paths.election)
        finally:
            await cluster.down()
        with pytest.raises(ZkUnavailable):
            await Zk.connect(settings.zookeeper.model_copy(update={"tls": None}), session=5, name="plain", limit=1.0)
