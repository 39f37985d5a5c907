"""Rules of the kinds of apps: what each of them decides by itself, and what therefore means nothing to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .conditions import DISTRIBUTING
from .mistakes import Mistake
from .part import Rule, rule

if TYPE_CHECKING:
    from .schema import AppSpec


@rule("kind", "instances")
def nodes_say_how_many(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind == "system" and spec.instances:
        yield Mistake(("instances",), f"is {spec.instances}, but a system app runs once on every node that matches", "leave it out")


@rule("kind", "update")
def never_two_on_a_node(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind != "system":
        return
    if spec.update.strategy != "rolling":
        yield Mistake(("update", "strategy"), f"is {spec.update.strategy}, which a system app cannot do", "rolling")
    if spec.update.max_surge not in ("0", "0%"):
        problem = f"is {spec.update.max_surge}, but a node never has two instances of a system app"
        yield Mistake(("update", "max_surge"), problem, "leave it out; max_unavailable says on how many nodes it is updated at once")


@rule("kind", "placement")
def each_node_by_itself(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind != "system":
        return
    if spec.placement.exclusive:
        yield Mistake(("placement", "exclusive"), "is true, but a system app runs on every node that matches", "leave it out")
    for index, item in enumerate(spec.placement.constraints):
        if item.operator in DISTRIBUTING:
            place = ("placement", "constraints", index, "operator")
            problem = f"is {item.operator}, which distributes instances, but a system app runs on every node that matches"
            yield Mistake(place, problem, "an operator that looks at one node, like = or matches")


KIND: tuple[Rule, ...] = (nodes_say_how_many, never_two_on_a_node, each_node_by_itself)
