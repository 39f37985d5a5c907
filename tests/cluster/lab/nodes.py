"""Lab nodes: containers with systemd as PID 1 that see the host's /usr and this checkout, both read-only.

From a shell, in the checkout:

    .venv/bin/python -m tests.cluster.lab image      build the node image, when something of it changed
    .venv/bin/python -m tests.cluster.lab nodes 3    nodes gestalt-lab-1 … 3, ready for `docker exec`
    .venv/bin/python -m tests.cluster.lab down       remove all nodes of that name, with their volumes and network

Everything carries the label `gestalt-lab=<group>`; leftovers of a killed run are found by it. Nodes need the host's Docker
Engine, systemd-sysv and busybox-static, and an environment made with /usr/bin/python3.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gestalt import shell

CHECKOUT = Path(__file__).resolve().parents[3]
INIT = Path(__file__).with_name("init.sh")
IMAGE = "gestalt-lab/node"
LABEL = "gestalt-lab"
SUBNETS = "10.77"
"""Each group has a network 10.77.x.0/24 of its own: the first that is free."""
FIRST_ADDRESS = 11

_SYS_RESOURCE = 1 << 24
_SHUTDOWN = 90
"""Seconds that a node may take to shut down before its power goes."""
_FOLDERS = (
    "usr", "etc", "var/lib", "var/log", "var/cache", "var/tmp", "var/spool", "var/opt", "var/local", "root", "home", "mnt", "srv",
    "opt", "media", "proc", "sys", "dev", "run", "tmp", "boot", "lab/usr", "lab/upper", "etc/systemd/journald.conf.d", "etc/docker",
)  # fmt: skip
_LINKS = {
    "bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run", "var/lock": "/run/lock",
    "etc/mtab": "/proc/self/mounts", "etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
}  # fmt: skip
_FILES = {
    "etc/shadow": "root:*::0:99999:7:::\n",
    "etc/machine-id": "",
    "etc/systemd/journald.conf.d/lab.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\nRateLimitBurst=0\nForwardToSyslog=no\n",
    "etc/docker/daemon.json": '{"storage-driver": "overlay2", "log-driver": "json-file", "live-restore": true}\n',
}
_MASKED = (
    "systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service",
    "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
    "dev-hugepages.mount", "dev-mqueue.mount", "systemd-modules-load.service", "systemd-remount-fs.service",
    "systemd-timesyncd.service", "systemd-sysctl.service", "getty.target", "console-getty.service", "getty@tty1.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer", "e2scrub_reap.service",
    "systemd-firstboot.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "modprobe@dm_mod.service",
    "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@loop.service",
    "modprobe@configfs.service",
)  # fmt: skip
_LEFT_OUT = (
    "ssl/private",
    "shadow",
    "shadow-",
    "gshadow",
    "gshadow-",
    "systemd/system",
    "init.d",
    "mtab",
    "resolv.conf",
    "hostname",
    "hosts",
)


class LabError(Exception):
    """The lab does not work; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class File:
    """What a file in a node holds."""

    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `address` is empty without a network."""

    name: str
    address: str = ""

    async def run(self, *argv: str, stdin: bytes | None = None, limit: float = 60.0) -> shell.Completed:
        """Run a command in the node to its end, whatever that is."""
        interactive = () if stdin is None else ("--interactive",)
        return await shell.run(("docker", "exec", *interactive, self.name, *argv), stdin=stdin, limit=limit)

    async def do(self, *argv: str, stdin: bytes | None = None, limit: float = 60.0) -> str:
        """Run a command that must succeed; return what it printed.

        Raises:
            LabError: it failed.
        """
        done = await self.run(*argv, stdin=stdin, limit=limit)
        if not done.ok:
            raise LabError(f"{self.name}: {' '.join(argv)[:200]}: {done.complaint()}")
        return done.stdout.decode().strip()

    async def put(self, files: Mapping[str, File]) -> None:
        """Write files in the node, by absolute path, with the folders that they need."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, file in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(file.content), file.mode
                tar.addfile(entry, io.BytesIO(file.content))
        await self.do("tar", "--extract", "--directory", "/", "--no-same-owner", "--no-overwrite-dir", stdin=buffer.getvalue())

    async def pid(self) -> int:
        """Return the host's number of the node's PID 1; 0 while the node is down."""
        return int(await _docker("inspect", "--format", "{{.State.Pid}}", self.name))

    async def python(self, *argv: str, limit: float = 60.0) -> shell.Completed:
        """Run the checkout's Python in the checkout; nothing is written there."""
        command = ("docker", "exec", "-w", str(CHECKOUT), "-e", "PYTHONDONTWRITEBYTECODE=1", self.name, str(CHECKOUT / ".venv/bin/python"))
        return await shell.run((*command, *argv), limit=limit)


async def build_image() -> str:
    """Return the name of the node image; build it (1-2 s, 5 MB) when this file, the init or the host's packages changed."""
    name = f"{IMAGE}:{_image_digest()}"
    if (await shell.run(("docker", "image", "inspect", name), limit=20)).ok:
        return name
    with tempfile.TemporaryDirectory(prefix="gestalt-lab-") as folder:
        root, archive = Path(folder) / "root", Path(folder) / "image.tar"
        await asyncio.to_thread(_lay_out, root, archive)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        options = ("-c", "ENV container=docker", "-c", f"ENV {path}", "-c", 'ENTRYPOINT ["/lab/init"]', "-c", f"LABEL {LABEL}=image")
        await _docker("import", *options, str(archive), name)
    return name


async def up(count: int, *, group: str = "lab", network: bool = True) -> list[Node]:
    """Start nodes and wait until systemd has come up in each; what lay there under their names is removed first.

    Args:
        count: how many.
        group: part of their names and their label, so that several labs live side by side.
        network: give them addresses 10.77.x.11 … on a bridge of their own; else they have only loopback.
    """
    await down(group)
    image = await build_image()
    subnet = await _new_network(group) if network else ""
    nodes = [Node(f"{_prefix(group)}{number}", subnet and f"{subnet}.{FIRST_ADDRESS + number - 1}") for number in range(1, count + 1)]
    await asyncio.gather(*(_start(node, image, group) for node in nodes))
    await asyncio.gather(*(booted(node) for node in nodes))
    return nodes


async def add(group: str) -> Node:
    """Start one more node beside those of a group, on their network; systemd has come up in it, and there is nothing in it."""
    nodes = await found(group)
    number = len(nodes) + 1
    node = Node(f"{_prefix(group)}{number}", f"{nodes[0].address.rpartition('.')[0]}.{FIRST_ADDRESS + number - 1}")
    await _start(node, await build_image(), group)
    await booted(node)
    return node


async def remove(node: Node) -> None:
    """Remove one node with its disks."""
    await _docker("rm", "-f", "-v", node.name)
    await _docker("volume", "rm", *(f"{node.name}-{volume}" for volume in ("upper", "docker")))


async def found(group: str = "lab") -> list[Node]:
    """Return the nodes of a group that an earlier process started, running or not, in their order."""
    names = (await _docker("ps", "--all", "--filter", f"label={LABEL}={group}", "--format", "{{.Names}}")).split()
    form = "{{range .NetworkSettings.Networks}}{{with .IPAMConfig}}{{.IPv4Address}}{{end}}{{end}}"
    nodes = [Node(name, await _docker("inspect", "--format", form, name)) for name in names]
    return sorted(nodes, key=lambda node: int(node.name.rpartition("-")[2]))


async def kill(node: Node) -> None:
    """Take the node's power; its disks stay. Nothing happens to one that has none."""
    if await node.pid():
        await _docker("kill", node.name)


async def boot(node: Node) -> None:
    """Give the node power again and wait until systemd is up."""
    await _docker("start", node.name)
    await booted(node)


async def reboot(node: Node) -> None:
    """Have the node's systemd shut it down in order, give it power again and wait until systemd is up."""
    done = await shell.run(("docker", "restart", "--time", str(_SHUTDOWN), node.name), limit=_SHUTDOWN + 30)
    if not done.ok:
        raise LabError(f"docker restart: {done.complaint()}")
    await booted(node)


async def pause(node: Node) -> None:
    """Stop all of the node's processes where they are; its kernel still answers pings and TCP connects."""
    await _docker("pause", node.name)


async def unpause(node: Node) -> None:
    """Let a paused node go on."""
    await _docker("unpause", node.name)


async def paused(node: Node) -> bool:
    """Return whether the node is paused."""
    return await _docker("inspect", "--format", "{{.State.Paused}}", node.name) == "true"


async def down(group: str = "lab") -> None:
    """Remove all nodes of a group with their volumes and their network. Idempotent."""
    mine = ("--filter", f"label={LABEL}={group}")
    for listing, removal in (
        (("ps", "-aq"), ("rm", "-f", "-v")),
        (("volume", "ls", "-q"), ("volume", "rm")),
        (("network", "ls", "-q"), ("network", "rm")),
    ):
        found = (await _docker(*listing, *mine)).split()
        if found:
            await _docker(*removal, *found)


def _prefix(group: str) -> str:
    return "gestalt-lab-" if group == "lab" else f"gestalt-lab-{group}-"


def _network(group: str) -> str:
    return f"{_prefix(group)}net"


async def _new_network(group: str) -> str:
    """Make the group's network; return the first three numbers of its addresses."""
    for number in range(256):
        subnet = f"{SUBNETS}.{number}"
        options = ("--label", f"{LABEL}={group}", "--subnet", f"{subnet}.0/24")
        done = await shell.run(("docker", "network", "create", *options, _network(group)), limit=60)
        if done.ok:
            return subnet
        if "overlap" not in done.complaint():
            raise LabError(f"docker network create: {done.complaint()}")
    raise LabError(f"every network {SUBNETS}.x.0/24 is in use: docker network ls")


async def _start(node: Node, image: str, group: str) -> None:
    volumes = {"upper": "/lab/upper", "docker": "/var/lib/docker"}
    for volume in volumes:
        await _docker("volume", "create", "--label", f"{LABEL}={group}", f"{node.name}-{volume}")
    await _docker(
        "run",
        "--detach",
        f"--name={node.name}",
        f"--hostname={node.name}",
        f"--label={LABEL}={group}",
        *(("--network", _network(group), "--ip", node.address) if node.address else ("--network", "none")),
        *_privileges(),
        "--device-cgroup-rule=a *:* rwm",
        "--cgroupns=private",
        "--tmpfs=/run",
        "--tmpfs=/run/lock",
        "--tmpfs=/tmp:exec",
        "--stop-signal=SIGRTMIN+3",
        "--volume=/usr:/lab/usr:ro",
        f"--volume={CHECKOUT}:{CHECKOUT}:ro",
        *(f"--volume={node.name}-{volume}:{place}" for volume, place in volumes.items()),
        image,
    )


def _privileges() -> Sequence[str]:
    """Return `--privileged`, or what comes near it where we ourselves lack a capability (then Docker refuses it)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bounding = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd"))
    if bounding & _SYS_RESOURCE:
        return ("--privileged",)
    unconfined = (f"--security-opt={option}=unconfined" for option in ("seccomp", "apparmor", "systempaths"))
    return ("--cap-add=ALL", "--cap-drop=SYS_RESOURCE", *unconfined)


async def booted(node: Node, limit: float = 60.0) -> None:
    """Wait until systemd has come up in a node.

    Raises:
        LabError: it has not within the limit.
    """
    state = ""
    try:
        async with asyncio.timeout(limit):
            while state not in ("running", "degraded"):
                state = (await node.run("systemctl", "is-system-running")).stdout.decode().strip()
                await asyncio.sleep(0.1)
    except TimeoutError:
        logs = await shell.run(("docker", "logs", "--tail", "20", node.name), limit=10)
        raise LabError(f"systemd did not come up in {node.name} within {limit:g} s; it says {state!r}; {logs.complaint()}") from None


async def _docker(*argv: str) -> str:
    done = await shell.run(("docker", *argv), limit=60)
    if not done.ok:
        raise LabError(f"docker {argv[0]}: {done.complaint()}")
    return done.stdout.decode().strip()


def _image_digest() -> str:
    packages = Path("/var/lib/dpkg/status")
    parts = [Path(__file__).read_bytes(), INIT.read_bytes(), packages.read_bytes() if packages.exists() else b""]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _lay_out(root: Path, archive: Path) -> None:
    """Make the root of a node: /etc and little else; all programs come from the host's /usr."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        raise LabError("lab nodes need a static busybox: apt-get install busybox-static")
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for link, target in _LINKS.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    for name, content in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    for source, target in ((busybox, "lab/busybox"), (INIT, "lab/init")):
        (root / target).write_bytes(source.read_bytes())
        (root / target).chmod(0o755)
    with tarfile.open(archive, "w") as tar:
        tar.add("/etc", arcname="./etc", filter=_of_etc)
        there = set(tar.getnames())  # Docker wants no path twice
        for path in sorted(root.rglob("*")):
            if (name := f"./{path.relative_to(root)}") not in there:
                tar.add(path, arcname=name, recursive=False)


def _of_etc(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave the host's secrets and services behind, and what the node has of its own."""
    name = member.name.removeprefix("./etc").removeprefix("/")
    is_left_out = any(name == path or name.startswith(f"{path}/") for path in _LEFT_OUT)
    return None if is_left_out or "_key" in name or name.startswith("rc") else member


def can_run() -> bool:
    """Whether this machine can have lab nodes at all."""
    return os.geteuid() == 0 and Path("/sbin/init").exists() and Path("/bin/busybox").exists()
