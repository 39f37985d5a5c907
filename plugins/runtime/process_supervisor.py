"""Who keeps a process when the agent is gone: a shim in the background, or (process_systemd.py) a shim in a systemd unit."""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import ClassVar

from gestalt import shell
from gestalt.files import write_atomic
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused
from gestalt.spec.schema import AppSpec

from . import process_shim
from .process_cgroup import CgroupTree
from .process_records import AttemptFolder, Fields
from .process_threads import Threads

START_LIMIT = 15.0
_BY_HASH = (1).to_bytes(4, "little")
"""The mark of compiled code that knows its source by a hash, and is not asked whether that has changed (PEP 552)."""


class Supervisor(ABC):
    """Starts shims and clears up after them."""

    name: ClassVar[str]

    @abstractmethod
    async def facts(self) -> Mapping[str, str]:
        """Return what this node can do for processes.

        Raises:
            DriverUnavailable: this supervisor does not work here.
        """

    @abstractmethod
    def check(self, spec: AppSpec) -> None:
        """Raise LaunchRefused for what this supervisor cannot do."""

    @abstractmethod
    async def fields(self, name: str) -> Fields:
        """Return the fields of the request by which the shim will find the cgroup of the attempt. Makes nothing yet."""

    @abstractmethod
    async def cgroups(self, name: str) -> Sequence[str]:
        """Return the cgroups of an attempt, each of which will hold all of it; none where there are no cgroups. Makes nothing."""

    @abstractmethod
    async def start(self, folder: AttemptFolder, spec: AppSpec) -> None:
        """Start a shim, and return when the outcome is on record or another shim has it. The shim's lock lets only one do it.

        Raises:
            DriverUnavailable: the outcome is unknown.
        """

    @abstractmethod
    async def clear(self, name: str) -> None:
        """Remove the cgroup or unit of an attempt with all that runs in it. Idempotent."""


def compile_shim(folder: Path) -> Path:
    """Compile the shim for this interpreter into `folder`: it starts sooner and takes 1.6 MB less than from its source.

    What is there and not whole, as a full disk or a power cut leaves it, is made anew: no process of the node could start from it.

    Returns:
        The file to run.

    Raises:
        OSError: the disk does not take it.
    """
    sources = sorted(Path(process_shim.__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    place = folder / f".shim-{digest}-{sys.implementation.cache_tag}"
    for outdated in folder.glob(".shim-*"):  # what runs from there has all it needs in memory
        if outdated != place:
            shutil.rmtree(outdated)
    package = place / "process_shim"
    package.mkdir(parents=True, exist_ok=True)
    for source in sources:
        _ensure_compiled(source, package / f"{source.stem}.pyc")
    return package / "__main__.pyc"


def _ensure_compiled(source: Path, target: Path) -> None:
    text = source.read_bytes()
    code = compile(text, source, "exec", dont_inherit=True, optimize=2)
    head = importlib.util.MAGIC_NUMBER + _BY_HASH + importlib.util.source_hash(text)
    if not _holds(target, head, code):
        write_atomic(target, head + marshal.dumps(code))


def _holds(target: Path, head: bytes, code: CodeType) -> bool:
    """Whether a file holds this code, whole. Its bytes do not tell: the same code is not always written alike."""
    try:
        content = target.read_bytes()
        return content.startswith(head) and bool(marshal.loads(content[len(head) :]) == code)  # noqa: S302 (the folder is ours alone)
    except (OSError, EOFError, ValueError, TypeError, MemoryError):
        return False


def shim_command(compiled: Path, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(compiled), *arguments)


class ShimSupervisor(Supervisor):
    """A shim in a session of its own, with cgroups that we make ourselves."""

    name = "shim"

    def __init__(self, compiled: Callable[[], Path], cgroups: CgroupTree, threads: Threads) -> None:
        self._compiled, self._cgroups, self._threads = compiled, cgroups, threads

    async def facts(self) -> Mapping[str, str]:
        return await self._threads(self._cgroups.facts)

    def check(self, spec: AppSpec) -> None:
        if spec.security.read_only_root:
            raise LaunchRefused("read_only_root needs systemd on the node for a process; leave it out, or use the runtime docker")

    async def fields(self, name: str) -> Fields:
        return [("cgroup", folder) for folder in await self._threads(self._cgroups.folders, name)]

    async def cgroups(self, name: str) -> Sequence[str]:
        return await self._threads(self._cgroups.folders, name)

    async def start(self, folder: AttemptFolder, spec: AppSpec) -> None:
        await self._threads(self._cgroups.create, folder.name, spec.resources)
        try:
            done = await shell.run(shim_command(self._compiled(), "start", str(folder.path)), limit=START_LIMIT, cwd="/")
        except shell.CommandTimedOut as error:
            raise DriverUnavailable(f"the supervisor of {folder.name} did not answer: {error}") from None
        if not done.ok or done.stdout in (b"died", b""):
            raise DriverUnavailable(f"the supervisor of {folder.name} failed: {folder.complaint() or done.complaint()}")

    async def clear(self, name: str) -> None:
        await self._threads(self._cgroups.remove, name)
