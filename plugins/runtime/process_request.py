"""From a launch to the request that the shim carries out; what cannot work is refused here, with a sentence."""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gestalt.config import AgentSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import Launch, LaunchRefused, PortTaken
from gestalt.spec.schema import AppSpec

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
    "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMITS = frozenset(name.removeprefix("RLIMIT_").lower() for name in vars(resource) if name.startswith("RLIMIT_"))


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as the kernel knows it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def check_spec(spec: AppSpec) -> None:
    """Refuse what no process can be.

    Raises:
        LaunchRefused: with all that is wrong, in one sentence each.
    """
    problems = [*_problems(spec)]
    if problems:
        raise LaunchRefused("; ".join(problems))
    find_user(spec.security.user)
    capability_numbers(spec.security.capabilities)
    signal_number(spec.stop.signal)


def _problems(spec: AppSpec) -> Iterable[str]:
    if not spec.command:
        yield "a process needs a command"
    if spec.image:
        yield "a process has no image; use the runtime docker, or leave the image out"
    for volume in spec.volumes:
        if volume.host_path != volume.target:
            yield f"the volume at {volume.target} cannot be mounted: a process sees the node's own files (host_path must equal target)"
    for name in spec.ulimits:
        if name not in LIMITS:
            yield f"there is no ulimit {name!r}; allowed: {', '.join(sorted(LIMITS))}"
    for value in (*spec.command, *spec.args, *spec.env, *spec.env.values(), spec.workdir):
        if "\0" in value:
            yield "arguments, variables and the working directory cannot hold a NUL character"


def build_request(launch: Launch, settings: AgentSettings) -> list[tuple[str, str]]:
    """Return the fields that the shim needs (see process_shim.py), without those of the supervisor.

    Raises:
        LaunchRefused: the description cannot work on this node.
    """
    spec = launch.spec
    check_spec(spec)
    identity = find_user(spec.security.user)
    max_size = min(spec.logging.max_size, settings.process.log_max_size)
    max_files = 0 if spec.logging.driver == "none" else max(1, spec.logging.max_files)
    return [
        *(("arg", argument) for argument in (*spec.command, *spec.args)),
        *(("env", f"{key}={value}") for key, value in environment(launch, settings, identity.home).items()),
        ("cwd", spec.workdir or "/"),
        *identity_fields(identity),
        *(("capability", str(number)) for number in capability_numbers(spec.security.capabilities)),
        ("no_new_privileges", str(int(spec.security.no_new_privileges))),
        *(("limit", f"{name} {limit.soft} {limit.hard}") for name, limit in spec.ulimits.items()),
        ("stop_signal", str(signal_number(spec.stop.signal))),
        ("log_max_size", str(max_size)),
        ("log_max_files", str(max_files)),
    ]


def identity_fields(identity: Identity) -> list[tuple[str, str]]:
    """Return who to become. An agent that is not root can change nobody, and leaves it out.

    Raises:
        LaunchRefused: the agent is not root and this is someone else.
    """
    if os.geteuid() != 0:
        if identity.uid != os.geteuid():
            raise LaunchRefused(f"the agent does not run as root, so nothing can run as the user {identity.uid}")
        return []
    groups = [("group", str(group)) for group in identity.groups]
    return [("uid", str(identity.uid)), ("gid", str(identity.gid)), *groups]


def environment(launch: Launch, settings: AgentSettings, home: str) -> Mapping[str, str]:
    """Return the whole environment of the process; what the app sets itself wins."""
    ports = {f"PORT_{variable_name(port.name)}": str(port.host_port) for port in launch.ports}
    if launch.ports:
        ports["PORT"] = str(launch.ports[0].host_port)
    return {
        "PATH": SEARCH_PATH,
        "HOME": home,
        "LANG": "C.UTF-8",
        "GESTALT_APP": launch.app,
        "GESTALT_INSTANCE": launch.key.instance,
        "GESTALT_VERSION": str(launch.version),
        "GESTALT_ATTEMPT": str(launch.key.attempt),
        "GESTALT_NODE": settings.node_name,
        "GESTALT_ADDRESS": settings.address,
        **ports,
        **launch.spec.env,
    }


def variable_name(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def find_user(user: str) -> Identity:
    """Return who `name`, `uid`, `name:group` or `uid:gid` is; the agent's own user when empty. Looks into the user database.

    Raises:
        LaunchRefused: there is no such user or group.
    """
    name, _, group = (user or str(os.geteuid())).partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdigit():
            raise LaunchRefused(f"the user {name!r} does not exist on this node") from None
        uid = int(name)
        return Identity(uid, _group(group) if group else uid, (), "/")
    gid = _group(group) if group else entry.pw_gid
    groups = () if group else tuple(os.getgrouplist(entry.pw_name, gid))
    return Identity(entry.pw_uid, gid, groups, entry.pw_dir)


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise LaunchRefused(f"the group {name!r} does not exist on this node") from None


def capability_numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of capabilities, with or without `CAP_` before them.

    Raises:
        LaunchRefused: one of them does not exist.
    """
    numbers = []
    for name in names:
        try:
            numbers.append(CAPABILITIES.index(name.upper().removeprefix("CAP_")))
        except ValueError:
            raise LaunchRefused(f"there is no capability {name!r}; allowed: {', '.join(CAPABILITIES)}") from None
    return numbers


def signal_number(name: str) -> int:
    """Return the number of `SIGTERM`, `TERM` or `15`.

    Raises:
        LaunchRefused: there is no such signal.
    """
    try:
        return int(signal.Signals(int(name))) if name.isdigit() else int(signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"])
    except (KeyError, ValueError):
        raise LaunchRefused(f"there is no signal {name!r}") from None


def check_ports(address: str, ports: Iterable[PortBinding]) -> None:
    """Refuse a launch whose ports someone else has; best effort, since the process binds them itself later.

    Raises:
        PortTaken: names the port.
    """
    for port in filter(lambda port: port.host_port, ports):
        kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, kind) as probe:
            if port.protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port.host_port))
            except OSError as error:
                reason = f"the {port.protocol} port {port.host_port} ({port.name}) cannot be used on {address}: {error.strerror}"
                raise PortTaken(reason, port.host_port) from None
