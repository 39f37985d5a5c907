"""bootstrap: from machines that answer ssh to a running cluster."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from gestalt.ctl.exits import Exit
from gestalt.ctl.options import examples, output_option
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.report import hint, notice, warn, write_error
from gestalt.ctl.style import clean, paint, style_of
from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gestalt.bootstrap.plan import Doubt, Plan, Step
    from gestalt.bootstrap.run import Bootstrap, Outcome

_COLUMNS = (Column("HOST"), Column("STEP"), Column("STATE", state=True), Column("WHAT", fold=True))


@click.command(
    epilog=examples(
        "gestaltctl bootstrap hosts.yaml --plan", "gestaltctl bootstrap hosts.yaml", "gestaltctl bootstrap hosts.yaml --yes -o json"
    )
)
@click.argument("file", metavar="HOSTS.YAML", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--plan", "only_plan", is_flag=True, help="Show the plan and what speaks against it; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--accept-warnings", is_flag=True, help="Go on in spite of warnings, where nobody is asked.")
@click.option("--parallel", type=click.IntRange(1, 500), default=20, show_default=True, metavar="N", help="So many hosts at once.")
@output_option
def bootstrap(file: Path, only_plan: bool, parallel: int, output: str, **answers: bool) -> int:
    """Make a cluster of machines that answer ssh.

    Looks at all of them first, shows what is to be done, and says what does not fit: errors stop it before anything is changed. What is
    done already is left alone, so that the same command completes what was interrupted.
    """
    import asyncio

    from gestalt.bootstrap.hosts_file import load_hosts
    from gestalt.ctl.session import endable

    hosts = load_hosts(file)
    teller = _Teller(sys.stdout if output in ("table", "wide") else sys.stderr)
    confirmed = _Confirmation(**answers)

    async def work() -> int:
        from gestalt.bootstrap.run import prepared

        notice(f"looking at {len(hosts.hosts)} hosts")
        async with prepared(hosts, teller, parallel, only_plan=only_plan) as run:
            _tell_doubts(run.plan)
            if only_plan or run.plan.errors:
                _tell_plan(run.plan, output)
                return Exit.REFUSED if run.plan.errors else Exit.OK
            if run.plan.pending:
                if output in ("table", "wide"):
                    _tell_plan(run.plan, output)
                confirmed.require(run.plan)
            return await _carry_out(run, teller, output)

    try:
        return asyncio.run(endable(work()))
    except KeyboardInterrupt:
        notice("interrupted; what is done stays, and the same command does the rest")
        raise


class _Confirmation:
    """Whether the plan may be carried out."""

    def __init__(self, *, yes: bool, accept_warnings: bool) -> None:
        self._yes = yes
        self._accept_warnings = accept_warnings

    def require(self, plan: Plan) -> None:
        """Return when it may be.

        Raises:
            GestaltError: REFUSED, when somebody has to be asked, and nobody is there.
            click.Abort: the answer is no.
        """
        doubtful = bool(plan.warnings) and not self._accept_warnings
        if self._yes and not doubtful:
            return
        if not sys.stdin.isatty():
            missing = [word for word, needed in (("--yes", not self._yes), ("--accept-warnings", doubtful)) if needed]
            raise GestaltError(
                Kind.REFUSED, "bootstrap asks before it changes anything, and there is no terminal", hint=f"add {' '.join(missing)}"
            )
        spite = f", in spite of {len(plan.warnings)} warnings" if plan.warnings else ""
        # the loop has Ctrl-C otherwise, and turns only after the answer
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            click.confirm(f"Carry out these {len(plan.pending)} steps{spite}?", abort=True, err=True)
        finally:
            signal.signal(signal.SIGINT, ours)


class _Teller:
    """Tells how it goes, a line for each thing that begins or ends."""

    def __init__(self, stream: TextIO) -> None:
        from gestalt.clock import monotonic

        self._clock = monotonic
        self._began = monotonic()
        self._stream = stream

    def looked(self, host: str) -> None:
        notice(f"{host} was looked at")

    def begun(self, step: Step) -> None:
        self._say(step.host, f"{step.action.word}: {step.what}")

    def ended(self, outcome: Outcome) -> None:
        from gestalt.units import show_duration

        state = "failed" if outcome.error else "done"
        self._say(
            outcome.step.host,
            f"{outcome.step.action.word}: {paint(state, style_of(state), self._stream)} in {show_duration(outcome.seconds)}",
        )

    def said(self, text: str) -> None:
        """Tell something of the whole."""
        self._say("", text)

    def _say(self, host: str, text: str) -> None:
        from gestalt.units import show_duration

        name = f"{host}  " if host else ""
        print(f"{show_duration(self._clock() - self._began):>6}  {name}{text}", file=self._stream, flush=True)


async def _carry_out(run: Bootstrap, teller: _Teller, output: str) -> int:
    """Do what is left, wait for the nodes, and tell how it ended."""
    outcomes = await run.carry_out(teller)
    failed = [outcome for outcome in outcomes if outcome.error]
    trouble: GestaltError | None = None
    if not failed:
        teller.said("waiting until all nodes are ready")
        try:
            await run.until_ready(outcomes)
        except GestaltError as error:
            trouble = error
    shape = {**_shape(run.plan), "done": [_shape_outcome(item) for item in outcomes], "ready": not failed and trouble is None}
    names = [outcome.step.host for outcome in outcomes]
    emit(output, lambda: shape, lambda: list(dict.fromkeys(names)), lambda _: _tell_end(run, outcomes))
    for outcome in failed:
        assert outcome.error is not None
        write_error(f"{outcome.step.host}: {outcome.step.action.word}: {outcome.error.message}")
        hint(outcome.error.hint or "when that is repaired, repeat this: what is done is kept")
    if trouble is not None:
        raise trouble
    return Exit.FAILED if failed else Exit.OK


def _tell_doubts(plan: Plan) -> None:
    """Tell each doubt once, with all hosts that it is of."""
    hosts: dict[tuple[str, str, str], list[str]] = {}
    for doubt in plan.doubts:
        hosts.setdefault((doubt.level, doubt.what, doubt.hint), []).append(doubt.host)
    for (level, what, advice), names in hosts.items():
        tell = write_error if level == "error" else warn
        tell(": ".join(filter(None, (", ".join(names), what))))
        if advice:
            hint(advice)


def _tell_plan(plan: Plan, output: str) -> None:
    def people(wide: bool) -> None:
        shown = [step for step in plan.steps if wide or not step.done]
        rows = [(step.host, step.action.word, "done" if step.done else "to do", step.what) for step in shown]
        print_table(_COLUMNS, rows, wide=wide)
        done = sum(step.done for step in plan.steps)
        print(f"{len(plan.pending)} steps to do, {done} done already; {len(plan.errors)} errors, {len(plan.warnings)} warnings")

    emit(output, lambda: _shape(plan), lambda: list(dict.fromkeys(step.host for step in plan.pending)), people)


def _tell_end(run: Bootstrap, outcomes: Sequence[Outcome]) -> None:
    from gestalt.units import show_duration

    for host in run.hosts.hosts:
        mine = [outcome for outcome in outcomes if outcome.step.host == host.name]
        did = ", ".join(f"{item.step.action.word} {'failed' if item.error else show_duration(item.seconds)}" for item in mine)
        print(f"{clean(host.name)}  {host.address}  {did or 'nothing was changed'}")
    if not any(outcome.error for outcome in outcomes):
        first = run.plan.first
        print(f"next: on {first}, as root: gestaltctl status; gestaltctl launch -f app.yaml")
        print(f"from elsewhere: `gestaltctl cluster certificate USER` on {first} makes what a context of your own needs")


def _shape(plan: Plan) -> dict[str, Any]:
    return {
        "steps": [{"host": step.host, "step": step.action.word, "what": step.what, "done": step.done} for step in plan.steps],
        "findings": [_shape_doubt(doubt) for doubt in plan.doubts],
    }


def _shape_doubt(doubt: Doubt) -> dict[str, Any]:
    return {"host": doubt.host, "level": doubt.level, "what": doubt.what, "hint": doubt.hint}


def _shape_outcome(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error.message if outcome.error else ""
    return {"host": outcome.step.host, "step": outcome.step.action.word, "seconds": round(outcome.seconds, 2), "error": error}
