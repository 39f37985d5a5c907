"""Settings that must be refused with file and line, and not end the daemon that reads them; and files that come and go meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from gestalt.agent.fence.settings import load_fence_settings
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.settings_document import DEEPEST, read_document
from gestalt.settings_file import load_settings
from gestalt.units import parse_duration, parse_size

AGENT = "node_id: n\nnode_name: one\ncluster_id: c\ncoordinators: [a:1]\ntls: {ca: /ca, certificate: /crt, key: /key}\n"
FENCE = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1]}\n"
LEADER = {"cluster_id": "c", "tls": {"ca": "/ca", "certificate": "/crt", "key": "/key"}}
NO_VALUES = [
    "2026-13-45", "0x_", "0b_", "!!timestamp x", "!!int foo", "!!int ''", "!!float x", "!!bool perhaps",
    "1" * 5000, "0x" + "f" * 5000, "1" * 400, "18446744073709551616",
]  # fmt: skip
LAUGHS = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 30))
SHAPES = {
    "holds itself": "\ntls: &t {ca: *t}\n",
    "holds itself in a list": "\ntls: &t [1, *t]\n",
    "merges itself": "\ntls: &t {<<: *t}\n",
    "is too much": LAUGHS,
    "deep list": "\nnode_name: " + "[" * 100_000,
    "deep section": "\nnode_name: " + "{a: " * 100_000,
    "deep block": "\nnode_name:\n  " + "- " * 100_000,
}


def beside(folder: Path, main: str, drop_in: str, name: str = "agent") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(main, encoding="utf-8")
    (folder / f"{name}.d").mkdir()
    (folder / f"{name}.d" / "10.yaml").write_text(drop_in, encoding="utf-8")
    return path


def refusal(read: Callable[[], object], kind: Kind = Kind.INVALID) -> str:
    with pytest.raises(GestaltError) as caught:
        read()
    assert caught.value.kind is kind
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("value", NO_VALUES, ids=lambda value: value[:20])
def test_a_value_that_is_not_what_it_looks_like_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = beside(tmp_path, AGENT, f"#\nnode_name: {value}\n")
    told = refusal(lambda: load_settings(path, AgentSettings))
    assert told.startswith(f"{tmp_path}/agent.d/10.yaml:2: ")
    assert len(told) < 400
    fence = beside(tmp_path, FENCE, f"\nnode_name: {value}\n", "fence")
    assert refusal(lambda: load_fence_settings(fence)).startswith(f"{tmp_path}/fence.d/10.yaml:2: ")


def read_in_a_child(path: Path) -> None:
    told = refusal(lambda: read_document(path, ""))
    raise SystemExit(0 if told.startswith(f"{path.parent}/agent.d/10.yaml:") else told)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_too_deep_or_holds_itself_is_refused(tmp_path: Path, shape: str) -> None:
    """In a process of its own: the parser in C would end it."""
    child = multiprocessing.get_context("fork").Process(target=read_in_a_child, args=(beside(tmp_path, AGENT, SHAPES[shape]),))
    child.start()
    child.join(20)
    child.kill()
    child.join()
    assert child.exitcode == 0


def test_aliases_and_nesting_that_are_fit_are_taken(tmp_path: Path) -> None:
    deep = "[" * (DEEPEST - 2) + "]" * (DEEPEST - 2)
    path = beside(tmp_path, "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n", f"d: {deep}\n")
    values = read_document(path, "").values
    assert (values["b"], values["c"]) == ({"x": 1}, {"x": 1, "y": 2})


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = beside(tmp_path, AGENT, "")
    odd = tmp_path / "agent.d" / "20.yaml"
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "FIFO":
                os.mkfifo(odd)
            case "socket":
                listener.bind(str(odd))
            case "folder":
                odd.mkdir()
            case _:
                odd.symlink_to("/dev/zero")
        told = refusal(lambda: load_settings(path, AgentSettings))
    assert told == f"{odd} cannot be read: it is no regular file"


@pytest.mark.parametrize("which", ["agent.yaml", "agent.d/10.yaml"])
def test_what_is_not_in_utf_8_is_refused_by_name(tmp_path: Path, which: str) -> None:
    path = beside(tmp_path, AGENT, "")
    (tmp_path / which).write_bytes(AGENT.replace("one", "Käse").encode("latin-1"))
    with pytest.raises(GestaltError, match=rf"{which}:2: this is no text in UTF-8: ") as caught:
        load_settings(path, AgentSettings)
    assert (caught.value.kind, caught.value.hint) == (Kind.INVALID, "save it as UTF-8")


def test_a_drop_in_that_goes_while_it_is_read_is_no_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = beside(tmp_path, AGENT, "resync: 5s\n")
    (tmp_path / "agent.d" / "20.yaml").write_text("orphan_grace: 7s\n", encoding="utf-8")
    going = tmp_path / "agent.d" / "10.yaml"
    look = Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        if self == going:
            going.unlink(missing_ok=True)
        return look(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    settings = load_settings(path, AgentSettings)
    assert (settings.resync, settings.orphan_grace) == (30.0, 7.0)


def test_a_link_to_nowhere_stays_a_mistake(tmp_path: Path) -> None:
    path = beside(tmp_path, AGENT, "")
    (tmp_path / "agent.d" / "20.yaml").symlink_to(tmp_path / "nowhere")
    assert "agent.d/20.yaml cannot be read" in refusal(lambda: load_settings(path, AgentSettings), Kind.NOT_FOUND)


def test_of_a_name_that_is_there_twice_the_line_of_the_last_is_told(tmp_path: Path) -> None:
    path = beside(tmp_path, AGENT, "resync: 1s\norphan_grace: 2s\nresync: 5s\n")
    document = read_document(path, "")
    assert document.values["resync"] == "5s"
    assert document.source(("resync",)) == f"{tmp_path}/agent.d/10.yaml:3"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("request_retention", "1000000d", "less than or equal to 31536000 seconds"),
        ("request_retention", -1, "is not a duration"),
        ("task_retention", -1, "greater than or equal to 0"),
        ("task_retention", 2**63, "less than or equal to 1000000"),
        ("event_ring", 0, "greater than or equal to 1"),
        ("event_ring", 2**63, "less than or equal to 1000000"),
        ("replacements_per_second", ".inf", "finite"),
        ("replacements_per_second", ".nan", "finite"),
    ],
)
def test_limits_of_a_coordinator(tmp_path: Path, name: str, value: object, allowed: str) -> None:
    path = beside(tmp_path, f"cluster_id: c\ntls: {LEADER['tls']}\n", f"{name}: {value}\n", "coordinator")
    with pytest.raises(GestaltError) as caught:
        load_settings(path, CoordinatorSettings)
    (detail,) = caught.value.details
    assert detail.field == f"{tmp_path}/coordinator.d/10.yaml:1: {name}"
    assert allowed in detail.problem


def test_limits_are_allowed_themselves() -> None:
    limits = {"request_retention": "365d", "task_retention": 0, "event_ring": 1, "replacements_per_second": 0}
    assert CoordinatorSettings.model_validate({**LEADER, **limits}).event_ring == 1
    with pytest.raises(ValidationError, match="finite"):
        CoordinatorSettings.model_validate({**LEADER, "replacements_per_second": float("inf")})


def test_an_agent_may_not_look_without_a_pause(tmp_path: Path) -> None:
    path = beside(tmp_path, AGENT, "resync: 0\n")
    assert refused_problem(path) == "Input should be greater than or equal to 0.1 seconds"
    (tmp_path / "agent.d" / "10.yaml").write_text("resync: 100ms\n", encoding="utf-8")
    assert load_settings(path, AgentSettings).resync == 0.1


def refused_problem(path: Path) -> str:
    with pytest.raises(GestaltError) as caught:
        load_settings(path, AgentSettings)
    (detail,) = caught.value.details
    return detail.problem


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "s"])
def test_a_time_has_an_end(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "GiB"])
def test_a_size_has_an_end(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)
