"""The request, the records, and what is to be read under /proc and /sys."""

# pathlib would cost a megabyte a process:
# ruff: noqa: PTH104, PTH110, PTH123
from __future__ import annotations

import os


class Request:
    """The fields of a request."""

    def __init__(self, data: bytes) -> None:
        self.fields = [os.fsdecode(field).partition("=")[::2] for field in data.split(b"\0") if field]

    def all(self, key: str) -> list[str]:
        return [value for name, value in self.fields if name == key]

    def one(self, key: str, default: str = "") -> str:
        return next(iter(self.all(key)), default)

    def number(self, key: str) -> int:
        return int(self.one(key, "0"))


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def try_write(path: str, text: str) -> None:
    """Write where the kernel may not have the file or may not let us."""
    try:
        write_text(path, text)
    except OSError:
        return


def reserve(name: str) -> None:
    """Have the room for a record on the disk, before it may be full."""
    with open(f".{name}", "wb") as file:
        file.write(b"\n" * 4096)
        os.fsync(file.fileno())


def record(name: str, fields: list[tuple[str, object]]) -> None:
    """Write a record of `key=value` lines, durably and never half."""
    text = "".join(f"{key}={' '.join(str(value).split())}\n" for key, value in fields)
    descriptor = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.ftruncate(descriptor, os.write(descriptor, text.encode(errors="replace")[:4096]))
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(f".{name}", name)
    descriptor = os.open(".", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def start_time(pid: int) -> str:
    return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]


def own_cgroups(unit: str) -> list[str]:
    """Return the folders of our own cgroups that belong to the unit alone."""
    folders = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for root in (controllers.removeprefix("name="), "unified", ""):
            folder = f"/sys/fs/cgroup/{root}{path}"
            if path.endswith(f"/{unit}") and os.path.exists(f"{folder}/cgroup.procs"):
                folders.append(os.path.normpath(folder))
                break
    return folders
