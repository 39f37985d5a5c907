"""What an office in ZooKeeper rests on, and how it is proved in the transaction that takes it."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt.errors import Kind
from gestalt.zk.client import Check, Create, Delete, Op, Set, Zk

from .base import StoreError


@dataclass(frozen=True, slots=True)
class Candidacy:
    """What an office rests on: the election znode at `path`, which must exist. `leader`: what the leader's znode is to say.

    `barred`: the znode that must not exist; empty = there is none that could.
    """

    path: str
    leader: bytes
    barred: str = ""


class NotElected(StoreError):
    """Our candidacy is gone, so the office was not taken."""

    def __init__(self, path: str) -> None:
        super().__init__(f"the candidacy {path} is gone from ZooKeeper", kind=Kind.REFUSED, hint="stand for election again")


class Barred(StoreError):
    """Our candidacy is not admitted, so the office was not taken."""

    def __init__(self, path: str) -> None:
        super().__init__(f"this coordinator was removed: {path} in ZooKeeper says so", kind=Kind.REFUSED, hint="join it again")


def proofs(candidacy: Candidacy) -> list[Op]:
    """Return what fails unless the candidacy stands: there is no check that something is absent, but making it fails when it is there."""
    absent: list[Op] = [Create(candidacy.barred), Delete(candidacy.barred)] if candidacy.barred else []
    return [Check(candidacy.path, -1), *absent]


async def leader_op(zk: Zk, path: str, leader: bytes) -> Op:
    return Set(path, leader) if await zk.exists(path) else Create(path, leader)
