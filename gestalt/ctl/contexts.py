"""The file of contexts: which clusters there are, and with which certificates to speak to them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gestalt.errors import Detail, GestaltError, Kind

APPLIANCE_FILE = Path("/etc/gestalt/client.yaml")

_EXAMPLE = "current: prod; contexts: prod: {coordinators: [host:7400], ca: ca.crt, certificate: me.crt, key: me.key}"
_NONE = (
    "on this machine: `gestaltctl appliance init` makes one; for another cluster write {path} with `current` and `contexts`, "
    "as docs/gestaltctl.md shows"
)
_ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Context:
    """One cluster: its coordinators and the PEM files to speak to them."""

    name: str
    coordinators: tuple[str, ...]
    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ContextFile:
    """What a file of contexts says. `current` may be empty or name a context that is not there."""

    path: Path
    contexts: dict[str, Context]
    current: str

    def choose(self, name: str) -> Context:
        """Return the context `name`, or the current one when it is empty.

        Raises:
            GestaltError: INVALID, with the names that there are.
        """
        wanted = name or self.current or (next(iter(self.contexts)) if len(self.contexts) == 1 else "")
        if wanted in self.contexts:
            return self.contexts[wanted]
        problem = f"no context {wanted!r} in {self.path}" if wanted else f"{self.path} names no current context"
        raise GestaltError(
            Kind.INVALID, problem, hint=f"choose one of: {', '.join(self.contexts) or 'none there'}; gestaltctl context use NAME"
        )


def find(config: str | None) -> Path:
    """Return the file to use: the one asked for, the user's own, or the appliance's."""
    chosen = config or os.environ.get("GESTALT_CONFIG")
    if chosen:
        return Path(chosen).expanduser()
    own = own_file()
    return own if own.exists() or not APPLIANCE_FILE.exists() else APPLIANCE_FILE


def own_file() -> Path:
    """Return where the user's own contexts are."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "gestalt" / "config.yaml"


def choose(config: str | None, name: str | None) -> Context:
    """Return the context that a command uses.

    Raises:
        GestaltError: there is no file, it is wrong, or it has no such context.
    """
    return load(find(config)).choose(name or os.environ.get("GESTALT_CONTEXT", ""))


def load(path: Path) -> ContextFile:
    """Read a file of contexts; relative paths in it count from its folder.

    Raises:
        GestaltError: it cannot be read, or something in it is wrong; all mistakes are told at once.
    """
    document = _read(path)
    problems: list[Detail] = []
    contexts: dict[str, Context] = {}
    entries = document.get("contexts") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        problems.append(Detail("contexts", "is missing", _EXAMPLE))
        entries = {}
    for name, entry in entries.items():
        context = _context(str(name), entry, path.parent, problems)
        if context:
            contexts[str(name)] = context
    if problems:
        raise GestaltError(Kind.INVALID, f"{path} is not a file of contexts", details=problems, hint="correct the file")
    return ContextFile(path, contexts, str(document.get("current") or ""))


def use(file: ContextFile, name: str) -> None:
    """Make `name` the current context in its file; everything else in the file, comments too, stays as it is.

    Raises:
        GestaltError: there is no such context, or the file may not be written.
    """
    from gestalt.files import write_atomic

    file.choose(name)
    text = file.path.read_text(encoding="utf-8")
    line = f"current: {_quoted(name)}"
    changed, count = re.subn(r"(?m)^current:.*$", lambda _: line, text, count=1)
    try:
        write_atomic(file.path, changed if count else f"{line}\n{text}", mode=file.path.stat().st_mode & 0o777)
    except OSError as error:
        hint = f"or choose it for each call: --context {name}, GESTALT_CONTEXT={name}"
        raise GestaltError(Kind.REFUSED, f"{file.path} cannot be written: {error.strerror}", hint=hint) from error


def save_coordinators(path: Path, name: str, addresses: Sequence[str]) -> bool:
    """Have a context list these coordinators; everything else in the file, comments too, stays as it is. Return whether it changed.

    Raises:
        GestaltError: INVALID, when there is no such context; REFUSED, when the file may not be written.
    """
    import yaml

    from gestalt.files import write_atomic

    context = load(path).choose(name)
    if not addresses or set(context.coordinators) == set(addresses):
        return False
    text = path.read_text(encoding="utf-8")
    node: Any = yaml.compose(text)
    for key in ("contexts", context.name, "coordinators"):
        node = next(value for known, value in node.value if known.value == key)
    first, last = node.value[0].start_mark.index, node.value[-1].end_mark.index
    if node.flow_style:
        written = ", ".join(map(json.dumps, addresses))
    else:
        written = f"\n{' ' * (node.start_mark.column)}- ".join(map(json.dumps, addresses))
    try:
        write_atomic(path, text[:first] + written + text[last:], mode=path.stat().st_mode & 0o777)
    except OSError as error:
        raise GestaltError(Kind.REFUSED, f"{path} cannot be written: {error.strerror}", hint="run this as the owner of the file") from error
    return True


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z][\w.-]*", name) and name not in {"true", "false", "null", "yes", "no"} else f'"{name}"'


def _read(path: Path) -> Any:
    import yaml

    try:
        return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe, in C
    except FileNotFoundError as error:
        raise GestaltError(Kind.INVALID, f"there is no file of contexts at {path}", hint=_NONE.format(path=path)) from error
    except (OSError, yaml.YAMLError) as error:
        raise GestaltError(Kind.INVALID, f"{path} cannot be read: {error}", hint="correct the file") from error


def _context(name: str, entry: Any, folder: Path, problems: list[Detail]) -> Context | None:
    where = f"contexts.{name}"
    if not isinstance(entry, dict):
        problems.append(Detail(where, "is not a section", _EXAMPLE))
        return None
    before = len(problems)
    known = ("coordinators", "ca", "certificate", "key")
    problems += [Detail(f"{where}.{field}", "is not known", ", ".join(known)) for field in entry if field not in known]
    coordinators: Any = entry.get("coordinators")
    if not isinstance(coordinators, list) or not coordinators or not all(_is_address(item) for item in coordinators):
        problems.append(Detail(f"{where}.coordinators", "is not a list of addresses", "host:port"))
    for field in known[1:]:
        if not isinstance(entry.get(field), str) or not entry[field]:
            problems.append(Detail(f"{where}.{field}", "is missing", "path of a PEM file"))
    if len(problems) > before:
        return None
    files = (folder / Path(entry[field]).expanduser() for field in known[1:])
    return Context(name, tuple(coordinators), *files)


def _is_address(item: object) -> bool:
    return isinstance(item, str) and _ADDRESS.fullmatch(item) is not None
