"""The small program that stands between the agent and one process, and outlives the agent.

It is run as a file, `python3 -I -S process_shim.py …`, imports nothing of ours and little else, because there is one of
it for each process on the node:

    start FOLDER          supervise in the background; prints `started`, `already`, `busy` or `refused <sentence>`
    run FOLDER            supervise in the foreground, as the main process of a systemd unit (`Type=notify`)
    exec REQUEST STATUS   become a command beside a running process; two descriptors: the request, and where to say what failed

Files in FOLDER (`request` is there before the shim, all else is its own):

    request               what to run: `key=value` fields, each ended by a NUL, which no argument or variable can hold
    lock                  locked by the shim for all its life
    started               who runs: pid, start time and boot id of shim and process. Durable *before* the program is executed,
                          so a process without this record never ran, and one with it never runs again
    ended                 exit code, out-of-memory verdict, or the sentence why it could not be executed
    log.000001 …          `<RFC 3339 time> <stdout|stderr> <F|P> <text>`, P for a part of a line; the format of CRI
"""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH104, PTH108, PTH110, PTH116, PTH123, PTH208
from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False  # the typing module would cost 1 MB a process
if TYPE_CHECKING:
    from collections.abc import Callable

SET_PDEATHSIG, CAPBSET_READ, CAPBSET_DROP, SET_SUBREAPER, SET_NO_NEW_PRIVS, CAP_AMBIENT = 1, 23, 24, 36, 38, 47
KEEPCAPS, AMBIENT_RAISE, CAPABILITY_VERSION_3 = 8, 2, 0x20080522
CLONE_NEWNS, AF_UNIX, SOCK_DGRAM = 0x00020000, 1, 2
LINE_MAX = 16 * 1024
END_LIMIT = 5.0
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """It cannot be executed so; the sentence is for the operator."""


class Request:
    """The fields of a request."""

    def __init__(self, data: bytes) -> None:
        self.fields = [os.fsdecode(field).partition("=")[::2] for field in data.split(b"\0") if field]

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.fields if name == key]

    def one(self, key: str, default: str = "") -> str:
        return next(iter(self.all(key)), default)

    def number(self, key: str) -> int:
        return int(self.one(key, "0"))


# ---------------------------------------------------------------- becoming the program


def check(result: int, what: str) -> None:
    if result < 0:
        raise RefusedError(f"{what}: {os.strerror(ctypes.get_errno())}")


def become(request: Request) -> None:
    """Turn this process into the requested program.

    Raises:
        RefusedError: it could not; the process is half-changed and must end.
    """
    for folder in request.all("cgroup"):
        write_text(f"{folder}/cgroup.procs", "0")
    for path in request.all("namespace"):
        enter(path)
    for limit in request.all("limit"):
        set_limit(*limit.split())
    os.umask(0o022)
    if request.one("uid"):
        set_identity(request)
    if request.number("no_new_privileges"):
        check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no-new-privileges could not be set")
    if request.one("supervisor"):
        check(libc.prctl(SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "the parent-death signal could not be set")
        if os.getppid() != request.number("supervisor"):  # it died before it could take us along
            os._exit(1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, *FORWARDED):
        signal.signal(number, signal.SIG_DFL)
    execute(request)


def execute(request: Request) -> None:
    try:
        os.chdir(request.one("cwd", "/"))
    except OSError as error:
        raise RefusedError(f"the working directory {request.one('cwd')!r} cannot be entered: {error.strerror}") from None
    command = request.all("arg")
    environment = dict(field.partition("=")[::2] for field in request.all("env"))
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - an argument list; no shell is meant
    except OSError as error:
        raise RefusedError(complaint(command[0], error)) from None


def complaint(program: str, error: OSError) -> str:
    if error.errno == errno.ENOENT and os.path.exists(program):
        return f"the command {program!r} cannot be executed: the interpreter in its first line does not exist"
    if error.errno == errno.ENOENT:
        return f"the command {program!r} was not found"
    if error.errno == errno.EACCES:
        return f"the command {program!r} is not executable for this user"
    return f"the command {program!r} cannot be executed: {error.strerror}"


def enter(path: str) -> None:
    """Join a mount namespace, if it is not ours already."""
    if os.stat(path).st_ino == os.stat("/proc/self/ns/mnt").st_ino:
        return
    descriptor = os.open(path, os.O_RDONLY)
    check(libc.setns(descriptor, CLONE_NEWNS), "the mounts of the process cannot be joined")


def set_limit(name: str, soft: str, hard: str) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    try:
        resource.setrlimit(number, (int(soft), int(hard)))
    except (ValueError, OSError) as error:
        ceiling = resource.getrlimit(number)[1]
        raise RefusedError(f"the limit {name} cannot be set to {soft}:{hard}; this node allows at most {ceiling} ({error})") from None


def set_identity(request: Request) -> None:
    """Drop to the user and to the listed capabilities, in an order in which each step is still allowed."""
    kept = [int(number) for number in request.all("capability")]
    for number in range(64):
        if number not in kept and libc.prctl(CAPBSET_READ, number, 0, 0, 0) == 1:
            check(libc.prctl(CAPBSET_DROP, number, 0, 0, 0), f"capability {number} cannot be dropped")
    check(libc.prctl(KEEPCAPS, 1, 0, 0, 0), "capabilities cannot be kept over the change of user")
    try:
        os.setgroups([int(group) for group in request.all("group")])
        os.setresgid(*[request.number("gid")] * 3)
        os.setresuid(*[request.number("uid")] * 3)
    except OSError as error:
        raise RefusedError(f"the user {request.one('uid')}:{request.one('gid')} cannot be taken: {error.strerror}") from None
    set_capabilities(kept)


def set_capabilities(kept: list[int]) -> None:
    mask = sum(1 << number for number in kept)
    halves = [mask & 0xFFFFFFFF] * 3 + [mask >> 32] * 3
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)(*halves)), "the capabilities cannot be set; this node may lack one of them")
    for number in kept:
        check(libc.prctl(CAP_AMBIENT, AMBIENT_RAISE, number, 0, 0), f"capability {number} cannot be handed to the program")


# ---------------------------------------------------------------- small file work


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def try_write(path: str, text: str) -> None:
    """Write where the kernel may not have the file or may not let us."""
    try:
        write_text(path, text)
    except OSError:
        return


def reserve(name: str) -> None:
    """Have the room for a record on the disk, before it may be full."""
    with open(f".{name}", "wb") as file:
        file.write(b"\n" * 4096)
        os.fsync(file.fileno())


def record(name: str, fields: list[tuple[str, object]]) -> None:
    """Write a record of `key=value` lines, durably and never half."""
    text = "".join(f"{key}={' '.join(str(value).split())}\n" for key, value in fields)
    descriptor = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(descriptor, os.write(descriptor, text.encode(errors="replace")[:4096]))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(f".{name}", name)
    descriptor = os.open(".", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def start_time(pid: int) -> str:
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]


def own_cgroups(unit: str) -> list[str]:
    """Return the folders of our own cgroups that belong to the unit alone."""
    folders = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in (controllers.removeprefix("name="), "unified", ""):
            folder = f"/sys/fs/cgroup/{root}{path}"
            if path.endswith(f"/{unit}") and os.path.exists(f"{folder}/cgroup.procs"):
                folders.append(os.path.normpath(folder))
                break
    return folders


# ---------------------------------------------------------------- ending everything


def cgroup_members(folders: list[str]) -> list[int]:
    return [pid for pid in map(int, read_text(f"{folders[0]}/cgroup.procs").split()) if pid != os.getpid()]


def descendants() -> list[int]:
    """Return our children; what they leave behind becomes our child next, since we are the subreaper."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        fields = read_text(f"/proc/{entry}/stat").rpartition(")")[2].split()
        if len(fields) > 1 and int(fields[1]) == os.getpid():
            found.append(int(entry))
    return found


def end_all(folders: list[str]) -> None:
    """Kill whatever the process left: its whole cgroup, or all descendants where there is none."""
    deadline = time.monotonic() + END_LIMIT
    for folder in folders:
        if os.path.exists(f"{folder}/pids.max") and not own_cgroup(folder):
            try_write(f"{folder}/pids.max", "0")  # nothing new is born while we count
    while time.monotonic() < deadline:
        left = (cgroup_members(folders) if folders else []) or descendants()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        if not left:
            return
        time.sleep(0.002)


def own_cgroup(folder: str) -> bool:
    return str(os.getpid()) in read_text(f"{folder}/cgroup.procs").split()


def reap(main: int = 0) -> int | None:
    """Collect the dead; return the wait status of `main` if it is among them."""
    status = None
    try:
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == main:
                status = found[1]
    except ChildProcessError:
        return status
    return status


def oom_kills(folders: list[str]) -> int:
    kills = 0
    for folder in folders:
        for name in ("memory.events", "memory.oom_control"):
            for line in read_text(f"{folder}/{name}").splitlines():
                if line.startswith("oom_kill "):
                    kills += int(line.split()[1])
    return kills


# ---------------------------------------------------------------- logs


class Log:
    """Numbered files of bounded size; the oldest goes when there are too many. A full disk loses lines, never the process."""

    def __init__(self, max_size: int, max_files: int) -> None:
        self.max_size, self.max_files = max_size, max_files
        self.batch = min(max_size // 4, 8192)
        self.number = self.size = 0
        self.file, self.lost = -1, False
        self.rest = {"stdout": b"", "stderr": b""}

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was read; no data means that the stream ended."""
        lines = (self.rest[stream] + data).split(b"\n")
        self.rest[stream] = lines.pop()
        out = bytearray()
        for line in lines:
            self.add(out, stream, line, b"F")
            if len(out) >= self.batch:
                self.write(out)
                out.clear()
        while len(self.rest[stream]) > LINE_MAX or (not data and self.rest[stream]):
            self.add(out, stream, self.rest[stream][:LINE_MAX], b"P")
            self.rest[stream] = self.rest[stream][LINE_MAX:]
        if out:
            self.write(out)

    def add(self, out: bytearray, stream: str, line: bytes, tag: bytes) -> None:
        while len(line) > LINE_MAX:
            self.add(out, stream, line[:LINE_MAX], b"P")
            line = line[LINE_MAX:]
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        out += b"%s.%09dZ %s %s %s\n" % (stamp.encode(), now % 10**9, stream.encode(), tag, line)

    def write(self, data: bytearray) -> None:
        if self.lost:
            notice = bytearray()
            self.add(notice, "stderr", b"[gestalt: output was lost here, the disk was full]", b"F")
            data = notice + data
        try:
            if self.file < 0 or (self.size and self.size + len(data) > self.max_size):
                self.rotate()
            written = os.write(self.file, data)
        except OSError:
            written = 0
        self.lost = written < len(data)
        if not self.lost:
            self.size += written
        elif self.file >= 0:
            os.ftruncate(self.file, self.size)  # no half line stays

    def rotate(self) -> None:
        following = os.open(f"log.{self.number + 1:06d}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self.file >= 0:
            os.close(self.file)
        self.file, self.size, self.number = following, 0, self.number + 1
        if self.number > self.max_files:
            try:
                os.unlink(f"log.{self.number - self.max_files:06d}")
            except OSError:
                return


# ---------------------------------------------------------------- the supervisor


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
        if self.main:
            os.kill(self.main, self.request.number("stop_signal") if number == signal.SIGTERM else number)

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


if __name__ == "__main__":
    main(sys.argv[1:])
