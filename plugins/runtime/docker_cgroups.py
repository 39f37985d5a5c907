"""Where the processes of containers are: all of them in one parent cgroup of ours, apart from what else the Engine runs.

What is exclusive has below it a parent that no other attempt has, known before there is a container. The Engine makes its own cgroup
below the parent, whichever driver (cgroupfs or systemd) and version it uses, so that whoever knows the parent can end everything in it
without the Engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gestalt import shell
from gestalt.plugin.runtime import LaunchRefused

ROOT = Path("/sys/fs/cgroup")
_HIERARCHIES = ("pids", "memory", "systemd")
"""Of version 1: those that hold every process of a container. One would do, if it could not fail to be mounted."""

_FOLDER = "gestalt-docker"
_SLICE = "gestalt.slice"
_STOP_LIMIT = 5.0


class ParentCgroups:
    """`driver` and `version` are the Engine's, as its info says."""

    def __init__(self, driver: str, version: str, root: Path = ROOT) -> None:
        self._driver, self._unified, self._root = driver, version == "2", root

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> ParentCgroups:
        """Return those of an Engine.

        Raises:
            LaunchRefused: it has no cgroups that we could find.
        """
        driver, version = str(info.get("CgroupDriver", "")), str(info.get("CgroupVersion", "1"))
        if driver not in ("cgroupfs", "systemd"):
            raise LaunchRefused(
                f"the Docker Engine has the cgroup driver {driver or 'none'!r}, so nothing exclusive can be fenced: use cgroupfs or systemd"
            )
        return cls(driver, version)

    @property
    def common(self) -> str:
        """What the Engine is told of containers that need no parent of their own."""
        return _SLICE if self._driver == "systemd" else f"/{_FOLDER}"

    def parent(self, container: str) -> str:
        """Return what the Engine is told of a container with a parent of its own."""
        return self._slice(container) if self._driver == "systemd" else f"/{_FOLDER}/{container}"

    def folders(self, container: str) -> tuple[str, ...]:
        """Return where that is, in each hierarchy that tells of all processes."""
        return tuple(str(place / self._relative(container)) for place in self._places())

    async def remove(self, container: str) -> None:
        """Remove what is empty of it. What cannot be removed is an empty folder."""
        if self._driver == "systemd":
            with contextlib.suppress(OSError, shell.CommandTimedOut):
                await shell.run(("systemctl", "stop", self._slice(container)), limit=_STOP_LIMIT, cwd="/")
        else:
            await asyncio.to_thread(self._remove_folders, container)

    def _remove_folders(self, container: str) -> None:
        for place in [self._root] if self._unified else [path for path in self._root.iterdir() if path.is_dir()]:
            with contextlib.suppress(OSError):
                (place / self._relative(container)).rmdir()

    def _places(self) -> list[Path]:
        if self._unified:
            return [self._root]
        return [self._root / name for name in _HIERARCHIES if (self._root / name / "cgroup.procs").exists()]

    def _relative(self, container: str) -> str:
        return f"{_SLICE}/{self._slice(container)}" if self._driver == "systemd" else f"{_FOLDER}/{container}"

    @staticmethod
    def _slice(container: str) -> str:
        """Return the name of a slice right below gestalt.slice: in such a name each dash would be a level."""
        return f"gestalt-{re.sub('[^A-Za-z0-9_.]', '_', container.removeprefix('gestalt-'))}.slice"


class Confinement:
    """The parents of one Engine's containers. `info` asks the Engine what it uses: anew for each launch."""

    def __init__(self, info: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._info = info
        self._parents: ParentCgroups | None = None

    async def _known(self) -> ParentCgroups:
        if self._parents is None:
            self._parents = ParentCgroups.of(await self._info())
        return self._parents

    async def parent(self, container: str, *, alone: bool) -> str:
        """Return what the Engine is to be told of a new container; empty = nothing, as it has no cgroups. `alone`: no other may be there.

        Raises:
            LaunchRefused: there is none that it could be alone in.
        """
        if alone:
            self._parents = None
            return (await self._known()).parent(container)
        try:
            return (await self._known()).common
        except LaunchRefused:
            return ""

    def doubt(self) -> None:
        """The Engine refused something: it may be another one by now."""
        self._parents = None

    async def folders(self, container: str) -> tuple[str, ...]:
        """Return where all of a container with a parent of its own is, or will be; without the Engine, once that is known."""
        return (await self._known()).folders(container)

    async def remove(self, container: str, parent: str) -> None:
        """Remove what a container in `parent` leaves, if that was its own."""
        if parent and (parents := await self._known()).parent(container) == parent:
            await parents.remove(container)
