"""No time of a settings file is without an upper bound, and one beyond it is told with the field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.agent.fence.settings import load_fence_settings
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, Settings
from gestalt.errors import GestaltError
from gestalt.settings_file import load_settings
from gestalt.settings_reference import KINDS, reference

TLS = "tls: {ca: /a, certificate: /b, key: /c}\n"
COORDINATOR = f"cluster_id: c\n{TLS}"
AGENT = f"node_id: n\nnode_name: one\ncluster_id: c\ncoordinators: [a:1]\n{TLS}"
FENCE = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1]}\n"


@pytest.mark.parametrize("name", KINDS)
def test_every_time_has_a_bound(name: str) -> None:
    text = " ".join(line.lstrip("# ") for line in reference(name).splitlines())
    times = text.split("(a time")[1:]
    assert times
    assert [time[:100] for time in times if "at most" not in time.partition(")")[0]] == []


@pytest.mark.parametrize(
    ("kind", "text", "field", "allowed"),
    [
        (FenceSettings, FENCE + "agent_grace: 31d\n", "agent_grace", "2592000"),
        (FenceSettings, FENCE + "timing: {lease: 2h}\n", "timing.lease", "3600"),
        (AgentSettings, AGENT + "proxy: {hard_stop_after: 2d}\n", "proxy.hard_stop_after", "86400"),
        (AgentSettings, AGENT + "docker: {limit: 2h}\n", "docker.limit", "3600"),
        (CoordinatorSettings, COORDINATOR + "heartbeat: 61m\n", "heartbeat", "3600"),
        (CoordinatorSettings, COORDINATOR + "agent_grace: 31d\n", "agent_grace", "2592000"),
    ],
)
def test_a_time_beyond_reason_is_refused(tmp_path: Path, kind: type[Settings], text: str, field: str, allowed: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text, encoding="utf-8")
    line = text.count("\n")
    with pytest.raises(GestaltError, match=rf"some.yaml:{line}: {field}: .*less than or equal to {allowed} seconds"):
        load_settings(file, kind)
    if kind is FenceSettings:
        with pytest.raises(GestaltError, match=rf"some.yaml:{line}: {field}: .*less than or equal to {allowed} seconds"):
            load_fence_settings(file)
