"""Every value that goes over the wire has a message with the same fields, and comes back as it was."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from enum import IntEnum
from typing import Any

import pytest
from annotated_types import Le
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gestalt import model
from gestalt.coordinator.diff import FieldChange
from gestalt.coordinator.records import Step
from gestalt.descriptors import is_repeated
from gestalt.proto.v1 import agent_pb2, model_pb2, spec_pb2
from gestalt.spec.load import validate_spec
from gestalt.spec.schema import AppSpec
from gestalt.spec.shape import field_slot, is_section
from gestalt.spec.values import Unit
from gestalt.wire import from_wire, spec_document, spec_from_wire, spec_to_wire, to_wire

from .specs import BATCH, FULL, Document, documents

PAIRS: list[tuple[type, Any]] = [
    (AppSpec, spec_pb2.AppSpec),
    (model.NodeState, agent_pb2.NodeState),
    (model.Observed, model_pb2.Observed),
    (model.PortBinding, model_pb2.PortBinding),
    (Step, model_pb2.Step),
    (FieldChange, model_pb2.FieldChange),
]
ENUMS: list[tuple[type[IntEnum], Any]] = [
    (model.Phase, model_pb2.Phase),
    (model.Health, model_pb2.Health),
    (model.Reachability, model_pb2.Reachability),
]
SCALARS = {
    str: {FieldDescriptor.CPPTYPE_STRING},
    bool: {FieldDescriptor.CPPTYPE_BOOL},
    int: {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64},
    float: {FieldDescriptor.CPPTYPE_DOUBLE},
}


def hints(kind: type) -> dict[str, Any]:
    """Return the fields of a dataclass or pydantic model with their types."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    resolved = typing.get_type_hints(kind)
    return {item.name: resolved[item.name] for item in fields(kind)}


def plain(annotation: Any) -> tuple[Any, bool]:
    """Return a type without `Annotated` and `| None`, and whether None was allowed."""
    optional = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (types.UnionType, typing.Union):
            optional = True
            annotation = next(item for item in typing.get_args(annotation) if item is not types.NoneType)
        elif origin is typing.Literal:
            return type(typing.get_args(annotation)[0]), optional
        else:
            return annotation, optional


def mismatches(kind: type, descriptor: Descriptor, place: str) -> list[str]:
    """Return what differs between a type and its message, all the way down."""
    ours, theirs = hints(kind), {item.name: item for item in descriptor.fields}
    found = [f"{place}: {name} is on one side only" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in ours.keys() & theirs.keys():
        found += field_mismatches(ours[name], theirs[name], f"{place}.{name}")
    return found


def field_mismatches(annotation: Any, field: Any, place: str) -> list[str]:
    kind, optional = plain(annotation)
    origin = typing.get_origin(kind)
    message = field.message_type
    if origin is dict:
        if message is None or not message.GetOptions().map_entry:
            return [f"{place}: a dict here, no map there"]
        return value_mismatches(plain(typing.get_args(kind)[1])[0], message.fields_by_name["value"], place)
    if (origin is tuple) != is_repeated(field):
        return [f"{place}: a list on one side only"]
    if origin is tuple:
        return value_mismatches(plain(typing.get_args(kind)[0])[0], field, place)
    found = [] if not optional or field.has_presence else [f"{place}: None cannot be told from the zero value"]
    return found + value_mismatches(kind, field, place)


def value_mismatches(kind: Any, field: Any, place: str) -> list[str]:
    if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return mismatches(kind, field.message_type, place) if field.message_type else [f"{place}: a section here only"]
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return [] if field.enum_type is not None else [f"{place}: an enum here only"]
    return [] if field.cpp_type in SCALARS[kind] else [f"{place}: {kind.__name__} here, something else there"]


@pytest.mark.parametrize(("kind", "message"), PAIRS, ids=lambda item: item.__name__)
def test_fields_match(kind: type, message: Any) -> None:
    assert mismatches(kind, message.DESCRIPTOR, kind.__name__) == []


def test_a_mismatch_would_be_seen() -> None:
    assert mismatches(model.PortBinding, model_pb2.CheckStatus.DESCRIPTOR, "x")
    assert mismatches(model.TcpService, model_pb2.CheckStatus.DESCRIPTOR, "x")


@pytest.mark.parametrize(("ours", "theirs"), ENUMS, ids=["phase", "health", "reachability"])
def test_enums_match(ours: type[IntEnum], theirs: Any) -> None:
    numbers = {name.split("_", 1)[1]: number for name, number in theirs.items()}
    mine = {item.name: item.value for item in ours}
    assert {key: number for key, number in numbers.items() if key != "UNSPECIFIED"} == {k: n for k, n in mine.items() if k != "UNKNOWN"}
    assert mine.get("UNKNOWN", 0) == numbers["UNSPECIFIED"]


def bounds(section: type[BaseModel], descriptor: Descriptor, place: str) -> list[str]:
    """Return the whole numbers of a section whose bounds are missing, or wider than what their message carries."""
    found = []
    for name, field in section.model_fields.items():
        there = descriptor.fields_by_name[name]
        slot = field_slot(name, field)
        slot = slot if slot.kind in (int, str, float, bool) else slot.child(0) or slot
        if is_section(slot.kind):
            inner = there.message_type
            found += bounds(
                slot.kind, inner.fields_by_name["value"].message_type if inner.GetOptions().map_entry else inner, f"{place}.{name}"
            )
        elif slot.kind is int:
            bits = 31 if there.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
            top = [item.le for item in slot.metadata if isinstance(item, Le)] + [
                item.most for item in slot.metadata if isinstance(item, Unit)
            ]
            nested = [inner.le for item in slot.metadata for inner in getattr(item, "metadata", ()) if isinstance(inner, Le)]
            if not top + nested or max(top + nested) >= 2**bits:
                found.append(f"{place}.{name}: {top + nested}")
    return found


def test_whole_numbers_are_bounded_by_what_the_wire_carries() -> None:
    assert bounds(AppSpec, spec_pb2.AppSpec.DESCRIPTOR, "app") == []


# -- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [FULL, BATCH], ids=["service", "job"])
def test_the_full_description_survives_the_wire(document: Document) -> None:
    spec = validate_spec(document)
    assert spec_from_wire(spec_pb2.AppSpec.FromString(spec_to_wire(spec).SerializeToString())) == spec


@given(documents())
def test_random_descriptions_survive_the_wire(document: Document) -> None:
    spec = validate_spec(document)
    message = spec_pb2.AppSpec.FromString(spec_to_wire(spec).SerializeToString())
    assert spec_from_wire(message) == spec
    assert validate_spec(spec_document(message)) == spec


_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_int32, _int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
_number = st.floats(allow_nan=False)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Draw any value of a type of the model, within what its message can carry."""
    if kind is AppSpec:
        return st.sampled_from([validate_spec(FULL), validate_spec({"path": "/a/b/c/d", "image": "x"})])
    if is_dataclass(kind):
        return st.builds(
            typing.cast(Any, kind), **{name: values(annotation) for name, annotation in hints(typing.cast(type, kind)).items()}
        )
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return st.lists(values(inner[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_text, values(inner[1]), max_size=2)
    if origin in (types.UnionType, typing.Union):
        return st.one_of(st.none(), values(next(item for item in inner if item is not types.NoneType)))
    if issubclass(kind, IntEnum):
        return st.sampled_from(list(kind))
    return {str: _text, bool: st.booleans(), int: _int32, float: _number}[kind]


@pytest.mark.parametrize(("kind", "message"), PAIRS[1:], ids=lambda item: item.__name__)
def test_values_survive_the_wire(kind: type, message: Any) -> None:
    @given(values(kind))
    def check(value: Any) -> None:
        assert from_wire(message.FromString(to_wire(value, message).SerializeToString()), kind) == value

    check()


def test_what_may_be_missing_is_told_from_zero() -> None:
    for code in (None, 0, 7):
        seen = model.Observed("web-aaaaaa-1", 1, model.Phase.STOPPED, exit_code=code)
        assert from_wire(to_wire(seen, model_pb2.Observed), model.Observed) == seen
    route = model.Route("/a/b/c/d:http", "/a/b/c/d", "http", model.HttpService((), ""), None)
    assert from_wire(to_wire(route, agent_pb2.Route), model.Route) == route
