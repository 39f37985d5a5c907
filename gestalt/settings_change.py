"""What new settings mean for a daemon that runs: what it takes over, and what counts after its restart. The fence imports it, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from gestalt.errors import GestaltError, Kind
from gestalt.settings_document import Place
from gestalt.settings_shown import flat, named, shown

LIVE = "live"
"""Marks a field, or a whole section, that its daemon takes over while it runs: in annotations of models, in metadata of dataclasses."""

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Change:
    """One field that is said otherwise now. `live`: it counts at once."""

    place: Place
    old: object
    new: object
    live: bool

    def __str__(self) -> str:
        return f"{named(self.place)} is {shown(self.new)}, was {shown(self.old)}"


def live_places(kind: type[Any]) -> list[Place]:
    """Return the fields of a model or dataclass that are taken over at run time. What is in sections that need not be there is not."""
    if not hasattr(kind, "model_fields"):
        return [(field.name,) for field in fields(kind) if field.metadata.get(LIVE)]
    found: list[Place] = []
    for name, field in kind.model_fields.items():
        if LIVE in field.metadata:
            found.append((name,))
        elif hasattr(field.annotation, "model_fields"):
            found += [(name, *inner) for inner in live_places(field.annotation)]
    return found


def take_over(old: S, new: S) -> tuple[S, list[Change]]:
    """Return the old settings with what can be taken over of the new ones, and everything that differs between both.

    Raises:
        GestaltError: INVALID, when what is taken over does not go together with what stays.
    """
    live = live_places(type(old))
    before, after = flat(old), flat(new)
    changes = [
        Change(place, before.get(place), after.get(place), any(place[: len(start)] == start for start in live))
        for place in dict.fromkeys((*after, *before))
        if before.get(place) != after.get(place)
    ]
    try:
        return _graft(old, new, live), changes
    except ValueError as error:
        later = ", ".join(named(change.place) for change in changes if not change.live)
        problem = f"what could be taken over does not go together with what counts after a restart only ({later}): {_why(error)}"
        raise GestaltError(Kind.INVALID, problem, hint="restart the daemon: then all of it counts") from error


def _graft(old: S, new: S, places: Sequence[Place]) -> S:
    update: dict[str, object] = {}
    for name in dict.fromkeys(str(place[0]) for place in places):
        inner = [place[1:] for place in places if place[0] == name and len(place) > 1]
        update[name] = _graft(getattr(old, name), getattr(new, name), inner) if inner else getattr(new, name)
    settings: Any = old
    if hasattr(settings, "model_validate"):
        return cast(S, type(settings).model_validate({**dict(settings), **update}))
    return cast(S, replace(settings, **update))


def _why(error: Any) -> str:
    """Return the sentences of a mistake, without the words that pydantic puts around them."""
    mistakes = error.errors() if hasattr(error, "errors") else ()
    return "; ".join(mistake["msg"].removeprefix("Value error, ") for mistake in mistakes) or str(error)
