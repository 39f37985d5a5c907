"""What a description asks for that is not done yet, and what its author may not have meant."""

from __future__ import annotations

from collections.abc import Iterator

from .schema import AppSpec, Check, Placement, Update

_PLACEMENT = tuple(Placement.model_fields)
_STRATEGIES = ("canary", "blue_green", "recreate")


def unhonoured(spec: AppSpec) -> tuple[str, ...]:
    """Return a sentence for everything set that this version of Gestalt does not act on."""
    return tuple(_unhonoured(spec))


def warnings(spec: AppSpec) -> tuple[str, ...]:
    """Return a sentence for everything valid that is probably not what its author wants."""
    return tuple(_doubts(spec))


def _unhonoured(spec: AppSpec) -> Iterator[str]:
    for name in _PLACEMENT:
        if getattr(spec.placement, name) != Placement.model_fields[name].default:
            yield f"placement.{name} is not acted on yet"
    if spec.update.strategy in _STRATEGIES:
        yield f"update.strategy {spec.update.strategy} is not done yet: the update is rolling"
    for name in ("max_surge", "max_unavailable"):
        if getattr(spec.update, name) != Update.model_fields[name].default:
            yield f"update.{name} is not acted on yet: instances are replaced one by one"
    if spec.resources.disk:
        yield "resources.disk is not limited yet"
    if spec.depends_on:
        yield "depends_on is not acted on yet: apps start in any order"


def _doubts(spec: AppSpec) -> Iterator[str]:
    for port in spec.ports:
        if port.host_port and spec.instances > 1:
            yield f"port {port.name} has the fixed host port {port.host_port}: only one of the {spec.instances} instances fits on a node"
    if not spec.checks and spec.ports:
        yield "there are no checks: an instance counts as healthy, and gets requests, as soon as it runs"
    elif spec.checks and all(_only_connects(check) for check in spec.checks):
        yield "all checks only connect: an app that hangs passes them"
    if spec.image and ":" not in spec.image.rpartition("/")[2] and "@" not in spec.image:
        yield f"image {spec.image} has no tag, so it means latest: nobody can tell its versions apart"


def _only_connects(check: Check) -> bool:
    return check.kind == "tcp"
