"""The base of all sections: immutable, no unknown fields, and rules over several fields that are all told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, TypeAdapter, ValidationError, ValidationInfo, model_validator

from .mistakes import Mistake, as_error, mistakes_of

STORED = {"stored": True}
"""The context in which what was valid is read again: complete, and by the rules that held when it was written."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What several fields of a section must fulfil together; `check` is asked only when each of them is right by itself."""

    fields: frozenset[str]
    check: Callable[[Any], Iterable[Mistake]]


def rule(*fields: str) -> Callable[[Callable[[Any], Iterable[Mistake]]], Rule]:
    """Make a function over a section a rule that reads these fields of it."""
    return lambda check: Rule(frozenset(fields), check)


class Part(BaseModel):
    """A section of the description.

    Validation tells all mistakes at once, those against `RULES` included, as one ValidationError whose errors hold
    `problem` and `allowed` in their context. With the context `STORED`, rules over several fields are not asked again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the input with what follows from the rest of it filled in. Must cope with any input."""
        return data

    @model_validator(mode="wrap")
    @classmethod
    def _with_rules(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if info.context is STORED:
            return handler(data)
        if isinstance(data, Mapping):
            data = cls.completed(data)
        try:
            part = handler(data)
        except ValidationError as error:
            found = mistakes_of(error, cls)
            broken = {str(item["loc"][0]) for item in error.errors(include_url=False) if item["loc"]}
            rest = cls._sound(data, broken) if isinstance(data, Mapping) and broken else None
            raise as_error(cls.__name__, (*found, *(cls._broken(rest, broken) if rest is not None else ()))) from None
        if mistakes := tuple(cls._broken(part, frozenset())):
            raise as_error(cls.__name__, mistakes)
        return part

    @classmethod
    def _broken(cls, part: Any, without: Iterable[str]) -> Iterable[Mistake]:
        for item in cls.RULES:
            if item.fields.isdisjoint(without):
                yield from item.check(part)

    @classmethod
    def _sound(cls, data: Mapping[str, Any], broken: Iterable[str]) -> Part:
        """Return a section of which only the fields that are right may be read."""
        values = {name: _adapter(cls, name).validate_python(data[name]) for name in cls.model_fields if name in data and name not in broken}
        return cls.model_construct(**values)


@cache
def _adapter(model: type[Part], name: str) -> TypeAdapter[Any]:
    field = model.model_fields[name]
    wrapped: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(wrapped)
