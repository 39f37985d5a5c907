"""The secrets of a cluster: random ones in files of mode 0600, and those that follow from them.

A node's ZooKeeper secret follows from that of the coordinators and its id, so that every coordinator knows it without its being kept
anywhere, and a join that is repeated gives the same one. Nothing leads back from it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from gestalt.credentials import hint_for, named
from gestalt.errors import GestaltError, Kind
from gestalt.files import WRITER, Owner, hand_over, write_atomic

COORDINATOR_IDENTITY = "coordinator"
"""The ZooKeeper identity that all coordinators share."""


def new_secret() -> str:
    """Return 256 random bits as text."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> str:
    """Return what is kept of a token's secret: SHA-256, hex. It is random and long, so that no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def node_identity(node: str) -> str:
    """Return the ZooKeeper identity of a node's fence."""
    return f"node-{node}"


def node_secret(coordinator_secret: str, node: str) -> str:
    """Return the ZooKeeper secret of a node's fence."""
    return hmac.new(coordinator_secret.encode(), node_identity(node).encode(), hashlib.sha256).hexdigest()


def ensure_secret(file: Path, owner: Owner = WRITER) -> bool:
    """Have a random secret in `file`, which is `owner`'s; return whether this call made it."""
    if file.exists():
        hand_over(file, owner)
        return False
    write_secret(file, new_secret(), owner)
    return True


def write_secret(file: Path, secret: str, owner: Owner = WRITER) -> None:
    """Write a secret that only the owner of the file reads."""
    write_atomic(file, secret + "\n", mode=0o600, owner=owner)


def read_secret(file: Path) -> str:
    """Return the secret in a file.

    Raises:
        GestaltError: NOT_FOUND, when it cannot be read; INVALID, when it holds nothing.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = hint_for(file, "put the file back from a copy")
        raise GestaltError(Kind.NOT_FOUND, f"the secret in {named(file)} cannot be read: {error}", hint=hint) from error
    if not secret:
        raise GestaltError(Kind.INVALID, f"the secret in {named(file)} is empty", hint=hint_for(file, "put the file back from a copy"))
    return secret
