"""What all benchmarks share: the machine's facts, runs in turn, medians with minimum and maximum, ratios, a table or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 7


@dataclass(frozen=True, slots=True)
class Measurement:
    """The values of one case, one a run."""

    name: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two cases of the same runs compare; `target` says what was aimed at, for people."""

    name: str
    value: float
    target: str = ""


def machine_facts() -> dict[str, str]:
    """Return what the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 1024**3:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def run(cases: Mapping[str, Callable[[], float]], unit: str, runs: int = RUNS) -> dict[str, Measurement]:
    """Run all cases in turn, `runs` times, so that a change of the machine's mood hits all alike. A case returns its figure."""
    values: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, case in cases.items():
            values[name].append(case())
    return {name: Measurement(name, unit, tuple(values[name])) for name in cases}


def ratio(name: str, of: Measurement, to: Measurement, target: str = "") -> Ratio:
    """Return the ratio of two medians."""
    return Ratio(name, of.median / to.median, target)


def options(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    parser.add_argument("--runs", type=int, default=RUNS)
    return parser


def report(facts: Mapping[str, str], measurements: Sequence[Measurement], ratios: Sequence[Ratio], output: str) -> None:
    """Print everything, as a table for people or JSON for programs."""
    if output == "json":
        print(json.dumps(_as_json(facts, measurements, ratios), indent=2))
        return
    for name, fact in facts.items():
        print(f"{name + ':':<14}{fact}")
    width = max(len(name) for name in [*(case.name for case in measurements), *(item.name for item in ratios)])
    print(f"\n{'':<{width}}  {'median':>10} {'min':>10} {'max':>10}  unit, runs")
    for case in measurements:
        figures = " ".join(f"{figure:>10,.5g}" for figure in (case.median, min(case.values), max(case.values)))
        print(f"{case.name:<{width}}  {figures}  {case.unit}, {len(case.values)}")
    print()
    for item in ratios:
        print(f"{item.name:<{width}}  {item.value:>10.2f}  {item.target}")


def _as_json(facts: Mapping[str, str], measurements: Sequence[Measurement], ratios: Sequence[Ratio]) -> dict[str, object]:
    return {
        "machine": dict(facts),
        "measurements": [
            {
                "name": case.name,
                "unit": case.unit,
                "median": case.median,
                "min": min(case.values),
                "max": max(case.values),
                "values": case.values,
            }
            for case in measurements
        ],
        "ratios": [{"name": item.name, "value": item.value, "target": item.target} for item in ratios],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
