"""What lies on disk for one attempt, and what it means.

`<data_dir>/process/<name>/` is made whole beside its place and then renamed to it: the rename is the lock that lets one
attempt exist once. `labels` and `request` are in it from the start; all else is written by the shim (see process_shim.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gestalt.files import sync_folder, write_atomic
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus, DriverUnavailable

log = logging.getLogger(__name__)

Fields = Sequence[tuple[str, str]]
_UNFINISHED = ".unfinished-"
_LEFT_BEHIND = "its supervisor was killed before it could record how the process ended"
_REBOOTED = "the node was rebooted"


@dataclass(frozen=True, slots=True)
class Labels:
    """Whose attempt this is, and which supervisor has it."""

    cluster: str
    node: str
    instance: str
    attempt: int
    app: str
    template: str
    supervisor: str

    @property
    def key(self) -> AttemptKey:
        return AttemptKey(self.instance, self.attempt)


@dataclass(frozen=True, slots=True)
class Running:
    """The identity of one process: no other has all three, now or later."""

    pid: int
    start: str
    boot: str

    def alive(self, boot: str) -> bool:
        return self.boot == boot and _start_time(self.pid) == self.start


@dataclass(frozen=True, slots=True)
class Started:
    """The shim, its process and their cgroups."""

    shim: Running
    main: Running
    cgroups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended. `refused` when it could not be executed at all."""

    code: int | None = None
    oom: bool = False
    error: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """Everything on record of one attempt, and whether its shim was alive when that was read."""

    labels: Labels
    started: Started | None
    ended: Ended | None
    shim_alive: bool = False


def judge(name: str, records: Records, boot: str) -> AttemptStatus:
    """Say what the records mean at this boot."""
    started, ended = records.started, records.ended
    error, code, oom = "", None, False
    if ended is not None:
        state, error, code, oom = AttemptState.EXITED, ended.refused or ended.error, ended.code, ended.oom
    elif started is None:
        state = AttemptState.CREATED
    elif records.shim_alive:
        state = AttemptState.RUNNING
    else:
        state, error = AttemptState.EXITED, _REBOOTED if started.shim.boot != boot else _LEFT_BEHIND
    pid = started.main.pid if started is not None and state is AttemptState.RUNNING else 0
    labels = records.labels
    return AttemptStatus(labels.key, state, name, labels.app, labels.template, exit_code=code, oom_killed=oom, error=error, pid=pid)


def is_left_behind(records: Records, boot: str) -> bool:
    """Whether the shim died at this boot without a word, so that someone else must clear up after it."""
    started = records.started
    return records.ended is None and started is not None and started.shim.boot == boot and not records.shim_alive


class AttemptFolder:
    """The folder of one attempt. All calls are short file operations that block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def create(self, labels: Labels, request: Fields) -> None:
        """Make the folder with all it holds, in one step; nothing happens when it exists."""
        draft = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.path.parent))
        write_atomic(draft / "labels", json.dumps(asdict(labels), indent=1), mode=0o600)
        content = b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in request)
        write_atomic(draft / "request", content, mode=0o600)
        try:
            draft.rename(self.path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(draft)
        sync_folder(self.path.parent)

    def read(self, boot: str) -> Records | None:
        """Return what is on record, None when there is no such attempt."""
        try:
            labels = Labels(**json.loads((self.path / "labels").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            log.warning("%s is not the folder of an attempt", self.path)
            return None
        started = self._started()
        alive = started is not None and started.shim.alive(boot)
        return Records(labels, started, self._ended(), alive)  # the end is read last: who was dead before has recorded it, or never will

    def request(self) -> list[tuple[str, str]]:
        """Return the fields of the request."""
        data = (self.path / "request").read_bytes()
        fields = [os.fsdecode(field).partition("=") for field in data.split(b"\0") if field]
        return [(key, value) for key, _, value in fields]

    def bury(self, limit: float) -> None:
        """Record the end of an attempt whose shim died without doing so.

        Raises:
            DriverUnavailable: the shim lives after all.
        """
        with self.unsupervised(limit):
            if not (self.path / "ended").exists():
                write_atomic(self.path / "ended", f"error={_LEFT_BEHIND}\n")

    def complaint(self) -> str:
        """Return what the shim itself complained of, the last line."""
        try:
            return (self.path / "shim.err").read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        except FileNotFoundError:
            return ""

    @contextmanager
    def unsupervised(self, limit: float) -> Iterator[None]:
        """Hold the shim's lock, so that none runs or starts meanwhile.

        Raises:
            DriverUnavailable: a shim held it for longer than `limit`.
        """
        deadline = time.monotonic() + limit
        with (self.path / "lock").open("ab") as file:
            while not _try_lock(file.fileno()):
                if time.monotonic() > deadline:
                    raise DriverUnavailable(f"the supervisor of {self.name} did not end within {limit:g} s")
                time.sleep(0.005)
            yield

    def delete(self) -> None:
        """Remove the folder in one step; call it inside `unsupervised`."""
        doomed = self.path.parent / f"{_UNFINISHED}{self.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        self.path.rename(doomed)
        shutil.rmtree(doomed)

    def _started(self) -> Started | None:
        fields = _read_fields(self.path / "started")
        if not fields:
            return None
        one = dict(fields)
        return Started(
            shim=Running(int(one["shim"]), one["shim_start"], one["boot"]),
            main=Running(int(one["pid"]), one["start"], one["boot"]),
            cgroups=tuple(value for key, value in fields if key == "cgroup"),
        )

    def _ended(self) -> Ended | None:
        one = dict(_read_fields(self.path / "ended"))
        if not one:
            return None
        code = int(one["code"]) if "code" in one else None
        return Ended(code, one.get("oom") == "1", one.get("error", ""), one.get("refused", ""))


def folders(root: Path) -> list[AttemptFolder]:
    """Return the folders of all attempts below `root`, anyone's."""
    if not root.exists():
        return []
    return [AttemptFolder(path) for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def sweep(root: Path) -> None:
    """Remove what an agent left half made or half removed when it died."""
    for path in root.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def _read_fields(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def _start_time(pid: int) -> str:
    """Return when a process started, in ticks since boot; empty when it is dead or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
