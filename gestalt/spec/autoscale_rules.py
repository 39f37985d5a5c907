"""Rules of autoscaling: bounds that can be kept, and metrics of something that the app has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .mistakes import Mistake
from .part import Rule, rule
from .part_rules import twice

if TYPE_CHECKING:
    from .schema import AppSpec, Autoscale, Metric

_ALL = 100.0


@rule("kind", "target")
def memory_has_an_end(metric: Metric) -> Iterable[Mistake]:
    if metric.kind == "memory" and metric.target >= _ALL:
        yield Mistake(("target",), f"is {metric.target:g}, but at 100 percent of its memory an instance is killed", "less than 100")


@rule("min", "max")
def bounds_in_order(scaling: Autoscale) -> Iterable[Mistake]:
    if scaling.min > scaling.max:
        yield Mistake(("min",), f"is {scaling.min}", f"at most max, {scaling.max}")


@rule("metrics")
def metrics_differ(scaling: Autoscale) -> Iterable[Mistake]:
    if not scaling.metrics:
        yield Mistake(("metrics",), "is empty", "at least one of cpu, memory, requests, queue with its target")
    for mistake in twice([metric.kind for metric in scaling.metrics], ("metrics",)):
        yield Mistake((*mistake.place, "kind"), mistake.problem, mistake.allowed)


@rule("max_step")
def step_moves(scaling: Autoscale) -> Iterable[Mistake]:
    if not int(scaling.max_step.rstrip("%")):
        yield Mistake(("max_step",), f"is {scaling.max_step}: nothing could ever be changed", "a count or a percentage above 0")


@rule("kind", "autoscale")
def services_only(spec: AppSpec) -> Iterable[Mistake]:
    if spec.autoscale is not None and spec.kind != "service":
        yield Mistake(("autoscale",), f"means nothing for kind: {spec.kind}, which decides by itself how many run", "leave it out")


@rule("kind", "instances", "autoscale")
def instances_within_bounds(spec: AppSpec) -> Iterable[Mistake]:
    scaling = spec.autoscale
    if scaling is not None and spec.kind == "service" and scaling.min <= scaling.max and not scaling.min <= spec.instances <= scaling.max:
        allowed = f"{scaling.min} to {scaling.max}, the bounds of autoscale; left out: {scaling.min}"
        yield Mistake(("instances",), f"is {spec.instances}", allowed)


@rule("placement", "autoscale")
def exclusive_is_one(spec: AppSpec) -> Iterable[Mistake]:
    if spec.autoscale is not None and spec.placement.exclusive and spec.autoscale.max > 1:
        yield Mistake(
            ("autoscale", "max"), f"is {spec.autoscale.max}, but of an exclusive app there is one instance", "leave autoscale out"
        )


@rule("resources", "ports", "autoscale")
def metrics_can_be_measured(spec: AppSpec) -> Iterable[Mistake]:
    lacks = {
        "cpu": "" if spec.resources.cpu else "a share of resources.cpu, which is 0",
        "memory": "" if spec.resources.memory else "a share of resources.memory, which is not set",
        "requests": "" if any(port.http for port in spec.ports) else "of HTTP requests through the load balancer, but no port has http",
        "queue": "" if any(port.http or port.tcp for port in spec.ports) else "of what the load balancer has, but no port has http or tcp",
    }
    for index, metric in enumerate(spec.autoscale.metrics if spec.autoscale is not None else ()):
        if lack := lacks[metric.kind]:
            possible = ", ".join(kind for kind, why_not in lacks.items() if not why_not)
            yield Mistake(
                ("autoscale", "metrics", index, "kind"), f"is {metric.kind}: {lack}", f"{possible or 'none'}, or add what is missing"
            )


METRIC: tuple[Rule, ...] = (memory_has_an_end,)
AUTOSCALE: tuple[Rule, ...] = (bounds_in_order, metrics_differ, step_moves)
APP: tuple[Rule, ...] = (services_only, instances_within_bounds, exclusive_is_one, metrics_can_be_measured)
