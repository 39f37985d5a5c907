"""The documented JSON shape of every message: its own field names, everything present, nothing in a surprising type.

Enums are lower-case words, times RFC 3339 or null, parts that are not set null, sizes bytes, durations seconds.
"""

from __future__ import annotations

import json
from typing import Any, cast

from google.protobuf.message import Message

from gestalt.descriptors import is_repeated


def shape(message: Message) -> dict[str, Any]:
    """Return the shape of a message; every field is there, in the order of the contract."""
    descriptor = cast(Any, message.DESCRIPTOR)
    if descriptor.full_name == "gestalt.v1.FieldChange":
        return _field_change(cast(Any, message))
    return {field.name: _field(message, field) for field in descriptor.fields}


def word(message: Message, name: str) -> str:
    """Return the word of an enum field: "running", "healthy"; "unknown" where nothing was said."""
    field = cast(Any, message.DESCRIPTOR).fields_by_name[name]
    return _word(field, getattr(message, name))


def _field(message: Message, field: Any) -> Any:
    content = getattr(message, field.name)
    if is_repeated(field):
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {str(key): _value(field, content[key]) for key in sorted(content)}
        return [_value(field, item) for item in content]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(field, content)


def _value(field: Any, content: Any) -> Any:
    if isinstance(content, Message):
        if cast(Any, content.DESCRIPTOR).full_name == "google.protobuf.Timestamp":
            return cast(Any, content).ToJsonString()
        return shape(content)
    return _word(field, content) if field.enum_type is not None else content


def _word(field: Any, number: int) -> str:
    known = field.enum_type.values_by_number.get(number)
    if known is None:
        return f"unknown {number}"
    prefix = f"{field.enum_type.name.upper()}_"
    text = str(known.name).removeprefix(prefix).lower()
    return "unknown" if text == "unspecified" else text


def _field_change(message: Any) -> dict[str, Any]:
    return {"field": message.field, "before": _parsed(message.before), "after": _parsed(message.after)}


def _parsed(text: str) -> Any:
    """Return the value that a change names as JSON; null for one that is not there."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
