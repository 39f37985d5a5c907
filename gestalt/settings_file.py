"""Settings files: YAML read into the models of `gestalt.config`, all mistakes told at once with file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gestalt.config import Settings
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.settings_document import line_of, read_document

S = TypeVar("S", bound=Settings)


def load_settings(path: Path, kind: type[S]) -> S:
    """Return the settings in `path`.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    node, document = read_document(path, "make it with: gestaltctl appliance init, or name another with --config")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        details = [_detail(path, node, kind, mistake) for mistake in error.errors()]
        lines = "\n".join(f"  {detail.field}: {detail.problem}" for detail in details)
        raise GestaltError(Kind.INVALID, f"{path} is not valid:\n{lines}", details=details) from error


def dump_settings(settings: Settings) -> str:
    """Return the YAML that `load_settings` reads back as the same settings; defaults are left out."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def _detail(path: Path, node: yaml.Node | None, kind: type[BaseModel], mistake: ErrorDetails) -> Detail:
    place = mistake["loc"]
    where = f"{path}:{line_of(node, place)}: {'.'.join(map(str, place)) or 'the whole file'}"
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
