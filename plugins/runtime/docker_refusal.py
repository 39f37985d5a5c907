"""The Engine's complaints, told to an operator. Pure.

An answer of the Engine is definite: it is a refusal, unless it names a condition that passes.
"""

from __future__ import annotations

import re

from gestalt.plugin.runtime import DriverUnavailable, LaunchRefused, PortTaken

_PASSING = (
    "failed to create endpoint",  # the bridge or the firewall of the node is broken, not the app
    "driver failed programming external connectivity",
    "context deadline exceeded",
    "context canceled",
    "connection refused",
    "connection reset",
    "transport is closing",
    "shutting down",
    "no space left on device",
    "resource temporarily unavailable",
    "cannot allocate memory",
    "too many open files",
    "device or resource busy",
    "i/o timeout",
    "is marked for removal",
    "removal of container",
    "no such container",
)
_NOISE = (
    re.compile(r"^(?:OCI runtime (?:create|exec|start) failed|failed to create shim task|failed to create task for container): "),
    re.compile(r"^runc (?:create|run|exec) failed: "),
    re.compile(r"^unable to start container process: "),
    re.compile(r"^exec failed: "),
    re.compile(r"^container_linux\.go:\d+: "),
    re.compile(r"^starting container process caused: "),
    re.compile(r"^(?:process|rootfs)_linux\.go:\d+: "),
    re.compile(r"^container init caused: "),
    re.compile(r"^driver failed programming external connectivity on endpoint \S+ \(\w+\): "),
    re.compile(r"^Error response from daemon: "),
    re.compile(r": unknown\s*$"),
)
_TAKEN = re.compile(r"port is already allocated|address already in use|ports are not available")
_ENDPOINT = re.compile(r"(\[?[0-9a-fA-F:.]+\]?):(\d+)(?:/\w+)?:? ?(?=failed|bind|$)")
_MISSING_FOLDER = re.compile(r"bind source path does not exist: (.+)$")


def clean(message: str) -> str:
    """Return the Engine's sentence without the names of the layers that it went through."""
    text = " ".join(message.split())
    while True:
        shorter = text
        for noise in _NOISE:
            shorter = noise.sub("", shorter)
        if shorter == text:
            return text
        text = shorter


def refusal(message: str) -> LaunchRefused | DriverUnavailable:
    """Return what to raise for the Engine's complaint about creating or starting a container."""
    text = clean(message)
    if _TAKEN.search(text):
        return _port_taken(text)
    if folder := _MISSING_FOLDER.search(text):
        return LaunchRefused(f"host path {folder[1]} does not exist on this node; create it (or mount it) there, Gestalt never does")
    if "cannot assign requested address" in text:
        return LaunchRefused(f"the agent's `address` is not one of this node: {text}")
    if any(passing in message.lower() for passing in _PASSING):
        return DriverUnavailable(f"Docker could not start it now: {text}")
    if "no such image" in text.lower():
        return LaunchRefused(f"the image is not on this node: {text}")
    return LaunchRefused(f"Docker refuses: {text}")


def _port_taken(text: str) -> PortTaken:
    endpoint = _ENDPOINT.search(text)
    where = f"host port {endpoint[2]} of {endpoint[1]}" if endpoint else "a host port"
    message = f"{where} is taken by something else on this node (`ss -lntup` there shows it; Docker says: {text})"
    return PortTaken(message, int(endpoint[2]) if endpoint else 0)
