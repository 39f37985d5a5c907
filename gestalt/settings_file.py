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
from gestalt.settings_document import Document, read_document
from gestalt.units import parse_duration

S = TypeVar("S", bound=Settings)


def load_settings(path: Path, kind: type[S]) -> S:
    """Return the settings in `path` and its drop-ins.

    Raises:
        GestaltError: NOT_FOUND when it cannot be read, INVALID with one detail a mistake otherwise.
    """
    return validate(read_document(path, "make it with: gestaltctl appliance init, or name another with --config"), kind)


def validate(document: Document, kind: type[S]) -> S:
    """Return what a document says as settings.

    Raises:
        GestaltError: INVALID with one detail a mistake.
    """
    try:
        return kind.model_validate(document.values, context=kind.unit)
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
    if mistake["type"] == "missing":
        return "is missing"
    return mistake["msg"].removeprefix("Value error, ") + (" seconds" if _is_limit_of_time(kind, mistake) else "")


def _is_limit_of_time(kind: type[BaseModel], mistake: ErrorDetails) -> bool:
    """Whether a time was too long or too short; pydantic tells the limit as a mere number."""
    if mistake["type"] not in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return False
    *section, name = mistake["loc"]
    field = None if (model := _model_at(kind, section)) is None else model.model_fields.get(str(name))
    return field is not None and any(getattr(item, "func", None) is parse_duration for item in field.metadata)


def _fields_at(kind: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    model = _model_at(kind, place)
    return [] if model is None else sorted(model.model_fields)


def _model_at(kind: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel] | None:
    for part in place:
        if isinstance(part, int):  # of a list, whose model is known already
            continue
        if part not in kind.model_fields:
            return None
        annotation = kind.model_fields[str(part)].annotation
        inner = [item for item in (annotation, *get_args(annotation)) if isinstance(item, type) and issubclass(item, BaseModel)]
        if not inner:
            return None
        kind = inner[0]
    return kind
