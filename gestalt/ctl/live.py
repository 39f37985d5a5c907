"""The live view of tasks on a terminal: steps, instances, elapsed time, redrawn in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gestalt.clock import monotonic
from gestalt.units import show_duration

from .shapes import word
from .style import coloured, one_line, style_of
from .words import subject_of

if TYPE_CHECKING:
    from gestalt.proto.v1 import model_pb2

_MARKS = {"pending": "·", "running": ">", "done": "✓", "failed": "✗", "skipped": "-"}
_ENDS = {"succeeded": "✓", "failed": "✗", "superseded": "-"}
_INSTANCES_LEAST = 3


class LiveView:
    """Draws all tasks at once, four times a second. What was drawn last stays on the screen."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[model_pb2.Task, float]] = {}
        self._console = Console(highlight=False, no_color=not coloured())
        self._live = Live(
            console=self._console, refresh_per_second=4, get_renderable=self._draw, redirect_stdout=False, redirect_stderr=False
        )
        self._open = False

    def show(self, task: model_pb2.Task) -> None:
        self._tasks[task.id] = task, monotonic()
        if not self._open:
            self._open = True
            self._live.start()
        elif task.state != "running":
            self._live.refresh()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._live.stop()

    def _draw(self) -> RenderableType:
        room = max(self._console.height // max(len(self._tasks), 1) - 4, _INSTANCES_LEAST)
        now = monotonic()
        return Group(*(_task(task, now - seen, room) for task, seen in self._tasks.values()))


def _task(task: model_pb2.Task, older: float, room: int) -> RenderableType:
    running = task.state == "running"
    elapsed = show_duration(task.elapsed + (older if running else 0))
    mark = _ENDS.get(task.state, ">")
    head = Text.assemble((mark, style_of(task.state)), f" {task.kind} ", (subject_of(task), "bold"), (f"  {elapsed}", "dim"))
    if task.message:
        head.append(f"  {one_line(task.message)}", style=style_of(task.state))
    lines: list[RenderableType] = [head]
    lines += [_step(step) for step in task.steps]
    if task.instances:
        lines.append(_instances(task, max(room - len(task.steps), _INSTANCES_LEAST)))
    return Group(*lines)


def _step(step: model_pb2.Step) -> Text:
    style = {"done": "green", "failed": "red", "running": "yellow"}.get(step.state, "dim")
    count = f" {step.done}/{step.total}" if step.total else ""
    return Text.assemble("  ", (_MARKS.get(step.state, "?"), style), f" {step.name}{count}", (f"  {one_line(step.message)}", "dim"))


def _instances(task: model_pb2.Task, room: int) -> Table:
    """Draw the instances that fit, those that are not well yet first."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    order = sorted(task.instances, key=lambda item: word(item, "health") == "healthy")
    for item in order[:room]:
        phase, health = word(item, "phase"), word(item, "health")
        table.add_row(
            f"    {item.instance}",
            Text(item.node, style="dim"),
            Text(phase, style=style_of(phase)),
            Text("" if health == "unknown" else health, style=style_of(health)),
            Text(one_line(item.message, 60), style="dim"),
        )
    if len(order) > room:
        table.add_row(f"    and {len(order) - room} more", "", "", "", "")
    return table
