"""The shape of the schema: what stands at which place, whether text is expected there, and what is allowed, in words."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo


@runtime_checkable
class Described(Protocol):
    """Metadata of a type that says in words what its values may be."""

    @property
    def allowed(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of the schema: its type without wrapping, what the wrapping said, and the name of the field it is in."""

    kind: Any
    metadata: tuple[Any, ...] = ()
    name: str = ""

    def child(self, step: str | int) -> Slot | None:
        """Return what is one step further: a field of a section, an item of a list, a value of a mapping."""
        if is_section(self.kind):
            return _children(self.kind).get(str(step))
        origin, arguments = typing.get_origin(self.kind), typing.get_args(self.kind)
        if origin not in (tuple, dict):
            return None
        kind, metadata = _unwrap(arguments[0] if origin is tuple else arguments[1])
        return Slot(kind, metadata, self.name)


def find(model: type, place: Sequence[str | int]) -> Slot | None:
    """Return what the schema has at a place, or None where it has nothing."""
    slot: Slot | None = Slot(model)
    for step in place:
        slot = slot and slot.child(step)
    return slot


def field_names(model: type, place: Sequence[str | int] = ()) -> tuple[str, ...]:
    """Return the names of the fields at a place, none when it is not a section."""
    slot = find(model, place)
    return tuple(slot.kind.model_fields) if slot and is_section(slot.kind) else ()


def field_slot(name: str, field: FieldInfo) -> Slot:
    """Return the slot of a model's field."""
    kind, metadata = _unwrap(field.annotation)
    return Slot(kind, (*field.metadata, *metadata), name)


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def wants_text(slot: Slot | None) -> bool:
    """Tell whether a plain word of YAML counts as it is written there, whatever else it looks like."""
    return slot is not None and (slot.kind is str or typing.get_origin(slot.kind) is Literal)


@cache
def _children(model: type[BaseModel]) -> Mapping[str, Slot]:
    return {name: field_slot(name, field) for name, field in model.model_fields.items()}


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `Annotated` and `| None`, and the metadata that it had."""
    metadata: tuple[Any, ...] = ()
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *extra = typing.get_args(annotation)
            metadata = (*extra, *metadata)
        elif origin in (types.UnionType, typing.Union):
            annotation = next(item for item in typing.get_args(annotation) if item is not types.NoneType)
        else:
            return annotation, metadata


_PLAIN = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}


def show_allowed(slot: Slot) -> str:
    """Return in words what may stand there."""
    for item in _flat(slot.metadata):
        if isinstance(item, Described):
            return item.allowed
    origin, arguments = typing.get_origin(slot.kind), typing.get_args(slot.kind)
    if origin is Literal:
        return ", ".join(filter(None, arguments))
    if origin is tuple:
        return f"a list, each item {_inner(slot)}"
    if origin is dict:
        return f"a mapping of names, each value {_inner(slot)}"
    if is_section(slot.kind):
        return f"a section with the fields {', '.join(slot.kind.model_fields)}"
    return _show_range(slot) if slot.kind is int else _PLAIN.get(slot.kind, "")


def _inner(slot: Slot) -> str:
    item = slot.child(0)
    return show_allowed(item) if item else ""


def _flat(metadata: Sequence[Any]) -> list[Any]:
    return [inner for item in metadata for inner in (item.metadata if isinstance(item, FieldInfo) else (item,))]


def _show_range(slot: Slot) -> str:
    metadata = _flat(slot.metadata)
    low = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in metadata if isinstance(item, Le)), None)
    if low is not None and high is not None:
        return f"a whole number from {low} to {high}"
    return f"a whole number from {low}" if low is not None else _PLAIN[int]
