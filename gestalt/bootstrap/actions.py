"""What each step of the plan does on its host. All of it may be done twice, and goes on where an interrupted one ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gestalt import shell
from gestalt.clock import monotonic
from gestalt.errors import GestaltError, Kind

from .facts import Facts
from .hosts_file import HostSettings, HostsFile
from .packages import Package, digest_of
from .plan import COORDINATOR_UNITS, NODE_UNITS, ZOOKEEPER_UNITS, Action, Step, openings, packages_for
from .ssh import Remote
from .zookeeper import CLIENT_PORT, Choices, connection, read_archive_name, server_files, servers_of

INSTALL_LIMIT = 900.0
COPY_LIMIT = 900.0
START_LIMIT = 120.0
READY_LIMIT = 120.0
ZOOKEEPER_LIMIT = 60.0
_AGAIN = 1.0

_FOLDER = "/var/cache/gestalt-bootstrap"
_CTL = ("env", "GESTALT_CONFIG=/etc/gestalt/client.yaml", "gestaltctl")

PUT = """set -eu
umask 077
mkdir -p "$1"
if [ -e "$1/$2" ] && echo "$3  $1/$2" | sha256sum --check --status; then cat >/dev/null; exit 0; fi
cat >"$1/.$2.part"
echo "$3  $1/.$2.part" | sha256sum --check --status || { echo "what arrived of $2 is not what was sent" >&2; exit 1; }
mv "$1/.$2.part" "$1/$2"
"""
"""Folder, name, SHA-256; the content is on standard input."""

_INSTALL = """set -eu
if command -v dnf >/dev/null; then dnf --assumeyes --quiet install "$@"; else rpm --upgrade "$@"; fi
"""

_ALONE = ("flock", "/run/gestalt-bootstrap.lock")
"""Before a command: it waits for the same of another operator."""

TOKENS = """set -eu
umask 077
exec 9>/run/gestalt-bootstrap.lock
flock 9
folder=/run/gestalt-bootstrap
mkdir -p "$folder"
file=$folder/$1
shift
[ -z "$(find "$file" -mmin +50 2>/dev/null)" ] || rm -f "$file"
[ -s "$file" ] || "$@" --out "$file" >/dev/null
cat "$file"
"""
"""Name, then the command that makes a token. It is kept in memory (/run) until its machine has joined: a join that was interrupted after
the coordinator's part is completed by the same token only. What is older than 50 of its 60 minutes is not used any more."""

STALE = ("this token was used already", "this token is not valid in this cluster", "this token expired")
"""How a coordinator refuses a token that another one may replace: that of a machine which was replaced, or of a cluster that is no more."""

_CLUSTER = ("sed", "-n", r"s/^cluster_id:[ '\"]*\([A-Za-z0-9-]*\).*/\1/p", "/etc/gestalt/coordinator.yaml")

_FIREWALL = """set -eu
for opening in "$@"; do
  # what the packages have brought may be unknown until it is reloaded
  case $opening in */*) continue ;; esac
  firewall-cmd --permanent "--info-service=$opening" >/dev/null 2>&1 || firewall-cmd --reload >/dev/null
done
for opening in "$@"; do
  case $opening in */*) what=port ;; *) what=service ;; esac
  firewall-cmd --quiet --permanent "--query-$what=$opening" || firewall-cmd --permanent "--add-$what=$opening" >/dev/null
done
firewall-cmd --reload >/dev/null
"""
"""Services, and ports such as 2181/tcp."""

_UNPACK = """set -eu
umask 022
[ ! -d "/opt/$2" ] || exit 0
mkdir -p /opt
rm -rf "/opt/.$2.part"
mkdir "/opt/.$2.part"
tar --extract --gzip --no-same-owner --file "$1" --directory "/opt/.$2.part"
mv "/opt/.$2.part/$2" "/opt/$2"
rmdir "/opt/.$2.part"
"""
"""Archive, and the one folder that is in it."""

WRITE = """set -eu
umask 022
[ "$4" = always ] || [ ! -s "$1" ] || { cat >/dev/null; exit 0; }
mkdir -p "$(dirname "$1")"
umask 077
cat >"$1.part"
echo "$5  $1.part" | sha256sum --check --status || { echo "what arrived of $1 is not what was sent" >&2; exit 1; }
chown "$3:" "$1.part"
chmod "$2" "$1.part"
sync "$1.part"
mv "$1.part" "$1"
case $1 in */sysusers.d/*) systemd-sysusers "$1" ;; esac
"""
"""Path, mode, owner, whether what is there is replaced, SHA-256; the content is on standard input. What is empty was never written."""

ASK = """
said=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2" && printf srvr >&3 && cat <&3' bash "$1" "$2" 2>&1)
case $said in *Mode:*) exit 0 ;; esac
echo "${said:-nothing}" | tail -n 1 >&2
exit 1
"""
"""Address and port of a ZooKeeper server. It says `Mode:` when it serves, and something else, or nothing, while it is alone."""

_OF_ZOOKEEPER = "do the hosts with a server reach each other on 2181, 2888 and 3888?"


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs one of our scripts; what differs from call to call are its arguments."""
    return ("sh", "-c", text, "sh", *arguments)


@dataclass(slots=True)
class Actions:
    """The steps, for the hosts of one file. `first`: the host on which the cluster begins, or began."""

    hosts: HostsFile
    packages: Sequence[Package]
    facts: Mapping[str, Facts]
    remotes: Mapping[str, Remote]
    first: str
    zookeeper_limit: float = ZOOKEEPER_LIMIT
    _digests: dict[Path, str] = field(default_factory=dict)

    async def do(self, step: Step) -> None:
        """Do one step.

        Raises:
            GestaltError: it failed; the sentence holds what the command said.
        """
        host = next(host for host in self.hosts.hosts if host.name == step.host)
        actions: dict[Action, Callable[[HostSettings, Remote], Awaitable[None]]] = {
            Action.PACKAGES: self._install,
            Action.ZOOKEEPER: self._set_up_zookeeper,
            Action.FIREWALL: self._open_firewall,
            Action.FOUND: self._found,
            Action.JOIN_COORDINATOR: self._join_coordinator,
            Action.START_COORDINATOR: self._start_coordinator,
            Action.JOIN_NODE: self._join_node,
            Action.START_NODE: self._start_node,
        }
        await actions[step.action](host, self.remotes[step.host])

    async def until_serves(self, host: HostSettings) -> None:
        """Wait until the ZooKeeper server of a host serves; the host itself asks it.

        Raises:
            GestaltError: FAILED, with what it said last.
        """
        remote, deadline = self.remotes[host.name], monotonic() + self.zookeeper_limit
        while not (done := await remote.run(*script(ASK, host.address, str(CLIENT_PORT)))).ok:
            if monotonic() > deadline:
                where, heard = f"{host.address}:{CLIENT_PORT}", done.complaint()
                what = f"its server does not serve on {where}, within {self.zookeeper_limit:g} s; the last that was heard: {heard}"
                raise GestaltError(Kind.FAILED, what, hint=f"on {host.name}: journalctl -u gestalt-zookeeper; {_OF_ZOOKEEPER}")
            await asyncio.sleep(_AGAIN)

    async def until_ready(self) -> None:
        """Wait until the first host's `gestaltctl nodes` says that all nodes are ready; have its context name all coordinators.

        Raises:
            GestaltError: TIMED_OUT, with the states that they are in; UNAVAILABLE, when the connection is lost.
        """
        first = self.remotes[self.first]
        names = [host.name for host in self.hosts.hosts]
        deadline = monotonic() + READY_LIMIT
        while True:
            done = await first.run(*_CTL, "nodes", "--output", "json")
            states = _states(done)
            waiting = [f"{name} {states.get(name, 'unknown')}" for name in names if states.get(name) != "ready"]
            if not waiting:
                break
            if monotonic() > deadline:
                said = "" if done.ok else f"; gestaltctl says: {done.complaint()}"
                hint = f"on {self.first}: gestaltctl status; on a node: journalctl -u gestalt-agent -u gestalt-fence"
                raise GestaltError(Kind.TIMED_OUT, f"not ready within {READY_LIMIT:g} s: {', '.join(waiting)}{said}", hint=hint)
            await asyncio.sleep(_AGAIN)
        await first.do(*_CTL, "coordinator", "list", "--save", "--output", "name")

    async def _install(self, host: HostSettings, remote: Remote) -> None:
        facts = self.facts[host.name]
        missing = [item for item in packages_for(self.hosts, host, self.packages, facts) if item.name not in facts.packages]
        for package in missing:
            await self._put(remote, package.path)
        await remote.do(*script(_INSTALL, *(f"{_FOLDER}/{package.path.name}" for package in missing)), limit=INSTALL_LIMIT)
        await remote.do("rm", "-rf", "--", _FOLDER)

    async def _put(self, remote: Remote, path: Path) -> None:
        """Have a file of this machine in our folder on the other one."""
        try:
            if path not in self._digests:
                self._digests[path] = await asyncio.to_thread(digest_of, path)
            content = await asyncio.to_thread(path.read_bytes)
        except OSError as error:  # it was there when the plan was made
            raise GestaltError(
                Kind.NOT_FOUND, f"{path} cannot be read: {error.strerror}", hint="put it there again, and repeat this"
            ) from error
        await remote.do(*script(PUT, _FOLDER, path.name, self._digests[path]), stdin=content, limit=COPY_LIMIT)

    async def _set_up_zookeeper(self, host: HostSettings, remote: Remote) -> None:
        chosen = self.hosts.zookeeper
        if chosen.archive is not None:
            archive = read_archive_name(chosen.archive.name)
            await self._put(remote, chosen.archive)
            await remote.do(*script(_UNPACK, f"{_FOLDER}/{chosen.archive.name}", archive.folder), limit=INSTALL_LIMIT)
            jars = archive.jars()
        else:
            assert chosen.package is not None
            await self._put(remote, chosen.package)
            await remote.do(*script(_INSTALL, f"{_FOLDER}/{chosen.package.name}"), limit=INSTALL_LIMIT)
            jars = chosen.jars
        await remote.do("rm", "-rf", "--", _FOLDER)
        servers = servers_of([server.address for server in self.hosts.servers])
        number = self.hosts.servers.index(host) + 1
        for file in server_files(number, servers, Choices(jars, heap=chosen.heap)):
            content = file.text.encode()
            how = (file.path, f"{file.mode:o}", file.owner, "once" if file.once else "always", hashlib.sha256(content).hexdigest())
            await remote.do(*script(WRITE, *how), stdin=content)
        await remote.do("systemctl", "daemon-reload")
        await self._start(remote, ZOOKEEPER_UNITS)

    async def _open_firewall(self, host: HostSettings, remote: Remote) -> None:
        await remote.do(*script(_FIREWALL, *openings(self.hosts, host)))

    async def _found(self, host: HostSettings, remote: Remote) -> None:
        timing = (word for name, value in self.hosts.timing.model_dump().items() for word in (f"--{name}", f"{value:g}s"))
        chosen, servers = self.hosts.zookeeper, [server.address for server in self.hosts.servers]
        zookeeper = connection(servers_of(servers)) if servers else ",".join(chosen.hosts)
        words = ("cluster", "init", "--zookeeper", zookeeper, "--zookeeper-root", chosen.root, *timing, *_node_words(host))
        deadline = monotonic() + (self.zookeeper_limit if servers else 0)
        while True:
            done = await remote.run(*_ALONE, *_CTL, *words, "--storage-fence", self.hosts.storage_fence)
            if done.ok:
                break
            if "ZooKeeper cannot be reached" not in done.complaint() or monotonic() > deadline:
                hint = f"journalctl -u gestalt-zookeeper on the hosts that have a server; {_OF_ZOOKEEPER}" if servers else ""
                raise GestaltError(Kind.FAILED, f"gestaltctl cluster init failed: {done.complaint()}", hint=hint)
            await asyncio.sleep(_AGAIN)
        await self._start(remote, COORDINATOR_UNITS)

    async def _join_coordinator(self, host: HostSettings, remote: Remote) -> None:
        await self._join(host, "coordinator", "gestalt-coordinator", "--name", host.name, "--address", host.address)

    async def _join_node(self, host: HostSettings, remote: Remote) -> None:
        await self._join(host, "node", "gestalt-agent", *_node_words(host))

    async def _join(self, host: HostSettings, purpose: str, program: str, *words: str) -> None:
        first, remote = self.remotes[self.first], self.remotes[host.name]
        if not (cluster := await first.do(*_CLUSTER)):
            raise GestaltError(Kind.FAILED, f"{_CLUSTER[-1]} of {self.first} names no cluster", hint=f"on {self.first}: gestaltctl status")
        name = f"{cluster}.{host.name}.{purpose}"
        flag = ("--coordinator",) if purpose == "coordinator" else ()

        async def join() -> shell.Completed:
            token = await first.do(*script(TOKENS, name, *_CTL, "node", "token", *flag))
            return await remote.run(*_ALONE, program, "join", "--token-file", "-", *words, stdin=f"{token}\n".encode())

        done = await join()
        if not done.ok and any(words in done.complaint() for words in STALE):
            await first.do("rm", "-f", "--", f"/run/gestalt-bootstrap/{name}")
            done = await join()
        if not done.ok:
            raise GestaltError(Kind.FAILED, f"{program} join failed: {done.complaint()}")
        await first.do("rm", "-f", "--", f"/run/gestalt-bootstrap/{name}")

    async def _start_coordinator(self, host: HostSettings, remote: Remote) -> None:
        await self._start(remote, COORDINATOR_UNITS)

    async def _start_node(self, host: HostSettings, remote: Remote) -> None:
        await self._start(remote, NODE_UNITS)

    async def _start(self, remote: Remote, units: Sequence[str]) -> None:
        done = await remote.run("systemctl", "--quiet", "enable", "--now", *units, limit=START_LIMIT)
        if done.ok:
            return
        shown = await remote.run("journalctl", "--no-pager", "--lines=5", "--output=cat", *(f"--unit={unit}" for unit in units))
        said = shown.stdout.decode(errors="replace").strip()[-500:]
        hint = f"on {remote.host.name}: journalctl {' '.join(f'-u {unit}' for unit in units)}"
        raise GestaltError(Kind.FAILED, f"systemctl enable --now failed: {done.complaint()}\n{said}", hint=hint)


def _node_words(host: HostSettings) -> list[str]:
    """Return the options that `gestaltctl cluster init` and `gestalt-agent join` have in common."""
    words = ["--name", host.name, "--address", host.address, "--http-port", str(host.http_port), "--docker-socket", str(host.docker_socket)]
    for option, values in (("--role", host.roles), ("--runtime", host.runtimes), ("--label", [f"{k}={v}" for k, v in host.labels.items()])):
        words += [word for value in values for word in (option, value)]
    return words


def _states(done: shell.Completed) -> dict[str, str]:
    """Return the state of each node; none when gestaltctl was not answered.

    Raises:
        GestaltError: FAILED, when it said something else.
    """
    if not done.ok:
        return {}
    try:
        return {node["name"]: node["state"] for node in json.loads(done.stdout)["nodes"]}
    except (ValueError, TypeError, KeyError) as error:
        said = done.stdout.decode(errors="replace").strip()[:200]
        hint = "on the first host: gestaltctl nodes --output json; does something greet there before it?"
        raise GestaltError(Kind.FAILED, f"gestaltctl nodes did not list nodes, but said: {said or 'nothing'}", hint=hint) from error
