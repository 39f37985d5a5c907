"""A table that is printed while it grows, a line a run: what was measured before a benchmark was cut off still counts."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Row:
    """One case. `aim`: what it is to reach, for people. `rate`: the more the better, so that the worst is the least."""

    name: str
    unit: str = "s"
    aim: str = ""
    rate: bool = False
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        return min(self.values) if self.rate else max(self.values)

    @property
    def best(self) -> float:
        return max(self.values) if self.rate else min(self.values)


class Sheet:
    """Prints the facts at its begin, a line with median and worst so far at each value, and the whole in Markdown at its end."""

    def __init__(self, title: str, facts: Mapping[str, str]) -> None:
        self._title = title
        self._facts = facts
        self.rows: dict[str, Row] = {}

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, _terminate)
        print(f"# {self._title}\n# " + ", ".join(f"{name} {fact}" for name, fact in self._facts.items()), flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.rows:
            print(self.markdown(), flush=True)

    def add(self, name: str, value: float, unit: str = "s", *, aim: str = "", rate: bool = False, note: str = "") -> None:
        """Add a value of a case. `note`: what else there is to say of this run, for the line of it only."""
        row = self.rows.setdefault(name, Row(name, unit, aim, rate))
        row.values.append(value)
        so_far = f"run {len(row.values):>2}: median {_figure(row.median)}, worst {_figure(row.worst)}"
        print(f"{name:<60} {_figure(value):>9} {row.unit:<6} {so_far}{note and f' ({note})'}", flush=True)

    def markdown(self) -> str:
        """Return the table so far."""
        lines = ["", "| | runs | median | best | worst | aim |", "|---|---|---|---|---|---|"]
        for row in self.rows.values():
            figures = " | ".join(f"{_figure(value)} {row.unit}".strip() for value in (row.median, row.best, row.worst))
            lines.append(f"| {row.name} | {len(row.values)} | {figures} | {row.aim} |")
        return "\n".join(lines) + "\n"


def _terminate(*_: object) -> None:
    """End like an interrupt does: what was started is ended, the table is printed."""
    raise SystemExit(128 + signal.SIGTERM)


def _figure(value: float) -> str:
    """Return a number with three digits that say something."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3}f}"
