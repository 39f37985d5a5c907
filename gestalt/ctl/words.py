"""What tables say about instances, apps and times, in as few words as possible."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gestalt.units import show_duration, show_size

from .shapes import word
from .style import one_line

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from gestalt.proto.v1 import model_pb2


def subject_of(task: model_pb2.Task) -> str:
    """Return what a task is about: the path of an app, a node, or the cluster."""
    return task.app or (f"node {task.node}" if task.node else "the cluster")


def phase(instance: model_pb2.Instance) -> str:
    """Return the phase; that of an instance of which no agent has spoken yet follows from its placement."""
    said = word(instance.observed, "phase") if instance.HasField("observed") else "unknown"
    if said == "unknown":
        return "placed" if instance.node else "pending"
    return said


def health(instance: model_pb2.Instance) -> str:
    """Return the health, or that the node is out of reach, which matters more."""
    reach = word(instance, "reachability")
    return reach if reach in {"unreachable", "lost"} else word(instance.observed, "health")


def ports(instance: model_pb2.Instance, *, wide: bool) -> str:
    """Return `host port->container port` of each port; `wide` adds name and address."""
    address = f"{instance.address}:" if wide and instance.address else ""
    return ",".join(
        f"{binding.name + '=' if wide and binding.name else ''}{address}{binding.host_port}->{binding.container_port}"
        f"{'/udp' if binding.protocol == 'udp' else ''}"
        for binding in instance.ports
    )


def why(instance: model_pb2.Instance, limit: int = 0) -> str:
    """Return why an instance is not simply one of those that run and are healthy; empty for one that is."""
    seen = instance.observed
    parts = []
    if seen.crash_loop:
        parts.append("crash loop")
    if seen.oom_killed:
        parts.append("out of memory")
    if seen.HasField("exit_code") and not seen.oom_killed and (phase(instance) != "running"):
        parts.append(f"exit code {seen.exit_code}")
    if seen.back_off > 0:
        parts.append(f"back-off, next attempt in {show_duration(seen.back_off)}")
    well = phase(instance) == "running" and health(instance) in {"healthy", "unknown"}
    if seen.reason and not well:
        parts.append(seen.reason)
    if not well:
        parts += [f"check {check.name}: {check.output}" for check in seen.checks if word(check, "health") == "unhealthy"]
    if instance.canary:
        parts.insert(0, "canary")
    if instance.stopping and phase(instance) not in {"stopping", "stopped"}:
        parts.append("is to stop")
    return one_line(", ".join(parts), limit)


def age(instance: model_pb2.Instance) -> str:
    """Return for how long the instance has been in its phase."""
    return show_duration(instance.observed.age) if instance.HasField("observed") else ""


def usage(instance: model_pb2.Instance) -> tuple[str, str]:
    """Return the cores and the memory that an instance uses."""
    if not instance.HasField("usage"):
        return "-", "-"
    return f"{instance.usage.cpu:.2f}", show_size(instance.usage.memory)


def when(at: Timestamp) -> str:
    """Return a moment in local time, to the second; empty when it was never set."""
    if not at.seconds:
        return ""
    return datetime.fromtimestamp(at.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def since(at: Timestamp) -> str:
    """Return how long ago a moment was."""
    if not at.seconds:
        return ""
    return show_duration(max(datetime.now(UTC).timestamp() - at.seconds, 0.0))
