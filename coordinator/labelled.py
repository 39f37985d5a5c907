"""Which apps have which labels, kept in step with the state: to look at all apps for those that are meant takes the longer the more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gestalt.spec.selection import labels_in


@dataclass(slots=True)
class Labelled:
    """The labels of each app that has any, by path, and the apps that have each label with each value."""

    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    paths: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def put(self, path: str, labels: Mapping[str, str]) -> None:
        """An app has these labels from now on, and no others; none = also if it is there no more."""
        before = self.labels.get(path, {})
        if before == labels:
            return
        for pair in before.items():
            self.paths[pair].discard(path)
            if not self.paths[pair]:
                del self.paths[pair]
        for pair in labels.items():
            self.paths.setdefault(pair, set()).add(path)
        if labels:
            self.labels[path] = labels
        else:
            del self.labels[path]

    def meant(self, text: str) -> set[str]:
        """Return the apps that have all labels of `name=value,name=value`."""
        found = sorted((self.paths.get(pair, set()) for pair in labels_in(text)), key=len)
        return found[0].intersection(*found[1:])
