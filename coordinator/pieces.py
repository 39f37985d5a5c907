"""The placements of an app in pieces, a document each: a change of few instances of a thousand writes few of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from .records import Placed

PIECE = 64
"""So many serials are of one piece."""

_SERIAL = attrgetter("serial")


def piece_key(path: str, number: int) -> str:
    """Return the key of a piece; those of an app are in order of their numbers."""
    return f"{path}@{number:08d}"


def count_below(instances: Sequence[Placed], serial: int) -> int:
    """Return how many of an app's instances, which are in order of their serials, have a lower one."""
    return bisect_left(instances, serial, key=_SERIAL)


def changed_pieces(before: Sequence[Placed], after: Sequence[Placed]) -> dict[int, Sequence[Placed]]:
    """Return the pieces that differ, by number, as they are afterwards; nothing is left of one that is empty.

    Args:
        before: an app's instances, in order of their serials.
        after: the same app's.
    """
    found, old, new = dict[int, Sequence[Placed]](), 0, 0
    while old < len(before) or new < len(after):
        number = min(item.serial for item in (*before[old : old + 1], *after[new : new + 1])) // PIECE
        end = (number + 1) * PIECE
        old_end, new_end = _end(before, old, end), _end(after, new, end)
        if before[old:old_end] != after[new:new_end]:
            found[number] = after[new:new_end]
        old, new = old_end, new_end
    return found


def _end(instances: Sequence[Placed], begin: int, serial: int) -> int:
    """Return where those of some instances begin that have this serial or a later one; within a piece's length."""
    return bisect_left(instances, serial, begin, min(begin + PIECE, len(instances)), key=_SERIAL)
