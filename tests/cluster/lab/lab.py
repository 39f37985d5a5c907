"""A lab: nodes with Docker, and ZooKeeper on the first three of them. Gestalt comes on top: `install`."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import nodes as power
from .engine import start_engines
from .ensemble import Ensemble, ensemble_of
from .faults import Faults
from .nodes import CHECKOUT, LabError, Node

FILES = CHECKOUT / ".run/lab"
"""What labs keep on the host, a folder for each group."""

LOCKS = Path("/run/lock")
"""Of the machine, not of the checkout: nodes of a group have the same names whoever starts them."""

_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Lab:
    """Nodes with Docker, their ZooKeeper, and what can be done to them."""

    group: str
    nodes: tuple[Node, ...]
    ensemble: Ensemble
    faults: Faults


async def raise_lab(count: int, group: str = "lab") -> Lab:
    """Start a lab in place of what there was of its group (5-10 s).

    Raises:
        LabError: it does not come up; what there is of it stays, to be looked at.
    """
    await lower_lab(group)
    nodes = await power.up(count, group=group)
    lab = _lab(group, nodes)
    await asyncio.gather(start_engines(nodes), lab.ensemble.start())
    return lab


async def find_lab(group: str = "lab") -> Lab:
    """Return the lab that another process started.

    Raises:
        LabError: there is none.
    """
    nodes = await power.found(group)
    if not nodes:
        raise LabError("there is no lab: make lab")
    return _lab(group, nodes)


async def lower_lab(group: str = "lab") -> None:
    """Remove a lab, whatever state it is in. Idempotent."""
    await Faults(group, ()).heal()
    await power.down(group)


@asynccontextmanager
async def temporary_lab(count: int, purpose: str = "test") -> AsyncIterator[Lab]:
    """Have a lab while the block runs, beside those of other processes; leftovers of ended ones are removed first."""
    with _claimed_group(purpose) as group:
        try:
            yield await raise_lab(count, group)
        finally:
            await lower_lab(group)


def _lab(group: str, nodes: list[Node]) -> Lab:
    return Lab(group, tuple(nodes), ensemble_of(nodes), Faults(group, tuple(nodes)))


@contextmanager
def _claimed_group(purpose: str) -> Iterator[str]:
    """Hold the first group of a purpose that no living process holds."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    for number in range(1, _GROUPS + 1):
        group = f"{purpose}{number}"
        with (LOCKS / f"gestalt-lab-{group}").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield group
            return
    raise LabError(f"{_GROUPS} labs for {purpose!r} are in use at once")
