"""Between the values of the model and the messages of the wire, by name: a field of a dataclass is the field of its message.

`tests/unit/gestalt/test_wire.py` proves for every pair that no field is missing on either side.
"""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from gestalt.descriptors import is_repeated
from gestalt.proto.v1 import spec_pb2
from gestalt.spec.schema import AppSpec

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def spec_to_wire(spec: AppSpec) -> spec_pb2.AppSpec:
    """Return the message of a description; nothing is lost."""
    return json_format.ParseDict(spec.model_dump(mode="json", exclude_none=True), spec_pb2.AppSpec())


def spec_from_wire(message: spec_pb2.AppSpec) -> AppSpec:
    """Return the description of a message, validated like any other input.

    Raises:
        pydantic.ValidationError: the message breaks a rule of the schema.
    """
    return AppSpec.model_validate(spec_document(message))


def spec_document(message: Message) -> dict[str, Any]:
    """Return every field of a message as plain values, zero values included; parts that are not set are left out."""
    document: dict[str, Any] = {}
    for field in cast(Any, message.DESCRIPTOR).fields:
        content = getattr(message, field.name)
        if field.message_type is None:
            document[field.name] = list(content) if is_repeated(field) else content
        elif field.message_type.GetOptions().map_entry:
            document[field.name] = {key: spec_document(item) if isinstance(item, Message) else item for key, item in content.items()}
        elif is_repeated(field):
            document[field.name] = [spec_document(item) for item in content]
        elif message.HasField(field.name):
            document[field.name] = spec_document(content)
    return document


def to_wire(value: Any, kind: type[M]) -> M:
    """Return `value`, a dataclass of the model, as a message of type `kind`."""
    message = kind()
    _fill(message, value)
    return message


def from_wire(message: Message, kind: type[T]) -> T:
    """Return a message as a dataclass of type `kind`.

    Raises:
        pydantic.ValidationError: a description in it breaks a rule of the schema.
    """
    return cast(T, _value(message, kind))


def _fill(message: Message, value: Any) -> None:
    for item in fields(value):
        content = getattr(value, item.name)
        if content is None:
            continue
        _put(message, item.name, content)


def _put(message: Message, name: str, content: Any) -> None:
    if isinstance(content, AppSpec):
        getattr(message, name).CopyFrom(spec_to_wire(content))
    elif is_dataclass(content):
        target = getattr(message, name)
        target.SetInParent()
        _fill(target, content)
    elif isinstance(content, dict):
        for key, item in content.items():
            _put_entry(getattr(message, name), key, item)
    elif isinstance(content, tuple) and content and is_dataclass(content[0]):
        for item in content:
            _fill(getattr(message, name).add(), item)
    elif isinstance(content, tuple):
        getattr(message, name).extend(content)
    else:
        setattr(message, name, content)


def _put_entry(entries: Any, key: str, item: Any) -> None:
    if isinstance(item, AppSpec):
        entries[key].CopyFrom(spec_to_wire(item))
    elif is_dataclass(item):
        _fill(entries[key], item)
    else:
        entries[key] = item


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(content: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_value(item, inner) for item in content)
    if origin is dict:
        inner = typing.get_args(kind)[1]
        return {key: _value(item, inner) for key, item in content.items()}
    if kind is AppSpec:
        return spec_from_wire(content)
    if is_dataclass(kind):
        hints = _hints(cast(type, kind))
        return cast(Any, kind)(**{item.name: _member(content, item.name, hints[item.name]) for item in fields(kind)})
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return kind(content)
    return content


def _member(message: Message, name: str, kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = next(item for item in typing.get_args(kind) if item is not type(None))
        return _value(getattr(message, name), inner) if message.HasField(name) else None
    return _value(getattr(message, name), kind)
