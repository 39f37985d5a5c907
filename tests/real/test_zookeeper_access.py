"""Who may do what in ZooKeeper: identities with a secret, and TLS both ways."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gestalt.config import TlsSettings, ZooKeeperSettings
from gestalt.identity import Identity, Role
from gestalt.pki import Authority
from gestalt.zk.client import Perm, Zk, ZkRefused, ZkUnavailable, acl_for, digest_id

from .zookeeper_lab import Ensemble, ServerTls, new_root, zookeeper

SECRET = "correct horse battery staple"
CLUSTER = "11111111-2222-3333-4444-555555555555"


async def connected(settings: ZooKeeperSettings, **options: object) -> Zk:
    return await Zk.connect(settings, session=5, name="access", **options)  # type: ignore[arg-type]


async def test_what_an_identity_makes_is_its_own(ensemble: Ensemble) -> None:
    path = new_root()
    owner = await connected(ensemble.settings(identity="coordinator", secret=SECRET))
    await owner.create(path, b"mine")
    for other in (
        ensemble.settings(),
        ensemble.settings(identity="coordinator", secret="guessed"),
        ensemble.settings(identity="node", secret=SECRET),
    ):
        stranger = await connected(other)
        for call in (stranger.get(path), stranger.children(path), stranger.set(path, b""), stranger.create(f"{path}/child")):
            with pytest.raises(ZkRefused) as refusal:
                await call
            assert refusal.value.reason == "denied"
        await stranger.close()
    assert await owner.get(path)
    await owner.close()


async def test_others_get_the_rights_they_are_given_and_no_more(ensemble: Ensemble) -> None:
    path = new_root()
    node = digest_id("node", "its secret")
    owner = await connected(ensemble.settings(identity="coordinator", secret=SECRET), acl=acl_for(node, perms=Perm.READ))
    await owner.create(path, b"shown")
    await owner.create(f"{path}/theirs", acl=owner.default_acl + acl_for(node))
    other = await connected(ensemble.settings(identity="node", secret="its secret"))
    found = await other.get(path)
    assert found is not None
    assert found[0] == b"shown"
    await other.set(f"{path}/theirs", b"written")
    with pytest.raises(ZkRefused):
        await other.set(path, b"")
    await other.close()
    await owner.close()


async def test_no_secret_is_logged(ensemble: Ensemble, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    zk = await connected(ensemble.settings(identity="coordinator", secret=SECRET))
    await zk.create(new_root(), b"")
    session = zk.session
    await zk.close(keep_session=True)
    resumed = await connected(ensemble.settings(identity="coordinator", secret=SECRET), resume=session)
    await resumed.close()
    assert SECRET not in caplog.text
    assert session.password.hex() not in caplog.text + repr(session)
    assert repr(session.password) not in caplog.text + repr(session)


async def test_a_secret_that_cannot_be_read_is_told(ensemble: Ensemble, tmp_path: Path) -> None:
    settings = ZooKeeperSettings(hosts=ensemble.hosts, identity="coordinator", secret_file=tmp_path / "absent")
    with pytest.raises(ZkUnavailable, match=r"secret of coordinator.*absent"):
        await connected(settings)


def tls_of(folder: Path, address: str) -> tuple[TlsSettings, ServerTls]:
    """Make an authority, a client's files, and those of a server at `address`."""
    authority = Authority.ensure(folder, CLUSTER)
    pair = authority.issue(Identity(CLUSTER, Role.COORDINATOR, "one"), "client", addresses=["127.0.0.1"])
    server = authority.issue(Identity(CLUSTER, Role.COORDINATOR, "two"), "server", addresses=[address])
    both = folder / "server.pem"
    both.write_bytes(server.certificate.read_bytes() + server.key.read_bytes())
    return TlsSettings(ca=authority.certificate, certificate=pair.certificate, key=pair.key), ServerTls(both, authority.certificate)


async def test_tls_admits_who_has_a_certificate_of_the_authority(tmp_path: Path) -> None:
    client, server = tls_of(tmp_path / "ours", "127.0.0.1")
    stranger, _ = tls_of(tmp_path / "theirs", "127.0.0.1")
    async with zookeeper(tls=server) as servers:
        zk = await connected(servers.settings(tls=client, identity="coordinator", secret=SECRET))
        await asyncio.gather(*(zk.create(f"{new_root()}", b"x" * 100_000) for _ in range(20)))
        session = zk.session
        await zk.close(keep_session=True)
        again = await connected(servers.settings(tls=client), resume=session)
        assert again.session == session
        await again.close()
        for settings in (
            servers.settings(tls=stranger.model_copy(update={"ca": client.ca})),
            servers.settings(tls=client.model_copy(update={"ca": stranger.ca})),
            servers.settings(),
        ):
            with pytest.raises(ZkUnavailable):
                await connected(settings, limit=1.0)


async def test_tls_refuses_a_server_that_has_another_address(tmp_path: Path) -> None:
    client, server = tls_of(tmp_path, "127.0.0.2")
    async with zookeeper(tls=server) as servers:
        with pytest.raises(ZkUnavailable, match=r"127\.0\.0\.1.*not valid for"):
            await connected(servers.settings(tls=client), limit=1.0)
