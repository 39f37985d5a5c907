"""What a registry wants to know of us. The secrets are read when they are needed and never kept, logged or shown."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gestalt.plugin.runtime import LaunchRefused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEFAULT_REGISTRY = "docker.io"
_FIELDS = ("registry", "username", "password")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's full name: with a tag or a digest, always."""

    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        name, _, digest = text.partition("@")
        head, colon, tag = name.rpartition(":")
        if colon and "/" not in tag:
            return cls(head, "" if digest else tag, digest)
        return cls(name, "" if digest else "latest", digest)

    @property
    def registry(self) -> str:
        first, slash, _ = self.name.partition("/")
        return first if slash and (any(mark in first for mark in ".:") or first == "localhost") else _DEFAULT_REGISTRY

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def registry_header(folder: Path, name: str, image: Reference) -> dict[str, str]:
    """Return the header that carries the credentials called `name`.

    Raises:
        LaunchRefused: there are none, others could read them, or they are for another registry.
    """
    if not _NAME.fullmatch(name):
        raise LaunchRefused(f"credentials {name!r}: allowed are letters, digits, dots, dashes and underscores")
    document = _read(folder / f"{name}.json")
    if document["registry"] != image.registry:
        raise LaunchRefused(
            f"credentials {name!r} are for the registry {document['registry']}, the image {image} comes from {image.registry};"
            " they are not sent there"
        )
    auth = {"username": document["username"], "password": document["password"], "serveraddress": document["registry"]}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}


def _read(path: Path) -> dict[str, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchRefused(
            f"cannot read the credentials {path}: {error.strerror}; put {', '.join(_FIELDS)} there as JSON, mode 0600"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise LaunchRefused(f"others may read the credentials {path} (mode {mode:04o}); `chmod 600 {path}`")
        content = file.read()
    try:
        document = json.loads(content)
    except ValueError:
        document = None  # its text must not get into a message
    if not isinstance(document, dict) or not all(isinstance(document.get(field), str) for field in _FIELDS):
        raise LaunchRefused(f"the credentials {path} are not a JSON object with {', '.join(_FIELDS)}")
    return {field: document[field] for field in _FIELDS}
