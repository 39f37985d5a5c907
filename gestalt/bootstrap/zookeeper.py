"""What a ZooKeeper server that we set up consists of: files, by pure functions. RHEL ships none, so its jars come from elsewhere."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gestalt.errors import GestaltError, Kind
from gestalt.zk.ensemble import Server

UNIT = "gestalt-zookeeper.service"
USER = "gestalt-zookeeper"
HOME = "/var/lib/gestalt-zookeeper"
SETTINGS = f"{HOME}/zoo.cfg"
LOGGING = "/etc/gestalt-zookeeper"
CLIENT_PORT, PEER_PORT, ELECTION_PORT = 2181, 2888, 3888
TICK = 500
"""Milliseconds. ZooKeeper grants no session shorter than two of them."""
HEAP, HEAP_MIN, HEAP_MAX = 512, 128, 31 * 1024
"""MiB of the JVM's heap; beyond the last its pointers get longer."""

_ARCHIVE = re.compile(r"(apache-zookeeper-(\d+)\.(\d+)\.(\d+)(-bin)?)(?:\.tar\.gz|\.tgz)")
_PATH = re.compile(r"/[A-Za-z0-9._+-]+(?:/[A-Za-z0-9._+*-]+)*")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")
_DIGEST = re.compile(r"super:[A-Za-z0-9+/]{27}=")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a server. `owner`: its user and group. `once`: what is there already stays, because the server itself changes it."""

    path: str
    text: str
    mode: int = 0o644
    owner: str = "root"
    once: bool = False


@dataclass(frozen=True, slots=True)
class Archive:
    """A binary archive of Apache ZooKeeper, by its name: the one folder that is in it, and its version."""

    folder: str
    version: str

    def jars(self, below: str = "/opt") -> tuple[str, ...]:
        """Return its part of the class path when it was unpacked below a folder."""
        return (f"{below}/{self.folder}/lib/*",)


@dataclass(frozen=True, slots=True)
class Choices:
    """How servers run. `super_digest`: of the administrator who may change which servers there are, "super:…"; empty = nobody may.

    `jars`: class path, from `Archive.jars`, or those of a package. Where none of them binds SLF4J (slf4j-log4j12.jar and log4j-1.2.jar, or
    logback's), nothing is logged. `heap`: MiB.
    """

    jars: tuple[str, ...]
    heap: int = HEAP
    java: str = "/usr/bin/java"
    super_digest: str = ""


def read_archive_name(name: str) -> Archive:
    """Return what an archive is by the name of its file, its folder aside.

    Raises:
        GestaltError: INVALID: it is none with programs in it, or too old.
    """
    found = _ARCHIVE.fullmatch(name.rpartition("/")[2])
    hint = "take apache-zookeeper-VERSION-bin.tar.gz, 3.8 or newer, from zookeeper.apache.org, under the name that it has there"
    if not found:
        raise GestaltError(Kind.INVALID, f"{name!r} is not the name of an archive of Apache ZooKeeper", hint=hint)
    version = ".".join(found.group(2, 3, 4))
    if not found[5]:
        raise GestaltError(Kind.INVALID, f"{name!r} is the archive with the source: there is no program in it", hint=hint)
    if (int(found[2]), int(found[3])) < (3, 8):
        raise GestaltError(Kind.INVALID, f"ZooKeeper {version} is too old: 3.8 is the first that was tried", hint=hint)
    return Archive(found[1], version)


def servers_of(hosts: Sequence[str]) -> tuple[Server, ...]:
    """Return a server for each host, numbered from 1 in this order, with the usual ports. It listens on its address alone; where its host
    is given by name, on all: on the machine itself that name may mean loopback.

    Raises:
        GestaltError: INVALID.
    """
    for host in hosts:
        if not (_is_address(host) or _HOST.fullmatch(host)):
            raise GestaltError(
                Kind.INVALID, f"{host!r} is neither an address nor a name of a machine", hint="such as 10.0.0.1 or zk1.example.com"
            )
    if len(set(hosts)) != len(hosts):
        raise GestaltError(Kind.INVALID, "two of the ZooKeeper servers are on the same machine", hint="name each machine once")
    if len(hosts) not in (1, 3, 5, 7):
        hint = "take 3, which bear the loss of one, or 5, which bear that of two; 1 for trying only"
        raise GestaltError(Kind.INVALID, f"{len(hosts)} ZooKeeper servers: there have to be 1, 3, 5 or 7", hint=hint)
    return tuple(_server(number, host) for number, host in enumerate(hosts, 1))


def connection(servers: Sequence[Server]) -> str:
    """Return where clients find the servers, as `gestaltctl cluster init --zookeeper` takes it."""
    return ",".join(f"{server.host}:{CLIENT_PORT}" for server in servers)


def server_files(number: int, servers: Sequence[Server], choices: Choices) -> tuple[File, ...]:
    """Return all that one server consists of beside Java and its jars. In this order: user, its files, unit.

    What follows: `systemd-sysusers` with the first of them before the others are written, then `systemctl daemon-reload`, and a start.

    Raises:
        GestaltError: INVALID.
    """
    check_choices(choices)
    if number not in {server.id for server in servers}:
        raise GestaltError(Kind.INVALID, f"there is no server {number} among {', '.join(str(server.id) for server in servers)}")
    return (
        File(f"/etc/sysusers.d/{USER}.conf", f'u {USER} - "ZooKeeper of Gestalt" {HOME}\n'),
        File(SETTINGS, settings(servers, choices), 0o600, USER, once=True),
        File(f"{HOME}/myid", f"{number}\n", 0o644, USER, once=True),
        File(f"{LOGGING}/logback.xml", _LOGBACK),
        File(f"{LOGGING}/log4j.properties", _LOG4J),
        File(f"/etc/systemd/system/{UNIT}", unit(choices)),
    )


def settings(servers: Sequence[Server], choices: Choices) -> str:
    """Return zoo.cfg. Servers that are reconfigured rewrite it, and keep which ones there are beside it."""
    by_name = any(not _is_address(server.host) for server in servers)
    lines = [
        f"tickTime={TICK}",
        "initLimit=20",
        "syncLimit=10",
        f"minSessionTimeout={2 * TICK}",
        "maxSessionTimeout=60000",
        f"dataDir={HOME}",
        "4lw.commands.whitelist=srvr,ruok,mntr",
        "admin.enableServer=false",
        "autopurge.snapRetainCount=3",
        "autopurge.purgeInterval=1",
        f"quorumListenOnAllIPs={str(by_name).lower()}",
        "standaloneEnabled=false",
        "reconfigEnabled=true",
        *([f"DigestAuthenticationProvider.superDigest={choices.super_digest}"] if choices.super_digest else []),
        *(server.line() for server in servers),
    ]
    return "\n".join(lines) + "\n"


def unit(choices: Choices) -> str:
    """Return the unit, which systemd 239 understands but for lines that it passes over.

    Raises:
        GestaltError: INVALID.
    """
    check_choices(choices)
    return _UNIT.format(
        java=choices.java, heap=choices.heap, classes=":".join((LOGGING, *choices.jars)), user=USER, home=HOME, settings=SETTINGS
    )


def check_choices(choices: Choices) -> None:
    """Refuse what would not become one word of a command line, or no heap.

    Raises:
        GestaltError: INVALID.
    """
    if not HEAP_MIN <= choices.heap <= HEAP_MAX:
        raise GestaltError(Kind.INVALID, f"a heap of {choices.heap} MiB for ZooKeeper: {HEAP_MIN} to {HEAP_MAX} are allowed")
    if not choices.jars:
        raise GestaltError(Kind.INVALID, "no jars of ZooKeeper were named", hint="such as /usr/share/java/zookeeper.jar")
    for path in (choices.java, *choices.jars):
        if not _PATH.fullmatch(path) or ".." in path.split("/"):
            hint = "an absolute path of letters, digits and ._+-, with a star at the end for all jars of a folder"
            raise GestaltError(Kind.INVALID, f"{path!r} cannot be written into a unit", hint=hint)
    if choices.super_digest and not _DIGEST.fullmatch(choices.super_digest):
        raise GestaltError(Kind.INVALID, "the digest of ZooKeeper's administrator is not of the form super:…=")


def _server(number: int, host: str) -> Server:
    where, listen = (host, "0.0.0.0") if not _is_address(host) else (_bracketed(host), _bracketed(host))
    return Server(number, where, PEER_PORT, ELECTION_PORT, f"{listen}:{CLIENT_PORT}")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


_UNIT = """[Unit]
Description=ZooKeeper of Gestalt
Documentation=file:/usr/share/doc/gestalt/bootstrap.md
After=network-online.target
Wants=network-online.target
# It is to come back always, however often it ended.
StartLimitIntervalSec=0

[Service]
Type=simple
User={user}
Group={user}
ExecStart={java} -Xms{heap}m -Xmx{heap}m -XX:+ExitOnOutOfMemoryError -XX:-UsePerfData -cp {classes} \\
  org.apache.zookeeper.server.quorum.QuorumPeerMain {settings}
# How Java ends by SIGTERM.
SuccessExitStatus=143
Restart=always
RestartSec=1s
TimeoutStopSec=20s
LimitNOFILE=65536
LimitCORE=0
OOMScoreAdjust=-800
WorkingDirectory={home}
StateDirectory=gestalt-zookeeper
StateDirectoryMode=0700
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
# The last: the JVM asks for its own addresses by it.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Not MemoryDenyWriteExecute: the JVM compiles while it runs.
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
_LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"""
_LOG4J = """log4j.rootLogger=INFO, OUT
log4j.appender.OUT=org.apache.log4j.ConsoleAppender
log4j.appender.OUT.layout=org.apache.log4j.PatternLayout
log4j.appender.OUT.layout.ConversionPattern=%-5p %c{1}: %m%n
"""
