"""Builds the demo's image from files that are on this machine: the Python that runs this, and `app.py`. Nothing is pulled."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

IMAGE = "gestalt-demo:1"
_LABEL = "gestalt.demo"
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo", "dist-packages", "site-packages", "pydoc_data"}
_LIBRARY = re.compile(r"(?:=>\s*)?(/\S+) \(0x[0-9a-f]+\)")


def build(socket: Path) -> None:
    """Have the image; one of an earlier demo is replaced, so that it always holds this checkout's app."""
    engine = docker.APIClient(base_url=f"unix://{socket}")
    try:
        repository, _, tag = IMAGE.partition(":")
        engine.import_image_from_data(_archive(), repository=repository, tag=tag, changes=[f"LABEL {_LABEL}=yes"])
        _remove(engine, {"dangling": True, "label": f"{_LABEL}=yes"})
    finally:
        engine.close()


def remove(socket: Path) -> None:
    """Remove every image that a demo built."""
    engine = docker.APIClient(base_url=f"unix://{socket}")
    try:
        _remove(engine, {"label": f"{_LABEL}=yes"})
    finally:
        engine.close()


def kill(socket: Path, container: str) -> None:
    """Kill a container from outside, as an accident would."""
    engine = docker.APIClient(base_url=f"unix://{socket}")
    try:
        engine.kill(container, signal="SIGKILL")
    finally:
        engine.close()


def _remove(engine: docker.APIClient, filters: dict[str, object]) -> None:
    for image in engine.images(filters=filters):
        try:
            engine.remove_image(image["Id"], force=len(image.get("RepoTags") or ()) > 1)
        except (APIError, ImageNotFound) as error:
            sys.stderr.write(f"an image of the demo stays: {error}\n")


def _archive() -> bytes:
    """Return a tar archive of a root folder: /python, its standard library, the shared libraries they need, and the app."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        python = Path(sys.executable).resolve()
        library = Path(sysconfig.get_path("stdlib"))
        extensions = sorted(library.glob("lib-dynload/*.so"))
        for path in sorted({python, *_shared_libraries([python, *extensions])}):
            archive.add(path.resolve(), arcname=str(path))
        archive.add(library, arcname=str(library), filter=_wanted)
        archive.add(Path(__file__).with_name("app.py"), arcname="/app.py")
        link = tarfile.TarInfo("/python")
        link.type, link.linkname = tarfile.SYMTYPE, str(python)
        archive.addfile(link)
    return buffer.getvalue()


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = Path(entry.name).name
    return None if name in _LEFT_OUT or name.startswith("config-") or name.endswith(".a") else entry


def _shared_libraries(files: list[Path]) -> Iterator[Path]:
    listed = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False)
    return (Path(found) for found in _LIBRARY.findall(listed.stdout))
