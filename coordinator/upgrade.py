"""The end of an upgrade: from then on the store may hold what only this version understands. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from gestalt.errors import GestaltError, Kind
from gestalt.versions import is_older

from .election import Candidate

NAMED = 5
"""So many of those that stand in the way are named at most."""


def common_format(own: int, roster: Iterable[Candidate]) -> int:
    """Return the newest format of the store that all coordinators which run understand."""
    return min([own, *(candidate.format for candidate in roster)])


def check_finalizable(version: str, target: int, roster: Sequence[Candidate], known: Collection[str], agents: Mapping[str, str]) -> None:
    """Refuse to end an upgrade while somebody is there who has not been upgraded.

    Args:
        version: of the leader.
        target: the format that the store is to have.
        roster: the coordinators that run, the leader among them.
        known: the names of all coordinators.
        agents: version by node name, of those agents that have been heard.

    Raises:
        GestaltError: REFUSED, with who it is.
    """
    older = [f"coordinator {item.name} has version {item.version}" for item in roster if is_older(item.version, version)]
    behind = [
        f"coordinator {item.name} understands format {item.format} at most"
        for item in roster
        if item.format < target and not is_older(item.version, version)
    ]
    away = [f"coordinator {name} does not run: its version is not known" for name in sorted({*known} - {item.name for item in roster})]
    nodes = [f"the agent of node {name} has version {seen}" for name, seen in sorted(agents.items()) if is_older(seen, version)]
    problems = [*older, *behind, *(away if roster else []), *nodes]
    if not problems:
        return
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    raise GestaltError(
        Kind.REFUSED,
        f"the upgrade to {version} is not complete: {'; '.join(problems[:NAMED])}{more}",
        hint="upgrade and start them, or take them out: gestaltctl coordinator remove, gestaltctl node remove",
    )
