"""The YAML of settings files, with the line of every field. Imports little: the fence reads its settings through it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from gestalt.errors import GestaltError, Kind


def read_document(path: Path, hint: str) -> tuple[yaml.Node | None, dict[Any, Any]]:
    """Return the document in `path`, as nodes for `line_of` and as values.

    Raises:
        GestaltError: NOT_FOUND with `hint` when it cannot be read, INVALID when it holds no settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GestaltError(Kind.NOT_FOUND, f"{path} cannot be read: {error}", hint=hint) from error
    try:
        node, document = yaml.compose(text, yaml.CSafeLoader), yaml.load(text, yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise GestaltError(Kind.INVALID, f"{path} is not YAML: {error}", hint="mind the indentation") from error
    if not isinstance(document, dict):
        raise GestaltError(Kind.INVALID, f"{path}: holds no settings, but {type(document).__name__}", hint="write one `name: value` a line")
    return node, document


def line_of(node: yaml.Node | None, place: Sequence[int | str]) -> int:
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
