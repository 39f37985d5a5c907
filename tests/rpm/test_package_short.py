"""The short path of the packages' life, in a minute: installed, upgraded under load, erased. The rest of it is in the other modules."""

from __future__ import annotations

import shutil

import pytest

from tests.cluster.lab.install import assemble
from tests.cluster.lab.lab import temporary_lab
from tests.cluster.lab.nodes import can_run
from tests.cluster.lab.scene import APP, SOLO, set_up, watched

from .conftest import without_selinux
from .fleet import change_release, containers, incarnations, losses, releases
from .machine import PACKAGES, build, build_next, files, prepare, processes, rpm

pytestmark = [
    pytest.mark.real,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),  # two builds, on a machine that may be busy
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
    pytest.mark.skipif(shutil.which("rpmbuild") is None, reason="rpmbuild is not installed: scripts/install-packages rpm"),
]

_LEASE = 15.0
"""Seconds within which a lease of 8 is over and what was held has been ended, on a busy machine, too."""


async def test_packages_are_installed_upgraded_under_load_and_erased_without_a_trace() -> None:
    first, second = without_selinux(await build()), without_selinux(await build_next())
    async with temporary_lab(1, "rpm") as lab:
        (node,) = lab.nodes
        await prepare(node)
        before = await files(node)
        await rpm(node, "-i", *map(str, first))
        cluster = await assemble(lab)
        await set_up(cluster)
        ran, members = await containers(lab.nodes), await incarnations(cluster)
        async with watched(cluster, lab.nodes) as scene:
            old = await releases(lab.nodes)
            figures = await change_release(node, second)
            await cluster.until_ready()
        print(f"{len(scene.traffic.requests)} requests, none failed; " + "; ".join(map(str, figures)))
        assert scene.disturbed() == []
        assert await containers(lab.nodes) == ran
        assert await releases(lab.nodes) != old
        assert (await losses(cluster), await incarnations(cluster)) == ([], members)
        for app in (APP, SOLO):
            await cluster.delete(app)
        await rpm(node, "-e", *PACKAGES)
        await node.do("systemctl", "stop", "gestalt-haproxy")
        await node.do("rm", "-r", "/etc/gestalt", "/var/lib/gestalt", "/run/gestalt")
        assert await files(node) - before == set()

        async def none_left() -> bool:
            return await processes(node, "/usr/lib/gestalt/") == []

        await cluster.until("what a fence that ended left behind to end with the lease", none_left, _LEASE)
