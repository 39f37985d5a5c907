"""From YAML or JSON text to plain data, with the line of everything in it.

The rules of YAML 1.2 hold: only `true` and `false` are truth values, there are no octal numbers, times or dates. Where the
schema expects text, a plain word counts as it is written: `PORT: 0755` and `VERSION: 1.10` lose nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from .mistakes import Mistake, Place
from .schema import AppSpec
from .shape import Slot, find, wants_text

NODES_MAX = 100_000
DEPTH_MAX = 50
_DIGITS_MAX = 40
_CORE = "tag:yaml.org,2002:"
# JSON writes one character beyond U+FFFF as two escapes, which YAML refuses.
_JSON_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")

# What JSON allows as it is, and YAML refuses or takes for the end of a line.
_JSON_ONLY = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class Malformed(Exception):
    """The text is not YAML. `line` and `column` count from 1, and are 0 where nobody can tell."""

    def __init__(self, problem: str, line: int = 0, column: int = 0) -> None:
        super().__init__(problem)
        self.problem, self.line, self.column = problem, line, column


@dataclass(slots=True)
class Document:
    """One document: its data, the line of each place, and what is wrong with it as YAML."""

    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest one around it."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)


class _Loader(yaml.CSafeLoader):
    """The C loader with the words of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(f"^(?:{_pattern})$"), _first)


def read_documents(text: str) -> Iterator[Document]:
    """Yield the documents of a text; empty ones are left out.

    Raises:
        Malformed: the text is not YAML from here on.
    """
    if text.lstrip()[:1] == "{":
        text = _JSON_ONLY.sub(_escape, _JSON_PAIR.sub(_join, text))
    try:
        _measure(text)
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                if node is not None and node.tag != f"{_CORE}null":
                    yield _Reader().read(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part) or "is not YAML"
        raise Malformed(problem, mark.line + 1 if mark else 0, mark.column + 1 if mark else 0) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Malformed(f"there is a character that must not be in YAML: {_show_character(error.character)}", line) from None
    except UnicodeEncodeError:
        raise Malformed("it is not valid Unicode") from None


def _measure(text: str) -> None:
    """Refuse what is nested so deeply that composing it, which recurses in C, would end the process."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEPTH_MAX:
                mark = event.start_mark
                raise Malformed(f"it is nested more than {DEPTH_MAX} deep", mark.line + 1 if mark else 0, mark.column + 1 if mark else 0)
    except yaml.YAMLError:
        return  # composing comes to the same place, and tells it


def _show_character(character: object) -> str:
    return f"U+{character:04X}" if isinstance(character, int) else repr(character)


class _Reader:
    """Turns the nodes of one document into plain data."""

    def __init__(self) -> None:
        self._document = Document()
        self._nodes = 0
        self._too_big = False

    def read(self, node: yaml.Node) -> Document:
        self._document.data = self._value(node, (), find(AppSpec, ()))
        if self._too_big:
            self._document.mistakes = [Mistake((), f"has more than {NODES_MAX} values, or goes deeper than {DEPTH_MAX}", "less of it")]
        return self._document

    def _value(self, node: yaml.Node, place: Place, slot: Slot | None) -> Any:
        self._nodes += 1
        self._document.lines.setdefault(place, node.start_mark.line + 1)
        # Aliases are followed: both bounds also end what refers to itself, and what grows without end.
        if self._nodes > NODES_MAX or len(place) > DEPTH_MAX:
            self._too_big = True
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, slot)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*place, index), self._child(slot, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, place, slot)

    def _mapping(self, node: yaml.MappingNode, place: Place, slot: Slot | None) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(place, line, "has a key that is a list or a mapping", "names as keys")
            elif key.tag == f"{_CORE}merge":
                merged = {**self._merged(item, place, slot), **merged}
            elif key.value in own:
                first = self._document.line((*place, key.value))
                self._document.mistakes.append(
                    Mistake((*place, key.value), f"stands twice: in line {first} and in line {line}", "each name once")
                )
            else:
                self._document.lines[*place, key.value] = line
                own[key.value] = self._value(item, (*place, key.value), self._child(slot, key.value))
        return {**merged, **own}

    def _merged(self, node: yaml.Node, place: Place, slot: Slot | None) -> dict[str, Any]:
        """Return what `<<` brings in; the first of several mappings wins."""
        found: dict[str, Any] = {}
        for item in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if isinstance(item, yaml.MappingNode):
                found.update(self._value(item, (*place, "<<"), slot) or {})
            else:
                self._mistake(place, node.start_mark.line + 1, "has a << that brings in no mapping", "an alias of a mapping")
        return found

    def _scalar(self, node: yaml.ScalarNode, place: Place, slot: Slot | None) -> Any:
        kind, text = node.tag.removeprefix(_CORE), node.value
        if kind not in ("str", "null", "bool", "int", "float", "merge"):
            self._mistake(place, node.start_mark.line + 1, f"has the tag {node.tag}", "plain values without tags")
            return None
        if kind == "null":
            return None
        if kind in ("str", "merge") or wants_text(slot) or len(text) > _DIGITS_MAX:
            return text
        return _number(kind, text)

    def _mistake(self, place: Place, line: int, problem: str, allowed: str) -> None:
        self._document.lines.setdefault(place, line)
        self._document.mistakes.append(Mistake(place, problem, allowed))

    @staticmethod
    def _child(slot: Slot | None, step: str | int) -> Slot | None:
        return slot and slot.child(step)


def _number(kind: str, text: str) -> Any:
    """Return the value of a plain word that is no text; as text what an explicit tag only claims to be one."""
    try:
        if kind == "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan"))
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    except ValueError:
        return text


def _join(match: re.Match[str]) -> str:
    return match[1] + bytes.fromhex(match[2] + match[3]).decode("utf-16-be")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
