"""Where coordinators are survives a restart of the agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gestalt.agent.coordinators import KnownCoordinators
from gestalt.agent.disk import Disk
from gestalt.config import AgentSettings, TlsSettings


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    disk = Disk()
    yield disk
    await disk.close()


def settings(folder: Path) -> AgentSettings:
    tls = TlsSettings(ca=folder / "ca.crt", certificate=folder / "node.crt", key=folder / "node.key")
    return AgentSettings(node_id="n", node_name="n", cluster_id="c", coordinators=("a:1", "b:1"), tls=tls, data_dir=folder)


async def test_what_a_leader_said_is_known_after_a_restart(tmp_path: Path, disk: Disk) -> None:
    first = KnownCoordinators(settings(tmp_path), disk)
    assert first.addresses == ("a:1", "b:1")
    first.learn(["c:1", "b:1"])
    await first.ensure()
    first.learn([])
    await first.ensure()
    assert KnownCoordinators(settings(tmp_path), disk).addresses == ("c:1", "b:1", "a:1")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[""]', b"\xff"])
async def test_a_damaged_list_leaves_the_settings(tmp_path: Path, disk: Disk, content: bytes) -> None:
    (tmp_path / "coordinators.json").write_bytes(content)
    assert KnownCoordinators(settings(tmp_path), disk).addresses == ("a:1", "b:1")
