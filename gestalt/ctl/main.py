"""Entry point of gestaltctl: the table of commands, and every way a run can end.

Imported at each start: nothing heavy here. gRPC, pydantic and rich are imported by the commands that need them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gestalt.errors import GestaltError

from .exits import OF_KIND, Ended, Exit
from .lazy import Entry, Interrupted, LazyGroup, ReaderGone
from .options import Invocation
from .report import hint, report_error, write_error

_CHANGE, _LOOK, _INSIDE, _SETUP = "Change", "Look", "Inside an instance", "Set up"
_HERE = "gestalt.ctl.commands"

ENTRIES = {
    "launch": Entry(f"{_HERE}.change", "launch", "Launch new apps from description files.", _CHANGE),
    "apply": Entry(f"{_HERE}.change", "apply", "Launch apps that are new, update those that exist.", _CHANGE),
    "update": Entry(f"{_HERE}.change", "update", "Update apps that exist to what files describe.", _CHANGE),
    "plan": Entry(f"{_HERE}.plan", "plan", "Show what apply would change, without changing it.", _CHANGE),
    "scale": Entry(f"{_HERE}.control", "scale", "Run another number of instances of an app.", _CHANGE),
    "stop": Entry(f"{_HERE}.control", "stop", "Stop all instances of an app and keep its description.", _CHANGE),
    "start": Entry(f"{_HERE}.control", "start", "Start an app that was stopped.", _CHANGE),
    "restart": Entry(f"{_HERE}.control", "restart", "Replace the instances of an app one by one.", _CHANGE),
    "migrate": Entry(f"{_HERE}.control", "migrate", "Move instances of an app to other nodes.", _CHANGE),
    "run": Entry(f"{_HERE}.jobs", "run", "Start a run of a job, and follow it to its end.", _CHANGE),
    "rebalance": Entry(f"{_HERE}.rebalance", "rebalance", "Move instances to nodes where they stand better.", _CHANGE),
    "rollback": Entry(f"{_HERE}.control", "rollback", "Go back to an earlier version of an app.", _CHANGE),
    "promote": Entry(f"{_HERE}.steer", "promote", "Let a canary go on: its version becomes the wanted one.", _CHANGE),
    "pause": Entry(f"{_HERE}.steer", "pause", "Hold the change of an app where it is.", _CHANGE),
    "resume": Entry(f"{_HERE}.steer", "resume", "Let a paused change of an app go on.", _CHANGE),
    "cancel": Entry(f"{_HERE}.steer", "cancel", "Undo the change of an app that is under way, or end one run of a job.", _CHANGE),
    "delete": Entry(f"{_HERE}.control", "delete", "Stop an app and forget it, with its versions.", _CHANGE),
    "wait": Entry(f"{_HERE}.waiting", "wait", "Wait until an app is as wanted, or a task has ended.", _CHANGE),
    "status": Entry(f"{_HERE}.status", "status", "Say whether all is well, and if not why.", _LOOK),
    "ps": Entry(f"{_HERE}.listing", "ps", "List instances, or with --apps the apps.", _LOOK),
    "top": Entry(f"{_HERE}.top", "top", "Show what instances use: cores, memory, requests.", _LOOK),
    "inspect": Entry(f"{_HERE}.describe", "inspect", "Show everything about an app or an instance.", _LOOK),
    "history": Entry(f"{_HERE}.plan", "history", "List the versions of an app and what each changed.", _LOOK),
    "runs": Entry(f"{_HERE}.jobs", "runs", "List the runs of a job, the newest first, or show one.", _LOOK),
    "tasks": Entry(f"{_HERE}.tasks", "tasks", "List tasks, or show or watch one.", _LOOK),
    "events": Entry(f"{_HERE}.events", "events", "Show what happened, and with -f what happens.", _LOOK),
    "nodes": Entry(f"{_HERE}.listing", "nodes", "List the nodes.", _LOOK),
    "logs": Entry(f"{_HERE}.logs", "logs", "Show what an app or an instance wrote.", _INSIDE),
    "exec": Entry(f"{_HERE}.execute", "execute", "Run a command inside an instance.", _INSIDE),
    "appliance": Entry(
        "gestalt.ctl.appliance", "appliance", "Set up and run the appliance on this machine: one node that is a whole Gestalt.", _SETUP
    ),
    "bootstrap": Entry(f"{_HERE}.bootstrap", "bootstrap", "Make a cluster of machines that answer ssh.", _SETUP),
    "cluster": Entry(f"{_HERE}.cluster", "cluster", "Set up a cluster of several machines, and steer it as a whole.", _SETUP),
    "coordinator": Entry(f"{_HERE}.coordinator", "coordinator", "List the coordinators, and take one out.", _SETUP),
    "node": Entry(f"{_HERE}.node", "node", "Let machines join, and say how nodes are to be used.", _SETUP),
    "context": Entry(f"{_HERE}.context", "context", "Choose the cluster to talk to.", _SETUP),
    "completion": Entry(f"{_HERE}.completion", "completion", "Print the completion script of a shell.", _SETUP),
    "version": Entry(f"{_HERE}.version", "version", "Show the versions of gestaltctl and of the coordinator.", _SETUP),
}


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from gestalt import __version__

        click.echo(f"gestaltctl {__version__}")
        ctx.exit(0)


@click.group(
    cls=LazyGroup,
    entries=ENTRIES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Each command tells more with --help. Exit codes and output formats: docs/gestaltctl.md",
)
@click.option("--context", "context_name", metavar="NAME", help="Cluster to talk to, instead of the current one. [GESTALT_CONTEXT]")
@click.option("--config", metavar="FILE", help="File of contexts. [GESTALT_CONFIG]")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit.")
@click.pass_context
def cli(ctx: click.Context, context_name: str | None, config: str | None) -> None:
    """Run applications on a Gestalt cluster, and see how they are."""
    ctx.obj = Invocation(config=config, context=context_name)


def run(args: list[str]) -> int:
    """Run one command line; return its exit code. Everything that can go wrong has been reported."""
    try:
        result: Any = cli.main(args, prog_name="gestaltctl", standalone_mode=False)
        sys.stdout.flush()
        return int(result) if isinstance(result, int) else Exit.OK
    except GestaltError as error:
        report_error(error)
        return OF_KIND[error.kind]
    except click.ClickException as error:
        return _report_usage(error)
    except Ended as error:
        return error.code
    except (click.Abort, Interrupted, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail again
        return Exit.BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the outermost frame: a mistake of ours is told as one
        return _report_internal(error)


def main() -> None:
    """Run as the console script."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own complaints; ours say the same in words
    sys.exit(run(sys.argv[1:]))


def _report_usage(error: click.ClickException) -> int:
    write_error(error.format_message())
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is not None:
        hint(f"{context.command_path} --help")
    return Exit.USAGE


def _report_internal(error: Exception) -> int:
    if os.environ.get("GESTALT_DEBUG"):
        import traceback

        traceback.print_exc()
    write_error(f"internal error: {type(error).__name__}: {error}")
    hint("this is a mistake in gestaltctl; GESTALT_DEBUG=1 shows where it happened")
    return Exit.INTERNAL
