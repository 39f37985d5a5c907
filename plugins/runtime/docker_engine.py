"""The one module that imports `docker`: a thin asynchronous client of the Engine's API.

Calls that end are made with the SDK in a small pool of threads; those that have no end in sight are streams (`docker_stream`).
Every call has a time limit. A hung Engine costs at most the pool's threads for that long; what waits for a thread gives up at its
limit and leaves the queue.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import docker
import docker.errors
import requests
from docker.transport import UnixHTTPAdapter

from gestalt.plugin.runtime import DriverUnavailable

from .docker_stream import ApiRefused, Request, Stream, open_stream
from .docker_threads import CallThreads

T = TypeVar("T")

_THREADS = 12
_END_GRACE = 0.3
_NOT_FOUND = 404
_UNANSWERED = (requests.exceptions.RequestException, docker.errors.DockerException, OSError)


class _OnePool(UnixHTTPAdapter):
    """The SDK's adapter keeps a pool of connections for each URL, of which no two are alike; one for all is kept open and used."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        del url
        return super().get_connection("http+docker://localhost", proxies)


class _Connection:
    """How the Engine is called: with a limit, in a thread of the pool, in the API version that it speaks."""

    def __init__(self, socket: Path, limit: float) -> None:
        self._socket = socket
        self._limit = limit
        self._threads = CallThreads("docker", _THREADS)
        self._client: docker.APIClient | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the threads and connections; calls under way that do not end in a moment are left to themselves."""
        await self._threads.close(_END_GRACE)
        self.forget()

    def forget(self) -> None:
        """Agree on the API version anew with the next call: the Engine may have been replaced."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def stream(self, request: Request, limit: float | None = None) -> Stream:
        """Return the body of an endless answer; the limit is for its first byte."""
        return await open_stream(self._socket, request, limit or self._limit)

    async def _found(self, work: Callable[[Any], T]) -> T | None:
        try:
            return await self._call(work)
        except ApiRefused as refused:
            if refused.status == _NOT_FOUND:
                return None
            raise

    async def _call(self, work: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(self._limit):
                client = self._client or await self._connect()
                return await self._threads(lambda: work(client))
        except TimeoutError as error:
            raise DriverUnavailable(
                f"Docker did not answer within {self._limit:g} s; `systemctl status docker` tells whether dockerd hangs"
            ) from error
        except docker.errors.APIError as error:
            raise ApiRefused(error.status_code or 0, str(error.explanation or error)) from error
        except _UNANSWERED as error:
            raise DriverUnavailable(
                f"Docker does not answer at {self._socket} ({_reason(error)}); is dockerd running? `systemctl status docker` tells"
            ) from error

    async def _connect(self) -> docker.APIClient:
        """Ask for the Engine's API version and make the client that speaks it; the loop waits here, no thread does."""
        async with self._connecting:
            if self._client is None:
                answer = await self.stream(Request("GET", "/version", {}))
                try:
                    version = str(json.loads(b"".join([piece async for piece in answer.pieces()]))["ApiVersion"])
                except (ValueError, KeyError, TypeError) as error:
                    raise DriverUnavailable(f"what answers at {self._socket} is not Docker: it tells no API version") from error
                finally:
                    await answer.close()
                self._client = await self._threads(lambda: self._make_client(version))
            return self._client

    def _make_client(self, version: str) -> docker.APIClient:
        limit = cast("int", self._limit)  # the SDK's stubs know only whole seconds; a fraction works
        client = docker.APIClient(f"unix://{self._socket}", version=version, timeout=limit)
        client.trust_env = False  # neither proxies nor a netrc file concern a socket
        client.mount("http+docker://", _OnePool(f"http+unix://{self._socket}", limit, max_pool_size=_THREADS))
        return client


class Engine(_Connection):
    """The Engine behind one socket.

    Every method raises `ApiRefused` when the Engine answers with an error, and `DriverUnavailable` when it does not answer in time: the
    outcome is unknown then. Removing what is not there is success. The SDK's stubs leave half of its calls untyped, hence `Any` below.
    """

    async def version(self) -> dict[str, Any]:
        return await self._call(lambda client: dict(client.version()))

    async def info(self) -> dict[str, Any]:
        return await self._call(lambda client: dict(client.info()))

    async def containers(self, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the summaries of all containers that carry all these labels, ended ones included."""
        filters = {"label": [f"{name}={value}" for name, value in (labels or {}).items()]}
        return await self._call(lambda client: list(client.containers(all=True, filters=filters)))

    async def container(self, container: str) -> dict[str, Any] | None:
        """Return what the Engine knows of a container, by id or name."""
        return await self._found(lambda client: dict(client.inspect_container(container)))

    async def create(self, name: str, document: Mapping[str, Any]) -> str:
        return await self._call(lambda client: str(client.create_container_from_config(document, name)["Id"]))

    async def start(self, container: str) -> None:
        await self._call(lambda client: client.start(container))

    async def kill(self, container: str, signal: str) -> None:
        await self._call(lambda client: client.kill(container, signal))

    async def remove(self, container: str) -> None:
        """Remove a container with its anonymous volumes, killing it if it runs."""
        await self._found(lambda client: client.remove_container(container, v=True, force=True))

    async def image(self, reference: str) -> dict[str, Any] | None:
        return await self._found(lambda client: dict(client.inspect_image(reference)))

    async def images(self) -> list[dict[str, Any]]:
        return await self._call(lambda client: list(client.images()))

    async def remove_image(self, image: str) -> None:
        await self._found(lambda client: client.remove_image(image))

    async def volumes(self, labels: Mapping[str, str]) -> list[str]:
        """Return the names of all volumes that carry all these labels."""
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        return await self._call(lambda client: [str(volume["Name"]) for volume in client.volumes(filters)["Volumes"] or ()])

    async def remove_volume(self, name: str) -> None:
        await self._found(lambda client: client.remove_volume(name))

    async def exec_create(self, container: str, document: Mapping[str, Any]) -> str:
        return await self._call(lambda client: str(client.exec_create(container, **document)["Id"]))

    async def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        return await self._call(lambda client: dict(client.exec_inspect(exec_id)))

    async def exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        await self._call(lambda client: client.exec_resize(exec_id, rows, columns))


def _reason(error: BaseException) -> str:
    """Return the innermost cause: the libraries wrap it in several layers of text."""
    for cause in (error.__cause__, error.__context__):
        if cause is not None:
            return _reason(cause)
    return str(error) or type(error).__name__
