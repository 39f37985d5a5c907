"""Finds out which ports somebody else has before HAProxy is asked to listen on them, and who that is."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from .haproxy_config import Listener

_LISTENING = "0A"


def closed_ports(listeners: Sequence[Listener], ours: Iterable[int]) -> dict[int, str]:
    """Return the ports that cannot be had now, each with a sentence for people. Blocks; takes milliseconds.

    Args:
        listeners: what HAProxy is to listen on.
        ours: the processes of our own HAProxy; what they listen on already is no obstacle.
    """
    held = _held_ports(ours)
    found = {item.port: _obstacle(item) for item in listeners if item.port not in held}
    return {port: sentence for port, sentence in found.items() if sentence}


def _held_ports(pids: Iterable[int]) -> set[int]:
    """Return the TCP ports on which these processes listen."""
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    ports: set[int] = set()
    if not inodes:
        return ports
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[3] == _LISTENING and words[9] in inodes:
                ports.add(int(words[1].rsplit(":", 1)[1], 16))
    return ports


def _socket_inodes(pid: int) -> Iterable[str]:
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return  # it has just ended
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # closed since
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]


def _obstacle(listener: Listener) -> str:
    """Try to listen, the way HAProxy will; return what is in the way."""
    host = "0.0.0.0" if listener.address == "*" else listener.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, listener.port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {listener.port} ({listener.owner}) is taken by {_holder(listener.port)}"
            if error.errno in (errno.EACCES, errno.EADDRNOTAVAIL):
                return f"port {listener.port} ({listener.owner}) on {listener.address}: {error.strerror}"
            return ""  # no address at all, for instance: HAProxy itself says best what is wrong
    return ""


def _holder(port: int) -> str:
    """Return who listens there, for people."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                continue
    return "another program"
