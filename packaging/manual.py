"""The man pages, made of what the programs themselves say when they are asked for help.

    manual.py FOLDER        write them: man1 has gestaltctl and each of its commands, man8 the daemons

Run by a Python that has Gestalt. The same code gives the same pages, on whatever machine and terminal.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from gestalt import __version__
from gestalt.agent.fence.main import main as fence
from gestalt.agent.main import main as agent
from gestalt.coordinator.main import main as coordinator
from gestalt.ctl.main import cli

DAEMONS: dict[str, Callable[[], int]] = {"gestalt-agent": agent, "gestalt-coordinator": coordinator, "gestalt-fence": fence}
UNITS = Path(__file__).resolve().parent.parent / "systemd"
DOCUMENTS = "/usr/share/doc/gestalt"

_WIDE = 2000  # each paragraph and each option in a line of its own
_ENTRY = re.compile(r" {2}(\S+(?: \S+)*)(?: {2,}(\S.*))?")
_HEADER = re.compile(r"(?:(?! )|  (?=Examples:))(.+):")


@dataclass(frozen=True, slots=True)
class Page:
    """A page: what the program says, and which other pages belong to it."""

    name: str
    chapter: int
    title: str
    help: str
    related: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"man{self.chapter}/{self.name}.{self.chapter}"


def pages() -> list[Page]:
    """Return all pages."""
    return [*_of_command(cli, None, "gestaltctl"), *(page for name in DAEMONS for page in _of_daemon(name))]


def _of_command(command: click.Command, parent: click.Context | None, word: str) -> Iterator[Page]:
    context = click.Context(command, info_name=word, parent=parent, **{**command.context_settings, "terminal_width": _WIDE})
    name = context.command_path.replace(" ", "-")
    children = command.list_commands(context) if isinstance(command, click.Group) else []
    related = [parent.command_path.replace(" ", "-")] if parent is not None else []
    title = (command.help or "").partition("\n")[0].rstrip(".")
    yield Page(name, 1, title[:1].lower() + title[1:], command.get_help(context), (*related, *(f"{name}-{child}" for child in children)))
    for child in children:
        found = command.get_command(context, child) if isinstance(command, click.Group) else None
        assert found is not None
        yield from _of_command(found, context, child)


def _of_daemon(name: str) -> Iterator[Page]:
    said = _said_by(name, "--help")
    title = re.findall(r"^Description=(.+)$", (UNITS / f"{name}.service").read_text(encoding="utf-8"), re.MULTILINE)[0]
    words = re.findall(rf"^ *{name} ([a-z-]+) …$", said, re.MULTILINE)
    yield Page(name, 8, title, said, tuple(f"{name}-{word}" for word in words))
    for word in words:
        told = _said_by(name, word, "--help")
        does = re.findall(r"^(\w.+?)[.,].*$", told.split("\n\n")[1])[0]
        yield Page(f"{name}-{word}", 8, does[:1].lower() + does[1:], told, (name,))


def _said_by(name: str, *words: str) -> str:
    """Return what a program writes for these words."""
    out, argv, columns = io.StringIO(), sys.argv, os.environ.get("COLUMNS")
    sys.argv = [name, *words]
    os.environ["COLUMNS"] = str(_WIDE)
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            DAEMONS[name]()
    finally:
        sys.argv = argv
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return out.getvalue()


def roff(page: Page) -> str:
    """Return a page as man reads it."""
    usage, _, rest = page.help.partition("\n\n")
    lines = [
        f'.TH {_text(page.name.upper())} {page.chapter} "" "Gestalt {__version__}" "Gestalt"',
        *(".nh", ".ad l", ".SH NAME", rf"{_text(page.name)} \- {_text(page.title)}"),
        *(".SH SYNOPSIS", "\n.br\n".join(_text(line.strip()) for line in re.sub("^[Uu]sage: ", "", usage).splitlines())),
        ".SH DESCRIPTION",
    ]
    title = ""
    for group in _groups(rest):
        header = _HEADER.fullmatch(group[0])
        if header is not None:
            title = header.group(1)
            lines.append(f".SH {_text(title.partition(',')[0].upper())}")
        lines += _body(group[1 if header is not None else 0 :], verbatim=title.lower() == "examples")
    chapter = page.chapter
    lines.append(".SH SEE ALSO")
    lines += [f".BR {_text(name)} ({chapter})," for name in page.related]
    lines.append(_text(f"{DOCUMENTS}/{'gestaltctl.md' if chapter == 1 else 'operator-guide.md'}"))
    return "\n".join(lines) + "\n"


def _groups(text: str) -> Iterator[list[str]]:
    """Yield what stands between empty lines."""
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        yield part.splitlines()


def _body(lines: Sequence[str], *, verbatim: bool) -> list[str]:
    if not lines:
        return []
    if verbatim:
        margin = min(len(line) - len(line.lstrip()) for line in lines)
        return [".nf", *(_text(line[margin:]) for line in lines), ".fi"]
    found = _entries(lines)
    if found:
        return [part for term, told in found for part in (".TP", rf"\fB{_text(term)}\fR", *([_text(told)] if told else []))]
    return [".PP", _text(" ".join(line.strip() for line in lines))]


def _entries(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return terms with what is said about each; nothing when it is prose."""
    found: list[tuple[str, str]] = []
    for line in lines:
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            found.append((entry.group(1), entry.group(2) or ""))
        elif found and line.startswith(" " * 6) and not found[-1][1]:
            found[-1] = (found[-1][0], line.strip())
        else:
            return []
    return found if any(told for _, told in found) else []


def _text(text: str) -> str:
    """Return text as roff, which then shows exactly that."""
    text = re.sub(r"`([^`]+)`", "\0\\1\1", text)
    for character, name in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("`", r"\(ga"), ("^", r"\(ha"), ("~", r"\(ti"), ('"', r"\(dq")):
        text = text.replace(character, name)
    text = "".join(character if character.isascii() else rf"\[u{ord(character):04X}]" for character in text)
    text = text.replace("\0", r"\fB").replace("\1", r"\fR")
    return rf"\&{text}" if text.startswith(".") else text


def main(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        sys.stderr.write("usage: manual.py FOLDER\n")
        return 2
    for page in pages():
        file = Path(words[0]) / f"{page.file}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(roff(page).encode(), mtime=0))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
