"""What changed, noted for everybody who wants to look at nothing else."""

from __future__ import annotations

from collections.abc import Iterable


class Notices:
    """Names of what changed. Each reader has a set of its own, and takes out what it has taken notice of."""

    def __init__(self) -> None:
        self._readers: list[set[str]] = []

    def reader(self) -> set[str]:
        """Return a set that gets all names from now on."""
        self._readers.append(made := set[str]())
        return made

    def add(self, name: str) -> None:
        for reader in self._readers:
            reader.add(name)

    def update(self, names: Iterable[str]) -> None:
        names = tuple(names)
        for reader in self._readers:
            reader.update(names)


def taken(reader: set[str]) -> set[str]:
    """Return what is in a reader's set, and empty that."""
    found = set(reader)
    reader.clear()
    return found
