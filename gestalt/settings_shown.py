"""Settings for people: each value, and where it comes from. Imports little, and takes models as well as the fence's dataclasses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gestalt.settings_document import Document, Place

DEFAULT = "default"


def flat(settings: Any) -> dict[Place, object]:
    """Return the value of every field by its place, as JSON knows it. Sections that are there are gone into, others are null."""
    document = settings.model_dump(mode="json") if hasattr(settings, "model_dump") else asdict(settings)
    return _flat(document, ())


def sources(settings: Any, document: Document) -> str:
    """Return a table of every field: its name, its value, and the file and line that said so."""
    rows = [(named(place), shown(value), document.source(place) or DEFAULT) for place, value in flat(settings).items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {source}\n" for name, value, source in rows)


def named(place: Place) -> str:
    """Return the name of a field with those of its sections: `docker.socket`."""
    return ".".join(map(str, place))


def shown(value: object) -> str:
    """Return a value as it may stand in a settings file."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _flat(value: Any, place: Place) -> dict[Place, object]:
    if isinstance(value, Path):
        return {place: str(value)}
    if not isinstance(value, dict) or (place and not value):
        return {place: value}
    return {inner: found for name, item in value.items() for inner, found in _flat(item, (*place, name)).items()}
