"""The commented default files: every setting with its description, what is allowed and its default, from the model that validates it.

`python -m gestalt.settings_reference FOLDER` writes them. They are to be read, and copied from; no daemon reads them.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings, Settings, read_secret_path
from gestalt.files import write_atomic
from gestalt.settings_change import LIVE
from gestalt.units import parse_duration, parse_size

KINDS: dict[str, type[Settings]] = {"agent": AgentSettings, "coordinator": CoordinatorSettings, "fence": FenceSettings}

_HEAD = """\
Every setting of gestalt-{name}, with its default. This file is not read: copy what you want otherwise, with the section \
around it and without the "#" in the first column, into a drop-in such as /etc/gestalt/{name}.d/10-site.yaml.

A time is a number of seconds, or has units: 500ms, 30s, 5m, 1h30m. A size is a number of bytes, or has a unit: 512MiB, 2G. \
Settings marked with * are taken over while gestalt-{name} runs (systemctl reload gestalt-{name}); the others count after its \
restart. Is all well? gestalt-{name} --check-config
"""
_WIDTH = 110
_SIZES = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_TIMES = ((86400, "d"), (3600, "h"), (60, "m"))


def reference(name: str) -> str:
    """Return the commented default file of a daemon: "agent", "coordinator" or "fence"."""
    return "\n".join((*_prose(_HEAD.format(name=name), ""), *_section(KINDS[name], "", live=False))) + "\n"


def described(kind: type[BaseModel]) -> dict[str, str]:
    """Return the sentence below each field of a model."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, sentence in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(sentence, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(sentence.value).split())
    return found


def _section(kind: type[BaseModel], indent: str, *, live: bool) -> Iterator[str]:
    sentences = described(kind)
    for name, field in kind.model_fields.items():
        inner, is_live = _model(field.annotation), live or LIVE in field.metadata
        yield "#" if indent else ""
        if inner is None:
            yield from _prose(f"{sentences[name]} {_allowed(field)}{' *' if is_live else ''}", indent)
            yield f"#{indent}{name}:{_default(field)}"
            continue
        yield from _prose(f"{sentences[name]}{_whether_there(field)}", indent)
        yield f"#{indent}{name}:"
        yield from _section(inner, f"{indent}  ", live=is_live)


def _prose(text: str, indent: str) -> Iterator[str]:
    lead = f"#{indent}# " if indent else "# "
    for paragraph in text.rstrip("\n").split("\n"):
        lines = textwrap.wrap(paragraph, _WIDTH - len(lead), break_on_hyphens=False, break_long_words=False)
        yield from (f"{lead}{line}".rstrip() for line in lines or [""])


def _whether_there(field: FieldInfo) -> str:
    if field.is_required():
        return " Has to be set."
    return " Not there by default." if field.default is None else ""


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a section, None for what is no section."""
    return next((item for item in (annotation, *get_args(annotation)) if isinstance(item, type) and issubclass(item, BaseModel)), None)


def _allowed(field: FieldInfo) -> str:
    """Return what may stand there, in brackets."""
    members = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    options = [_kind(member, field.metadata) for member in members]
    return f"({' or '.join(options)}{'; has to be set' if field.is_required() else ''})"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """Return the word for values of a type, with their limits."""
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        metadata = [part for item in inner for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    if get_origin(annotation) is Literal:
        return ", ".join(get_args(annotation)[:-1]) + f" or {get_args(annotation)[-1]}"
    if get_origin(annotation) is tuple:
        return "a list of texts"
    if get_origin(annotation) is dict:
        return f"names, each with {_kind(get_args(annotation)[1], [])}"
    readers = {getattr(item, "func", None) for item in metadata}
    if parse_duration in readers:
        return f"a time{_limits(metadata, _time)}"
    if read_secret_path in readers:
        return "a path, or credential:NAME"
    if parse_size in readers:
        return f"a size{_limits(metadata)}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path", type(None): "null"}
    return words[annotation] + _limits(metadata)


def _limits(metadata: list[Any], shown: Callable[[float], str] = "{:.15g}".format) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = ((word, getattr(item, name, None)) for item in metadata for name, word in words.items())
    found = [f"{word} {shown(limit)}" for word, limit in limits if limit is not None]
    return f", {' and '.join(found)}" if found else ""


def _default(field: FieldInfo) -> str:
    """Return the default as it may stand in a settings file, with a blank before it; nothing when there is none."""
    value = field.default
    if value is PydanticUndefined:
        return ""
    readers = {getattr(item, "func", None) for item in field.metadata}
    if parse_duration in readers:
        return " " + _time(value)
    if parse_size in readers:
        return " " + next((f"{value // size}{unit}" for size, unit in _SIZES if value and value % size == 0), str(value))
    return " " + json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, default=str)


def _time(seconds: float) -> str:
    return next((f"{seconds / size:g}{unit}" for size, unit in _TIMES if seconds and seconds % size == 0), f"{seconds:g}s")


def main() -> int:
    """Write the files into a folder."""
    for name in KINDS:
        write_atomic(Path(sys.argv[1]) / f"{name}.yaml", reference(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
