"""/etc/gestalt/fence.yaml as the fence reads it: the fields, defaults and rules of `gestalt.config.FenceSettings`, without pydantic.

pydantic would be a third of the fence's memory. The file is written with `gestalt.config.FenceSettings`; a test keeps the two alike.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from gestalt.credentials import secret_path
from gestalt.settings_change import LIVE
from gestalt.settings_document import Place, read_document
from gestalt.units import parse_duration

_ROOT = re.compile(r"(/[A-Za-z0-9._-]+)+")
_HINT = "make it with: gestaltctl cluster init, or gestalt-agent join; or name another with --config"
_MISTAKE = object()

_LONGEST = {"session": 3600, "lease": 3600, "kill": 3600, "margin": 3600, "agent_grace": 30 * 86_400}
"""Seconds."""

WATCHDOG = "/dev/watchdog"

T = TypeVar("T")
SecretPath = Path
"""Of a file with a secret; may be a credential of systemd's."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files of mutual TLS."""

    ca: Path
    certificate: Path
    key: SecretPath


@dataclass(frozen=True, slots=True)
class ZooKeeperSettings:
    """How to reach ZooKeeper."""

    hosts: tuple[str, ...]
    root: str = "/gestalt"
    identity: str = ""
    secret_file: SecretPath | None = None
    tls: TlsSettings | None = None

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("hosts must name at least one server")
        if not _ROOT.fullmatch(self.root):
            raise ValueError(f"root ({self.root!r}) must be a path such as /gestalt")
        if bool(self.identity) != (self.secret_file is not None):
            raise ValueError("identity and secret_file go together: set both or none")


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """The times that decide about life and death; seconds."""

    session: float = 2.0
    lease: float = 8.0
    kill: float = 2.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        if min(self.session, self.lease, self.kill, self.margin) <= 0:
            raise ValueError("session, lease, kill and margin must be above 0")
        if not self.session <= self.lease:
            times = f"lease ({self.lease:g} s) must be at least session ({self.session:g} s)"
            raise ValueError(f"{times}: a lease outlives a short loss of ZooKeeper")
        if not self.kill + self.margin <= self.lease:
            raise ValueError(f"kill + margin ({self.kill + self.margin:g} s) must not exceed lease ({self.lease:g} s)")


@dataclass(frozen=True, slots=True)
class FenceSettings:
    """The whole file."""

    node_id: str
    node_name: str
    cluster_id: str
    zookeeper: ZooKeeperSettings
    timing: TimingSettings = TimingSettings()
    agent_grace: float = field(default=300.0, metadata={LIVE: True})
    failsafe: bool = False
    data_dir: Path = Path("/var/lib/gestalt/fence")
    socket: Path = Path("/run/gestalt/fence/fence.sock")
    watchdog: str = WATCHDOG
    log_level: str = field(default="info", metadata={LIVE: True})

    def __post_init__(self) -> None:
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ValueError(f"log_level ({self.log_level!r}) must be debug, info, warning or error")
        if self.watchdog and not self.watchdog.startswith("/"):
            raise ValueError(f'watchdog ({self.watchdog!r}) must be the path of a device, or "" for none')


def load_fence_settings(path: Path, kind: type[FenceSettings] = FenceSettings) -> FenceSettings:
    """Return the settings in `path` and its drop-ins.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    document = read_document(path, _HINT)
    mistakes: list[tuple[Place, str]] = []
    settings = _section(kind, document.values, (), mistakes)
    if mistakes:
        raise document.invalid(mistakes)
    return settings


def _section(kind: type[T], value: object, place: Place, mistakes: list[tuple[Place, str]]) -> T:
    """Read one section; what is wrong is added to `mistakes`, and then the result is not to be used."""
    if not isinstance(value, dict):
        mistakes.append((place, "is a section: write one `name: value` a line"))
        return cast(T, _MISTAKE)
    known = {item.name: item for item in fields(cast(Any, kind))}
    before = len(mistakes)
    mistakes += [((*place, str(name)), _unknown(str(name), known)) for name in value if name not in known]
    found = {}
    for name, item in known.items():
        if name in value:
            found[name] = _field(item, value[name], (*place, name), mistakes)
        elif item.default is MISSING:
            mistakes.append(((*place, name), "is missing"))
    if len(mistakes) > before:
        return cast(T, _MISTAKE)
    try:
        return kind(**found)
    except ValueError as error:
        mistakes.append((place, str(error)))
        return cast(T, _MISTAKE)


def _field(item: Field[Any], value: object, place: Place, mistakes: list[tuple[Place, str]]) -> object:
    """Read one field by its annotation."""
    annotation = str(item.type)
    if annotation.endswith(" | None"):
        if value is None:
            return None
        annotation = annotation.removesuffix(" | None")
    if (section := _SECTIONS.get(annotation)) is not None:
        return _section(section, value, place, mistakes)
    try:
        found = _READERS[annotation](value)
    except ValueError as error:
        mistakes.append((place, str(error)))
        return _MISTAKE
    if isinstance(found, float) and found > _LONGEST[item.name]:
        mistakes.append((place, f"Input should be less than or equal to {_LONGEST[item.name]} seconds"))
    return found


def _unknown(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return "is not a setting" + (f"; did you mean {close[0]!r}?" if close else "")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("should be a text; put it in quotes")  # noqa: TRY004 (as the other readers)
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError('should be a list: ["one", "two"]')  # noqa: TRY004 (as the other readers)
    return tuple(_text(item) for item in value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("should be true or false")  # noqa: TRY004 (as the other readers)
    return value


_SECTIONS: dict[str, type[Any]] = {
    "ZooKeeperSettings": ZooKeeperSettings,
    "TlsSettings": TlsSettings,
    "TimingSettings": TimingSettings,
}
_READERS: dict[str, Callable[[object], object]] = {
    "str": _text,
    "bool": _flag,
    "float": parse_duration,
    "Path": lambda value: Path(_text(value)),
    "SecretPath": lambda value: Path(str(secret_path(_text(value), "gestalt-fence"))),
    "tuple[str, ...]": _texts,
}
