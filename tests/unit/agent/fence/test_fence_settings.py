"""The fence's own reader of fence.yaml: it agrees with the model that writes the file, and tells mistakes as clearly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gestalt.agent.fence import settings as light
from gestalt.config import FenceSettings, TimingSettings, TlsSettings, ZooKeeperSettings
from gestalt.errors import GestaltError, Kind
from gestalt.settings_file import dump_settings, load_settings

TLS = TlsSettings(ca=Path("/ca"), certificate=Path("/crt"), key=Path("/key"))
FULL = FenceSettings(
    node_id="n",
    node_name="one",
    cluster_id="c",
    zookeeper=ZooKeeperSettings(hosts=("a:1", "b:2"), root="/x/y", identity="node", secret_file=Path("/secret"), tls=TLS),
    timing=TimingSettings(session=1.5, lease=9, kill=1, margin=0.5),
    agent_grace=60,
    data_dir=Path("/d"),
    socket=Path("/s"),
    watchdog="/dev/watchdog1",
    log_level="debug",
)
LEAST = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1]}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "fence.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plain(settings: Any) -> Any:
    """Return nested settings of either kind as plain values."""
    if isinstance(settings, BaseModel):
        return {name: plain(getattr(settings, name)) for name in type(settings).model_fields}
    if hasattr(settings, "__dataclass_fields__"):
        return {name: plain(getattr(settings, name)) for name in settings.__dataclass_fields__}
    return settings


@pytest.mark.parametrize("text", [dump_settings(FULL), LEAST], ids=["everything", "the least"])
def test_both_readers_read_the_same(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert plain(light.load_fence_settings(path)) == plain(load_settings(path, FenceSettings))


@pytest.mark.parametrize(
    ("mistake", "field", "problem"),
    [
        ("node_nam: x\n", "5: node_nam", "did you mean 'node_name'?"),
        ("agent_grace: soon\n", "5: agent_grace", "is not a duration"),
        ("data_dir: 7\n", "5: data_dir", "should be a text"),
        ("socket: [a]\n", "5: socket", "should be a text"),
        ("timing: 3\n", "5: timing", "is a section"),
        ("timing:\n  session: 9s\n", "5: timing", "must be at least session"),
        ("timing:\n  kill: 7s\n  margin: 2s\n", "5: timing", "must not exceed lease"),
        ("timing:\n  margin: 0\n", "5: timing", "must be above 0"),
        ("log_level: loud\n", "the whole file", "must be debug"),
        ("watchdog: 7\n", "5: watchdog", "should be a text"),
        ("watchdog: dog\n", "the whole file", "must be the path of a device"),
    ],
)
def test_mistakes_are_told_with_their_line_and_refused_by_both(mistake: str, field: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, LEAST + mistake)
    with pytest.raises(GestaltError) as caught:
        light.load_fence_settings(path)
    assert caught.value.kind is Kind.INVALID
    (detail,) = caught.value.details
    assert detail.field.endswith(field)
    assert problem in detail.problem
    with pytest.raises(GestaltError):
        load_settings(path, FenceSettings)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{hosts: []}", "at least one"),
        ("{hosts: a:1}", "should be a list"),
        ("{root: /a}", "is missing"),
        ("{hosts: [a:1], root: gestalt}", "must be a path"),
        ("{hosts: [a:1], identity: x}", "go together"),
        ("{hosts: [a:1], tls: {ca: /ca}}", "is missing"),
    ],
)
def test_mistakes_about_zookeeper_are_refused_by_both(section: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, LEAST.replace("{hosts: [a:1]}", section))
    with pytest.raises(GestaltError) as caught:
        light.load_fence_settings(path)
    assert problem in caught.value.message
    with pytest.raises(GestaltError):
        load_settings(path, FenceSettings)


def fence(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gestalt.agent.fence.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_ends_with_78_when_its_settings_are_bad(tmp_path: Path) -> None:
    done = fence("--config", str(write(tmp_path, LEAST + "agent_grace: soon\n")))
    assert done.returncode == 78
    assert "agent_grace: is not a duration" in done.stderr
    assert fence("--config", str(tmp_path / "none")).returncode == 78
    assert fence("--config", str(write(tmp_path, LEAST)), "--check-config").returncode == 0


def test_the_fence_imports_nothing_big() -> None:
    code = "import sys, gestalt.agent.fence.main, gestalt.agent.fence.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"pydantic", "grpc", "psutil", "google.protobuf", "docker", "gestalt.config"} & set(done.stdout.split())
