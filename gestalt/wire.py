"""Between the values of the model and the messages of the wire, by name: a field of a dataclass is the field of its message.

`tests/unit/gestalt/test_wire.py` proves for every pair that no field is missing on either side.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum
from functools import cache, partial
from operator import attrgetter
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from gestalt.descriptors import is_repeated
from gestalt.proto.v1 import spec_pb2
from gestalt.spec.schema import AppSpec

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_Putter = Callable[[Any, str, Any], None]


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
    fill(message, value)
    return message


def from_wire(message: Message, kind: type[T]) -> T:
    """Return a message as a dataclass of type `kind`.

    Raises:
        pydantic.ValidationError: a description in it breaks a rule of the schema.
    """
    return cast(T, _reader(cast(Any, kind))(message))


def fill(message: Message, value: Any) -> None:
    """Put `value`, a dataclass of the model, into an empty message. What is None or the zero value of a message is left out."""
    plan = _plan(cast(Any, type(value)))
    for content, (name, put, may_be_zero) in zip(plan.contents(value), plan.members, strict=True):
        if content or (may_be_zero and content is not None):
            put(message, name, content)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a type is put into its message: worked out once, since there are many values of few types."""

    contents: Callable[[Any], tuple[Any, ...]]
    members: tuple[tuple[str, _Putter, bool], ...]


@cache
def _plan(kind: type) -> _Plan:
    hints = {item.name: _without_none(_hints(kind)[item.name]) for item in fields(kind)}
    names = tuple(hints)
    contents = attrgetter(*names) if len(names) > 1 else lambda value: (getattr(value, names[0]),)
    return _Plan(contents, tuple((name, _putter(inner), optional or is_dataclass(inner)) for name, (inner, optional) in hints.items()))


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without `| None`, and whether None was allowed."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(item for item in typing.get_args(kind) if item is not types.NoneType), True
    return kind, False


def _putter(kind: Any) -> _Putter:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return _put_specs if inner[1] is AppSpec else _put_parts if is_dataclass(inner[1]) else _put_values
    if origin is tuple:
        return _add_parts if is_dataclass(inner[0]) else _add_values
    return _put_spec if kind is AppSpec else _put_part if is_dataclass(kind) else setattr


def _put_spec(message: Any, name: str, content: AppSpec) -> None:
    getattr(message, name).CopyFrom(spec_to_wire(content))


def _put_part(message: Any, name: str, content: Any) -> None:
    target = getattr(message, name)
    target.SetInParent()
    fill(target, content)


def _put_specs(message: Any, name: str, content: dict[str, AppSpec]) -> None:
    entries = getattr(message, name)
    for key, item in content.items():
        entries[key].CopyFrom(spec_to_wire(item))


def _put_parts(message: Any, name: str, content: dict[str, Any]) -> None:
    entries = getattr(message, name)
    for key, item in content.items():
        fill(entries[key], item)


def _put_values(message: Any, name: str, content: dict[str, Any]) -> None:
    getattr(message, name).update(content)


def _add_parts(message: Any, name: str, content: tuple[Any, ...]) -> None:
    add = getattr(message, name).add
    for item in content:
        fill(add(), item)


def _add_values(message: Any, name: str, content: tuple[Any, ...]) -> None:
    getattr(message, name).extend(content)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """Return what makes a value of this type of the content of a field, or of a message: worked out once, as in a plan."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return partial(_read_all, _reader(inner[0]))
    if origin is dict:
        return partial(_read_entries, _reader(inner[1]))
    if kind is AppSpec:
        return spec_from_wire
    if is_dataclass(kind):
        hints = {item.name: _without_none(_hints(cast(type, kind))[item.name]) for item in fields(kind)}
        members = tuple((name, optional, _reader(part)) for name, (part, optional) in hints.items())
        return partial(_read_members, cast(type, kind), members)
    return kind if isinstance(kind, type) and issubclass(kind, IntEnum) else _as_it_is


def _as_it_is(content: Any) -> Any:
    return content


def _read_all(read: Callable[[Any], Any], content: Any) -> tuple[Any, ...]:
    return tuple(content) if read is _as_it_is else tuple(map(read, content))


def _read_entries(read: Callable[[Any], Any], content: Any) -> dict[Any, Any]:
    return {key: read(item) for key, item in content.items()}


def _read_members(kind: type, members: tuple[tuple[str, bool, Callable[[Any], Any]], ...], message: Any) -> Any:
    return kind(*(None if optional and not message.HasField(name) else read(getattr(message, name)) for name, optional, read in members))
