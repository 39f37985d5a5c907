"""The wheels that packages are built from: exact versions, known by their hashes, the same wherever they are fetched.

    wheels.py lock <versions >requirements.lock               `name==version` lines, with the hashes of their wheels
    wheels.py download PYTHON MACHINE FOLDER LOCK...          fetch them; one whose hash is not in the lock is refused
    wheels.py bundled LOCK SPEC                               write what the lock holds into the spec file

Run by the Python of an environment that has pip.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PYTHONS = ("3.11", "3.12")
"""That packages can be built for. RHEL 8 and 9 have both, RHEL 10 the second, Debian 12 the first."""

MACHINES = ("x86_64", "aarch64")

_OLDEST_GLIBC = 28  # that of RHEL 8
_FIRST_GLIBC = {"x86_64": 5, "aarch64": 17}
_OLD_NAMES = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
_VERSION = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)")
_BUNDLED = "Provides:       bundled(python3dist("


def main(words: Sequence[str]) -> int:
    match words:
        case ["lock"]:
            sys.stdout.write(lock([line.strip() for line in sys.stdin if _VERSION.match(line)]))
        case ["download", python, machine, folder, *locks] if locks:
            download(python, machine, Path(folder), [Path(lock) for lock in locks])
        case ["bundled", lock_file, spec]:
            put_bundled(Path(lock_file), Path(spec))
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


def lock(versions: Sequence[str]) -> str:
    """Return `versions` with the hashes of their wheels for every Python and machine that packages are built for."""
    hashes: dict[str, set[str]] = {}
    for python in PYTHONS:
        for machine in MACHINES:
            for name, digest in _chosen(versions, python, machine):
                hashes.setdefault(_plain(name), set()).add(digest)
    lines = []
    for version in versions:
        known = sorted(hashes[_plain(version.partition("==")[0])])
        lines.append(" \\\n".join([version, *(f"    --hash=sha256:{digest}" for digest in known)]))
    return "\n".join(lines) + "\n"


def download(python: str, machine: str, folder: Path, locks: Sequence[Path]) -> None:
    """Have exactly the wheels of `locks` in `folder`."""
    named = [word for file in locks for word in ("--requirement", str(file))]
    _pip("download", "--dest", str(folder), "--require-hashes", *_target(python, machine), *named)


def put_bundled(lock_file: Path, spec: Path) -> None:
    """Write each version of the lock into the spec file, as something that the package brings along."""
    lines = spec.read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(_BUNDLED))
    rest = [line for line in lines if not line.startswith(_BUNDLED)]
    spec.write_text("\n".join([*rest[:place], *bundled(lock_file), *rest[place:]]) + "\n", encoding="utf-8")


def bundled(lock_file: Path) -> list[str]:
    """Return the lines of the spec file for what is in a lock."""
    found = filter(None, map(_VERSION.match, lock_file.read_text(encoding="utf-8").splitlines()))
    return [f"{_BUNDLED}{_plain(name)})) = {version}" for name, version in (match.groups() for match in found)]


def _chosen(versions: Sequence[str], python: str, machine: str) -> Iterator[tuple[str, str]]:
    """Ask pip, without fetching them, which wheels it takes; yield the name and the hash of each."""
    with tempfile.TemporaryDirectory() as folder:
        report, wanted = Path(folder) / "report.json", Path(folder) / "wanted"
        wanted.write_text("\n".join(versions), encoding="utf-8")
        options = ("--dry-run", "--ignore-installed", "--report", str(report), "--target", f"{folder}/none")
        _pip("install", *options, *_target(python, machine), "--requirement", str(wanted))
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
            yield item["metadata"]["name"], item["download_info"]["archive_info"]["hashes"]["sha256"]


def _target(python: str, machine: str) -> tuple[str, ...]:
    """Return pip's options for a machine that is not this one: every platform name that such a machine takes, newest first."""
    names = [f"manylinux_2_{minor}" for minor in range(_OLDEST_GLIBC, _FIRST_GLIBC[machine] - 1, -1)]
    platforms = (f"--platform={name}_{machine}" for name in (*names, *_OLD_NAMES[machine]))
    return ("--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms)


def _pip(command: str, *options: str) -> None:
    subprocess.run((sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *options), check=True)


def _plain(name: str) -> str:
    """Return a name as all its spellings are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
