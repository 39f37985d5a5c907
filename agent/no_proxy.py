"""What stands for the load balancer where the settings turn it off."""

from __future__ import annotations

from collections.abc import Iterable

from gestalt.model import Route


class NoProxy:
    """Routes nothing; nothing is ever connected."""

    name = "proxy"

    async def ensure(self) -> None:
        """Nothing to keep."""

    async def close(self) -> None:
        """Nothing to let go."""

    async def set_routes(self, routes: Iterable[Route]) -> None:
        """Nothing is routed."""

    def set_local(self, instance: str, ready: bool) -> None:
        """Nothing is routed."""

    def forget_local(self, instance: str) -> None:
        """Nothing is routed."""

    async def wait_drained(self, instance: str, limit: float) -> None:
        """Nothing is connected."""
