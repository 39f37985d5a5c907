"""What is done for several instances at once is about none of them: its lines carry nothing of whoever came first."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from gestalt.agent.disk import Disk
from gestalt.agent.records import InstanceRecord, RecordStore
from gestalt.config import AgentSettings, TlsSettings
from gestalt.log import about, tell_what_about
from gestalt.plugin.runtime import LaunchRefused
from gestalt.plugins.runtime.docker_images import NodeImages
from gestalt.spec.schema import AppSpec, ImagePull


def told() -> tuple[str, str]:
    """Return which app and which instance a line that is logged now would carry."""
    record = logging.makeLogRecord({})
    tell_what_about(record)
    return str(record.__dict__.get("app", "")), str(record.__dict__.get("instance", ""))


class NotingDisk(Disk):
    """Notes what lines would carry that are logged while it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []
        self.written = asyncio.Event()

    async def write(self, path: Path, data: bytes) -> None:
        self.told.append(told())
        if len(self.told) == 2:
            self.written.set()


async def test_records_that_are_noted_together_are_written_in_nobodys_name(tmp_path: Path) -> None:
    disk = NotingDisk()
    store = RecordStore(tmp_path, disk, "boot")
    for instance in ("web-1", "web-2"):
        with about(app="/web", instance=instance):
            store.note(InstanceRecord(instance, "docker"))
    await asyncio.wait_for(disk.written.wait(), 10)
    assert disk.told == [("", ""), ("", "")]
    with about(app="/web", instance="web-1"):
        await store.save(InstanceRecord("web-1", "docker"))
    assert disk.told[2:] == [("/web", "web-1")], "what is written for one is about it"


class NotingEngine:
    """Notes what lines would carry that are logged while it is asked, and has nothing."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def image(self, _: str) -> None:
        self.told.append(told())
        raise LaunchRefused("it has nothing")


async def test_a_pull_that_others_may_wait_for_is_in_nobodys_name(tmp_path: Path) -> None:
    tls = TlsSettings(ca=Path("/ca"), certificate=Path("/crt"), key=Path("/key"))
    settings = AgentSettings(node_id="n", node_name="one", cluster_id="c", coordinators=("a:1",), tls=tls, data_dir=tmp_path)
    engine = NotingEngine()
    images = NodeImages(cast(Any, engine), settings)
    spec = AppSpec.model_validate({"path": "/unit/test/agent/web", "image": "web:1", "pull": ImagePull(policy="always")})
    with about(app="/web", instance="web-1"), pytest.raises(LaunchRefused):
        await images.prepare(spec, lambda _: None)
    assert engine.told == [("", "")]
    await images.close()
