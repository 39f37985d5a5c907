"""What a bare machine is: a script that it runs by `sh -s`, and what its answer means. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.zk.ensemble import Server, parse_ensemble

T = TypeVar("T")

UNITS = ("gestalt-coordinator", "gestalt-fence", "gestalt-agent", "gestalt-zookeeper")

PROBE = r"""
# Changes nothing. What it starts reads nothing of its own standard input, and ends by itself.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

say() { printf '%s=%s\n' "$1" "$(printf %s "$2" | tr '\n\r' '  ')"; }
has() { command -v "$1" >/dev/null 2>&1; }
within() { if has timeout; then timeout "$@"; else shift; "$@"; fi; }
free() { within 10 df -Pk "$1" 2>/dev/null | awk 'NR == 2 { print $4 }'; }
installed() { has rpm && within 60 rpm --query --all --queryformat '%{NAME} %{VERSION}-%{RELEASE}\n' 'gestalt*' 2>/dev/null; }

system() {
    say uid "$(id -u)"
    say hostname "$(uname -n)"
    say machine "$(cat /etc/machine-id 2>/dev/null)"
    say addresses "$(if has ip; then ip -o addr | awk '{ sub("/.*", "", $4); print $4 }'; else hostname -I 2>/dev/null; fi)"
    say architecture "$(uname -m)"
    if [ -r /etc/os-release ]; then
        say distribution "$(. /etc/os-release; printf %s "$ID")"
        say version "$(. /etc/os-release; printf %s "$VERSION_ID")"
    else
        say distribution "$(cat /etc/redhat-release /etc/system-release 2>/dev/null | head -n 1)"
        say version "$(sed -n 's/.*release \([0-9.]*\).*/\1/p' /etc/redhat-release 2>/dev/null)"
    fi
    say cpus "$(getconf _NPROCESSORS_ONLN)"
    say memory_kib "$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)"
    say var_free_kib "$(free /var/lib)"
    say usr_free_kib "$(free /usr)"
    say clock "$(date +%s)"
    if [ -d /run/systemd/system ]; then
        say systemd "$(systemctl --version | awk 'NR == 1 { print $2 }')"
    fi
    case $(stat -f -c %T /sys/fs/cgroup 2>/dev/null) in cgroup2fs) say cgroup 2 ;; *) say cgroup 1 ;; esac
    say selinux "$(if has getenforce; then getenforce; else echo Disabled; fi)"
}

programs() {
    for python in /usr/bin/python3.[0-9] /usr/bin/python3.[0-9][0-9]; do
        if [ -x "$python" ]; then
            say python "${python#/usr/bin/python}"
            within 10 "$python" -c 'import os; os.close(os.pidfd_open(os.getpid()))' 2>/dev/null \
                || say no_pidfds "${python#/usr/bin/python}"
        fi
    done
    if has haproxy; then say haproxy "$(within 10 haproxy -v 2>/dev/null | sed -n '1s/.*version \([0-9][0-9.]*\).*/\1/p')"; fi
    if has nft; then
        say nft "$(nft --version 2>/dev/null | sed -n 's/.*v\([0-9][0-9.]*\).*/\1/p')"
        if within 10 nft list tables >/dev/null 2>&1; then say nft_works yes; else say nft_works no; fi
    fi
    if has java; then say java "$(within 20 java -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p' | head -n 1)"; fi
    if has dnf; then say dnf yes; else say dnf no; fi
    if has curl; then say curl yes; else say curl no; fi
    for socket in /run/docker.sock /run/podman/podman.sock; do
        if [ -S "$socket" ]; then
            say socket "$socket"
            if has curl; then say engine "$socket $(curl --silent --max-time 10 --unix-socket "$socket" http://engine/version)"; fi
        fi
    done
}

ours() {
    if within 10 systemctl is-active --quiet firewalld 2>/dev/null; then say firewalld yes; else say firewalld no; fi
    say opened "$(for what in services ports; do within 20 firewall-cmd --permanent "--list-$what" 2>/dev/null; done)"
    say opened_now "$(for what in services ports; do within 20 firewall-cmd "--list-$what" 2>/dev/null; done)"
    for unit in UNITS; do
        if within 10 systemctl is-active --quiet "$unit" 2>/dev/null; then say unit "$unit"; fi
    done
    installed | while read -r package; do say package "$package"; done
    for file in /etc/gestalt/*.yaml; do
        if [ -r "$file" ]; then
            say cluster "$(sed -n "s/^cluster_id:[ '\"]*\([^ '\"]*\).*/\1/p" "$file")"
            say settings "${file##*/}"
        fi
    done
    say mode "$(sed -n "s/^mode:[ '\"]*\([a-z]*\).*/\1/p" /etc/gestalt/coordinator.yaml 2>/dev/null)"
    say listening "$(awk '$4 == "0A" { sub(".*:", "", $2); print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort -u)"
}

zookeeper() {
    home=/var/lib/gestalt-zookeeper
    say server_id "$(cat "$home/myid" 2>/dev/null)"
    # a server keeps the list in the file that its zoo.cfg names; in zoo.cfg itself before it ever ran. What ends in .next is not agreed on
    named=$(sed -n 's/^dynamicConfigFile=//p' "$home/zoo.cfg" 2>/dev/null)
    for file in "$named" $(ls -t "$home"/zoo.cfg.dynamic.* 2>/dev/null | grep -v '\.next$') "$home/zoo.cfg"; do
        if grep -q '^server\.' "$file" 2>/dev/null; then
            grep '^server\.' "$file" | while read -r line; do say server "$line"; done
            break
        fi
    done
}

probe() {
    say probe 1
    system
    programs
    ours
    zookeeper
    say end 1
}

probe </dev/null
""".replace("UNITS", " ".join(UNITS))
"""Runs as root on a machine that may have nothing but what a minimal installation has. No input is ever put into it."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What answers as a Docker Engine does. `name`: "docker" or "podman"; nothing answers where `socket` is empty."""

    socket: str = ""
    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a machine said of itself. A program that is not there has an empty version.

    Args:
        machine: what /etc/machine-id holds; also that of a machine of which it is a copy.
        addresses: those of its own; none where it cannot tell them.
        distribution: ID of os-release, such as "rhel"; where there is no such file the line of redhat-release.
        memory, var_free, usr_free: bytes; of the whole machine, free below /var/lib and /usr.
        pythons: "3.11" for /usr/bin/python3.11.
        no_pidfds: those of them that have no `pidfd_open` on this kernel, which an agent needs.
        sockets: of engines, whether they answer or not.
        nft_works: it is allowed to read rules.
        systemd: 0 where it is not process 1.
        selinux: "Enforcing", "Permissive" or "Disabled".
        clock: seconds since 1970, when the machine was asked.
        packages: those of ours, by name, with "VERSION-RELEASE".
        clusters: ids in the settings below /etc/gestalt.
        settings: the names of those files, such as "agent.yaml".
        mode: of its coordinator, "cluster" or "appliance"; empty without one.
        opened: services, and ports such as 2181/tcp, for which firewalld is open, now and for good.
        units: those of UNITS that are active.
        server_id, servers: the number of its ZooKeeper server of ours, and all servers that this one knows of; empty without one.
    """

    root: bool
    hostname: str
    architecture: str
    distribution: str
    version: str
    cpus: int
    memory: int
    var_free: int
    usr_free: int
    clock: int
    systemd: int = 0
    cgroup: int = 2
    selinux: str = "Disabled"
    pythons: tuple[str, ...] = ()
    no_pidfds: tuple[str, ...] = ()
    haproxy: str = ""
    nft: str = ""
    nft_works: bool = False
    java: str = ""
    dnf: bool = False
    curl: bool = False
    sockets: tuple[str, ...] = ()
    engine: Engine = Engine()
    firewalld: bool = False
    opened: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    packages: Mapping[str, str] = field(default_factory=dict)
    clusters: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    mode: str = ""
    listening: frozenset[int] = frozenset()
    machine: str = ""
    addresses: frozenset[str] = frozenset()
    server_id: str = ""
    servers: tuple[Server, ...] = ()

    @property
    def major(self) -> int:
        """Return the major version of the distribution; 0 where it has none."""
        found = re.match(r"\d{1,4}", self.version)
        return int(found[0]) if found else 0


def numbers(version: str) -> tuple[int, ...]:
    """Return what a version is compared by: (2, 6, 12) for "2.6.12-1"."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("-")[0]))


def read_facts(text: str) -> Facts:
    """Return what PROBE printed. What stands before its first line, such as a greeting of the machine, does not count.

    Raises:
        GestaltError: FAILED, with every line that is missing or cannot be understood.
    """
    answer = _Answer(_values(text))
    facts = Facts(
        root=answer.number("uid") == 0,
        hostname=answer.word("hostname"),
        architecture=answer.word("architecture"),
        distribution=answer.last("distribution"),
        version=answer.last("version"),
        cpus=answer.number("cpus"),
        memory=answer.number("memory_kib") * 1024,
        var_free=answer.number("var_free_kib") * 1024,
        usr_free=answer.number("usr_free_kib") * 1024,
        clock=answer.number("clock"),
        systemd=answer.number("systemd", "0"),
        cgroup=answer.number("cgroup"),
        selinux=answer.word("selinux"),
        pythons=tuple(sorted(answer.all("python"), key=numbers)),
        no_pidfds=tuple(sorted(answer.all("no_pidfds"), key=numbers)),
        haproxy=answer.last("haproxy"),
        nft=answer.last("nft"),
        nft_works=answer.last("nft_works") == "yes",
        java=answer.last("java"),
        dnf=answer.word("dnf") == "yes",
        curl=answer.word("curl") == "yes",
        sockets=answer.all("socket"),
        engine=next((engine for engine in map(_engine, answer.all("engine")) if engine.socket), Engine()),
        firewalld=answer.word("firewalld") == "yes",
        opened=frozenset(answer.last("opened").split()) & frozenset(answer.last("opened_now").split()),
        units=frozenset(answer.all("unit")),
        packages=dict(name_and_version for line in answer.all("package") if len(name_and_version := line.split()) == 2),
        clusters=frozenset(filter(None, answer.all("cluster"))),
        settings=frozenset(answer.all("settings")),
        mode=answer.last("mode"),
        listening=answer.understood("listening", answer.last("listening"), _ports, frozenset()),
        machine=answer.last("machine"),
        addresses=frozenset(answer.last("addresses").split()),
        server_id=answer.last("server_id"),
        servers=parse_ensemble("\n".join(answer.all("server")).encode()).servers,
    )
    answer.check()
    return facts


def _values(text: str) -> dict[str, list[str]]:
    lines = [line.rstrip("\r") for line in text.splitlines()]
    if "probe=1" not in lines:
        said = " ".join(text.split())[:200]
        hint = "does `ssh HOST sh -c true` work without a question, and is the login shell there a usual one?"
        raise GestaltError(Kind.FAILED, f"the machine did not say what it is, but: {said or 'nothing'}", hint=hint)
    lines = lines[lines.index("probe=1") :]
    if "end=1" not in lines:
        hint = "the connection broke, or the script was ended on the machine: try again"
        raise GestaltError(Kind.FAILED, f"what the machine said of itself was cut off after {lines[-1][:100]!r}", hint=hint)
    values: dict[str, list[str]] = {}
    for line in lines[: lines.index("end=1")]:
        name, equals, value = line.partition("=")
        if equals:
            values.setdefault(name, []).append(value.strip())
    return values


class _Answer:
    """Takes values out of an answer, and collects what is wrong with it until `check`."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values
        self._wrong: list[Detail] = []

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def last(self, name: str, otherwise: str = "") -> str:
        return self._values.get(name, [otherwise])[-1]

    def word(self, name: str) -> str:
        """Return a value that has to be there."""
        value = self.last(name)
        if not value:
            self._wrong.append(Detail(name, "is missing"))
        return value

    def number(self, name: str, otherwise: str = "") -> int:
        return self.understood(name, self.last(name, otherwise), int, 0)

    def understood(self, name: str, text: str, read: Callable[[str], T], otherwise: T) -> T:
        try:
            return read(text)
        except ValueError:
            self._wrong.append(Detail(name, f"is {text[:80]!r}", "a number") if text else Detail(name, "is missing"))
            return otherwise

    def check(self) -> None:
        if self._wrong:
            told = ", ".join(f"{detail.field} {detail.problem}" for detail in self._wrong)
            hint = (
                "look on the machine itself why: the script needs id, uname, getconf, awk, sed, df, date and stat of a usual installation"
            )
            raise GestaltError(Kind.FAILED, f"what the machine said of itself cannot be understood: {told}", hint=hint, details=self._wrong)


def _ports(text: str) -> frozenset[int]:
    return frozenset(int(port, 16) for port in text.split())


def _engine(line: str) -> Engine:
    """Return the engine that gave an answer; none where it is no such answer."""
    socket, _, text = line.partition(" ")
    try:
        answer = json.loads(text)
    except ValueError:
        return Engine()
    version = answer.get("Version") if isinstance(answer, dict) else None
    if not isinstance(version, str) or not version:
        return Engine()
    return Engine(socket, "podman" if "podman" in text.casefold() else "docker", version)
