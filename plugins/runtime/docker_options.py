"""What the Engine is told about an attempt: names, labels and the document of `docker create`. Pure.

Decisions, where the description leaves a choice:

- `command` replaces the image's ENTRYPOINT and `args` its CMD, as in Kubernetes and in Swarm's API.
- `cpu` is a share under contention (1024 a core), never a cap: idle cores are free for everyone, as in Nomad. `memory` is a hard limit,
  swap included. `disk` needs a storage driver with quotas and is not honoured here.
- All capabilities are dropped but those that the description keeps. An image whose entrypoint does chown, setuid or binds a port
  below 1024 needs CHOWN, SETUID/SETGID or NET_BIND_SERVICE in `security.capabilities`.
- The image's HEALTHCHECK runs only if the app has a check of kind `docker`: each run of one costs a process.
- With `read_only_root`, /tmp is a tmpfs (its content counts as the instance's memory).
- Missing host paths are refused, never created: an unmounted disk must not be mistaken for an empty one.
- The restart policy is always `no`: the agent decides.
"""

from __future__ import annotations

import hashlib
from typing import Any

from gestalt.config import AgentSettings
from gestalt.model import PortBinding
from gestalt.plugin.runtime import AttemptKey, Launch
from gestalt.spec.schema import AppSpec, Logging, Volume

LABEL_CLUSTER = "gestalt.cluster"
LABEL_NODE = "gestalt.node"
LABEL_INSTANCE = "gestalt.instance"
LABEL_ATTEMPT = "gestalt.attempt"
LABEL_APP = "gestalt.app"
LABEL_TEMPLATE = "gestalt.template"
LABEL_VERSION = "gestalt.version"

_SHARES_PER_CORE = 1024
_LEAST_SHARES = 2
_TMPFS = "rw,nosuid,nodev,exec,mode=1777"


def container_name(settings: AgentSettings, key: AttemptKey) -> str:
    """Return the name by which the Engine refuses a second start of the same attempt."""
    return f"gestalt-{settings.cluster_id[:8]}-{key.instance}-{key.attempt}"


def volume_name(settings: AgentSettings, app: str, name: str) -> str:
    """Return the Engine's name of an app's named volume; the same for all versions of the app."""
    return f"gestalt-{settings.cluster_id[:8]}-{hashlib.sha256(app.encode()).hexdigest()[:12]}-{name}"


def owner_labels(settings: AgentSettings) -> dict[str, str]:
    """Return the labels by which this node knows what is its own."""
    return {LABEL_CLUSTER: settings.cluster_id, LABEL_NODE: settings.node_id}


def container_document(settings: AgentSettings, launch: Launch, parent: str = "") -> dict[str, Any]:
    """Return the body of the Engine's create call. `parent`: the cgroup that the container's is to be in, empty = the Engine's own."""
    spec = launch.spec
    document: dict[str, Any] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in _environment(settings, launch).items()],
        "Labels": _labels(settings, launch),
        "ExposedPorts": {_port(binding): {} for binding in launch.ports},
        "StopSignal": spec.stop.signal,
        "User": spec.security.user,
        "WorkingDir": spec.workdir,
        "HostConfig": _host_config(settings, launch),
    }
    if spec.command:
        document["Entrypoint"] = list(spec.command)
    if spec.args:
        document["Cmd"] = list(spec.args)
    if not any(check.kind == "docker" for check in spec.checks):
        document["Healthcheck"] = {"Test": ["NONE"]}
    if parent:
        document["HostConfig"]["CgroupParent"] = parent
    return document


def _environment(settings: AgentSettings, launch: Launch) -> dict[str, str]:
    return {
        **launch.spec.env,
        **{f"PORT_{binding.name.upper().replace('-', '_')}": str(_inner_port(binding)) for binding in launch.ports},
        "GESTALT_APP": launch.app,
        "GESTALT_INSTANCE": launch.key.instance,
        "GESTALT_VERSION": str(launch.version),
        "GESTALT_ATTEMPT": str(launch.key.attempt),
        "GESTALT_NODE": settings.node_name,
    }


def _labels(settings: AgentSettings, launch: Launch) -> dict[str, str]:
    return {
        **launch.spec.labels,
        **owner_labels(settings),
        LABEL_INSTANCE: launch.key.instance,
        LABEL_ATTEMPT: str(launch.key.attempt),
        LABEL_APP: launch.app,
        LABEL_TEMPLATE: launch.template,
        LABEL_VERSION: str(launch.version),
    }


def _inner_port(binding: PortBinding) -> int:
    """Return where the app listens: without a container port of its own, on the number of the host port."""
    return binding.container_port or binding.host_port


def _port(binding: PortBinding) -> str:
    return f"{_inner_port(binding)}/{binding.protocol}"


def _host_config(settings: AgentSettings, launch: Launch) -> dict[str, Any]:
    spec = launch.spec
    bindings: dict[str, list[dict[str, str]]] = {}
    for binding in launch.ports:
        bindings.setdefault(_port(binding), []).append({"HostIp": settings.address, "HostPort": str(binding.host_port)})
    return {
        "RestartPolicy": {"Name": "no"},
        "PortBindings": bindings,
        "Mounts": [_mount(settings, spec, volume) for volume in spec.volumes],
        "LogConfig": _log_config(spec.logging),
        **_limits(spec),
        **_security(spec),
    }


def _limits(spec: AppSpec) -> dict[str, Any]:
    resources = spec.resources
    return {
        "CpuShares": max(_LEAST_SHARES, round(resources.cpu * _SHARES_PER_CORE)),
        "Memory": resources.memory,
        "MemorySwap": resources.memory,
        "PidsLimit": resources.pids or None,
        "Ulimits": [{"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in sorted(spec.ulimits.items())],
    }


def _security(spec: AppSpec) -> dict[str, Any]:
    security = spec.security
    own_tmp = any(volume.target.rstrip("/") == "/tmp" for volume in spec.volumes)  # noqa: S108
    return {
        "CapDrop": ["ALL"],
        "CapAdd": list(security.capabilities),
        "SecurityOpt": ["no-new-privileges"] if security.no_new_privileges else [],
        "ReadonlyRootfs": security.read_only_root,
        "Tmpfs": {"/tmp": _TMPFS} if security.read_only_root and not own_tmp else {},  # noqa: S108
    }


def _mount(settings: AgentSettings, spec: AppSpec, volume: Volume) -> dict[str, Any]:
    if volume.host_path:
        return {"Type": "bind", "Source": volume.host_path, "Target": volume.target, "ReadOnly": volume.read_only}
    labels = {LABEL_CLUSTER: settings.cluster_id, LABEL_NODE: settings.node_id, LABEL_APP: spec.path}
    return {
        "Type": "volume",
        "Source": volume_name(settings, spec.path, volume.name),
        "Target": volume.target,
        "ReadOnly": volume.read_only,
        "VolumeOptions": {"Labels": labels},
    }


def _log_config(logging: Logging) -> dict[str, Any]:
    if logging.driver == "none":
        return {"Type": "none"}
    return {"Type": "json-file", "Config": {"max-size": f"{logging.max_size}b", "max-file": str(max(1, logging.max_files))}}
