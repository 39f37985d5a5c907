"""plan, history: what would change, and what did, field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from gestalt.ctl.completing import app_argument
from gestalt.ctl.describing import read_specs
from gestalt.ctl.exits import Exit
from gestalt.ctl.options import connected, examples, output_option
from gestalt.ctl.output import emit
from gestalt.ctl.resolve import find_app
from gestalt.ctl.session import converse
from gestalt.ctl.style import clean, one_line, paint

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

_MARKS = {"start": ("+", "green"), "stop": ("-", "red"), "keep": ("=", "dim"), "cannot place": ("!", "red")}


@click.command(epilog=examples("gestaltctl plan -f web.yaml", "gestaltctl plan -f web.yaml --exit-code || gestaltctl apply -f web.yaml"))
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE", help="App descriptions, - for standard input.")
@click.option("--exit-code", is_flag=True, help=f"End with {Exit.CHANGES.value} when something would change.")
@output_option
@connected
def plan(files: tuple[str, ...], exit_code: bool, output: str) -> int:
    """Show what apply would change, without changing it.

    Field by field, and where instances would go, with the reason when one cannot be placed.
    """
    specs = read_specs(files)
    from gestalt.proto.v1 import api_pb2
    from gestalt.wire import spec_to_wire

    request = api_pb2.PlanRequest(apps=[spec_to_wire(spec) for spec in specs])
    reply = converse(lambda client: client.call(lambda api: api.apps.Plan, request))
    changing = [app for app in reply.apps if app.action != "none"]
    emit(output, lambda: _shape(reply), lambda: [app.app for app in changing], lambda wide: _print_plan(reply, wide=wide))
    return Exit.CHANGES if exit_code and changing else Exit.OK


@click.command(epilog=examples("gestaltctl history web", "gestaltctl history web -o json", "gestaltctl rollback web --to-version 3"))
@app_argument
@output_option
@connected
def history(app: str, output: str) -> None:
    """List the versions of an app and what each changed.

    Newest first. The number of instances is no part of a version.
    """

    async def ask(client: Client) -> api_pb2.HistoryReply:
        from gestalt.proto.v1 import api_pb2

        path = await find_app(client, app)
        return await client.call(lambda api: api.apps.History, api_pb2.GetRequest(app=path))

    reply = converse(ask)
    emit(output, lambda: _shape(reply), lambda: [str(version.number) for version in reply.versions], lambda wide: _print_history(reply))


def _shape(reply: api_pb2.PlanReply | api_pb2.HistoryReply) -> object:
    from gestalt.ctl.shapes import shape

    return shape(reply)


def _print_plan(reply: api_pb2.PlanReply, *, wide: bool) -> None:
    for app in reply.apps:
        print(paint(f"{app.app}: {_action(app.action)}", "bold"))
        print_changes(app.changes)
        _print_instances(app, wide=wide)
        for text in app.notes:
            print(f"  note: {clean(text)}")
        for text in app.warnings:
            print(f"  {paint('warning:', 'yellow')} {clean(text)}")
        print()
    actions = Counter(app.action for app in reply.apps)
    said = [f"{count} to {action}" for action, count in actions.items() if action != "none"]
    if actions["none"]:
        said.append(f"{actions['none']} unchanged")
    print(", ".join(said) or "nothing described")


def _action(action: str) -> str:
    return "nothing to change" if action == "none" else f"would {action}"


def _print_instances(app: api_pb2.AppPlan, *, wide: bool) -> None:
    """Print one line for each instance that would change; those that are kept only count, unless all is wanted."""
    kept = 0
    for item in app.instances:
        if item.action == "keep" and not wide:
            kept += 1
            continue
        mark, style = _MARKS.get(item.action, ("?", ""))
        what = " ".join(filter(None, (item.action, item.instance, f"on {item.node}" if item.node else "", f"version {item.version}")))
        print(f"  {paint(f'{mark} {what}', style)}" + (f": {one_line(item.reason)}" if item.reason else ""))
    if kept:
        print(f"  {paint(f'= keep {kept} as they are', 'dim')}")


def print_changes(changes: Iterable[model_pb2.FieldChange], indent: str = "  ") -> None:
    """Print each field's value before and after, aligned."""
    listed = list(changes)
    width = max((len(change.field) for change in listed), default=0)
    for change in listed:
        print(indent + _change(change, width))


def _change(change: model_pb2.FieldChange, width: int) -> str:
    field, before, after = clean(change.field).ljust(width), one_line(change.before), one_line(change.after)
    if not before:
        return paint(f"+ {field}  {after}", "green")
    if not after:
        return paint(f"- {field}  {before}", "red")
    return f"{paint('~', 'yellow')} {field}  {paint(before, 'red')} -> {paint(after, 'green')}"


def _print_history(reply: api_pb2.HistoryReply) -> None:
    from gestalt.ctl import words

    for version in reply.versions:
        marks = [name for name, holds in (("current", version.current), ("stable", version.stable), ("canary", version.canary)) if holds]
        by = f" by {clean(version.created_by)}" if version.created_by else ""
        head = paint(f"version {version.number}", "bold") + (f" ({', '.join(marks)})" if marks else "")
        print(f"{head}  {words.when(version.created_at)}{by}")
        print_changes(version.changes)
