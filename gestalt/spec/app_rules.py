"""Rules over several sections of a description."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gestalt.units import show_duration, show_size

from .autoscale_rules import APP as AUTOSCALED
from .completion import PORT_KINDS
from .kind_rules import KIND
from .mistakes import Mistake, show_value
from .part import Rule, rule
from .part_rules import twice

if TYPE_CHECKING:
    from .schema import AppSpec

LEAST_MEMORY = 6 * 1024**2  # Docker refuses less


@rule("runtime", "image")
def image_fits_runtime(spec: AppSpec) -> Iterable[Mistake]:
    if spec.runtime == "docker" and not spec.image:
        yield Mistake(("image",), "is missing", "an image, or a command alone for a plain process")
    if spec.runtime == "process" and spec.image:
        yield Mistake(("image",), "means nothing for a process", "leave it out, or runtime: docker")


@rule("runtime", "resources")
def memory_is_enough(spec: AppSpec) -> Iterable[Mistake]:
    memory = spec.resources.memory
    if spec.runtime == "docker" and 0 < memory < LEAST_MEMORY:
        yield Mistake(
            ("resources", "memory"), f"is {show_size(memory)}", f"at least {show_size(LEAST_MEMORY)} for Docker, or 0 for no limit"
        )


@rule("runtime", "command")
def process_has_command(spec: AppSpec) -> Iterable[Mistake]:
    if spec.runtime == "process" and not spec.command:
        yield Mistake(("command",), "is missing", 'a list: ["/usr/bin/app", "--flag"]')
    if spec.command and not spec.command[0]:
        yield Mistake(("command", 0), "is empty", "the program to run")


@rule("runtime", "pull")
def pull_is_for_images(spec: AppSpec) -> Iterable[Mistake]:
    if spec.runtime == "process" and spec.pull != type(spec.pull)():
        yield Mistake(("pull",), "means nothing for a process", "leave it out, or runtime: docker")


@rule("runtime", "volumes")
def process_sees_node(spec: AppSpec) -> Iterable[Mistake]:
    for index, volume in enumerate(spec.volumes if spec.runtime == "process" else ()):
        if volume.name:
            yield Mistake(
                ("volumes", index, "name"), "cannot be mounted: a process sees the node's own files", "host_path, the same as target"
            )
        elif volume.host_path != volume.target:
            place = ("volumes", index, "host_path")
            yield Mistake(
                place, f"is {show_value(volume.host_path)}: a process sees the node's own files", f"the same as target, {volume.target}"
            )


@rule("runtime", "ports")
def process_is_told_its_port(spec: AppSpec) -> Iterable[Mistake]:
    for index, port in enumerate(spec.ports if spec.runtime == "process" else ()):
        if port.container_port and port.container_port != port.host_port:
            place = ("ports", index, "container_port")
            yield Mistake(
                place, f"is {port.container_port}, but a process has no port of its own", f"leave it out: {variable(port.name)} tells it"
            )


@rule("volumes")
def targets_differ(spec: AppSpec) -> Iterable[Mistake]:
    for mistake in twice([volume.target for volume in spec.volumes], ("volumes",)):
        yield Mistake((*mistake.place, "target"), mistake.problem, mistake.allowed)


@rule("ports")
def ports_differ(spec: AppSpec) -> Iterable[Mistake]:
    for mistake in twice([port.name for port in spec.ports], ("ports",)):
        yield Mistake((*mistake.place, "name"), mistake.problem, mistake.allowed)
    taken: dict[tuple[str, int], str] = {}
    for index, port in enumerate(spec.ports):
        other = taken.setdefault((port.protocol, port.host_port), port.name) if port.host_port else port.name
        if other != port.name:
            yield Mistake(("ports", index, "host_port"), f"is {port.host_port}, which the port {other} has", "a port of its own")


@rule("ports")
def services_differ(spec: AppSpec) -> Iterable[Mistake]:
    listening: dict[int, str] = {}
    claims: dict[tuple[str, str], str] = {}
    for index, port in enumerate(spec.ports):
        if port.tcp is not None and (other := listening.setdefault(port.tcp.port, port.name)) != port.name:
            yield Mistake(("ports", index, "tcp", "port"), f"is {port.tcp.port}, on which {other} is served", "a port of its own")
        if port.http is None:
            continue
        prefix = port.http.path_prefix.rstrip("/") + "/"
        rivals = {claims.setdefault((host, prefix), port.name) for host in port.http.hosts or ("",)} - {port.name}
        if rivals:
            yield Mistake(("ports", index, "http"), f"claims a host and path that {min(rivals)} has", "another host or path_prefix")


@rule("checks", "ports")
def checks_find_their_port(spec: AppSpec) -> Iterable[Mistake]:
    ports = {port.name: port for port in spec.ports}
    names = (
        ", ".join(name for name, port in ports.items() if port.protocol == "tcp")
        or "a check of kind exec or docker: the app has no tcp port"
    )
    for index, check in enumerate(spec.checks):
        if check.kind not in PORT_KINDS:
            continue
        place = ("checks", index, "port")
        if not check.port:
            yield Mistake(place, "is missing: the app has no tcp port to ask", "name one under ports")
        elif check.port not in ports:
            yield Mistake(place, f"is {show_value(check.port)}, which is not a port of the app", names)
        elif ports[check.port].protocol == "udp":
            yield Mistake(place, f"is {show_value(check.port)}, a udp port", names)


@rule("checks")
def check_names_differ(spec: AppSpec) -> Iterable[Mistake]:
    for mistake in twice([check.name for check in spec.checks], ("checks",)):
        yield Mistake((*mistake.place, "name"), mistake.problem, mistake.allowed)


@rule("checks", "runtime")
def docker_check_needs_docker(spec: AppSpec) -> Iterable[Mistake]:
    for index, check in enumerate(spec.checks):
        if check.kind == "docker" and spec.runtime != "docker":
            yield Mistake(("checks", index, "kind"), "is docker, but the app is a process", "http, https, tcp, grpc, exec")


@rule("checks", "update")
def deadline_outlasts_grace(spec: AppSpec) -> Iterable[Mistake]:
    grace = max((check.grace for check in spec.checks), default=0.0)
    if spec.update.health_deadline <= grace:
        problem = f"is {show_duration(spec.update.health_deadline)}"
        yield Mistake(("update", "health_deadline"), problem, f"more than the longest grace of a check, {show_duration(grace)}")


@rule("update", "instances")
def canaries_are_fewer(spec: AppSpec) -> Iterable[Mistake]:
    share = spec.update.canary
    if spec.update.strategy == "canary" and not share.endswith("%") and int(share) > spec.instances > 0:
        yield Mistake(("update", "canary"), f"is {share}, more than instances, {spec.instances}", f"1 to {spec.instances}, or a percentage")


@rule("update", "ports", "placement")
def canary_stands_beside(spec: AppSpec) -> Iterable[Mistake]:
    if spec.update.strategy != "canary":
        return
    fixed = next((port for port in spec.ports if port.host_port), None)
    why = "the app is exclusive" if spec.placement.exclusive else f"port {fixed.name} has a fixed host_port" if fixed else ""
    if why:
        problem = f"is canary, but {why}: old and new cannot stand side by side"
        yield Mistake(("update", "strategy"), problem, "rolling or recreate, which stop each old instance first")


@rule("update", "checks")
def promotion_rests_on_checks(spec: AppSpec) -> Iterable[Mistake]:
    if spec.update.strategy == "canary" and spec.update.promote == "auto" and not spec.checks:
        yield Mistake(
            ("update", "promote"), "is auto, but there are no checks: nothing tells whether a canary is well", "manual, or checks"
        )


@rule("env")
def variables_are_free(spec: AppSpec) -> Iterable[Mistake]:
    for name in spec.env:
        if name.startswith("GESTALT_"):
            yield Mistake(("env", name), "is set by Gestalt", "another name")


@rule("env", "ports", "runtime")
def port_variables_are_free(spec: AppSpec) -> Iterable[Mistake]:
    ours = {variable(port.name) for port in spec.ports}
    if spec.runtime == "process" and spec.ports:
        ours.add("PORT")
    for name in spec.env:
        if name in ours:
            yield Mistake(("env", name), "is set by Gestalt", "another name")


LABEL_VALUE_MAX = 1024
"""Characters of a label's value: the labels of all apps are compared with what others ask for, and told in messages."""


@rule("labels")
def labels_are_free_and_short(spec: AppSpec) -> Iterable[Mistake]:
    for name, value in spec.labels.items():
        if name.lower().startswith("gestalt"):
            yield Mistake(("labels", name), "begins with gestalt, as Gestalt's own labels do", "another name")
        if len(value) > LABEL_VALUE_MAX:
            yield Mistake(
                ("labels", name), f"has a value of {len(value)} characters", f"at most {LABEL_VALUE_MAX}: more goes into env, or a file"
            )


@rule("path", "depends_on")
def depends_on_others(spec: AppSpec) -> Iterable[Mistake]:
    yield from twice(spec.depends_on, ("depends_on",))
    for index, other in enumerate(spec.depends_on):
        if other == spec.path:
            yield Mistake(("depends_on", index), "is the app itself", "other apps")


@rule("path", "placement")
def apart_from_others(spec: AppSpec) -> Iterable[Mistake]:
    yield from twice(spec.placement.apart_from, ("placement", "apart_from"))
    for index, other in enumerate(spec.placement.apart_from):
        if other == spec.path:
            hint = "other apps; the constraint unique keeps its own instances apart"
            yield Mistake(("placement", "apart_from", index), "is the app itself", hint)
    yield from twice([wish.apps for wish in spec.placement.beside], ("placement", "beside"))
    for index, wish in enumerate(spec.placement.beside):
        if wish.apps == spec.path:
            hint = "other apps; the strategy says whether its own instances stand together"
            yield Mistake(("placement", "beside", index, "apps"), "is the app itself", hint)


def variable(port: str) -> str:
    """Return the variable that tells an instance its port."""
    return f"PORT_{port.upper().replace('-', '_')}"


APP: tuple[Rule, ...] = (
    image_fits_runtime, memory_is_enough, process_has_command, pull_is_for_images, process_sees_node, process_is_told_its_port,
    targets_differ, ports_differ, services_differ, checks_find_their_port, check_names_differ, docker_check_needs_docker,
    deadline_outlasts_grace, canaries_are_fewer, canary_stands_beside, promotion_rests_on_checks, variables_are_free,
    port_variables_are_free, labels_are_free_and_short, depends_on_others, apart_from_others, *KIND, *AUTOSCALED,
)  # fmt: skip
