"""From an appliance to the first machine of a cluster: the same ids, authority and data folders, so that what runs goes on.

The appliance's coordinator.yaml makes room for that of a cluster last: until then the machine is still an appliance, and the next call does
everything again. The old files are kept beside the new ones, ending in `.appliance`.
"""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gestalt.appliance.init import USER_NAME, Made
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.files import write_atomic
from gestalt.pki import AUTHORITY_KEY, encrypt_key
from gestalt.settings_file import load_settings

from .layout import ClusterLayout
from .names import check_name
from .secrets import ensure_secret, read_secret
from .settings import at, tls_of, yaml_of

if TYPE_CHECKING:
    from .init import InitOptions

SUFFIX = ".appliance"


def take_over(layout: ClusterLayout, options: InitOptions) -> tuple[list[Made], InitOptions]:
    """Make room for a cluster's settings where an appliance is; return what was changed, and the options with the appliance's ids.

    Raises:
        GestaltError: NOT_FOUND, when there is no appliance; REFUSED, while its coordinator runs; INVALID, when its settings are.
        OSError: a file could not be written; the next call goes on.
    """
    old = _beside(layout.coordinator_settings)
    coordinator = load_settings(layout.coordinator_settings if layout.coordinator_settings.exists() else old, CoordinatorSettings)
    agent = load_settings(layout.agent_settings, AgentSettings)
    check_name("node_name in agent.yaml", agent.node_name)
    options = replace(options, name=agent.node_name, cluster_id=coordinator.cluster_id)
    if coordinator.mode == "cluster":
        return [], options
    _refuse_running(coordinator.store.path)
    ensure_secret(layout.passphrase, layout.coordinator_owner)
    encrypt_key(layout.pki / AUTHORITY_KEY, read_secret(layout.passphrase).encode(), layout.coordinator_owner)
    api = at(options.address, options.api_port)
    context = {"coordinators": [api], **tls_of(layout, USER_NAME)}
    contexts = {"current": "cluster", "contexts": {**_contexts(layout.client_settings), "cluster": context}}
    document = yaml.safe_load(layout.agent_settings.read_text(encoding="utf-8"))
    document |= {"coordinators": [api], "fence": str(layout.fence_socket), "address": options.address}
    AgentSettings.model_validate(document)
    made = [_rewritten(layout.agent_settings, document), _rewritten(layout.client_settings, contexts)]
    _keep(layout.coordinator_settings)
    layout.coordinator_settings.unlink(missing_ok=True)
    return made, options


def _beside(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _rewritten(path: Path, document: dict[str, Any]) -> Made:
    _keep(path)
    write_atomic(path, yaml_of(document))
    return Made(path, made=True, note=f"the old one is {_beside(path).name}")


def _contexts(path: Path) -> dict[str, Any]:
    """Return the contexts of the client's file, but for that of the appliance, which is no more."""
    document = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = document.get("contexts", {}) if isinstance(document, dict) else {}
    return {name: context for name, context in found.items() if name != "appliance"}


def _keep(path: Path) -> None:
    """Keep a copy of an appliance's file; the first one, should this be called again."""
    copy = _beside(path)
    if path.exists() and not copy.exists():
        write_atomic(copy, path.read_bytes(), mode=path.stat().st_mode & 0o777)


def _refuse_running(database: Path) -> None:
    lock = database.with_name(f"{database.name}.lock")
    if not lock.exists():
        return
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GestaltError(
                Kind.REFUSED,
                "the coordinator of the appliance still runs",
                hint="`gestaltctl cluster export FILE` first, then stop it; the instances go on",
            ) from None
