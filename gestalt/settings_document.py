"""The YAML of a settings file and its drop-ins, with file and line of every field. Imports little: the fence reads its settings through it.

Beside `agent.yaml` may be a folder `agent.d`. Its `*.yaml` are read after the file, in the order of their names: the last word counts.
Sections are put together field by field; everything else, lists too, is replaced whole.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gestalt.errors import Detail, GestaltError, Kind

Place = tuple[int | str, ...]

SUFFIX = ".yaml"
DEEPEST = 50
"""How deep lists and sections may be nested; the parser in C has no limit, and dies of too many."""
MOST = 100_000
"""How many names and values a file may hold, each counted as often as aliases repeat it."""
_LONGEST = 64
"""Bits of a number."""
_LISTINGS = 10
"""How often the folder is listed anew when what was listed has gone meanwhile."""

_WRONG = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError)
"""What PyYAML raises, besides its own errors, of a value that is not what it looks like or is tagged as."""


class _Unfit(yaml.YAMLError):
    """This is YAML, and cannot be taken."""

    def __init__(self, node: yaml.Node | yaml.Event, problem: str) -> None:
        super().__init__(problem)
        self.line = 1 if node.start_mark is None else node.start_mark.line + 1


class _Loader(yaml.CSafeLoader):
    """Tells the line of a value that cannot be read."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except _WRONG as error:
            what = repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "this"
            raise _Unfit(node, f"{what} is no {node.tag.rpartition(':')[2]}: {error}") from error
        if isinstance(value, int) and value.bit_length() > _LONGEST:
            raise _Unfit(node, f"the number is too large; allowed: up to {_LONGEST} bits")
        return value


@dataclass(frozen=True, slots=True)
class File:
    """One file that was read."""

    path: Path
    node: yaml.Node | None
    values: dict[Any, Any]


@dataclass(slots=True)
class Document:
    """A settings file with its drop-ins: what they say altogether, and which of them said it."""

    main: File
    values: dict[Any, Any] = field(default_factory=dict)
    drop_ins: list[Path] = field(default_factory=list)
    _from: dict[Place, File] = field(default_factory=dict)

    def add(self, file: File) -> None:
        """Let a further file have its word."""
        if file is not self.main:
            self.drop_ins.append(file.path)
        self._merge(self.values, file.values, (), file)

    def source(self, place: Place) -> str:
        """Return file and line of what is said about exactly this field; "" when nothing is."""
        return self.where(place) if place in self._from else ""

    def where(self, place: Place) -> str:
        """Return file and line of a field, or of the innermost section around it that there is."""
        known = (place[:length] for length in range(len(place), 0, -1))
        file = next((self._from[part] for part in known if part in self._from), self.main)
        return f"{file.path}:{line_of(file.node, place)}"

    def invalid(self, mistakes: Sequence[tuple[Place, str]]) -> GestaltError:
        """Return the error that tells all mistakes, each with file, line and field."""
        details = [
            Detail(f"{self.where(place)}: {'.'.join(map(str, place)) or 'the whole file'}", problem + self._concerned(place, problem))
            for place, problem in mistakes
        ]
        lines = "\n".join(f"  {detail.field}: {detail.problem}" for detail in details)
        what = f"{self.main.path}, with the drop-ins of {folder_of(self.main.path)}," if self.drop_ins else str(self.main.path)
        return GestaltError(Kind.INVALID, f"{what} is not valid:\n{lines}", details=details)

    def _concerned(self, place: Place, problem: str) -> str:
        """Return where those fields are that a mistake of a whole section names, if they may be in several files."""
        section: Any = self.values
        for part in place:
            section = section.get(part) if isinstance(section, dict) else None
        if not self.drop_ins or not isinstance(section, dict):
            return ""
        named = [str(name) for name in section if re.search(rf"\b{re.escape(str(name))}\b", problem)]
        return f" ({', '.join(f'{name}: {self.where((*place, name))}' for name in named)})" if named else ""

    def _merge(self, into: dict[Any, Any], values: dict[Any, Any], place: Place, file: File) -> None:
        for name, value in values.items():
            here = (*place, name)
            if not isinstance(value, dict):
                self._forget(here)
                self._from[here], into[name] = file, value
                continue
            if not isinstance(into.get(name), dict):
                self._forget(here)
                self._from[here], into[name] = file, {}
            self._merge(into[name], value, here, file)

    def _forget(self, place: Place) -> None:
        for part in [part for part in self._from if part[: len(place)] == place]:
            del self._from[part]


def folder_of(path: Path) -> Path:
    """Return the folder with the drop-ins of a settings file."""
    return path.with_suffix(".d")


def drop_ins_of(path: Path) -> list[Path]:
    """Return the drop-ins of a settings file, in the order in which they are read.

    Raises:
        GestaltError: NOT_FOUND, when the folder is there and cannot be read, or is a link to nothing.
    """
    return [file for file in _in_folder(path) if file.suffix == SUFFIX]


def passed_over(path: Path) -> list[Path]:
    """Return what else is in the folder of drop-ins and is not read, such as what an editor left."""
    return [file for file in _in_folder(path) if file.suffix != SUFFIX]


def stamp_of(path: Path) -> object:
    """Return what differs whenever a drop-in comes, goes or changes. Never fails."""
    try:
        return tuple(_stamp(file) for file in drop_ins_of(path))
    except GestaltError as error:
        return error.message


def _stamp(file: Path) -> object:
    try:
        status = file.stat()
    except OSError as error:
        return file.name, str(error)
    return file.name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _in_folder(path: Path) -> Iterator[Path]:
    folder = folder_of(path)
    try:
        found = sorted(folder.iterdir()) if os.path.lexists(folder) else []
    except OSError as error:
        raise GestaltError(Kind.NOT_FOUND, f"{folder} cannot be read: {error}", hint="let the daemon read it, or remove it") from error
    return (file for file in found if not file.name.startswith("."))


def read_document(path: Path, hint: str) -> Document:
    """Return what is in `path` and its drop-ins.

    Raises:
        GestaltError: NOT_FOUND with `hint` when it cannot be read, INVALID when it holds no settings, or is no file.
    """
    main = _read(path, hint)
    document = Document(main)
    for file in (main, *_read_drop_ins(path)):
        document.add(file)
    return document


def read_alone(path: Path, hint: str) -> Document:
    """Return what is in `path`, which has no drop-ins.

    Raises:
        GestaltError: NOT_FOUND with `hint` when it cannot be read, INVALID when it holds no settings.
    """
    main = _read(path, hint)
    document = Document(main)
    document.add(main)
    return document


def _read_drop_ins(path: Path) -> list[File]:
    listings = 0
    while True:
        listings += 1
        try:
            return [_read(drop_in, "remove it, or let the daemon read it", may_be_empty=True) for drop_in in drop_ins_of(path)]
        except GestaltError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or listings == _LISTINGS:
                raise


def _read(path: Path, hint: str, *, may_be_empty: bool = False) -> File:
    text = _text_of(path, hint)
    try:
        _look_at_nesting(text)
        node = yaml.compose(text, yaml.CSafeLoader)
        _look_at_aliases(node)
        values = yaml.load(text, _Loader)  # noqa: S506 (a safe one)
    except _Unfit as error:
        raise GestaltError(Kind.INVALID, f"{path}:{error.line}: {error}", hint="put in quotes what is meant as a text") from error
    except (yaml.YAMLError, *_WRONG) as error:
        raise GestaltError(Kind.INVALID, f"{path} is not YAML: {error}", hint="mind the indentation") from error
    if values is None and may_be_empty:
        values = {}
    if not isinstance(values, dict):
        raise GestaltError(Kind.INVALID, f"{path}: holds no settings, but {type(values).__name__}", hint="write one `name: value` a line")
    return File(path, node, values)


def _text_of(path: Path, hint: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO would let us wait for ever
            problem = f"{path} cannot be read: it is no regular file"
            raise GestaltError(Kind.INVALID, problem, hint="put a file with settings in its place, or remove it")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise GestaltError(Kind.INVALID, f"{path}:{line}: this is no text in UTF-8: {error}", hint="save it as UTF-8") from error
    except OSError as error:
        raise GestaltError(Kind.NOT_FOUND, f"{path} cannot be read: {error}", hint=hint) from error


def _look_at_nesting(text: str) -> None:
    """Refuse what is nested too deep, before anything recurses into it."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise _Unfit(event, f"sections and lists are nested too deep; allowed: {DEEPEST} in one another")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _look_at_aliases(node: yaml.Node | None) -> None:
    """Refuse what holds itself, or becomes too much, through aliases."""
    ahead = [] if node is None else [(node, 0)]
    count = 0
    while ahead:
        part, depth = ahead.pop()
        count += 1
        if depth > DEEPEST or count > MOST:
            raise _Unfit(part, f"aliases (*) make it hold itself, be nested more than {DEEPEST} deep, or hold more than {MOST} values")
        if isinstance(part, yaml.MappingNode):
            ahead += [(inner, depth + 1) for pair in part.value for inner in pair]
        elif isinstance(part, yaml.SequenceNode):
            ahead += [(inner, depth + 1) for inner in part.value]


def line_of(node: yaml.Node | None, place: Sequence[int | str]) -> int:
    """Return the line of the innermost part of `place` that the file holds. Of a name that is there twice the last one counts."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in reversed(node.value) if key.value == str(part)), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
