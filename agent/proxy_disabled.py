"""The load balancer of a node that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from gestalt.config import AgentSettings
from gestalt.model import Route
from gestalt.plugin.loadbalancer import LoadBalancerDriver, ServerLoad


class NoLoadBalancer(LoadBalancerDriver):
    """Routes nothing: `proxy.enabled` is off."""

    name = "none"

    @classmethod
    def create(cls, settings: AgentSettings) -> Self:
        del settings
        return cls()

    async def start(self, on_death: Callable[[], None]) -> None:
        del on_death

    async def apply(self, routes: Sequence[Route]) -> None:
        del routes

    async def load(self) -> Mapping[str, ServerLoad]:
        return {}

    async def stop(self) -> None:
        return

    async def close(self) -> None:
        return
