"""The ZooKeeper client: the only place that imports kazoo.

kazoo works in threads of its own; everything it has to say enters the event loop by `call_soon_threadsafe`. What this adds to kazoo:
a request is refused at once while there is no connection, instead of waiting in a queue; each result of a transaction is looked at;
a client is one session and never begins another by itself; a session can be left alive and taken up by another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from kazoo import exceptions as kz
from kazoo.client import KazooClient, TransactionRequest
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler
from kazoo.protocol.states import KazooState
from kazoo.security import ACL, Id

from gestalt.credentials import named

from .acl import OPEN, Acl, Perm, Right, acl_for, digest_id
from .ops import (
    MULTI_LIMIT,
    Check,
    Create,
    Delete,
    Op,
    SessionId,
    Set,
    Stat,
    ZkError,
    ZkRefused,
    ZkState,
    ZkUnavailable,
    ZkUnknown,
    check_size,
)
from .watches import Watch, Watches, tell

if TYPE_CHECKING:  # the fence has no room for pydantic
    from gestalt.config import TlsSettings, ZooKeeperSettings

__all__ = [
    "MULTI_LIMIT",
    "OPEN",
    "Acl",
    "Check",
    "Create",
    "Delete",
    "Op",
    "Perm",
    "Right",
    "SessionId",
    "Set",
    "Stat",
    "Watch",
    "Zk",
    "ZkError",
    "ZkRefused",
    "ZkState",
    "ZkUnavailable",
    "ZkUnknown",
    "acl_for",
    "digest_id",
    "reconfigure",
    "set_hosts",
]

log = logging.getLogger(__name__)

_RETRY = {"max_tries": -1, "delay": 0.05, "backoff": 2, "max_delay": 0.3}
_STATES = {KazooState.CONNECTED: ZkState.CONNECTED, KazooState.SUSPENDED: ZkState.SUSPENDED, KazooState.LOST: ZkState.LOST}
_REASONS: dict[type[Exception], str] = {
    kz.NodeExistsError: "exists",
    kz.NoNodeError: "missing",
    kz.BadVersionError: "version",
    kz.NotEmptyError: "not_empty",
    kz.NoAuthError: "denied",
    kz.AuthFailedError: "denied",
    kz.SessionExpiredError: "expired",
    kz.SessionMovedError: "expired",
    kz.NoChildrenForEphemeralsError: "ephemeral_parent",
    kz.NewConfigNoQuorumError: "no_quorum",
    kz.ReconfigInProcessError: "busy",
    kz.ReconfigDisabledError: "disabled",
    kz.UnimplementedError: "disabled",
    kz.BadArgumentsError: "arguments",
}
_BYSTANDERS = (kz.RolledBackError, kz.RuntimeInconsistency)
_CUT = (kz.ConnectionLoss, kz.ConnectionClosedError, kz.OperationTimeoutError, kz.RequestTimeoutError)


class Zk:
    """One session with ZooKeeper. All methods belong to the event loop that connected it.

    `state`, `session`, `timeout` (negotiated, in seconds), `hosts` and `default_acl` are for reading.
    Writes raise `ZkUnavailable`, `ZkUnknown` or `ZkRefused`; reads `ZkUnavailable` or `ZkRefused` ("denied", "expired").
    """

    def __init__(self, client: _Client, default_acl: Acl, name: str, on_state: Callable[[ZkState], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self.default_acl = default_acl
        self._name = name
        self._on_state = on_state
        self._connected = asyncio.Event()
        self._told = False
        self._watches = Watches(name, self._connected)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"zk-{name}")
        self._ended: asyncio.Future[None] | None = None
        self._patience = 0.0
        self.hosts: tuple[str, ...] = ()
        self.state = ZkState.SUSPENDED
        self.session = SessionId(0, b"")
        self.timeout = 0.0

    @classmethod
    async def connect(
        cls,
        settings: ZooKeeperSettings,
        *,
        session: float,
        name: str,
        resume: SessionId | None = None,
        limit: float = 10.0,
        on_state: Callable[[ZkState], None] | None = None,
        acl: Acl = (),
    ) -> Self:
        """Begin a session, or take one up.

        Args:
            settings: where and as whom.
            session: seconds after which the servers end the session of a client that is gone; they may negotiate another (`timeout`).
            name: for logs and threads.
            resume: a session to take up. If it is over, a new one begins: then `Zk.session` is another than this.
            limit: seconds to try.
            on_state: called in the event loop at every change after this has returned.
            acl: who else may do what with the znodes that this client makes: by default its own identity alone, or anybody if it has none.

        Raises:
            ZkUnavailable: no server answered within the limit, or the secret cannot be read.
        """
        identity = _identity(settings)
        default_acl = ((Right(digest_id(*identity), Perm.ALL),) if identity else OPEN) + acl
        last = _LastWord(name)
        client = _Client(
            hosts=",".join(settings.hosts),
            timeout=session,
            client_id=(resume.id, resume.password) if resume else None,
            handler=_Handler(settings.tls, session / len(settings.hosts)),
            auth_data=[("digest", ":".join(identity))] if identity else None,
            connection_retry=_RETRY,
            logger=last.logger,
            use_ssl=settings.tls is not None,
        )
        zk = cls(client, default_acl, name, on_state)
        zk._patience, zk.hosts = session, tuple(settings.hosts)
        try:
            await zk._begin(limit)
        except BaseException as error:  # who is cancelled, too, leaves no client behind
            word = f": {last.text}" if last.text else ""
            await asyncio.shield(zk.close(keep_session=resume is not None))
            if isinstance(error, TimeoutError):
                raise ZkUnavailable(f"no ZooKeeper at {', '.join(settings.hosts)} answered within {limit:g} s{word}") from None
            raise
        return zk

    async def multi(self, ops: Sequence[Op]) -> list[str | Stat | None]:
        """Carry out all operations as one transaction, or none.

        Returns:
            For each operation: the path made by `Create`, the new `Stat` for `Set`, None for the others.
        """
        if not ops:
            return []
        check_size(ops, self.default_acl)
        self._require_connection()
        request = TransactionRequest(self._client)
        for op in ops:
            _add(request, op, self.default_acl)
        try:
            results = await self._result(request.commit_async())
        except _CUT as error:
            raise ZkUnknown(f"the connection was lost before the answer ({type(error).__name__})") from error
        except kz.ZookeeperError as error:
            raise ZkRefused(0, _reason(error), ops[0].path) from error
        _inspect(ops, results)
        return [_outcome(result) for result in results]

    async def create(
        self, path: str, value: bytes = b"", *, ephemeral: bool = False, sequence: bool = False, acl: Acl | None = None
    ) -> str:
        """Make a znode and return its path."""
        (made,) = await self.multi([Create(path, value, ephemeral, sequence, acl)])
        assert isinstance(made, str)
        return made

    async def set(self, path: str, value: bytes, version: int = -1) -> Stat:
        (stat,) = await self.multi([Set(path, value, version)])
        assert isinstance(stat, Stat)
        return stat

    async def delete(self, path: str, version: int = -1) -> None:
        await self.multi([Delete(path, version)])

    async def get(self, path: str) -> tuple[bytes, Stat] | None:
        """Return a znode's value and state, None where there is none. It may be as old as the server is behind: see `sync`."""
        found = await self._read(path, lambda: self._client.get_async(path))
        return found and (found[0], _stat(found[1]))

    async def exists(self, path: str) -> Stat | None:
        found = await self._read(path, lambda: self._client.exists_async(path))
        return found and _stat(found)

    async def children(self, path: str) -> list[str]:
        """Return the names of a znode's children, sorted; none where the znode is missing."""
        found = await self._read(path, lambda: self._client.get_children_async(path))
        return sorted(found or ())

    async def sync(self, path: str) -> None:
        """Let the server catch up: what any client was told before this call is seen by our reads after it."""
        await self._read(path, lambda: self._client.sync_async(path))

    async def ensure(self, path: str) -> None:
        """Make a persistent znode and its parents where they are missing."""
        missing = []
        while path and not await self.exists(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        for each in reversed(missing):
            try:
                await self.create(each)
            except ZkRefused as refusal:
                if refusal.reason != "exists":
                    raise

    def watch(self, path: str, callback: Callable[[tuple[bytes, Stat] | None], None]) -> Watch:
        """Call back with the present value and state, and again after each change; None while there is no such znode.

        Several changes in a row may be told as one. The callback must not block; what it raises is logged.
        """
        return self._watches.start(path, partial(_look_at_value, self, path), callback)

    def watch_children(self, path: str, callback: Callable[[list[str]], None]) -> Watch:
        """Call back with the sorted names of the children, and again after each change; [] while there is no such znode."""
        return self._watches.start(path, partial(_look_at_children, self, path), callback)

    async def close(self, *, keep_session: bool = False) -> None:
        """End the session, and with it its ephemeral znodes; or leave it to expire, or to another process. Idempotent.

        Without a connection the session is left to expire in any case.
        """
        graceful = self.state is ZkState.CONNECTED and not keep_session
        if self._ended is None:
            self._enter(ZkState.LOST, told=False)
            self._ended = self._loop.run_in_executor(self._thread, _end, self._client, graceful)
            self._thread.shutdown(wait=False)
        await asyncio.shield(self._ended)

    # The session's life

    async def _begin(self, limit: float) -> None:
        self._client.add_listener(self._heard)
        async with asyncio.timeout(limit):
            self._client.start_async()
            while True:
                await self._connected.wait()
                with contextlib.suppress(ZkError):
                    await self.exists("/")  # from here on the identity is known to the server, and the time-out to us
                    break
        self.session = SessionId(*self._client.client_id or (0, b""))
        self.timeout = self._client.negotiated
        self._told = True
        log.info("%s: session %#x with a time-out of %g s", self._name, self.session.id, self.timeout)

    def _heard(self, state: str) -> None:
        """Pass on a change of state; called by kazoo, in its thread."""
        if state == KazooState.LOST:
            self._client._stopped.set()  # or kazoo begins another session
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._enter, _STATES[state])

    def _enter(self, state: ZkState, told: bool = True) -> None:
        if self.state in (state, ZkState.LOST):
            return
        self.state = state
        if state is ZkState.CONNECTED:
            self._connected.set()
        else:
            self._connected.clear()
        if state is ZkState.LOST:
            self._watches.close()
        if told and self._told:
            log.warning("%s: session %#x is %s", self._name, self.session.id, state.value)
            tell(self._name, self._on_state, state)

    # Requests

    def _require_connection(self) -> None:
        if self.state is ZkState.LOST:
            raise ZkUnavailable("the session with ZooKeeper is over")
        if self.state is not ZkState.CONNECTED or not self._client.connected:
            raise ZkUnavailable("there is no connection to ZooKeeper")

    async def _read(self, path: str, begin: Callable[[], Any]) -> Any:
        self._require_connection()
        try:
            return await self._result(begin())
        except kz.NoNodeError:
            return None
        except _CUT as error:
            raise ZkUnavailable(f"the connection was lost before the answer ({type(error).__name__})") from error
        except kz.ZookeeperError as error:
            raise ZkRefused(0, _reason(error), path) from error

    async def _result(self, pending: Any) -> Any:
        """Wait for a result of kazoo's without blocking."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle() -> None:
            if future.done():
                return
            if pending.successful():
                future.set_result(pending.value)
            else:
                future.set_exception(pending.exception)

        def in_threads(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(settle)

        pending.rawlink(in_threads)
        return await future


def set_hosts(zk: Zk, hosts: Sequence[str]) -> None:
    """Look for a server at these addresses from now on. The present connection stays."""
    zk.hosts = tuple(hosts)
    zk._client.set_hosts(",".join(hosts))
    zk._client.handler.patience = zk._patience / len(hosts)


async def reconfigure(zk: Zk, *, joining: Sequence[str] = (), leaving: Sequence[str] = ()) -> None:
    """Change which servers there are. `joining`: as lines "server.4=…"; `leaving`: their numbers.

    Raises:
        ZkRefused: "denied", "disabled", "no_quorum" (too few of the new servers are up and in step), "busy", "arguments".
        ZkUnavailable, ZkUnknown: as for writes.
    """
    zk._require_connection()
    try:
        await zk._result(zk._client.reconfig_async(",".join(joining), ",".join(leaving), None, -1))
    except _CUT as error:
        raise ZkUnknown(f"the connection was lost before the answer ({type(error).__name__})") from error
    except kz.ZookeeperError as error:
        raise ZkRefused(0, _reason(error), "/zookeeper/config") from error


def _add(request: TransactionRequest, op: Op, default_acl: Acl) -> None:
    match op:
        case Create():
            rights = default_acl if op.acl is None else op.acl
            acl = [ACL(int(right.perms), Id(*right.who.split(":", 1))) for right in rights]
            request.create(op.path, op.value, acl, op.ephemeral, op.sequence)
        case Set():
            request.set_data(op.path, op.value, op.version)
        case Delete():
            request.delete(op.path, op.version)
        case Check():
            request.check(op.path, op.version)


async def _look_at_value(zk: Zk, path: str, wake: Callable[[object], None]) -> tuple[bytes, Stat] | None:
    while True:
        found = await zk._read(path, lambda: zk._client.get_async(path, watch=wake))
        if found:
            return found[0], _stat(found[1])
        if not await zk._read(path, lambda: zk._client.exists_async(path, watch=wake)):
            return None


async def _look_at_children(zk: Zk, path: str, wake: Callable[[object], None]) -> list[str]:
    while True:
        found = await zk._read(path, lambda: zk._client.get_children_async(path, watch=wake))
        if found is not None:
            return sorted(found)
        if not await zk._read(path, lambda: zk._client.exists_async(path, watch=wake)):
            return []


class _Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """kazoo's client, but it remembers the time-out that was negotiated, in seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.negotiated = 0.0
        self._connection = _Connection(self, self._conn_retry.copy(), logger=self.logger)


class _Connection(ConnectionHandler):  # type: ignore[misc]
    def _connect(self, *where: Any) -> tuple[float, float]:
        read, connect = super()._connect(*where)
        self.client.negotiated = connect * len(self.client.hosts) / 1000
        return read, connect


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads and sockets, but TLS trusts the given CA alone and knows the server's name, and connecting takes a bounded time.

    A server that does not answer at all must leave time to try the others before the session is over.
    """

    def __init__(self, tls: TlsSettings | None, patience: float) -> None:
        super().__init__()
        self._tls = tls
        self.patience = patience

    def create_connection(self, address: tuple[str, int], hostname: str | None = None, **_: object) -> socket.socket:
        connection = socket.create_connection(address, timeout=self.patience)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(self._tls.ca))
                context.load_cert_chain(self._tls.certificate, self._tls.key)
                return context.wrap_socket(connection, server_hostname=hostname or address[0])
        except BaseException:  # whatever it is, no socket is left behind
            connection.close()
            raise
        return connection


class _LastWord(logging.Handler):
    """Keeps kazoo's last complaint. kazoo's debug messages hold secrets, so they are never made."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self.logger = logging.Logger(f"{__name__}.{name}", logging.WARNING)  # noqa: LOG001  # each client has its own
        self.logger.addHandler(self)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            log.error("%s", record.getMessage(), exc_info=record.exc_info)
        self.text = record.getMessage()
        log.debug("%s", self.text)


def _identity(settings: ZooKeeperSettings) -> tuple[str, str] | None:
    if not settings.identity or settings.secret_file is None:
        return None
    try:
        return settings.identity, settings.secret_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ZkUnavailable(f"the secret of {settings.identity}, {named(settings.secret_file)}, cannot be read: {error}") from error


def _reason(error: Exception) -> str:
    return next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), type(error).__name__)


def _inspect(ops: Sequence[Op], results: Sequence[object]) -> None:
    """Find the operation that made a transaction fail: kazoo returns exceptions, and one also for those that only failed with it."""
    errors = [(index, result) for index, result in enumerate(results) if isinstance(result, Exception)]
    if errors:
        index, error = next((pair for pair in errors if not isinstance(pair[1], _BYSTANDERS)), errors[0])
        raise ZkRefused(index, _reason(error), ops[index].path)


def _outcome(result: Any) -> str | Stat | None:
    if isinstance(result, str):
        return result
    return None if result is True else _stat(result)


def _stat(stat: Any) -> Stat:
    return Stat(stat.version, stat.czxid, stat.mzxid, stat.ephemeralOwner, stat.numChildren)


def _end(client: KazooClient, graceful: bool) -> None:
    """End a client, in a thread: by the protocol, or by dropping its connection."""
    if graceful and not client._stopped.is_set():
        client.stop()
    client._stopped.set()
    connection = client._connection
    while not connection.connection_stopped.wait(0.02):
        if connection._socket is not None:
            with contextlib.suppress(OSError):
                connection._socket.shutdown(socket.SHUT_RDWR)
    client.handler.stop()
    connection.stop()
    client.close()
