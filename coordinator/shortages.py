"""Shortages as messages."""

from __future__ import annotations

from gestalt.proto.v1 import model_pb2

from .decider import Decider
from .scheduler.shortage import Refusal, Shortage


def shortage_message(shortage: Shortage, version: int = 0) -> model_pb2.Shortage | None:
    """Return what keeps instances from being placed; None when nothing does. `version`: whose instances these are, in a plan."""
    if not shortage:
        return None
    found = model_pb2.Shortage(missing=shortage.missing, message=str(shortage), version=version)
    found.obstacles.extend(_obstacle(item) for item in shortage.refusals)
    return found


def shortage_now(decider: Decider, path: str) -> model_pb2.Shortage | None:
    """Return what keeps instances of an app from being placed, where that is why it has too few, as of now."""
    why = decider.unplaced.get(path)
    return shortage_message(why) if isinstance(why, Shortage) and str(why) in decider.lacks(path) else None


def _obstacle(refusal: Refusal) -> model_pb2.Obstacle:
    about = refusal.obstacle
    return model_pb2.Obstacle(
        kind=about.word,
        subject=about.subject,
        nodes=refusal.nodes,
        nearest=refusal.nearest,
        has=about.has,
        asked=about.asked,
        help=refusal.help,
        message=refusal.sentence,
    )
