"""Becoming the requested program."""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH110, PTH116
from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal

from .files import Request, write_text
from .kernel import (
    AMBIENT_RAISE,
    CAP_AMBIENT,
    CAPABILITY_VERSION_3,
    CAPBSET_DROP,
    CAPBSET_READ,
    CLONE_NEWNS,
    KEEPCAPS,
    SET_NO_NEW_PRIVS,
    SET_PDEATHSIG,
    RefusedError,
    check,
    libc,
)

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


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
