"""A lab node as a machine on which packages are installed.

Lab nodes have the programs of this Debian, of which rpm knows nothing. So that what our packages require is looked for in earnest, a
package without files provides, under the names that RHEL has for it, what is really there. Where dnf is to find it, what a bare RHEL does
not have is in packages without files of its own, in a repository of the node.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gestalt import shell
from tests.cluster.lab.nodes import CHECKOUT, File, LabError, Node

PACKAGES = ("gestalt-runtime", "gestaltctl", "gestalt-coordinator", "gestalt-agent")

OUT = "build/rpm/test"
"""Below the checkout, which nodes see."""

HAS_DNF = pytest.mark.skipif(
    any(shutil.which(program) is None for program in ("dnf", "createrepo_c")),
    reason="dnf or createrepo_c is not installed: scripts/install-packages rpm",
)

BASE = "lab-base"
SYSTEM = "system"
"""The repository with what a bare RHEL does not have."""

_OWN = "/var/lib/rpm"
_BARE = {"systemd": "systemd"}
_ADDED = {"haproxy": "haproxy", "nftables": "nftables", "docker.io": "moby-engine"}
_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1")
_FOLDERS = ("/usr/share/licenses", "/usr/share/zsh/site-functions", "/usr/share/fish/vendor_completions.d")
"""That RHEL has from the first."""

_OF_OTHERS = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/zookeeper", "/var/lib/dnf", "/var/cache/dnf", "/var/log", _OWN)
_NOT_LOOKED_AT = ("/proc", "/sys", "/dev", "/tmp", "/lab", *_OF_OTHERS)
_NOT_OURS = re.compile(
    r"^/(run/(systemd|user|log|docker|containerd|utmp)|var/lib/systemd|var/tmp|root|etc/(passwd|group|g?shadow))\b"  # users stay
    r"|/systemd-private-|\.service\.d$"
)


async def build(purpose: str, release: int) -> list[Path]:
    """Build packages, by `scripts/rpm.sh`; return what `./gestalt*.rpm` is there.

    Raises:
        LabError: they could not be built.
    """
    folder = f"{OUT}-{release}"
    settings = {"RPM_RELEASE": str(release), "RPM_OUT": folder}
    done = await shell.run((str(CHECKOUT / "scripts/rpm.sh"), purpose), limit=600, env=settings, cwd=str(CHECKOUT))
    if not done.ok:
        raise LabError(f"scripts/rpm.sh {purpose}: {done.complaint()}")
    return sorted((CHECKOUT / folder).glob("gestalt*.rpm"))


async def prepare(node: Node, *, has_dnf: bool = False) -> None:
    """Make a node like a machine of RHEL, as far as rpm can see, and dnf, if it is to have that."""
    bare, added = await _versions(_BARE), await _versions(_ADDED)
    provided = await _provided(node) + [f"{name} = {version}" for name, version in (bare if has_dnf else bare | added).items()]
    await node.put(
        {
            "/etc/rpm/macros": File(f"%_dbpath {_OWN}\n".encode()),
            "/etc/systemd/system-preset/99-default-disable.preset": File(b"disable *\n"),
            "/root/base/base.spec": File(_spec(BASE, "1", provided)),
        }
    )
    await node.do("mkdir", "-p", *_FOLDERS)
    await node.do("rpmbuild", "-bb", "--quiet", "--define", "_topdir /root/base", "/root/base/base.spec")
    await node.do("sh", "-c", "rpm -i /root/base/RPMS/*/*.rpm")
    if has_dnf:
        await _offer(node, added)
    else:
        await node.do("rm", "-f", "/usr/bin/dnf", "/usr/bin/dnf-3")


async def clear(node: Node) -> None:
    """Take from a node what was installed since it was prepared, and what is ours, whatever state that is in."""
    there = (await node.do("rpm", "--query", "--all", "--queryformat", "%{NAME}\\n")).split()
    if installed := [name for name in there if name != BASE]:
        await node.do("rpm", "-e", "--allmatches", *installed, limit=120)
    await node.run("systemctl", "stop", "gestalt-haproxy")
    await node.do("sh", "-c", "docker ps -aq | xargs -r docker rm -f; rm -rf /etc/gestalt /var/lib/gestalt /run/gestalt")


async def rpm(node: Node, action: str, *words: str) -> None:
    """Have rpm do something to a node.

    Raises:
        LabError: it did not, or complained.
    """
    done = await node.run("rpm", action, *words, limit=300)
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("rpm: ")]  # Debian's own advice
    if not done.ok or said:
        raise LabError(f"rpm {action}: exit {done.code}: {said or done.complaint()}")


async def dnf(node: Node, *words: str) -> str:
    """Have dnf do something to a node; return what it said.

    Raises:
        LabError: it did not, or a scriptlet complained.
    """
    done = await node.run("dnf", "--assumeyes", *words, limit=300)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if not done.ok or "scriptlet failed" in said:
        raise LabError(f"dnf {' '.join(words)}: exit {done.code}: {said}")
    return said


async def origins(node: Node) -> dict[str, str]:
    """Return the repository of each package of a node beside the base: @commandline when it was a file, nothing when rpm installed it."""
    listed = await node.do("dnf", "--quiet", "--cacheonly", "repoquery", "--installed", "--queryformat", "%{name} %{from_repo}")
    found = dict(line.partition(" ")[::2] for line in listed.splitlines())
    return {name: found[name].strip() for name in found if name != BASE}


async def files(node: Node) -> set[str]:
    """Return every path of a node, except where packages other than ours are at work."""
    left_out = [word for path in _NOT_LOOKED_AT for word in ("-path", path, "-o")]
    listing = await node.do("find", "/", "(", *left_out, "-path", str(CHECKOUT), ")", "-prune", "-o", "-print", limit=120)
    return {path for path in listing.splitlines() if not _NOT_OURS.search(path)}


async def processes(node: Node, word: str) -> list[str]:
    """Return the command lines in a node that hold a word."""
    return [line for line in (await node.do("ps", "-eo", "args=")).splitlines() if word in line]


async def active(node: Node, units: Sequence[str]) -> list[str]:
    """Return the state of each unit."""
    return (await node.run("systemctl", "is-active", *units)).stdout.decode().split()


async def _offer(node: Node, packages: Mapping[str, str]) -> None:
    """Have a node know one repository, on its own disk, with packages without files."""
    specs = {f"/root/{SYSTEM}/{name}.spec": File(_spec(name, version, ())) for name, version in packages.items()}
    described = f"[{SYSTEM}]\nname=What a bare RHEL does not have\nbaseurl=file:///root/{SYSTEM}/RPMS\ngpgcheck=0\n"
    await node.put(specs | {f"/etc/yum.repos.d/{SYSTEM}.repo": File(described.encode())})
    await node.do("rpmbuild", "-bb", "--quiet", "--define", f"_topdir /root/{SYSTEM}", *specs)
    await node.do("createrepo_c", "--quiet", f"/root/{SYSTEM}/RPMS")


def _spec(name: str, version: str, provided: Sequence[str]) -> bytes:
    lines = [f"Name: {name}", f"Version: {version}", "Release: 1", "Summary: What a lab node has", "License: none", "BuildArch: noarch"]
    return "\n".join([*lines, *(f"Provides: {name}" for name in provided), "%description", "%files", ""]).encode()


async def _provided(node: Node) -> list[str]:
    """Return what a bare system provides, but for its packages."""
    release = await node.do("sh", "-c", '. /etc/os-release && echo "$VERSION_ID"')
    pythons = await node.do("sh", "-c", "ls /usr/bin/python3.[0-9]*")
    libraries = sorted(set((await _libraries(node)).splitlines()))
    return ["/bin/sh", "rtld(GNU_HASH)", f"system-release = {release}", *pythons.splitlines(), *libraries]


async def _libraries(node: Node) -> str:
    """Return what rpm says that the system's libraries provide."""
    where = "ldconfig -p | sed -n 's,.* => ,,p' | grep -E '/({})$' | xargs -n 1 readlink -f | sort -u | /usr/lib/rpm/elfdeps --provides"
    names = "|".join(re.escape(name) for name in (*_LIBRARIES, "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"))
    return await node.do("sh", "-c", where.format(names))


async def _versions(packages: Mapping[str, str]) -> dict[str, str]:
    return {name: await _version(package) for package, name in packages.items()}


async def _version(package: str) -> str:
    """Return the version of a package of this machine, whose programs nodes see."""
    done = await shell.run(("dpkg-query", "--show", "--showformat", "${Version}", package), limit=20)
    if not done.ok:
        raise LabError(f"lab nodes need {package}: {done.complaint()}")
    return re.split("[-+~]", done.stdout.decode().rpartition(":")[2])[0]
