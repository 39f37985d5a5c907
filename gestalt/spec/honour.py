"""What a description asks for that is not done yet, and what its author may not have meant."""

from __future__ import annotations

from collections.abc import Iterator

from .schema import MIN_DIFFERENCE, AppSpec, Update

_ONE_BY_ONE = (Update().max_surge, Update().max_unavailable)
_CHOOSING = ("affinities", "beside", "spread", "strategy")
_OF_CANARY = ("canary", "promote", "promote_after")


def unhonoured(spec: AppSpec) -> tuple[str, ...]:
    """Return a sentence for everything set that this version of Gestalt does not act on."""
    return tuple(_unhonoured(spec))


def warnings(spec: AppSpec) -> tuple[str, ...]:
    """Return a sentence for everything valid that is probably not what its author wants."""
    return tuple(_doubts(spec))


def _unhonoured(spec: AppSpec) -> Iterator[str]:
    if spec.resources.disk:
        yield "resources.disk is set aside on the node, but not limited yet"
    if spec.runtime == "process" and not spec.security.read_only_root:
        for index, volume in enumerate(spec.volumes):
            if volume.read_only:
                yield f"volumes[{index}].read_only is not enforced for a process without security.read_only_root"


def _doubts_of_kind(spec: AppSpec) -> Iterator[str]:
    if spec.kind == "system" and any(getattr(spec.placement, name) for name in _CHOOSING):
        yield "placement.affinities, beside, spread and strategy are not used: a system app runs on every node that matches"
    if spec.kind == "job" and spec.depends_on:
        yield "depends_on holds no run of a job back: a run starts when it is asked for"
    if spec.kind == "job" and spec.update != Update():
        yield "of update only health_deadline is used: an instance has to start within it. A run stays with its version"


def _doubts_of_placement(spec: AppSpec) -> Iterator[str]:
    if spec.placement.preempt and spec.kind != "service":
        yield "placement.preempt is not used: room is made for services only"
    elif spec.placement.preempt and spec.placement.priority < MIN_DIFFERENCE:
        yield f"placement.preempt is not used: no priority is lower than {spec.placement.priority} by {MIN_DIFFERENCE}"
    if spec.kind == "system" and spec.placement.apart_from:
        yield "placement.apart_from: on nodes that have an instance of one of those apps it does not run"


def _doubts(spec: AppSpec) -> Iterator[str]:
    yield from _doubts_of_kind(spec)
    yield from _doubts_of_placement(spec)
    fixed = [port for port in spec.ports if port.host_port]
    for port in fixed if spec.instances > 1 else ():
        yield f"port {port.name} has the fixed host port {port.host_port}: only one of the {spec.instances} instances fits on a node"
    if fixed and spec.kind == "service" and (spec.update.max_surge, spec.update.max_unavailable) != _ONE_BY_ONE:
        yield "update.max_surge and max_unavailable are not used: with a fixed host port each old instance stops before the new one starts"
    if spec.update.strategy == "blue_green" and (fixed or spec.placement.exclusive):
        yield "update.strategy blue_green is not used: with a fixed host port, or exclusive, old and new cannot stand side by side"
    elif spec.update.strategy in ("blue_green", "recreate") and (spec.update.max_surge, spec.update.max_unavailable) != _ONE_BY_ONE:
        yield f"update.max_surge and max_unavailable are not used by the strategy {spec.update.strategy}"
    yield from _unused(spec)
    if not spec.checks and spec.ports:
        yield "there are no checks: an instance counts as healthy, and gets requests, as soon as it runs"
    elif spec.checks and all(check.kind == "tcp" for check in spec.checks):
        yield "all checks only connect: an app that hangs passes them"
    if spec.image and ":" not in spec.image.rpartition("/")[2] and "@" not in spec.image:
        yield f"image {spec.image} has no tag, so it means latest: nobody can tell its versions apart"


def _unused(spec: AppSpec) -> Iterator[str]:
    for name in _OF_CANARY if spec.update.strategy != "canary" else ():
        if getattr(spec.update, name) != Update.model_fields[name].default:
            yield f"update.{name} is not used by the strategy {spec.update.strategy}"
