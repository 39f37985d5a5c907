"""The values that cross the ZooKeeper client: operations, what they return, and how they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from .acl import Acl

MULTI_LIMIT = 1_000_000
"""Bytes that one request may have. The servers drop the connection of a larger one than 1,048,575 (their `jute.maxbuffer`)."""

_HEADERS = 64
_RIGHT = 16


class ZkState(Enum):
    """What is known of a session. LOST is final: it expired, was closed, or cannot be used by this client any more.

    A client that is cut off stays SUSPENDED for as long as it is cut off, whatever the servers did with its session meanwhile.
    """

    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class SessionId:
    """What another process needs to take up a session. `password` is a secret."""

    id: int
    password: bytes

    def __repr__(self) -> str:
        return f"SessionId({self.id:#x})"


@dataclass(frozen=True, slots=True)
class Stat:
    """What ZooKeeper knows of a znode. `created`, `modified`: zxids; `owner`: the session of an ephemeral one, 0 for a persistent one."""

    version: int
    created: int
    modified: int
    owner: int
    children: int


@dataclass(frozen=True, slots=True)
class Create:
    """Make a znode. `sequence` appends a number to the path; `acl`: None for the client's default."""

    path: str
    value: bytes = b""
    ephemeral: bool = False
    sequence: bool = False
    acl: Acl | None = None


@dataclass(frozen=True, slots=True)
class Set:
    """Write a znode that exists. `version`: the one it must have now; -1: any."""

    path: str
    value: bytes
    version: int = -1


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a znode that exists and has no children."""

    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class Check:
    """Change nothing, but fail the whole transaction unless the znode exists at this version (-1: at any)."""

    path: str
    version: int


Op = Create | Set | Delete | Check


class ZkError(Exception):
    """Something that ZooKeeper, or the way to it, did not do."""


class ZkUnavailable(ZkError):
    """There is no connection, or it was lost while reading: nothing changed."""


class ZkUnknown(ZkError):
    """The connection was lost between a write and its answer: it may have taken place, or may still."""


class ZkRefused(ZkError):
    """ZooKeeper refused, and nothing changed.

    `index`: of the guilty operation. `reason`: "exists", "missing", "version", "not_empty", "denied" (by the ACL), "too_large",
    "expired" (the session is over), "ephemeral_parent", or another one in ZooKeeper's words.
    """

    def __init__(self, index: int, reason: str, path: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.index = index
        self.reason = reason
        self.path = path


def size_of(op: Op, acl: Acl) -> int:
    """Return at least the bytes that an operation takes in a request; `acl` is the client's default one."""
    size = _HEADERS + 4 * len(op.path)
    if isinstance(op, Create | Set):
        size += len(op.value)
    if isinstance(op, Create):
        size += sum(_RIGHT + len(right.who) for right in (acl if op.acl is None else op.acl))
    return size


def check_size(ops: Sequence[Op], acl: Acl) -> None:
    """Refuse what the servers would drop the connection for.

    Raises:
        ZkRefused: "too_large", at the index of the largest operation.
    """
    sizes = [size_of(op, acl) for op in ops]
    if sum(sizes) > MULTI_LIMIT:
        index = sizes.index(max(sizes))
        raise ZkRefused(index, "too_large", ops[index].path)
