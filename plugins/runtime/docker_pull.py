"""One pull of one image, with its progress as sentences."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from gestalt.clock import monotonic
from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused
from gestalt.units import show_size

from .docker_credentials import Reference
from .docker_engine import Engine
from .docker_refusal import clean
from .docker_stream import ApiRefused, Request, Stream

_SILENCE = 120.0
_EVERY = 0.5
_UNAUTHORISED = (
    "unauthorized", "no basic auth credentials", "authentication required", "access denied", "denied:", "incorrect username or password",
    "403 forbidden", "401 unauthorized",
)  # fmt: skip
_ABSENT = ("manifest unknown", "not found", "name unknown", "does not exist", "no matching manifest", "invalid reference format")
_UNTRUSTED = ("server gave http response to https client", "x509:", "certificate")
_READY = ("Pull complete", "Already exists")


class PullProgress:
    """Adds up what the Engine says of single layers."""

    def __init__(self, image: Reference) -> None:
        self._image = image
        self._layers: dict[str, str] = {}
        self._bytes: dict[str, tuple[int, int]] = {}

    def feed(self, message: Mapping[str, Any]) -> str:
        """Take one message of the Engine in and return the sentence that is true now."""
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        detail = message.get("progressDetail") or {}
        if layer and layer != self._image.tag:
            self._layers[layer] = status
            if status == "Downloading" and detail.get("total"):
                self._bytes[layer] = (int(detail.get("current") or 0), int(detail["total"]))
            elif status in ("Download complete", "Pull complete") and layer in self._bytes:
                self._bytes[layer] = (self._bytes[layer][1],) * 2
        return self.sentence()

    def sentence(self) -> str:
        done, total = (sum(column) for column in zip(*self._bytes.values(), strict=True)) if self._bytes else (0, 0)
        ready = sum(status in _READY for status in self._layers.values())
        parts = [f"{done * 100 // total} % of {show_size(total)}"] if total else []
        parts += [f"{ready} of {len(self._layers)} layers"] if self._layers else []
        return f"pulling {self._image}" + (f": {', '.join(parts)}" if parts else "")


async def pull(engine: Engine, image: Reference, headers: Mapping[str, str], progress: Callable[[str], None]) -> None:
    """Pull; cancelling it ends the pull at the Engine.

    Raises:
        LaunchRefused: the image is absent, or the registry does not let us.
        DriverUnavailable: the Engine or the registry does not answer.
    """
    progress(f"pulling {image}")
    query = {"fromImage": image.name, "tag": image.digest or image.tag}
    try:
        stream = await engine.stream(Request("POST", "/images/create", query, headers=headers), limit=_SILENCE)
        try:
            await _read(stream, PullProgress(image), progress)
        finally:
            await stream.close()
    except ApiRefused as refused:
        raise pull_error(image, refused.message, with_credentials=bool(headers)) from refused
    except TimeoutError as error:
        raise DriverUnavailable(
            f"the pull of {image} stood still for {_SILENCE:g} s; is the registry {image.registry} slow or gone?"
        ) from error


async def _read(stream: Stream, layers: PullProgress, progress: Callable[[str], None]) -> None:
    lines, said, last = stream.lines(), "", 0.0
    while (line := await asyncio.wait_for(anext(lines, None), _SILENCE)) is not None:
        message = json.loads(line)
        if error := message.get("error"):
            raise ApiRefused(0, str(error))
        sentence = layers.feed(message)
        if sentence != said and monotonic() - last >= _EVERY:
            said, last = sentence, monotonic()
            progress(sentence)
    progress(layers.sentence())


def pull_error(image: Reference, message: str, *, with_credentials: bool) -> LaunchRefused | DriverUnavailable:
    """Return what to raise for the Engine's complaint about a pull."""
    text = clean(message)
    lowered = text.lower()
    if any(sign in lowered for sign in _UNAUTHORISED):
        what = "are its credentials right?" if with_credentials else "name credentials in `pull.credentials` if it needs any"
        return LaunchRefused(f"the registry {image.registry} does not let us pull {image}: {what} (it says: {text})")
    if any(sign in lowered for sign in _ABSENT):
        return LaunchRefused(f"there is no image {image} in the registry {image.registry} (it says: {text})")
    if any(sign in lowered for sign in _UNTRUSTED):
        return LaunchRefused(
            f"Docker does not trust the registry {image.registry}; see its `insecure-registries` and certs.d (it says: {text})"
        )
    return DriverUnavailable(f"the registry {image.registry} does not answer for {image}: {text}")
