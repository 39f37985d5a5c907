"""A lab node as a machine on which packages are installed.

Lab nodes have the programs of this Debian, of which rpm knows nothing. So that what our packages require is looked for in earnest, a
package without files provides, under the names that RHEL has for it, what is really there. Where dnf is to find it, what a bare RHEL does
not have is in packages without files of its own, in a repository of the node.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gestalt import __version__, shell
from tests.cluster.lab.nodes import CHECKOUT, File, LabError, Node

PACKAGES = ("gestalt-runtime", "gestaltctl", "gestalt-coordinator", "gestalt-agent")

OUT = "build/rpm/test"
"""Below the checkout, which nodes see."""

_NEXT = re.sub(r"^(\d+)\.(\d+)\..*$", lambda found: f"{found[1]}.{int(found[2]) + 1}.0", __version__)
"""The version after this one; both may be in one cluster."""

OLD, NEW = f"{__version__}-1", f"{_NEXT}-1"
"""Version and release of what is built here, and of the next."""

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


async def build(purpose: str = "rpm") -> list[Path]:
    """Build the packages of this checkout, by `scripts/rpm.sh`; return what `./gestalt*.rpm` is there.

    Raises:
        LabError: they could not be built.
    """
    return await _build(CHECKOUT, purpose, CHECKOUT / OUT)


async def build_next() -> list[Path]:
    """Build the packages of a checkout that is the same but for its version, the next one.

    Raises:
        LabError: they could not be built.
    """
    checkout = CHECKOUT / f"{OUT}-next-checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    await copy_checkout(checkout)
    (checkout / "build/rpm").mkdir(parents=True)
    for wheels in (CHECKOUT / "build/rpm").glob("wheels-*"):
        (checkout / "build/rpm" / wheels.name).symlink_to(wheels)
    for name in ("gestalt/__init__.py", "setup.py", "packaging/gestalt.spec"):
        text = (checkout / name).read_text(encoding="utf-8")
        assert __version__ in text, name
        (checkout / name).write_text(text.replace(__version__, _NEXT), encoding="utf-8")
    by = ("-c", "user.name=lab", "-c", "user.email=lab@localhost")
    for words in (("init", "--quiet"), ("add", "--all"), (*by, "commit", "--quiet", "--message=The next version")):
        await _do(("git", *words), checkout)
    return await _build(checkout, "rpm", CHECKOUT / f"{OUT}-next")


async def copy_checkout(place: Path) -> None:
    """Copy into a folder what git knows of this checkout, and what it does not ignore, as it lies here.

    Raises:
        LabError: git did not list it.
    """
    listed = await _do(("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), CHECKOUT)
    for name in listed.rstrip("\0").split("\0"):
        if os.path.lexists(CHECKOUT / name):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, place / name, follow_symlinks=False)


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


async def _build(checkout: Path, purpose: str, out: Path) -> list[Path]:
    await _do((str(checkout / "scripts/rpm.sh"), purpose), checkout, {"RPM_OUT": str(out)})
    return sorted(out.glob("gestalt*.rpm"))


async def _do(argv: tuple[str, ...], folder: Path, settings: Mapping[str, str] | None = None) -> str:
    done = await shell.run(argv, limit=600, env=settings, cwd=str(folder))
    if not done.ok:
        raise LabError(f"{' '.join(argv)}: {done.complaint()}")
    return done.stdout.decode()


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
