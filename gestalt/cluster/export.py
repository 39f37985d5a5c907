"""Fetching an export from the leader into a file: whole and checked, or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic

from .export_file import Export, parse_export

if TYPE_CHECKING:
    from gestalt.client import Client

MODE = 0o600
"""Of the file: the state tells what runs where, with all settings of the apps."""


def check_target(path: Path, *, force: bool) -> None:
    """Refuse to overwrite a file that nobody spoke of.

    Raises:
        GestaltError: EXISTS; NOT_FOUND, when there is no such folder.
    """
    if path.exists() and not force:
        raise GestaltError(Kind.EXISTS, f"{path} exists", hint="choose another name, or add --force to replace it")
    if not path.absolute().parent.is_dir():
        raise GestaltError(Kind.NOT_FOUND, f"there is no folder {path.absolute().parent}", hint="make it first")


async def fetch_export(client: Client, progress: Callable[[int], None]) -> tuple[bytes, Export]:
    """Return the file, and what it holds. `progress` is told how many bytes have come.

    Raises:
        GestaltError: what the leader answered; what came is not whole.
    """
    from gestalt.proto.v1 import api_pb2

    content = bytearray()
    async for chunk in client.stream(lambda api: api.cluster.Export, api_pb2.ExportRequest()):
        content += chunk.data
        progress(len(content))
    return bytes(content), parse_export(bytes(content), "what the coordinator sent")


def write_export(target: Path | None, content: bytes) -> None:
    """Write the file in one step; None: to standard output.

    Raises:
        GestaltError: REFUSED, when it cannot be written; a file that was there is as it was.
    """
    if target is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        write_atomic(target, content, mode=MODE)
    except OSError as error:
        raise GestaltError(Kind.REFUSED, f"{target} cannot be written: {error.strerror}", hint="choose another place") from error
