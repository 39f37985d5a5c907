"""Tables, shapes and words: what is printed, without a coordinator."""

from __future__ import annotations

import json

import pytest

from gestalt.ctl import words
from gestalt.ctl.output import Column, emit, print_table
from gestalt.ctl.progress import PlainView
from gestalt.ctl.shapes import shape
from gestalt.ctl.style import clean, one_line, style_of
from gestalt.proto.v1 import api_pb2, model_pb2


def test_a_plain_table_is_aligned_and_has_no_trailing_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("NAME"), Column("COUNT", right=True), Column("MORE", wide=True), Column("WHY"))
    print_table(columns, [("a", "1", "m", ""), ("longer", "12", "n", "because")])
    assert capsys.readouterr().out == "NAME    COUNT  WHY\na           1\nlonger     12  because\n"


def test_an_empty_table_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_table((Column("NAME"),), [], empty="nothing")
    assert capsys.readouterr() == ("", "nothing\n")


def test_only_the_form_that_is_wanted_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    def never() -> None:
        raise AssertionError

    emit("name", never, lambda: ["a", "b"], lambda _: never())
    emit("json", lambda: {"é": 1}, never, lambda _: never())
    assert capsys.readouterr().out == 'a\nb\n{\n  "é": 1\n}\n'


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\r\nc\x9b2J\td") == "a?[31mb? c?2J d"
    assert one_line("  a \n\n b  ", 0) == "a b"
    assert one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("text", "style"), [("running", "green"), ("crash loop, exit code 1", "red"), ("pending", "yellow"), ("web", ""), ("runningly", "")]
)
def test_states_have_colours(text: str, style: str) -> None:
    assert style_of(text) == style


def test_a_shape_has_every_field_with_a_fixed_type() -> None:
    """Fields may be added to the contract; these stay, with these names and types."""
    instance = shape(model_pb2.Instance(id="a-1", observed=model_pb2.Observed(phase=model_pb2.PHASE_RUNNING, exit_code=0)))
    observed = instance.pop("observed")
    assert instance.items() >= {
        "id": "a-1", "app": "", "serial": 0, "version": 0, "node": "", "stopping": False, "reachability": "unknown", "address": "",
    }.items()  # fmt: skip
    assert observed.items() >= {
        "instance": "", "attempt": 0, "phase": "running", "health": "unknown", "ready": False, "reason": "", "exit_code": 0,
        "oom_killed": False, "crash_loop": False, "restarts": 0, "age": 0.0, "runtime_id": "", "back_off": 0.0,
    }.items()  # fmt: skip
    assert (instance["ports"], observed["log_tail"], observed["checks"]) == ([], [], [])
    assert shape(model_pb2.Instance())["observed"] is None
    assert shape(model_pb2.Observed())["exit_code"] is None


def test_times_are_rfc_3339_and_changes_are_values() -> None:
    task = model_pb2.Task()
    task.created_at.FromJsonString("2026-01-02T03:04:05.5Z")
    assert shape(task)["created_at"] == "2026-01-02T03:04:05.500Z"
    assert shape(task)["ended_at"] is None
    assert shape(model_pb2.FieldChange(field="ports", before="", after='[{"name": "x"}]')) == {
        "field": "ports",
        "before": None,
        "after": [{"name": "x"}],
    }


@pytest.mark.parametrize(
    "message", [api_pb2.StatusReply, api_pb2.PlanReply, api_pb2.HistoryReply, api_pb2.AppReply, model_pb2.Node, model_pb2.Event]
)
def test_every_shape_is_json(message: type) -> None:
    filled = message()
    assert list(json.loads(json.dumps(shape(filled)))) == [field.name for field in filled.DESCRIPTOR.fields]


def test_an_enum_value_of_a_newer_coordinator_is_told_as_unknown() -> None:
    newer = model_pb2.Observed.FromString(b"\x18\x5a")  # phase = 90
    assert shape(newer)["phase"] == "unknown 90"


@pytest.mark.parametrize(
    ("observed", "why"),
    [
        (model_pb2.Observed(phase=model_pb2.PHASE_RUNNING, health=model_pb2.HEALTH_HEALTHY, reason="started"), ""),
        (model_pb2.Observed(phase=model_pb2.PHASE_FAILED, exit_code=137, oom_killed=True), "out of memory"),
        (
            model_pb2.Observed(phase=model_pb2.PHASE_FAILED, exit_code=0, back_off=2, reason="ended"),
            "exit code 0, back-off, next attempt in 2.0s, ended",
        ),
        (
            model_pb2.Observed(
                phase=model_pb2.PHASE_RUNNING,
                health=model_pb2.HEALTH_UNHEALTHY,
                checks=[model_pb2.CheckStatus(name="http", health=model_pb2.HEALTH_UNHEALTHY, output="status\n500")],
            ),
            "check http: status 500",
        ),
    ],
)
def test_why_an_instance_is_not_well(observed: model_pb2.Observed, why: str) -> None:
    assert words.why(model_pb2.Instance(observed=observed)) == why


def test_an_instance_of_which_no_agent_spoke_is_placed_or_pending() -> None:
    assert words.phase(model_pb2.Instance()) == "pending"
    assert words.phase(model_pb2.Instance(node="n")) == "placed"
    lost = model_pb2.Instance(observed=model_pb2.Observed(health=model_pb2.HEALTH_HEALTHY), reachability=model_pb2.REACHABILITY_LOST)
    assert words.health(lost) == "lost"


def test_ports_in_short_and_at_length() -> None:
    binding = model_pb2.PortBinding(name="dns", container_port=53, host_port=3001, protocol="udp")
    instance = model_pb2.Instance(ports=[binding], address="10.0.0.1")
    assert words.ports(instance, wide=False) == "3001->53/udp"
    assert words.ports(instance, wide=True) == "dns=10.0.0.1:3001->53/udp"


def test_plain_progress_says_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    view = PlainView(sys.stdout, named=False)
    task = model_pb2.Task(id="t1", kind="scale", app="/a", state="running", steps=[model_pb2.Step(name="place", state="running", total=3)])
    view.show(task)
    task.elapsed = 3
    view.show(task)
    task.steps[0].done = 1
    view.show(task)
    task.state, task.message = "succeeded", "all well"
    view.show(task)
    assert capsys.readouterr().out.splitlines() == [
        "   0ms  scale of /a, task t1",
        "   0ms  place 0/3 running",
        "  3.0s  place 1/3 running",
        "  3.0s  succeeded: all well",
    ]
