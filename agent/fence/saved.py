"""What the fence keeps on disk: one small file, replaced durably. It holds the session's password: mode 0600."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic

from .lease import Held, Holding
from .membership import Saved, Session

log = logging.getLogger(__name__)

FORMAT = 1


class SavedFile:
    """The file, and the lock that keeps a second fence away from it. All of it blocks, for as long as an fsync takes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        self._lock_path = folder / "lock"
        self._lock = -1

    @property
    def locked(self) -> bool:
        """Whether nobody else uses the folder, because we do."""
        return self._lock >= 0

    def lock(self, *, make: bool = True) -> None:
        """Be the only one who uses the folder, until the process ends.

        Args:
            make: the folder, where there is none.

        Raises:
            GestaltError: FAILED, when somebody else does, or when the folder cannot be used.
        """
        try:
            if make:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.unlock()
            raise GestaltError(Kind.FAILED, f"another gestalt-fence is at work in {self._path.parent}", hint="stop it first") from error
        except OSError as error:
            self.unlock()
            raise GestaltError(Kind.FAILED, f"{self._path.parent} cannot be used: {error}") from error

    def unlock(self) -> None:
        """Let another one use the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def load(self) -> Saved:
        """Return what was saved last; nothing where the file is missing or holds nonsense: ZooKeeper knows the incarnation, too.

        Raises:
            GestaltError: FAILED, when there is a file and the disk does not give it.
        """
        try:
            return parse_saved(self._path.read_bytes())
        except FileNotFoundError:
            return Saved()
        except OSError as error:
            raise GestaltError(Kind.FAILED, f"{self._path} cannot be read: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s cannot be understood and is made anew: %s", self._path, error)
            return Saved()

    def save(self, saved: Saved) -> None:
        """Write durably.

        Raises:
            OSError: what was there before is still there.
        """
        write_atomic(self._path, format_saved(saved), mode=0o600)


class HeldFile:
    """What is held, on disk. Written before anything is started under it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "held.json"

    def load(self) -> Held:
        """Return what was saved last.

        Raises:
            GestaltError: FAILED, when there is a file and it does not tell: then nobody knows what is to be ended.
        """
        try:
            return parse_held(self._path.read_bytes())
        except FileNotFoundError:
            return Held()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            hint = (
                "it says what is exclusive on this node: make sure that nothing of it runs, then remove the file; a reboot does the former"
            )
            raise GestaltError(Kind.FAILED, f"{self._path} cannot be read: {error!r}", hint=hint) from error

    def save(self, held: Held) -> None:
        """Write durably.

        Raises:
            OSError: what was there before is still there.
        """
        write_atomic(self._path, format_held(held), mode=0o600)


def format_held(held: Held) -> bytes:
    """Return the content of the file."""
    holdings = {name: asdict(item) for name, item in held.holdings.items()}
    document = {"format": FORMAT, "boot": held.boot, "incarnation": held.incarnation, "until": held.until, "holdings": holdings}
    return json.dumps(document, indent=1).encode() + b"\n"


def parse_held(content: bytes) -> Held:
    """Return what `format_held` wrote.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    document = json.loads(content)
    holdings = {str(name): _holding(item) for name, item in document["holdings"].items()}
    return Held(str(document["boot"]), int(document["incarnation"]), float(document["until"]), MappingProxyType(holdings))


def _holding(item: Mapping[str, Any]) -> Holding:
    return Holding(
        cgroups=tuple(map(str, item["cgroups"])),
        grant=str(item["grant"]),
        generation=int(item["generation"]),
        version=int(item["version"]),
        modified=int(item["modified"]),
        closed=bool(item["closed"]),
    )


def format_saved(saved: Saved) -> bytes:
    """Return the content of the file."""
    document: dict[str, Any] = {"format": FORMAT, "incarnation": saved.incarnation, "boot": saved.boot, "earlier": list(saved.earlier)}
    if saved.session is not None:
        document["session"] = {"id": saved.session.id, "password": saved.session.password.hex()}
    if saved.agent_gone is not None:
        document["agent_gone"] = saved.agent_gone
    return json.dumps(document, indent=1).encode() + b"\n"


def parse_saved(content: bytes) -> Saved:
    """Return what `format_saved` wrote.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    document = json.loads(content)
    session, gone = document.get("session"), document.get("agent_gone")
    return Saved(
        incarnation=int(document["incarnation"]),
        boot=str(document["boot"]),
        session=None if session is None else Session(int(session["id"]), bytes.fromhex(session["password"])),
        earlier=tuple(int(item) for item in document["earlier"]),
        agent_gone=None if gone is None else float(gone),
    )
