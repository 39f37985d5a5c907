"""What apps need of each other: the order in which they start, and cycles, in which none could be the first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Cycle(Exception):
    """Apps that need each other. `way`: from one app over those that it needs back to it, which is first and last."""

    def __init__(self, way: tuple[str, ...]) -> None:
        super().__init__(" -> ".join(way))
        self.way = way


def in_order(paths: Iterable[str], needs: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """Return these apps and all that they need, each after what it needs.

    Raises:
        Cycle: there is no such order.
    """
    done: dict[str, None] = {}
    for path in paths:
        trail = {path: iter(needs(path))} if path not in done else {}
        while trail:
            here = next(reversed(trail))
            other = next((item for item in trail[here] if item not in done), None)
            if other is None:
                del trail[here]
                done[here] = None
            elif other in trail:
                way = list(trail)
                raise Cycle((*way[way.index(other) :], other))
            else:
                trail[other] = iter(needs(other))
    return tuple(done)
