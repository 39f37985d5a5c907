"""Certificates of people: they hear in time that theirs ends, renew it themselves, and get another one where the authority is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from gestalt.clock import wall
from gestalt.cluster.issuing import load_authority
from gestalt.pki import Identity, Role, identity_in, is_worn, signing_request
from tests.real.cluster_rig import Cluster
from tests.real.zookeeper_lab import Ensemble

pytestmark = pytest.mark.real


@pytest.fixture
async def cluster(tmp_path: Path, ensemble: Ensemble) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, ensemble)
    made = await cluster.init()
    assert made.code == 0, made.err
    await cluster.up()
    yield cluster
    await cluster.down()


def put(cluster: Cluster, life: timedelta) -> Path:
    """Give the administrator a certificate that lives for so long; return its file."""
    authority = load_authority(cluster.settings)
    assert authority is not None
    pki = cluster.layout.pki
    identity = Identity(cluster.settings.cluster_id, Role.USER, "admin")
    (pki / "admin.crt").write_text(authority.sign(signing_request(pki / "admin.key", "any"), identity, life=life))
    return pki / "admin.crt"


def read(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


async def test_a_certificate_that_ends_soon_is_told_of_and_renewed_by_its_owner(cluster: Cluster) -> None:
    put(cluster, timedelta(days=1))
    calm = await cluster.ctl("nodes")
    assert (calm.code, calm.err) == (0, ""), "of a short life, little is used up"
    file, key = put(cluster, timedelta(seconds=100)), (cluster.layout.pki / "admin.key").read_bytes()
    warned = await cluster.ctl("nodes")
    assert (warned.code, warned.err.count("gestaltctl context renew")) == (0, 1), warned.err
    renewed = await cluster.ctl("context", "renew")
    assert renewed.code == 0, renewed.err
    fresh = read(file)
    assert identity_in(fresh) == Identity(cluster.settings.cluster_id, Role.USER, "admin")
    assert not is_worn(fresh, wall())
    assert (cluster.layout.pki / "admin.key").read_bytes() == key
    after = await cluster.ctl("nodes")
    assert (after.code, after.err) == (0, "")


async def test_an_expired_certificate_is_made_anew_where_the_authority_is(cluster: Cluster, tmp_path: Path) -> None:
    file = put(cluster, timedelta(minutes=-1))
    refused = await cluster.ctl("nodes")
    assert refused.code != 0
    assert "gestaltctl cluster certificate" in refused.err
    root = ("--root", str(cluster.layout.root))
    made = await cluster.ctl("cluster", "certificate", "admin", *root)
    assert (made.code, made.out.startswith(f"made  {file}")) == (0, True), made.err
    assert (await cluster.ctl("nodes")).code == 0
    kept = await cluster.ctl("cluster", "certificate", "admin", *root)
    assert kept.out.startswith("kept")
    alice = await cluster.ctl("cluster", "certificate", "alice", "--out", str(tmp_path / "alice"), *root)
    assert alice.code == 0, alice.err
    assert {path.name for path in (tmp_path / "alice").iterdir()} == {"alice.crt", "alice.key", "ca.crt"}
    assert identity_in(read(tmp_path / "alice/alice.crt")).name == "alice"
    node = (cluster.layout.pki / "node.crt").read_bytes()
    assert (await cluster.ctl("cluster", "certificate", "node", *root)).code == 2
    assert (cluster.layout.pki / "node.crt").read_bytes() == node
