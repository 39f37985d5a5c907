"""The instances of an app in pieces, a document each: a change of few of a thousand makes, compares and writes few of them anew."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from .records import Placed

PIECE = 64
"""So many serials are of one piece."""

_SERIAL = attrgetter("serial")


def piece_key(path: str, number: int) -> str:
    """Return the key of a piece; those of an app are in order of their numbers."""
    return f"{path}@{number:08d}"


class Roster(Sequence["Placed"]):
    """The instances of an app in order of their serials. It never changes: what differs from it shares the pieces that do not.

    Args:
        instances: in any order, each with a serial of its own.
    """

    __slots__ = ("_length", "_pieces")

    def __init__(self, instances: Iterable[Placed] = ()) -> None:
        in_order = sorted(instances, key=_SERIAL)
        self._pieces = {number: tuple(piece) for number, piece in groupby(in_order, lambda item: item.serial // PIECE)}
        self._length = len(in_order)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Placed]:
        return chain.from_iterable(self._pieces.values())

    @overload
    def __getitem__(self, at: int) -> Placed: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Placed, ...]: ...
    def __getitem__(self, at: int | slice) -> Placed | tuple[Placed, ...]:
        return tuple(self)[at]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Roster):
            return self._pieces == other._pieces
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Roster({list(self)})"

    def __add__(self, others: Iterable[Placed]) -> Roster:
        return self.edited(put=others)

    def edited(self, drop: Collection[int] = (), put: Iterable[Placed] = ()) -> Roster:
        """Return it without the instances of some serials, and with others, each in the place of the one of its serial, if there is one."""
        come, drop = Roster(put)._pieces, frozenset(drop)
        numbers = come.keys() | {serial // PIECE for serial in drop}
        if not numbers:
            return self
        found, pieces = Roster(), dict(self._pieces)
        for number in numbers:
            piece = {item.serial: item for item in (*pieces.get(number, ()), *come.get(number, ())) if item.serial not in drop}
            pieces[number] = tuple(piece[serial] for serial in sorted(piece))
        found._pieces = {number: pieces[number] for number in sorted(pieces) if pieces[number]}
        found._length = sum(map(len, found._pieces.values()))
        return found

    def get(self, serial: int) -> Placed | None:
        """Return the instance of a serial, None if there is none."""
        piece = self._pieces.get(serial // PIECE, ())
        at = bisect_left(piece, serial, key=_SERIAL)
        return piece[at] if at < len(piece) and piece[at].serial == serial else None

    def since(self, serial: int) -> tuple[Placed, ...]:
        """Return the instances of this serial and of later ones."""
        late = [number for number in self._pieces if number >= serial // PIECE]
        return tuple(item for number in late for item in self._pieces[number] if item.serial >= serial)

    def changed(self, after: Roster) -> dict[int, tuple[Placed, ...]]:
        """Return the pieces that another one has differently, by number, as they are there; nothing is left of one that is empty."""
        before, now = self._pieces, after._pieces
        numbers = sorted(before.keys() | now.keys())
        return {number: now.get(number, ()) for number in numbers if before.get(number) != now.get(number)}

    def differing(self, after: Roster) -> tuple[list[Placed], list[Placed]]:
        """Return the instances of which another one has none that is the same object, and those that it has instead, or besides."""
        gone: list[Placed] = []
        come: list[Placed] = []
        for number, now in self.changed(after).items():
            before = self._pieces.get(number, ())
            same = {id(item) for item in before} & {id(item) for item in now}
            gone += (item for item in before if id(item) not in same)
            come += (item for item in now if id(item) not in same)
        return gone, come
