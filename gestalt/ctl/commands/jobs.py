"""run, runs: start a run of a job, and see how runs went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gestalt.ctl.changing import carry_out
from gestalt.ctl.completing import app_argument
from gestalt.ctl.options import Following, change_options, connected, examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.resolve import find_app
from gestalt.ctl.session import converse
from gestalt.ctl.style import clean, paint
from gestalt.errors import GestaltError, Kind
from gestalt.units import show_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2, model_pb2

_RUNS = (
    Column("RUN"), Column("STATE", state=True), Column("WELL", right=True), Column("AT WORK", right=True), Column("FAILED", right=True),
    Column("STARTED"), Column("TOOK", right=True), Column("VERSION", right=True, wide=True), Column("LOST", right=True, wide=True),
    Column("BY", wide=True), Column("PARAMETERS", wide=True), Column("REASON", fold=True),
)  # fmt: skip


@click.command(
    epilog=examples("gestaltctl run report", "gestaltctl run report --set DAY=2026-05-01 --set MODE=fast", "gestaltctl run report --detach")
)
@app_argument
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the job. May be given several times.")
@change_options
def run(app: str, settings: Sequence[str], **how: Any) -> None:
    """Start a run of a job, and follow it to its end.

    The exit code is that of the run: 0 when enough of its instances ended well. Its task has the id of the run;
    Ctrl-C ends only the following.
    """
    parameters = dict(_setting(text) for text in settings)

    async def work(client: Client) -> None:
        from gestalt.proto.v1 import api_pb2

        request = api_pb2.RunRequest(app=await find_app(client, app), parameters=parameters)
        await carry_out(client, lambda api: api.jobs.Run, request, Following(**how))

    converse(work, patience=60)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
    return name, value


@click.command(epilog=examples("gestaltctl runs report", "gestaltctl runs report 3f2a", "gestaltctl runs report -o json"))
@app_argument
@click.argument("run_id", required=False, default="", metavar="[RUN]")
@output_option
@connected
def runs(app: str, run_id: str, output: str) -> None:
    """List the runs of a job, the newest first, or show one.

    RUN is the id of a run, or the beginning of one.
    """
    from gestalt.ctl.shapes import shape

    reply = converse(lambda client: _ask(client, app))
    if run_id:
        found = _one(reply, run_id)
        emit(output, lambda: shape(found), lambda: [found.id], lambda _: _print_run(found))
        return
    emit(
        output,
        lambda: shape(reply),
        lambda: [item.id for item in reply.runs],
        lambda wide: print_table(_RUNS, map(_row, reply.runs), wide=wide, empty="no runs"),
    )


async def _ask(client: Client, app: str) -> api_pb2.RunsReply:
    from gestalt.proto.v1 import api_pb2

    return await client.call(lambda api: api.jobs.Runs, api_pb2.GetRequest(app=await find_app(client, app)))


async def find_run(client: Client, app: str, text: str) -> model_pb2.Run:
    """Return the run of a job that `text` begins the id of.

    Raises:
        GestaltError: NOT_FOUND, when it names none or several.
    """
    return _one(await _ask(client, app), text)


def _one(reply: api_pb2.RunsReply, text: str) -> model_pb2.Run:
    found = [item for item in reply.runs if item.id.startswith(text)]
    if len(found) == 1:
        return found[0]
    what = f"there is no run {text}" if not found else f"{text} may be any of {', '.join(item.id for item in found[:5])}"
    raise GestaltError(Kind.NOT_FOUND, what, hint="`gestaltctl runs APP` lists those that are kept")


def _row(item: model_pb2.Run) -> tuple[str, ...]:
    from gestalt.ctl import words

    parameters = ",".join(f"{name}={value}" for name, value in sorted(item.parameters.items()))
    counts = (f"{item.succeeded}/{item.completions}", str(item.running), str(item.failed))
    took = show_duration(item.elapsed)
    more = (str(item.version), str(item.lost), item.requested_by, parameters, item.message)
    return (item.id, item.state, *counts, words.when(item.created_at), took, *more)


def _print_run(item: model_pb2.Run) -> None:
    from gestalt.ctl import words

    print(paint(f"run {item.id} of {clean(item.app)}", "bold"))
    print(f"  state    {paint_state(item.state)}" + (f": {clean(item.message)}" if item.message else ""))
    print(f"  started  {words.when(item.created_at)}" + (f" by {clean(item.requested_by)}" if item.requested_by else ""))
    print(f"  took     {show_duration(item.elapsed)}, of version {item.version}")
    print(f"  ended    {item.succeeded} of {item.completions} well, {item.failed} failed, {item.lost} lost, {item.running} at work")
    for name, value in sorted(item.parameters.items()):
        print(f"  set      {clean(name)}={clean(value)}")
    for result in item.results:
        code = f", exit code {result.exit_code}" if result.HasField("exit_code") else ""
        why = f": {clean(result.message)}" if result.message else ""
        print(f"  instance {result.instance} on {clean(result.node)} {paint_state(result.state)}{code}{why}")


def paint_state(state: str) -> str:
    """Return a state in its colour."""
    from gestalt.ctl.style import style_of

    return paint(state, style_of(state))
