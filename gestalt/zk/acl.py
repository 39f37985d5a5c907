"""Who may do what with a znode."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import IntFlag


class Perm(IntFlag):
    """What ZooKeeper tells apart. CREATE and DELETE are about children; ADMIN may change the rights."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    ADMIN = 16
    ALL = 31


@dataclass(frozen=True, slots=True)
class Right:
    """What one identity may do. `who`: "world:anyone", or what `digest_id` returns."""

    who: str
    perms: Perm


Acl = tuple[Right, ...]
"""The rights of a znode, all of them: who is not named may do nothing. Join two with `+`."""

OPEN: Acl = (Right("world:anyone", Perm.ALL),)


def digest_id(identity: str, secret: str) -> str:
    """Return the name under which ZooKeeper knows an identity with this secret. The secret cannot be read from it."""
    digest = hashlib.sha1(f"{identity}:{secret}".encode()).digest()  # noqa: S324  # ZooKeeper's own scheme
    return f"digest:{identity}:{base64.b64encode(digest).decode()}"


def acl_for(*who: str, perms: Perm = Perm.ALL) -> Acl:
    """Return an ACL that gives each of `who` (see `Right.who`) the same rights."""
    return tuple(Right(name, perms) for name in who)
