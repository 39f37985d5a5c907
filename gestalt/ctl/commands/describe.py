"""inspect: everything about an app or an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import subject_argument
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.resolve import find
from gestalt.ctl.session import converse
from gestalt.ctl.shapes import shape, word
from gestalt.ctl.style import clean, paint, style_of
from gestalt.errors import GestaltError, Kind
from gestalt.units import show_duration, show_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2, spec_pb2

    Line = tuple[str, str, str]  # name, a state that has a colour, text


@click.command(
    epilog=examples("gestaltctl inspect /shop/main/prod/web", "gestaltctl inspect web-3fa9c1-7", "gestaltctl inspect web -o yaml")
)
@subject_argument
@output_option
@connected
def inspect(subject: str, output: str) -> None:
    """Show everything about an app or an instance.

    An instance that failed is shown with its reason, its exit code and its last log lines. With -o json, an app is
    {"app", "instances", "runs"}, an instance the instance alone.
    """
    reply, instance_id = converse(lambda client: _ask(client, subject))
    if not instance_id:
        emit(output, lambda: shape(reply), lambda: [reply.app.path], lambda _: _print_app(reply))
        return
    instance = next((item for item in reply.instances if item.id == instance_id), None)
    if instance is None:
        raise GestaltError(Kind.NOT_FOUND, f"{instance_id} is gone", hint=f"gestaltctl ps {reply.app.path}")
    emit(output, lambda: shape(instance), lambda: [instance.id], lambda _: _print_instance(instance))


async def _ask(client: Client, text: str) -> tuple[api_pb2.AppReply, str]:
    from gestalt.proto.v1 import api_pb2

    subject = await find(client, text)
    return await client.call(lambda api: api.apps.Get, api_pb2.GetRequest(app=subject.app)), subject.instance


def _print_app(reply: api_pb2.AppReply) -> None:
    app = reply.app
    print(paint(app.path, "bold"))
    _print_lines(_app_lines(app))
    _print_lines(_spec_lines(app.spec))
    _print_lines(("run", run.state, f" {run.id}" + (f": {run.message}" if run.message else "")) for run in reply.runs)
    for instance in sorted(reply.instances, key=lambda item: item.serial):
        print()
        _print_instance(instance, brief=True)


def _app_lines(app: model_pb2.App) -> Iterator[Line]:
    from gestalt.ctl import words

    yield "state", app.state, f": {app.message}" if app.message else ""
    yield (
        "instances",
        "",
        f"{app.count} wanted, {app.running} running, {app.healthy} healthy" + (", stopped on request" if app.stopped else ""),
    )
    if app.autoscaling:
        yield "autoscale", "", f"{app.spec.autoscale.min} to {app.spec.autoscale.max}; {app.autoscaling}"
    stable = f"{app.stable_version} is the last stable one" if app.stable_version else "none was stable yet"
    if app.next_runs:
        yield "next runs", "", ", ".join(words.when(at) for at in app.next_runs)
    yield "version", "", f"{app.version}, {stable}"
    if app.canary_version:
        yield "canary", "", f"version {app.canary_version}, {app.canary.removeprefix('canary: ')}"
    if app.paused:
        yield "paused", "", f"{app.paused}: gestaltctl resume {app.path}"
    yield "revision", "", str(app.revision)
    if app.task:
        yield "task", "", f"{app.task} is under way: gestaltctl tasks {app.task} --watch"
    yield "created", "", words.when(app.created_at)


def _spec_lines(spec: spec_pb2.AppSpec) -> Iterator[Line]:
    yield "runtime", "", spec.runtime
    if spec.image:
        yield "image", "", spec.image
    if spec.command or spec.args:
        yield "command", "", " ".join([*spec.command, *spec.args])
    memory = show_size(spec.resources.memory) if spec.resources.memory else "no limit"
    yield "resources", "", f"{spec.resources.cpu:g} cores, memory {memory}"
    preempts = ", has others stopped where it has no room" if spec.placement.preempt else ""
    yield "priority", "", f"{spec.placement.priority}{preempts}"
    for port in spec.ports:
        yield "port", "", f"{port.name} {port.container_port}/{port.protocol}{_service(port)}"
    for check in spec.checks:
        yield "check", "", f"{check.name or check.kind} ({check.kind}, {check.purpose}) every {show_duration(check.interval)}"
    for key in sorted(spec.env):
        yield "env", "", f"{key}={spec.env[key]}"


def _service(port: spec_pb2.Port) -> str:
    if port.HasField("http"):
        return f" served as http://{', '.join(port.http.hosts) or '*'}{port.http.path_prefix}"
    if port.HasField("tcp"):
        return f" served on tcp port {port.tcp.port}"
    return ""


def _print_instance(instance: model_pb2.Instance, *, brief: bool = False) -> None:
    """Print an instance; `brief`, below its app, leaves out what the app says already."""
    print(paint(instance.id, "bold"))
    _print_lines(_instance_lines(instance, brief=brief))
    if instance.observed.log_tail:
        print("  last lines before it failed")
        for line in instance.observed.log_tail:
            print(f"    {paint('|', 'dim')} {clean(line)}")


def _instance_lines(instance: model_pb2.Instance, *, brief: bool) -> Iterator[Line]:
    from gestalt.ctl import words

    seen = instance.observed
    if not brief:
        yield "app", "", instance.app
    yield "phase", words.phase(instance), f" for {words.age(instance)}" if words.age(instance) else ""
    yield "health", words.health(instance), ", gets requests" if seen.ready else ", gets no requests"
    if words.why(instance):
        yield "reason", "", words.why(instance)
    if seen.HasField("exit_code"):
        yield "exit code", "", f"{seen.exit_code}" + (", killed for lack of memory" if seen.oom_killed else "")
    yield "node", "", instance.node or "not placed yet"
    yield "version", "", str(instance.version)
    yield "attempt", "", f"{seen.attempt}, {seen.restarts} restarts in place"
    if instance.ports:
        yield "ports", "", words.ports(instance, wide=True)
    if instance.HasField("usage"):
        yield "uses", "", _usage(instance.usage)
    if seen.runtime_id and not brief:
        yield "runtime id", "", seen.runtime_id
    for check in seen.checks:
        yield f"check {check.name}", word(check, "health"), f": {check.output}" if check.output else ""


def _usage(usage: model_pb2.Usage) -> str:
    asked = f" ({usage.cpu_share:.0%} of what it asked for)" if usage.cpu_share else ""
    limit = f" ({usage.memory_share:.0%} of its limit)" if usage.memory_share else ""
    given = f", {usage.requests:.1f} requests a second, {usage.queue:g} under way" if usage.requests or usage.queue else ""
    return f"{usage.cpu:.2f} cores{asked}, memory {show_size(usage.memory)}{limit}{given}"


def _print_lines(lines: Iterator[Line]) -> None:
    """Print aligned lines; nothing in them can steer the terminal."""
    for name, state, text in lines:
        print(f"  {clean(name):<10} {paint(clean(state), style_of(state))}{clean(text)}")
