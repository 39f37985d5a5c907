"""What servers of ours are made of, as a file of this machine: whether it can be read, and is what its name says."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from .hosts_file import ZooKeeperChoice
from .requirements import Finding, Level
from .rpm_header import read_header
from .zookeeper import Archive, read_archive_name

_CHUNK = 1024**2
_JAR = re.compile(r"lib/zookeeper(-[0-9][^/]*)?\.jar")
_HINT = "correct it in hosts.yaml (paths are meant from its folder), or put the file there"


def source_finding(choice: ZooKeeperChoice) -> Finding | None:
    """Return what is wrong with the archive or the package of ZooKeeper; None: nothing, or none is named. Reads all of an archive."""
    try:
        if choice.archive is not None:
            field, path, kind = "zookeeper.archive", choice.archive, "an archive of ZooKeeper"
            check_archive(path, read_archive_name(path.name))
        elif choice.package is not None:
            field, path, kind = "zookeeper.package", choice.package, "a package"
            with path.open("rb") as file:
                read_header(file)
    except OSError as error:
        return Finding(Level.ERROR, f"{field}: {path} cannot be read: {error.strerror or error}", _HINT)
    except ValueError as error:
        return Finding(Level.ERROR, f"{field}: {path} is not {kind}: {error}", _HINT)
    return None


def check_archive(path: Path, archive: Archive) -> None:
    """Refuse what could not be unpacked, or would not be the one folder with ZooKeeper's jars in it.

    Raises:
        ValueError: it is none, or not whole.
        OSError: it cannot be read.
    """
    has_jar = False
    try:
        with gzip.open(path) as content:
            with tarfile.open(fileobj=content, mode="r|") as tar:
                for entry in tar:
                    inner = _below(archive.folder, entry.name)
                    has_jar = has_jar or (entry.isfile() and _JAR.fullmatch(inner) is not None)
            while content.read(_CHUNK):  # the sum of all of it is at its end
                pass
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"it is damaged, or not whole ({error})") from error
    if not has_jar:
        raise ValueError(f"there is no {archive.folder}/lib/zookeeper-VERSION.jar in it")


def _below(folder: str, name: str) -> str:
    """Return the path of an entry below the one folder of its archive."""
    first, *parts = PurePosixPath(name).parts or ("",)
    if first != folder or ".." in parts:
        raise ValueError(f"{name!r} is in it, beside the folder {folder}")
    return "/".join(parts)
