"""Supervision of one process, from before its first instruction until its end is on disk."""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH110, PTH123
from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time

from .become import FORWARDED, become
from .ending import end_all, oom_kills, reap
from .files import Request, own_cgroups, read_text, record, reserve, start_time, try_write
from .kernel import AF_UNIX, SET_SUBREAPER, SOCK_DGRAM, RefusedError, check, libc
from .log import Log

TYPE_CHECKING = False  # the typing module would cost 1 MB a process
if TYPE_CHECKING:
    from collections.abc import Callable


class Shim:
    """Supervises one process from before its first instruction until its end is on disk."""

    def __init__(self, request: Request, tell: Callable[[str], None]) -> None:
        self.request, self.tell = request, tell
        self.cgroups = request.all("cgroup") or own_cgroups(request.one("unit") or "/")
        self.log = Log(request.number("log_max_size"), request.number("log_max_files"))
        self.streams: dict[int, str] = {}
        self.main = 0
        self.wakeup, wakeup_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in FORWARDED:
            signal.signal(number, self.forward)

    def forward(self, number: int, _frame: object) -> None:
        try:
            if self.main:
                os.kill(self.main, self.request.number("stop_signal") if number == signal.SIGTERM else number)
        except ProcessLookupError:  # reaped this very moment
            return

    def run(self) -> None:
        """Start it, tell the outcome, follow it to its end."""
        check(libc.prctl(SET_SUBREAPER, 1, 0, 0, 0), "the shim cannot adopt orphans")
        try_write("/proc/self/oom_score_adj", "-500")
        refusal = self.launch()
        if refusal:
            os.waitpid(self.main, 0)
            record("ended", [("refused", refusal)])
            self.tell(f"refused {refusal}")
            return
        self.tell("started")
        status = self.follow()
        end_all(self.cgroups)
        self.drain()
        code = os.waitstatus_to_exitcode(status)
        kills = oom_kills(self.cgroups)
        record("ended", [("code", code if code >= 0 else 128 - code), ("oom", int(kills > 0 and code != 0)), ("at", int(time.time()))])

    def launch(self) -> str:
        """Fork the process, record it, let it go; return the sentence why it could not be executed."""
        outputs = [self.output(name) for name in ("stdout", "stderr")]
        go_reader, go_writer = os.pipe2(os.O_CLOEXEC)
        failure_reader, failure_writer = os.pipe2(os.O_CLOEXEC)
        supervisor = os.getpid()
        self.main = os.fork()
        if self.main == 0:
            os.close(go_writer)
            self.child(go_reader, failure_writer, outputs, supervisor)
        for descriptor in (go_reader, failure_writer, *outputs):
            os.close(descriptor)
        pids = [("shim", supervisor), ("shim_start", start_time(supervisor)), ("pid", self.main), ("start", start_time(self.main))]
        boot = read_text("/proc/sys/kernel/random/boot_id")
        reserve("ended")
        record("started", [("boot", boot), *pids, *(("cgroup", folder) for folder in self.cgroups)])
        os.write(go_writer, b"g")
        os.close(go_writer)
        failure = os.read(failure_reader, 4096)
        os.close(failure_reader)
        return failure.decode(errors="replace")

    def output(self, name: str) -> int:
        if not self.log.max_files:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reader, False)
        self.streams[reader] = name
        return writer

    def child(self, go: int, failure: int, outputs: list[int], supervisor: int) -> None:
        """Wait until we are on record, then become the program. Never returns."""
        try:
            if os.read(go, 1) != b"g":
                os._exit(1)
            signal.set_wakeup_fd(-1)
            os.setsid()
            try_write("/proc/self/oom_score_adj", "0")
            for target, source in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
                os.dup2(source, target)
            self.request.fields.append(("supervisor", str(supervisor)))
            become(self.request)
        except RefusedError as error:
            os.write(failure, str(error).encode(errors="replace"))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must reach the operator, and this process must end
            os.write(failure, f"it could not be prepared: {error!r}".encode(errors="replace"))
        os._exit(127)

    def follow(self) -> int:
        """Copy its output until it ends; return its wait status."""
        poll = select.poll()
        for descriptor in (self.wakeup, *self.streams):
            poll.register(descriptor, select.POLLIN)
        while (status := reap(self.main)) is None:
            for descriptor, _ in poll.poll():
                if descriptor == self.wakeup:
                    os.read(self.wakeup, 4096)
                elif not self.copy(descriptor):
                    poll.unregister(descriptor)
        self.main = 0
        return status

    def copy(self, descriptor: int) -> bool:
        """Copy what there is to the log; false when the stream ended."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        self.log.feed(self.streams[descriptor], data)
        if not data:
            del self.streams[descriptor]
        return bool(data)

    def drain(self) -> None:
        """Read what is left in the pipes. All writers are dead, unless one escaped to elsewhere: then for a moment only."""
        deadline = time.monotonic() + 1.0
        while self.streams and time.monotonic() < deadline:
            for descriptor in select.select(list(self.streams), [], [], 0.1)[0]:
                self.copy(descriptor)
        for name in self.log.rest:
            self.log.feed(name, b"")


def supervise(folder: str, tell: Callable[[str], None]) -> None:
    """Supervise what `folder` asks for, unless someone does or did already."""
    os.chdir(folder)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("busy")
        return
    if os.path.exists("started"):
        tell("already")
        return
    with open("request", "rb") as file:
        request = Request(file.read())
    Shim(request, tell).run()


def start(folder: str) -> None:
    """Supervise in a process of its own session; print what it said when the outcome was known."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os.close(reader)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(f"{folder}/shim.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in enumerate((null, null, errors)):
            os.dup2(source, target)

        def tell(outcome: str) -> None:
            os.write(writer, outcome.encode(errors="replace"))
            os.close(writer)

        supervise(folder, tell)
        return
    os.close(writer)
    outcome = b""
    while part := os.read(reader, 4096):
        outcome += part
    os.write(1, outcome or b"died")


def notify_systemd(_outcome: str) -> None:
    """Say READY: the outcome is on record. In C, for want of the socket module's megabyte; systemd hears only the main process."""
    name = os.fsencode(os.environ.pop("NOTIFY_SOCKET", "")).replace(b"@", b"\0", 1)
    address = AF_UNIX.to_bytes(2, sys.byteorder) + name
    if name:
        descriptor = libc.socket(AF_UNIX, SOCK_DGRAM, 0)
        check(libc.sendto(descriptor, b"READY=1", 7, 0, address, len(address)), "systemd cannot be told")
        os.close(descriptor)


def execute_beside(request_file: int, failure: int) -> None:
    """Become a command; say on `failure` why not."""
    os.set_inheritable(failure, False)
    with os.fdopen(request_file, "rb") as file:
        file.seek(0)
        request = Request(file.read())
    try:
        if request.number("tty"):
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        become(request)
    except RefusedError as error:
        os.write(failure, str(error).encode(errors="replace"))
    except OSError as error:
        os.write(failure, f"it could not be prepared: {error}".encode(errors="replace"))
    sys.exit(127)


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    if arguments[0] == "start":
        start(arguments[1])
    elif arguments[0] == "run":
        supervise(arguments[1], notify_systemd)
    else:
        execute_beside(int(arguments[1]), int(arguments[2]))
