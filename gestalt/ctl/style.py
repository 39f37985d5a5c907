"""Colours, only where a terminal shows them, and text that cannot steer a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36", "bold": "1", "dim": "2"}
_GOOD = ("running", "healthy", "ready", "well", "succeeded", "done", "reachable")
_BAD = ("failed", "unhealthy", "lost", "agent-down", "unreachable", "crash loop", "out of memory")
_MIDDLE = (
    "pending",
    "placed",
    "starting",
    "stopping",
    "deploying",
    "degraded",
    "cordoned",
    "draining",
    "maintenance",
    "superseded",
    "cancelled",
    "back-off",
    "deleting",
    "unknown",
)
_WORDS = dict.fromkeys(_GOOD, "green") | dict.fromkeys(_BAD, "red") | dict.fromkeys(_MIDDLE, "yellow")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether people look at `stream` (standard output by default) directly."""
    return (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colours may be written to `stream`; the variable NO_COLOR forbids them."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return `text` in a colour where colours are shown, otherwise as it is."""
    code = _CODES.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if code and coloured(stream) else text


def style_of(word: str) -> str:
    """Return the colour of a state, "" for a word that has none."""
    for known, style in _WORDS.items():
        if word == known or word.startswith((f"{known} ", f"{known},")):
            return style
    return ""


def clean(text: str) -> str:
    """Return `text` as one line without control characters: what an app or a user wrote must not steer the terminal."""
    return _CONTROL.sub("?", text.replace("\t", " ").replace("\n", " "))


def one_line(text: str, limit: int = 0) -> str:
    """Return `text` on one line, at most `limit` characters long when a limit is given."""
    line = " ".join(clean(text).split())
    return line if not limit or len(line) <= limit else line[: limit - 1] + "…"
