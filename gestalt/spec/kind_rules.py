"""Rules of the kinds of apps: what each of them decides by itself, and what therefore means nothing to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .calendar import CRON_ALLOWED, TIMEZONE_ALLOWED, Calendar, Unreadable, zone_of
from .conditions import DISTRIBUTING
from .mistakes import Mistake, show_value
from .part import Rule, rule

if TYPE_CHECKING:
    from .schema import AppSpec, Job, Parameter, Schedule


@rule("kind", "instances")
def nodes_say_how_many(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind == "system" and spec.instances:
        yield Mistake(("instances",), f"is {spec.instances}, but a system app runs once on every node that matches", "leave it out")
    if spec.kind == "job" and spec.instances:
        yield Mistake(
            ("instances",), f"is {spec.instances}, which a job has not", "leave it out: job.completions and parallelism say how many"
        )


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


@rule("kind", "job")
def jobs_are_jobs(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind != "job" and spec.job is not None:
        yield Mistake(("job",), f"means nothing to a {spec.kind}", "leave it out, or kind: job")


@rule("kind", "restart")
def runs_start_no_instance_again(spec: AppSpec) -> Iterable[Mistake]:
    if spec.kind == "job" and spec.restart.policy != "never":
        problem = f"is {spec.restart.policy}, but an instance of a job that ended is not started again"
        yield Mistake(("restart", "policy"), problem, "never, or leave it out: job.retries says how many others take its place")


@rule("kind", "job", "placement")
def exclusive_ones_run_alone(spec: AppSpec) -> Iterable[Mistake]:
    if spec.job is not None and spec.placement.exclusive and spec.job.parallelism > 1:
        yield Mistake(("job", "parallelism"), f"is {spec.job.parallelism}, but the app is exclusive", "1, or placement.exclusive: false")


@rule("job", "env", "ports", "runtime")
def parameters_are_free(spec: AppSpec) -> Iterable[Mistake]:
    names = spec.job.parameters if spec.job is not None else ()
    ours = {f"PORT_{port.name.upper().replace('-', '_')}" for port in spec.ports} | ({"PORT"} if spec.runtime == "process" else set())
    for name in names:
        if name.startswith("GESTALT_") or name in ours:
            yield Mistake(("job", "parameters", name), "is set by Gestalt", "another name")
        elif name in spec.env:
            yield Mistake(("job", "parameters", name), "stands in env as well", "a name of its own, with a default here")


KIND: tuple[Rule, ...] = (
    nodes_say_how_many, never_two_on_a_node, each_node_by_itself, jobs_are_jobs, runs_start_no_instance_again, exclusive_ones_run_alone,
    parameters_are_free,
)  # fmt: skip


@rule("default", "required")
def required_has_no_default(item: Parameter) -> Iterable[Mistake]:
    if item.required and item.default:
        yield Mistake(("default",), "stands beside required", "one of both")


PARAMETER: tuple[Rule, ...] = (required_has_no_default,)


@rule("cron", "timezone")
def schedule_can_be_read(item: Schedule) -> Iterable[Mistake]:
    try:
        zone_of(item.timezone)
    except Unreadable as error:
        yield Mistake(("timezone",), f"is {show_value(item.timezone)}: {error}", TIMEZONE_ALLOWED)
        return
    try:
        Calendar(item.cron, item.timezone).check()
    except Unreadable as error:
        yield Mistake(("cron",), f"is {show_value(item.cron)}: {error}", CRON_ALLOWED)


SCHEDULE: tuple[Rule, ...] = (schedule_can_be_read,)


@rule("schedule", "parameters")
def nobody_sets_what_is_required(item: Job) -> Iterable[Mistake]:
    for name, parameter in item.parameters.items():
        if item.schedule is not None and parameter.required:
            yield Mistake(("parameters", name, "required"), "is true, but nobody sets it when the schedule starts a run", "a default")


JOB: tuple[Rule, ...] = (nobody_sets_what_is_required,)
