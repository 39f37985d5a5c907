"""How one description speaks of other apps: by path, or by labels that they have. Pure functions over text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache


def is_path(text: str) -> bool:
    """Tell whether one app is meant by its path, and not whichever have some labels."""
    return text.startswith("/")


@lru_cache(maxsize=10_000)
def labels_in(text: str) -> tuple[tuple[str, str], ...]:
    """Return the labels that `name=value, name=value` asks for."""
    pairs = (item.partition("=") for item in text.split(","))
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)


def means(text: str, path: str, labels: Mapping[str, str]) -> bool:
    """Tell whether an app is meant: it has this path, or all of the labels that are asked for."""
    if is_path(text):
        return text == path
    return all(labels.get(name) == value for name, value in labels_in(text))
