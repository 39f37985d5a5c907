"""The interface of load balancer drivers: what routes requests to instances on one node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from gestalt.config import AgentSettings
from gestalt.model import Route


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """Connections that a server has right now, its state in the product's words, and whether it is given new requests."""

    connections: int
    state: str
    serving: bool = False


@dataclass(frozen=True, slots=True)
class ServerTraffic:
    """What a server got: HTTP requests so far, which begin from 0 anew whenever the load balancer does, and what is under way now."""

    requests: int
    queue: int


class LoadBalancerDriver(ABC):
    """Routes with one product.

    Guarantees: the load balancer outlives the agent and is adopted by the next one; one that the driver did not start is never touched; a
    configuration that the product itself rejects is never put in place, the old one stays; changes that only concern
    servers cost no reload; a reload loses no request.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def create(cls, settings: AgentSettings) -> Self:
        """Return a driver that has done no I/O yet."""

    @abstractmethod
    async def start(self, on_death: Callable[[], None]) -> None:
        """Adopt the running load balancer or start one with the last configuration; `on_death` is called in the loop when it dies.

        Raises:
            DriverUnavailable: it cannot be started; the sentence says what to do.
        """

    @abstractmethod
    async def apply(self, routes: Sequence[Route]) -> None:
        """Make the running load balancer match, starting it if it is dead. Idempotent; what is right already is left alone.

        Servers that are neither ready nor draining get no requests; draining ones finish those that they have. What waits for a server
        that is lost, or that left a service which goes on, is ended at once: asked of another server if that is safe, else refused.

        Raises:
            LaunchRefused: the product rejects the configuration; the old one is still in place, its servers in their wanted states.
            DriverUnavailable: it does not answer.
        """

    @abstractmethod
    async def load(self) -> Mapping[str, ServerLoad]:
        """Return the load by instance id, summed over its services."""

    async def traffic(self) -> Mapping[str, ServerTraffic]:
        """Return what each server got, by instance id, summed over its services.

        Raises:
            DriverUnavailable: it does not answer.
        """
        return {}

    @abstractmethod
    async def stop(self) -> None:
        """End it for good (appliance down, node leave). Idempotent."""

    @abstractmethod
    async def close(self) -> None:
        """Let go; it goes on running."""

    def problems(self) -> tuple[str, ...]:
        """Return what the last `apply` had to leave out, a sentence each: a port that somebody else has, a path claimed twice."""
        return ()

    def unfinished(self) -> bool:
        """Say whether another `apply` is needed in a moment, to remove what was still in use."""
        return False
