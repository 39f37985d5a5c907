"""From which other apps one is kept apart, beside which it would rather stand, or rather not, and where these are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from gestalt.spec.schema import AppSpec
from gestalt.spec.selection import is_path, means

from .state import State

Wishes = tuple[tuple[frozenset[str], int], ...]
"""Paths of apps with a weight: how much an app would rather stand where one of them does, below 0 rather not."""

_NO_LABELS: Mapping[str, str] = {}


def meant(state: State, texts: Iterable[str]) -> set[str]:
    """Return the paths of the apps that one of these texts means; a path is one, whether there is such an app or not.

    What labels an app has, its wanted version says.
    """
    found: set[str] = set()
    for text in texts:
        found |= {text} if is_path(text) else state.labelled.meant(text)
    return found


def rivals(state: State, path: str, spec: AppSpec | None) -> set[str]:
    """Return the apps with which one shares no node, because it or they say so. `spec`: as it is to be; None = it is not described."""
    labels = spec.labels if spec is not None else _NO_LABELS
    saying = {other for other, texts in state.apart.items() if any(means(text, path, labels) for text in texts)}
    return (saying | meant(state, spec.placement.apart_from if spec is not None else ())) - {path}


def all_rivals(state: State) -> dict[str, frozenset[str]]:
    """Return the same of all apps at once, as they are wanted; those that have none are not named."""
    found: dict[str, set[str]] = {}
    for path, texts in state.apart.items():
        for other in meant(state, texts) - {path}:
            found.setdefault(path, set()).add(other)
            found.setdefault(other, set()).add(path)
    return {path: frozenset(others) for path, others in found.items()}


def avoided(state: State, path: str, spec: AppSpec | None) -> tuple[dict[str, str], frozenset[str]]:
    """Return the nodes that have instances of apps from which one is kept apart, or room kept for them: with one of these by node.

    Besides, those of these nodes where there is nothing of any of them but that room.
    """
    there: dict[str, str] = {}
    kept: dict[str, str] = {}
    for other in sorted(rivals(state, path, spec)):
        if (app := state.apps.get(other)) is not None:
            kept |= dict.fromkeys(app.kept_room, other)
        there |= {placed.node: other for placed in state.placed(other).instances if not placed.ended}
    return kept | there, frozenset(kept.keys() - there.keys())


def wishes(state: State, path: str, spec: AppSpec) -> Wishes:
    """Return beside which other apps one would rather stand, or rather not."""
    return tuple((frozenset(meant(state, (wish.apps,)) - {path}), wish.weight) for wish in spec.placement.beside if wish.weight)


def nodes_beside(state: State, path: str, spec: AppSpec | None) -> dict[str, int]:
    """Return the sum of the weights of all wishes that each node fulfils: it has an instance of an app that is meant, and that stays."""
    found: Counter[str] = Counter()
    for apps, weight in wishes(state, path, spec) if spec is not None and spec.placement.beside else ():
        stay = (placed for other in apps for placed in state.placed(other).instances if not (placed.stop or placed.ended))
        for node in {placed.node for placed in stay}:
            found[node] += weight
    return {node: weight for node, weight in found.items() if weight}
