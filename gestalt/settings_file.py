"""Settings files with drop-ins: YAML read into the models of `gestalt.config`, all mistakes told at once with file, line and field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gestalt.config import Settings
from gestalt.settings_document import read_document

S = TypeVar("S", bound=Settings)


def load_settings(path: Path, kind: type[S]) -> S:
    """Return the settings in `path` and its drop-ins.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    document = read_document(path, "make it with: gestaltctl appliance init, or name another with --config")
    try:
        return kind.model_validate(document.values)
    except ValidationError as error:
        raise document.invalid([(mistake["loc"], _problem(kind, mistake)) for mistake in error.errors()]) from error


def dump_settings(settings: Settings) -> str:
    """Return the YAML that `load_settings` reads back as the same settings; defaults are left out."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def _problem(kind: type[BaseModel], mistake: ErrorDetails) -> str:
    if mistake["type"] == "extra_forbidden":
        *section, name = mistake["loc"]
        known = _fields_at(kind, section)
        close = difflib.get_close_matches(str(name), known, n=1)
        return "is not a setting; " + (f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}")
    return "is missing" if mistake["type"] == "missing" else mistake["msg"].removeprefix("Value error, ")


def _fields_at(kind: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for part in place:
        annotation = kind.model_fields[str(part)].annotation
        inner = [item for item in (annotation, *get_args(annotation)) if isinstance(item, type) and issubclass(item, BaseModel)]
        if not inner:
            return []
        kind = inner[0]
    return sorted(kind.model_fields)
