"""Our packages as files: which there are, and what is in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gestalt.errors import GestaltError, Kind

from .rpm_header import read_header

NODE_PACKAGES = ("gestalt-runtime", "gestaltctl", "gestalt-agent")
COORDINATOR_PACKAGES = ("gestalt-coordinator",)
OPTIONAL_PACKAGES = ("gestalt-selinux",)
"""Installed where SELinux is, when they are given."""

RUNTIME = "gestalt-runtime"

_PYTHON = re.compile(r"/usr/bin/python(3\.\d+)")
_HINT = "build them with `make rpm`, and name their folder in hosts.yaml: packages"


@dataclass(frozen=True, slots=True)
class Package:
    """A package. `version` with its release; `architecture` of the machines that it is for, or noarch; `python` that it needs, or none."""

    path: Path
    name: str
    version: str
    architecture: str
    python: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def fits(self, architecture: str) -> bool:
        """Whether it can be installed on machines of an architecture."""
        return self.architecture in ("noarch", architecture)


def find_packages(places: Sequence[Path]) -> list[Package]:
    """Return our packages among files and in folders; what is not ours is passed over in folders.

    Raises:
        GestaltError: a place cannot be read, a file is no package, or two have one name and architecture.
    """
    found: dict[tuple[str, str], Package] = {}
    for path in [file for place in places for file in _files(place)]:
        package = _package(path)
        key = (package.name, package.architecture)
        if other := found.get(key):
            raise GestaltError(
                Kind.INVALID,
                f"there are two of {package.name}: {other.path} and {path}",
                hint="leave one version there, or name the files in hosts.yaml: packages",
            )
        found[key] = package
    versions = {package.version for package in found.values()}
    if len(versions) > 1:
        raise GestaltError(Kind.INVALID, f"the packages are of several versions: {', '.join(map(str, found.values()))}", hint=_HINT)
    return list(found.values())


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.glob("gestalt*.rpm") if not path.name.endswith(".src.rpm"))
    if not found:
        raise GestaltError(Kind.NOT_FOUND, f"there are no packages in {place}", hint=_HINT)
    return found


def _package(path: Path) -> Package:
    try:
        with path.open("rb") as file:
            header = read_header(file)
    except OSError as error:
        raise GestaltError(Kind.NOT_FOUND, f"the package {path} cannot be read: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise GestaltError(Kind.INVALID, f"{path} is not a package: {error}", hint=_HINT) from error
    pythons = [match[1] for match in map(_PYTHON.fullmatch, header.requires) if match]
    return Package(path, header.name, f"{header.version}-{header.release}", header.architecture, "".join(pythons[:1]))


def chosen(packages: Sequence[Package], architecture: str, *, is_coordinator: bool, has_selinux: bool) -> list[Package]:
    """Return the packages that a host gets, in an order in which they can be installed.

    Raises:
        GestaltError: NOT_FOUND, when one that it needs is not among them.
    """
    needed = (*NODE_PACKAGES, *(COORDINATOR_PACKAGES if is_coordinator else ()))
    fitting = {package.name: package for package in packages if package.fits(architecture)}
    missing = [name for name in needed if name not in fitting]
    if missing:
        raise GestaltError(Kind.NOT_FOUND, f"there is no package {', '.join(missing)} for {architecture}", hint=_HINT)
    return [fitting[name] for name in (*needed, *(OPTIONAL_PACKAGES if has_selinux else ())) if name in fitting]


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
