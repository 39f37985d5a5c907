"""Settings files: YAML read into the models of `gestalt.config`, all mistakes told at once with file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gestalt.config import Settings
from gestalt.errors import Detail, GestaltError, Kind

S = TypeVar("S", bound=Settings)


def load_settings(path: Path, kind: type[S]) -> S:
    """Return the settings in `path`.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GestaltError(
            Kind.NOT_FOUND, f"{path} cannot be read: {error}", hint="make it with: gestaltctl appliance init, or name another with --config"
        ) from error
    node, document = _parse(path, text)
    if not isinstance(document, dict):
        raise GestaltError(Kind.INVALID, f"{path}: holds no settings, but {type(document).__name__}", hint="write one `name: value` a line")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        details = [_detail(path, node, kind, mistake) for mistake in error.errors()]
        lines = "\n".join(f"  {detail.field}: {detail.problem}" for detail in details)
        raise GestaltError(Kind.INVALID, f"{path} is not valid:\n{lines}", details=details) from error


def dump_settings(settings: Settings) -> str:
    """Return the YAML that `load_settings` reads back as the same settings; defaults are left out."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def _parse(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    try:
        return yaml.compose(text, yaml.CSafeLoader), yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise GestaltError(Kind.INVALID, f"{path} is not YAML: {error}", hint="mind the indentation") from error


def _detail(path: Path, node: yaml.Node | None, kind: type[BaseModel], mistake: ErrorDetails) -> Detail:
    place = mistake["loc"]
    where = f"{path}:{_line(node, place)}: {'.'.join(map(str, place)) or 'the whole file'}"
    problem = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        return _unknown_field(where, kind, place)
    if mistake["type"] == "missing":
        problem = "is missing"
    return Detail(where, problem)


def _unknown_field(where: str, kind: type[BaseModel], place: Sequence[int | str]) -> Detail:
    known = _fields_at(kind, place[:-1])
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return Detail(where, f"is not a setting{guess}", allowed=", ".join(known))


def _fields_at(kind: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for part in place:
        inner = kind.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return sorted(kind.model_fields)


def _line(node: yaml.Node | None, place: Sequence[int | str]) -> int:
    """Return the line of the innermost part of `place` that the file holds."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
