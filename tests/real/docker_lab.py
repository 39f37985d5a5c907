"""What tests of the Docker driver need: a small image, an Engine of their own that may be stopped, a registry.

The Engine on the default socket is shared with whatever else runs here: tests only add to it, under names of their own, and take away
what they added. Those that stop, hang or kill an Engine start a private one.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import tarfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from gestalt.config import AgentSettings, DockerSettings, TlsSettings
from gestalt.plugin.runtime import AttemptKey, Launch
from gestalt.spec.schema import AppSpec

T = TypeVar("T")

SOCKET = Path("/var/run/docker.sock")
IMAGE = "gestalt-docker-test/busybox:1"
_BUSYBOX = Path("/bin/busybox")
_PATIENCE = 30.0


def docker(*arguments: str, socket: Path = SOCKET, stdin: bytes | None = None, check: bool = True) -> str:
    done = subprocess.run(["docker", "-H", f"unix://{socket}", *arguments], input=stdin, capture_output=True, timeout=60, check=False)
    if check and done.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode().strip()


def wait_until(what: str, condition: Callable[[], object], limit: float = _PATIENCE) -> None:
    deadline, seen = time.monotonic() + limit, condition()
    while not seen:
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit:g} s for {what}; last seen: {seen!r}")
        time.sleep(0.05)
        seen = condition()


def busybox_tree(**files: str) -> bytes:
    """Return a tar with busybox under all its names, and some files."""
    names = subprocess.run([_BUSYBOX, "--list"], capture_output=True, check=True, text=True, timeout=10).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(_BUSYBOX, "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for folder in ("tmp", "www", "data"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(entry)
        for name, content in {"www/index.html": "hello\n", **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


def make_image(name: str = IMAGE, socket: Path = SOCKET, changes: tuple[str, ...] = (), **files: str) -> str:
    """Build an image from files of this machine unless it is there; return its name."""
    if not docker("images", "-q", name, socket=socket):
        options = [part for change in ('CMD ["/bin/httpd","-f","-p","80","-h","/www"]', *changes) for part in ("-c", change)]
        docker("import", *options, "-", name, socket=socket, stdin=busybox_tree(**files))
    return name


def settings_for(folder: Path, socket: Path = SOCKET, limit: float = 30.0, **docker_settings: object) -> AgentSettings:
    """Return settings of a node that nobody else is."""
    nowhere = folder / "none.pem"
    return AgentSettings(
        node_id=str(uuid.uuid4()),
        node_name="lab",
        cluster_id=str(uuid.uuid4()),
        coordinators=("127.0.0.1:7400",),
        tls=TlsSettings(ca=nowhere, certificate=nowhere, key=nowhere),
        data_dir=folder,
        run_dir=folder,
        docker=DockerSettings.model_validate({"socket": socket, "limit": limit, "credentials_dir": folder, **docker_settings}),
    )


def launch_of(spec: AppSpec, attempt: int = 1, instance: str = "", **fields: object) -> Launch:
    key = AttemptKey(instance or f"app-{uuid.uuid4().hex[:6]}-1", attempt)
    return Launch(key, app=spec.path, version=1, template="t-1", spec=spec, ports=fields.get("ports", ()))  # type: ignore[arg-type]


def remove_leftovers(settings: AgentSettings, socket: Path = SOCKET) -> None:
    """Remove every container and volume of this test's cluster."""
    label = f"label=gestalt.cluster={settings.cluster_id}"
    if containers := docker("ps", "-aq", "--filter", label, socket=socket).split():
        docker("rm", "-fv", *containers, socket=socket, check=False)
    if volumes := docker("volume", "ls", "-q", "--filter", label, socket=socket).split():
        docker("volume", "rm", "-f", *volumes, socket=socket, check=False)


class PrivateEngine:
    """A dockerd with its own root, containerd and socket; it can be stopped, killed, hung and started again.

    It lives in a network namespace of its own: `--bridge=none` makes dockerd delete `docker0`, and that would be the shared Engine's.
    """

    def __init__(self, folder: Path, *, live_restore: bool) -> None:
        self.folder = folder
        self.socket = folder / "d.sock"
        self._live_restore = live_restore
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        namespace = f"gestalt-test-{self.folder.name}"
        options = ["--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"]
        options += ["--bridge=none", "--iptables=false", "--ip-forward=false", f"--live-restore={str(self._live_restore).lower()}"]
        options += [f"--containerd-namespace={namespace}", f"--containerd-plugins-namespace=plugins.{namespace}"]
        with (self.folder / "log").open("ab") as output:
            # In a network namespace of its own: a dockerd without a bridge takes docker0 away from everyone in its namespace.
            command = ["unshare", "--net", "dockerd", "-H", f"unix://{self.socket}", *map(str, options)]
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        wait_until("the private dockerd", lambda: docker("version", "-f", "{{.Server.Version}}", socket=self.socket, check=False))

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal, and wait for its containerd too: where PID 1 is slow to reap, the next dockerd takes the zombie for alive."""
        if self._process is None:
            return
        record = self.folder / "exec/containerd/containerd.pid"
        containerd = Path("/proc", record.read_text(encoding="ascii")) if record.exists() else None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(_PATIENCE)
        self._process = None
        if containerd is not None:
            wait_until(f"the end of its containerd {containerd}", lambda: not containerd.exists())

    def dispose(self) -> None:
        """End it with its containers and its containerd, and unmount what it left."""
        if self._process is not None:
            docker("rm", "-f", *docker("ps", "-aq", socket=self.socket, check=False).split(), socket=self.socket, check=False)
        self.stop()
        marks = str(self.folder)
        for _ in range(2):
            for entry in Path("/proc").iterdir():
                if entry.name.isdecimal() and marks in _command_line(entry):
                    _kill(int(entry.name))
        for line in reversed(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()):
            if (target := line.split()[1]).startswith(marks):
                subprocess.run(["umount", "-l", target], check=False, timeout=10)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    if pid != os.getpid():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@contextmanager
def private_engine(folder: Path, *, live_restore: bool = True) -> Iterator[PrivateEngine]:
    engine = PrivateEngine(folder, live_restore=live_restore)
    try:
        engine.start()
        make_image(socket=engine.socket)
        yield engine
    finally:
        engine.dispose()


async def eventually(what: str, condition: Callable[[], Awaitable[T]], limit: float = _PATIENCE) -> T:
    """Return the first true answer; at the deadline fail with the last one."""
    deadline = time.monotonic() + limit
    while True:
        seen = await condition()
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"waited {limit:g} s for {what}; last seen: {seen!r}")
        await asyncio.sleep(0.02)


async def in_thread(work: Callable[[], T]) -> T:
    """Do something slow to an Engine without stopping the loop that the driver lives in."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
