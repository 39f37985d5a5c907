"""A lab node as a machine on which packages are installed.

Lab nodes have the programs of this Debian, of which rpm knows nothing. So that what our packages require is looked for in earnest, a
package without files provides, under the names that RHEL has for it, what is really there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gestalt import shell
from tests.cluster.lab.nodes import CHECKOUT, File, LabError, Node

PACKAGES = ("gestalt-runtime", "gestaltctl", "gestalt-coordinator", "gestalt-agent")

OUT = "build/rpm/test"
"""Below the checkout, which nodes see."""

_OWN = "/var/lib/rpm"
_NAMES = {"systemd": "systemd", "haproxy": "haproxy", "nftables": "nftables", "docker.io": "moby-engine"}
_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libgcc_s.so.1", "libz.so.1")
_FOLDERS = ("/usr/share/licenses", "/usr/share/zsh/site-functions", "/usr/share/fish/vendor_completions.d")
"""That RHEL has from the first."""

_NOT_LOOKED_AT = ("/proc", "/sys", "/dev", "/tmp", "/lab", "/var/lib/docker", "/var/lib/containerd", "/var/lib/zookeeper", "/var/log", _OWN)
_NOT_OURS = re.compile(
    r"^/(run/(systemd|user|log|docker|containerd|utmp)|var/lib/systemd|var/tmp|root|etc/(passwd|group|g?shadow))\b"  # users stay
    r"|/systemd-private-|\.service\.d$"
)


async def build(purpose: str, release: int) -> list[Path]:
    """Build packages, by `scripts/rpm.sh`; return those that are installed, the runtime among them.

    Raises:
        LabError: they could not be built.
    """
    folder = f"{OUT}-{release}"
    settings = {"RPM_RELEASE": str(release), "RPM_OUT": folder}
    done = await shell.run((str(CHECKOUT / "scripts/rpm.sh"), purpose), limit=600, env=settings, cwd=str(CHECKOUT))
    if not done.ok:
        raise LabError(f"scripts/rpm.sh {purpose}: {done.complaint()}")
    return sorted(path for path in (CHECKOUT / folder).glob("*.rpm") if not path.name.endswith(".src.rpm"))


async def prepare(node: Node) -> None:
    """Make a node like a machine of RHEL, as far as rpm can see."""
    await node.put(
        {
            "/etc/rpm/macros": File(f"%_dbpath {_OWN}\n".encode()),
            "/etc/systemd/system-preset/99-default-disable.preset": File(b"disable *\n"),
            "/root/base.spec": File((await _base(node)).encode()),
        }
    )
    await node.do("mkdir", "-p", *_FOLDERS)
    await node.do("rpmbuild", "-bb", "--quiet", "--define", "_topdir /root/base", "/root/base.spec")
    await node.do("sh", "-c", "rpm -i /root/base/RPMS/*/*.rpm")


async def rpm(node: Node, action: str, *words: str) -> None:
    """Have rpm do something to a node.

    Raises:
        LabError: it did not, or complained.
    """
    done = await node.run("rpm", action, *words, limit=300)
    said = [line for line in done.stderr.decode().splitlines() if not line.startswith("rpm: ")]  # Debian's own advice
    if not done.ok or said:
        raise LabError(f"rpm {action}: exit {done.code}: {said or done.complaint()}")


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


async def _base(node: Node) -> str:
    versions = {name: await _version(package) for package, name in _NAMES.items()}
    provided = [f"{name} = {re.split('[-+~]', version.rpartition(':')[2])[0]}" for name, version in versions.items()]
    provided += ["/bin/sh", "rtld(GNU_HASH)", *(await node.do("sh", "-c", "ls /usr/bin/python3.[0-9]*")).splitlines()]
    provided += sorted(set((await _libraries(node)).splitlines()))
    lines = ["Name: lab-base", "Version: 1", "Release: 1", "Summary: What a lab node has", "License: none", "BuildArch: noarch"]
    return "\n".join([*lines, *(f"Provides: {name}" for name in provided), "%description", "%files", ""])


async def _libraries(node: Node) -> str:
    """Return what rpm says that the system's libraries provide."""
    where = "ldconfig -p | sed -n 's,.* => ,,p' | grep -E '/({})$' | xargs -n 1 readlink -f | sort -u | /usr/lib/rpm/elfdeps --provides"
    names = "|".join(re.escape(name) for name in (*_LIBRARIES, "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"))
    return await node.do("sh", "-c", where.format(names))


async def _version(package: str) -> str:
    """Return the version of a package of this machine, whose programs nodes see."""
    done = await shell.run(("dpkg-query", "--show", "--showformat", "${Version}", package), limit=20)
    if not done.ok:
        raise LabError(f"lab nodes need {package}: {done.complaint()}")
    return done.stdout.decode()
