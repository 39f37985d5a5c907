"""The client's end of a bidirectional stream, as far as we use it; grpc.aio's own has no types."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it
"""What `read` returns when the other side ended the stream in order."""


class Call(Protocol):
    """`read` and `write` raise AioRpcError when the stream broke, `write` also InvalidStateError when it is over."""

    async def read(self) -> Any: ...

    async def write(self, message: Any) -> None: ...

    async def done_writing(self) -> None: ...

    async def code(self) -> grpc.StatusCode: ...

    async def details(self) -> str: ...

    def cancel(self) -> bool: ...


class Calls(Protocol):
    """The stub of the service Agents."""

    def Session(self) -> Call: ...  # noqa: N802 (the name on the wire)

    def Bulk(self) -> Call: ...  # noqa: N802
