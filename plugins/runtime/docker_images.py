"""The images of a node: present when a launch needs them, gone when nobody has for long and room is short.

The Engine has no labels for pulled images, so a record beside the agent's data says which ones this driver pulled. Only those are
ever removed.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gestalt.config import AgentSettings
from gestalt.files import write_atomic
from gestalt.plugin.runtime import LaunchRefused, Progress
from gestalt.spec.schema import AppSpec
from gestalt.units import show_size

from .docker_credentials import Reference, registry_header
from .docker_engine import Engine
from .docker_pull import pull
from .docker_stream import ApiRefused

log = logging.getLogger(__name__)

RECORD = "docker-images.json"


@dataclass(slots=True)
class PulledImages:
    """Which images were pulled by us, by id, and in which order they were last used: a count that only grows, so no clock matters."""

    used: dict[str, int] = field(default_factory=dict)
    references: dict[str, set[str]] = field(default_factory=dict)
    uses: int = 0

    @classmethod
    def load(cls, path: Path) -> PulledImages:
        """Read the record; without a readable one nothing was pulled by us, so nothing is removed."""
        record = cls()
        try:
            for entry in json.loads(path.read_text(encoding="utf-8"))["images"]:
                record.used[str(entry["id"])] = int(entry["used"])
                record.references[str(entry["id"])] = {str(reference) for reference in entry["references"]}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot read %s (%s); the images that it named will not be removed by Gestalt", path, error)
            return cls()
        record.uses = max(record.used.values(), default=0)
        return record

    def render(self) -> str:
        images = [{"id": image, "used": use, "references": sorted(self.references[image])} for image, use in sorted(self.used.items())]
        return json.dumps({"images": images}, indent=1)

    def add(self, image: str, reference: str) -> None:
        self.references.setdefault(image, set()).add(reference)
        self.used.setdefault(image, 0)
        self.touch(image)

    def touch(self, image: str) -> None:
        if image in self.used:
            self.uses += 1
            self.used[image] = self.uses

    def drop(self, image: str) -> None:
        self.used.pop(image, None)
        self.references.pop(image, None)


@dataclass(slots=True)
class _Pull:
    """A pull under way, everyone who waits for it, and how far it is."""

    task: asyncio.Task[None] | None = None
    listeners: list[Progress] = field(default_factory=list)
    said: str = ""

    def tell(self, sentence: str) -> None:
        self.said = sentence
        for listener in tuple(self.listeners):
            listener(sentence)


class NodeImages:
    """Gives launches their images and collects garbage."""

    def __init__(self, engine: Engine, settings: AgentSettings) -> None:
        self._engine = engine
        self._settings = settings.docker
        self._path = settings.data_dir / RECORD
        self._record: PulledImages | None = None
        self._present: dict[str, str] = {}
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._removing = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="docker-images")

    def forget(self, reference: str | None = None) -> None:
        """Ask the Engine again what is present: an image (or any, if None) may have gone."""
        if reference is None:
            self._present.clear()
        else:
            self._present.pop(reference, None)

    async def prepare(self, spec: AppSpec, progress: Progress) -> None:
        """See `RuntimeDriver.prepare`. For an image that is known to be here this is a look into a dictionary."""
        if spec.pull.policy != "always" and await self._is_present(spec.image):
            return
        if spec.pull.policy == "never":
            raise LaunchRefused(f"the image {spec.image} is not on this node, and the pull policy is `never`: load or build it here")
        await self._share_pull(spec, progress)

    async def _is_present(self, reference: str) -> bool:
        async with self._removing:  # what is being removed right now is not present
            if reference not in self._present:
                try:
                    image = await self._engine.image(reference)
                except ApiRefused as refused:
                    raise LaunchRefused(f"the image name {reference!r} is not valid: {refused.message}") from refused
                if image is None:
                    return False
                self._present[reference] = str(image["Id"])
            (await self._pulled()).touch(self._present[reference])
            return True

    async def _share_pull(self, spec: AppSpec, progress: Progress) -> None:
        key = (spec.image, spec.pull.credentials)
        shared = self._pulls.get(key)
        if shared is None:
            shared = self._pulls[key] = _Pull()
            nobodys = contextvars.Context()  # others may come to wait for it, too
            shared.task = asyncio.create_task(self._pull(spec, shared.tell), name=f"pull {spec.image}", context=nobodys)
        assert shared.task is not None
        shared.listeners.append(progress)
        if shared.said:
            progress(shared.said)
        try:
            await asyncio.shield(shared.task)
        finally:
            shared.listeners.remove(progress)
            if self._pulls.get(key) is shared and (shared.task.done() or not shared.listeners):
                del self._pulls[key]
                shared.task.cancel()  # nobody waits for it any more; no effect when it is done

    async def _pull(self, spec: AppSpec, tell: Progress) -> None:
        image, headers = Reference.parse(spec.image), {}
        if spec.pull.credentials:
            headers = await asyncio.get_running_loop().run_in_executor(
                self._writer, registry_header, self._settings.credentials_dir, spec.pull.credentials, image
            )
        before = await self._engine.image(spec.image)
        await pull(self._engine, image, headers, tell)
        after = await self._engine.image(spec.image)
        if after is None:
            raise LaunchRefused(f"the image {image} was removed by someone right after its pull")
        record = await self._pulled()
        record.touch(str(after["Id"]))
        if before is None or before["Id"] != after["Id"]:
            record.add(str(after["Id"]), str(image))
            await self._save(record)
        self._present[spec.image] = str(after["Id"])

    async def collect_garbage(self, in_use: Sequence[AppSpec]) -> int:
        """Above the high mark, remove what we pulled, oldest use first, until below the low mark; return the bytes freed.

        Sizes are those that `docker images` shows: layers that images share count for each.
        """
        record = await self._pulled()
        began = record.uses
        images = {str(image["Id"]): image for image in await self._engine.images()}
        for gone in record.used.keys() - images.keys():
            record.drop(gone)
        needed = await self._needed(in_use)
        candidates = [image for image in sorted(record.used, key=record.used.__getitem__) if image not in needed]
        total = sum(int(images[image]["Size"]) for image in record.used)
        freed = 0
        if total > self._settings.image_high_water:
            for image in candidates:
                if total - freed <= self._settings.image_low_water:
                    break
                freed += await self._remove(images[image], record, began)
        for image in sorted(needed):
            record.touch(image)
        await self._save(record)
        return freed

    async def close(self) -> None:
        """Stop the pulls and the writer of the record."""
        for shared in tuple(self._pulls.values()):
            assert shared.task is not None
            shared.task.cancel()
        self._writer.shutdown(wait=False)

    async def _needed(self, in_use: Sequence[AppSpec]) -> set[str]:
        """Return the ids of the images that any container has, ours or not, and of those that the specs name."""
        needed = {str(container["ImageID"]) for container in await self._engine.containers()}
        for reference in {spec.image for spec in in_use if spec.image}:
            image = await self._engine.image(reference)
            if image is not None:
                needed.add(str(image["Id"]))
        return needed

    async def _remove(self, image: Mapping[str, Any], record: PulledImages, began: int) -> int:
        """Remove one image unless someone else gave it a name, or a launch asked for it meanwhile; return its size, or 0."""
        name = str(image["Id"])
        tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
        async with self._removing:
            if record.used[name] > began or not record.references[name].issuperset(tags):
                return 0
            self._present.clear()
            try:
                for reference in tags or [name]:
                    await self._engine.remove_image(reference)
            except ApiRefused as refused:
                log.info("image %s stays: %s", tags or name, refused.message)
                return 0
        log.info("removed the image %s (%s): not used for longest, and room is short", tags or name, show_size(int(image["Size"])))
        record.drop(name)
        return int(image["Size"])

    async def _pulled(self) -> PulledImages:
        if self._record is None:
            loaded = await asyncio.get_running_loop().run_in_executor(self._writer, PulledImages.load, self._path)
            self._record = self._record or loaded
        return self._record

    async def _save(self, record: PulledImages) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writer, partial(write_atomic, self._path, record.render(), mode=0o600))
