"""What docs/ says of placement and change is true: examples are valid, defaults are those of the code, nothing is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.coordinator import balancer, drain, rebalance
from gestalt.ctl.main import cli
from gestalt.spec.load import load_specs, unhonoured, warnings
from gestalt.spec.schema import AppSpec, Autoscale, Job, Placement, Resources, Schedule, Update
from gestalt.spec.shape import find, is_section

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = ("placement.md", "changes.md", "jobs.md", "autoscaling.md")
SERVICE = {
    "path": "/acme/shop/production/web",
    "image": "web:1",
    "resources": {"cpu": 1, "memory": "64MiB"},
    "ports": [{"name": "web", "http": {}}],
    "checks": [{"kind": "http"}],
}
JOB = {"path": "/acme/shop/production/report", "kind": "job", "image": "report:1"}
SYSTEM = {"path": "/acme/infra/production/collector", "kind": "system", "image": "collector:1"}
KNOWN_DOUBTS = {"resources.disk is set aside on the node, but not limited yet"}
TLS = {"ca": "/ca", "certificate": "/crt", "key": "/key"}
AGENT = {"node_id": "n", "node_name": "one", "cluster_id": "c", "coordinators": ["a:1"], "tls": TLS}
COORDINATOR = {"cluster_id": "c", "tls": TLS}
FOLLOWING = {"context", "config", "output", "detach", "timeout", "request_id", "expected_version", "help"}
"""Options that each command of their kind has; docs/gestaltctl.md explains them."""


@dataclass(frozen=True)
class Row:
    """A row of a table: what is named in its first cell, with the heading above it."""

    page: str
    heading: str
    names: tuple[str, ...]
    defaults: str


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def examples() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text_of(page), re.DOTALL), 1):
            yield pytest.param(block, id=f"{page}-{number}")


def rows(kind: str) -> Iterator[Row]:
    """Return the rows of the tables whose first column is called so, of all pages."""
    for page in PAGES:
        heading, is_inside = "", False
        for line in text_of(page).splitlines():
            heading = line.lstrip("# ") if line.startswith("#") else heading
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells[:2] == [kind, "default"]:
                is_inside = True
            elif is_inside and cells and not cells[0].startswith("---"):
                yield Row(page, heading, tuple(re.findall(r"`([^`]+)`", cells[0])), cells[1])
            elif not cells:
                is_inside = False


SECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "Every field": (SERVICE, ""),
    "How an update goes": (SERVICE, "update."),
    "System apps": (SYSTEM, ""),
    "Jobs": (JOB, ""),
    "Jobs with a schedule": (JOB, "job.schedule."),
    "Autoscaling": (SERVICE, "autoscale."),
}
"""Of what the table of fields below a heading speaks."""


def test_each_table_of_fields_is_known() -> None:
    assert {row.heading for row in rows("field")} == set(SECTIONS)


@pytest.mark.parametrize("block", [*examples()])
def test_examples_are_valid_and_raise_no_doubt(block: str) -> None:
    document = yaml.safe_load(block)
    if "offer" in document:
        AgentSettings.model_validate({**AGENT, **document})
    elif document.keys() <= CoordinatorSettings.model_fields.keys():
        CoordinatorSettings.model_validate({**COORDINATOR, **document})
    else:
        base = {} if "image" in document else JOB if "job" in document else SERVICE
        if "depends_on" in document:
            base = {"image": "web:1"}
        (spec,) = load_specs(yaml.safe_dump({**base, **document}), "example")
        assert not {*unhonoured(spec), *warnings(spec)} - KNOWN_DOUBTS


def place_of(path: str) -> tuple[str | int, ...]:
    return tuple(step for part in path.split(".") for step in ((part[:-2], 0) if part.endswith("[]") else (part,)))


def field_at(path: str) -> FieldInfo:
    *around, name = place_of(path)
    slot = find(AppSpec, around)
    assert slot is not None, f"there is no {path}"
    assert name in slot.kind.model_fields, f"there is no {path}"
    field: FieldInfo = slot.kind.model_fields[name]
    return field


def default_of(path: str, base: dict[str, Any]) -> Any:
    """Return what a field is where a description of this kind does not say it."""
    said: Any = AppSpec.model_validate({name: value for name, value in base.items() if name != "resources"})
    for step in place_of(path):
        said = getattr(said, str(step), None)
    return field_at(path).default if said is None else said


def read(text: str, field: FieldInfo) -> Any:
    """Return what a field is when this is written in a description."""
    value = text if isinstance(field.default, str) else yaml.safe_load(text)
    return TypeAdapter[Any](field.rebuild_annotation()).validate_python(value)


@pytest.mark.parametrize("row", [*rows("field")], ids=lambda row: f"{row.page}-{row.names[0]}")
def test_the_defaults_of_fields_are_those_of_the_schema(row: Row) -> None:
    base, prefix = SECTIONS[row.heading]
    told = re.findall(r"`([^`]*)`", row.defaults) or [row.defaults] * len(row.names)
    for name, default in zip(row.names, told, strict=True):
        field = field_at(prefix + name)
        if field.is_required() or default == "required":
            assert field.is_required()
            assert default == "required"
        elif default == "none":
            assert not default_of(prefix + name, base)
        else:
            assert read(default, field) == default_of(prefix + name, base)


def documented() -> set[str]:
    return {SECTIONS[row.heading][1] + name for row in rows("field") for name in row.names}


@pytest.mark.parametrize(
    ("prefix", "section"),
    [
        ("placement.", Placement), ("resources.", Resources), ("update.", Update), ("autoscale.", Autoscale), ("job.", Job),
        ("job.schedule.", Schedule),
    ],
)  # fmt: skip
def test_no_field_is_left_out(prefix: str, section: type[BaseModel]) -> None:
    """Fields of lists are listed unless they are required; a section of its own is listed field by field, or in a table of its own."""
    found = documented()
    for name in section.model_fields:
        slot = find(section, [name])
        item = slot and slot.child(0)
        assert any(each == prefix + name or each.startswith((f"{prefix}{name}.", f"{prefix}{name}[]")) for each in found), f"{prefix}{name}"
        if item is not None and is_section(item.kind) and f"{prefix}{name}" != "job.parameters":
            optional = {each for each, field in item.kind.model_fields.items() if not field.is_required()}
            assert {f"{prefix}{name}[].{each}" for each in optional} <= found


SETTINGS = {"Brakes": (CoordinatorSettings, COORDINATOR)}


@pytest.mark.parametrize("row", [*rows("setting")], ids=lambda row: row.names[0])
def test_the_defaults_of_settings_are_those_of_the_model(row: Row) -> None:
    model, least = SETTINGS[row.heading]
    default = getattr(model.model_validate(least), row.names[0])
    assert default is None if row.defaults == "none" else float(row.defaults.strip("`")) == default


COMMANDS = {"Drain": ("node", "drain"), "Maintenance": ("node", "maintenance"), "Rebalance": ("rebalance",)}
"""The command that the table of options below a heading is of."""
DEFAULTS = {
    ("Drain", "--parallel"): drain.PARALLEL,
    ("Rebalance", "--budget"): rebalance.BUDGET,
    ("Rebalance", "--parallel"): balancer.Wish().parallel,
    ("Rebalance", "--min-gain"): rebalance.MIN_GAIN,
}
"""What the coordinator takes where a command does not say it."""


def command_of(words: tuple[str, ...]) -> click.Command:
    found: click.Command = cli
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, words
        found = inner
    return found


def options_of(words: tuple[str, ...]) -> dict[str, click.Option]:
    options = [each for each in command_of(words).params if isinstance(each, click.Option)]
    return {name: each for each in options if each.name not in FOLLOWING for name in each.opts if name.startswith("--")}


@pytest.mark.parametrize("heading", COMMANDS)
def test_the_options_of_a_command_and_their_defaults_are_told(heading: str) -> None:
    of_it = [row for row in rows("option") if row.heading == heading]
    told = {name.split()[0]: row.defaults for row in of_it for name in row.names}
    options = options_of(COMMANDS[heading])
    assert told.keys() == options.keys()
    for name, option in options.items():
        if (default := DEFAULTS.get((heading, name))) is not None:
            assert float(told[name]) == default
            assert f"[default: {default:g}]" in (option.help or ""), "its own help says the same"
        elif option.is_flag:
            assert told[name] in ("off", "")
        else:
            assert told[name] in ("none", "", "until it is ended")


def test_every_table_of_options_is_of_a_command() -> None:
    assert {row.heading for row in rows("option")} == set(COMMANDS)


@pytest.mark.parametrize(
    "line", sorted({line for page in PAGES for line in re.findall(r"(?:^|`|\$ )(gestaltctl [a-z][^`#\n]*)", text_of(page), re.MULTILINE)})
)
def test_commands_in_the_text_exist_with_their_options(line: str) -> None:
    words = line.split()[1:]
    depth = 2 if words[0] in ("node", "cluster", "context", "coordinator", "appliance") else 1
    for word in words[depth - 1].split("|"):
        command = command_of((*words[: depth - 1], word))
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        assert {each.split("=")[0] for each in words[depth:] if each.startswith("-")} <= known


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if not target.startswith("http"):
            file, _, fragment = target.partition("#")
            there = text_of(file or page)
            assert not fragment or fragment in {anchor(line.lstrip("# ")) for line in there.splitlines() if line.startswith("#")}, target
