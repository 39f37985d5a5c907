"""How a run of gestaltctl ends: its exit codes, and the signal that ends it."""

from __future__ import annotations

from gestalt.exits import OF_KIND, Exit

__all__ = ["OF_KIND", "Ended", "Exit"]


class Ended(Exception):
    """A signal asked us to end; what needed an orderly end had one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.code = 128 + number
