"""Mistakes of a description: where, what is wrong, what is allowed. Pydantic's own errors are put into these words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .shape import Slot, field_names, find, show_allowed

Place = tuple[str | int, ...]
_TYPE = "mistake"
_SHOWN_MAX = 60

# What people write who come from elsewhere.
_OTHER_WORDS = {
    "cmd": "command", "containerport": "container_port", "cpus": "resources.cpu", "cpu": "resources.cpu", "depends": "depends_on",
    "entrypoint": "command", "environment": "env", "healthcheck": "checks", "healthchecks": "checks", "mem": "resources.memory",
    "memory": "resources.memory", "name": "path", "id": "path", "replicas": "instances", "count": "instances", "scale": "instances",
    "user": "security.user", "mounts": "volumes", "working_dir": "workdir", "type": "kind", "source": "host_path", "hostport": "host_port",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake; `place` leads to it from the part in which it was found."""

    place: Place
    problem: str
    allowed: str = ""


def wrong(problem: str, allowed: str = "") -> PydanticCustomError:
    """Return the error that a validator of a value raises."""
    template = "{problem}; allowed: {allowed}" if allowed else "{problem}"
    return PydanticCustomError(_TYPE, template, {"problem": problem, "allowed": allowed})


def as_error(title: str, mistakes: Iterable[Mistake]) -> ValidationError:
    """Return one exception that holds all mistakes."""
    lines = [InitErrorDetails(type=wrong(item.problem, item.allowed), loc=item.place, input=None) for item in mistakes]
    return ValidationError.from_exception_data(title, lines)


def mistakes_of(error: ValidationError, model: type | None = None) -> tuple[Mistake, ...]:
    """Return the mistakes of an exception. `model` is what was validated; parts of ours put their errors into words themselves."""
    found = {}
    misspelt = set()
    for item in error.errors(include_url=False):
        place = tuple(item["loc"])
        if item["type"] == "extra_forbidden" and model and (meant := suggest(str(place[-1]), field_names(model, place[:-1]))):
            misspelt.add((*place[:-1], meant))
        found[item["type"], place] = _translate(item, model)
    return tuple(mistake for (kind, place), mistake in found.items() if kind != "missing" or place not in misspelt)


def show_place(place: Sequence[str | int]) -> str:
    """Return a place as people write it: `ports[0].container_port`."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def show_value(value: object) -> str:
    """Return a value as it may stand in a sentence."""
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def _translate(error: Mapping[str, Any], model: type | None) -> Mistake:
    kind, place = error["type"], tuple(error["loc"])
    context = error.get("ctx", {})
    if kind == _TYPE:
        return Mistake(_clean(place), context["problem"], context["allowed"])
    if kind == "extra_forbidden":
        return _unknown_field(place, model)
    slot = find(model, _clean(place)) if model else None
    allowed = show_allowed(slot) if slot else ""
    if kind == "missing":
        return Mistake(place, "is missing", allowed)
    if error["input"] is None:
        return Mistake(_clean(place), "has no value", allowed)
    return Mistake(_clean(place), _problem(error, slot), allowed)


def _problem(error: Mapping[str, Any], slot: Slot | None) -> str:
    value = error["input"]
    if error["type"] == "tuple_type" and isinstance(value, str) and slot is not None and slot.name in ("command", "args"):
        return "is a line of text, and no shell takes it apart: write a list of arguments"
    if isinstance(value, Mapping):
        return "is a mapping"
    if isinstance(value, list | tuple):
        return "is a list"
    return f"is {show_value(value)}"


def _clean(place: Place) -> Place:
    """Drop what pydantic adds to tell keys from values."""
    return tuple(step for step in place if step != "[key]")


def _unknown_field(place: Place, model: type | None) -> Mistake:
    name = str(place[-1])
    names = field_names(model, place[:-1]) if model else ()
    suggestion = suggest(name, names)
    problem = "is not a known field" + (f"; did you mean {suggestion!r}?" if suggestion else "")
    return Mistake(place, problem, ", ".join(names))


def suggest(name: str, names: Sequence[str]) -> str:
    """Return the name that was probably meant, or nothing."""
    word = name.lower().replace("-", "_")
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    if close:
        return close[0]
    other = _OTHER_WORDS.get(word.replace("_", ""), _OTHER_WORDS.get(word, ""))
    return other if other.partition(".")[0] in names else ""
