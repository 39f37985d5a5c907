"""New settings for a daemon that runs: what is taken over, what waits for a restart, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gestalt.agent.fence import settings as light
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, OfferSettings, TlsSettings, ZooKeeperSettings
from gestalt.errors import GestaltError, Kind
from gestalt.settings_change import live_places, take_over

TLS = TlsSettings(ca=Path("/ca"), certificate=Path("/crt"), key=Path("/key"))
AGENT = AgentSettings(node_id="n", node_name="one", cluster_id="c", coordinators=("a:1",), tls=TLS)
LEADER = CoordinatorSettings(cluster_id="c", tls=TLS)


def changed(settings: AgentSettings, **fields: Any) -> AgentSettings:
    return AgentSettings.model_validate({**dict(settings), **fields})


def test_only_what_is_live_is_taken_over_and_all_is_told() -> None:
    settings, changes = take_over(AGENT, changed(AGENT, resync=12.5, port_last=5000))
    assert settings == changed(AGENT, resync=12.5)
    assert [(str(change), change.live) for change in changes] == [
        ("port_last is 5000, was 4000", False),
        ("resync is 12.5, was 30", True),
    ]


def test_what_waits_for_a_restart_is_told_each_time() -> None:
    once, _ = take_over(AGENT, changed(AGENT, port_last=5000))
    _, changes = take_over(once, changed(AGENT, port_last=5000))
    assert [str(change) for change in changes] == ["port_last is 5000, was 4000"]
    assert take_over(once, AGENT) == (AGENT, [])


def test_a_section_that_is_live_is_so_with_everything_in_it() -> None:
    offer = OfferSettings(devices={"gpu": 2})
    settings, changes = take_over(AGENT, changed(AGENT, offer=offer))
    assert settings.offer == offer
    assert all(change.live for change in changes)
    back, changes = take_over(settings, AGENT)
    assert back == AGENT
    assert changes


def test_a_section_that_comes_or_goes_waits_for_a_restart() -> None:
    path = Path("/etc/hosts")
    zookeeper = ZooKeeperSettings(hosts=("a:1",), tls=TLS)
    fence = FenceSettings(node_id="n", node_name="one", cluster_id="c", zookeeper=zookeeper)
    bare = fence.model_copy(update={"zookeeper": ZooKeeperSettings(hosts=("a:1",))})
    settings, changes = take_over(fence, bare)
    assert settings == fence
    assert [str(change) for change in changes] == [f'zookeeper.tls.{name} is null, was "{file}"' for name, file in dict(TLS).items()]
    _, (change,) = take_over(AGENT, changed(AGENT, hosts_file=path))
    assert (change.place, change.old, change.new, change.live) == (("hosts_file",), None, "/etc/hosts", False)


def test_what_does_not_go_together_is_refused_with_the_reason() -> None:
    class Strict(CoordinatorSettings):
        def model_post_init(self, context: object) -> None:
            if self.task_retention > self.event_ring:
                raise ValueError("task_retention is above event_ring")

    old = Strict(**dict(LEADER))
    new = Strict.model_validate({**dict(LEADER), "task_retention": 20_000, "event_ring": 30_000})
    with pytest.raises(GestaltError, match=r"counts after a restart only \(event_ring\): .*task_retention is above event_ring") as caught:
        take_over(old, new)
    assert caught.value.kind is Kind.INVALID
    assert "restart the daemon" in caught.value.hint


def test_the_fence_takes_over_what_its_model_says() -> None:
    assert set(live_places(light.FenceSettings)) == set(live_places(FenceSettings)) == {("agent_grace",), ("log_level",)}
    zookeeper = light.ZooKeeperSettings(("a:1",))
    old = light.FenceSettings("n", "one", "c", zookeeper)
    settings, changes = take_over(old, light.FenceSettings("n", "one", "c", zookeeper, agent_grace=60.0, failsafe=True))
    assert settings == light.FenceSettings("n", "one", "c", zookeeper, agent_grace=60.0)
    assert [(str(change), change.live) for change in changes] == [
        ("agent_grace is 60, was 300", True),
        ("failsafe is true, was false", False),
    ]


def test_these_are_live() -> None:
    """Each of them has a test that its daemon does take it over."""
    assert live_places(AgentSettings) == [("resync",), ("orphan_grace",), ("usage_interval",), ("offer",), ("log_level",)]
    expected = ["hands_off_share", "replacements_per_second", "task_retention", "request_retention", "log_level"]
    assert live_places(CoordinatorSettings) == [(name,) for name in expected]
