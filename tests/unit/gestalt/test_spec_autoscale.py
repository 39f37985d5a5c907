"""What a description may say of autoscaling, and in which words a mistake is told."""

from __future__ import annotations

from typing import Any

import pytest

from gestalt.errors import GestaltError
from gestalt.spec.load import validate_spec
from gestalt.spec.schema import AppSpec
from gestalt.spec.template import template_hash

from .specs import SMALL, Document

WEB = {"name": "web", "container_port": 80, "http": {}}
CPU = {"kind": "cpu", "target": 70}


def described(_app: Document | None = None, **autoscale: Any) -> Document:
    return {**SMALL, **(_app or {}), "autoscale": {"min": 2, "max": 5, "metrics": [CPU], **autoscale}}


def test_what_it_is_when_nothing_more_is_said() -> None:
    spec = validate_spec(described())
    assert spec.autoscale is not None
    assert spec.instances == 2, "it begins with the fewest"
    assert (spec.autoscale.window, spec.autoscale.cool_down_up, spec.autoscale.cool_down_down) == (60, 60, 300)
    assert (spec.autoscale.max_step, spec.autoscale.dry_run) == ("100%", False)
    assert validate_spec(SMALL).autoscale is None


def test_a_change_of_it_makes_no_version() -> None:
    specs: list[AppSpec] = [validate_spec(item) for item in (SMALL, described(), described(max=9, dry_run=True))]
    assert len({template_hash(spec) for spec in specs}) == 1


WRONG: list[tuple[Document, str, str, str]] = [
    (described(min=6), "autoscale.min", "is 6", "at most max, 5"),
    (described(min=0), "autoscale.min", "is 0", "from 1 to 100000"),
    (described(metrics=[]), "autoscale.metrics", "is empty", "at least one of cpu, memory, requests, queue"),
    (described(metrics=[CPU, CPU]), "autoscale.metrics[1].kind", "as item 0 is already", "each of them once"),
    (described(metrics=[{"kind": "cpu", "target": 0}]), "autoscale.metrics[0].target", "is 0", "a number; from 0.001 to 1,000,000,000"),
    (described(metrics=[{"kind": "cpu", "target": -5}]), "autoscale.metrics[0].target", "is -5", "a number"),
    (described(metrics=[{"kind": "cpu", "target": "70%"}]), "autoscale.metrics[0].target", "70%", "a number"),
    (described(metrics=[{"kind": "load", "target": 1}]), "autoscale.metrics[0].kind", "load", "cpu, memory, requests, queue"),
    (described(metrics=[{"kind": "cpu"}]), "autoscale.metrics[0].target", "is missing", ""),
    (described(max_step="0%"), "autoscale.max_step", "nothing could ever be changed", "above 0"),
    (described(window=0), "autoscale.window", "is 0", "from 1.0s"),
    (described({"instances": 6}), "instances", "is 6", "2 to 5, the bounds of autoscale; left out: 2"),
    (described({"instances": 1}), "instances", "is 1", "2 to 5"),
    (
        described(metrics=[{"kind": "memory", "target": 80}]),
        "autoscale.metrics[0].kind",
        "resources.memory, which is not set",
        "cpu, or add what is missing",
    ),
    (
        described({"resources": {"memory": "64MiB"}}, metrics=[{"kind": "memory", "target": 100}]),
        "autoscale.metrics[0].target",
        "at 100 percent of its memory an instance is killed",
        "less than 100",
    ),
    (
        described({"ports": [{"name": "db", "container_port": 1, "tcp": {"port": 1}}]}, metrics=[{"kind": "requests", "target": 5}]),
        "autoscale.metrics[0].kind",
        "no port has http",
        "cpu, queue, or add what is missing",
    ),
    (described(metrics=[{"kind": "queue", "target": 5}]), "autoscale.metrics[0].kind", "no port has http or tcp", "cpu"),
    (described({"resources": {"cpu": 0}}), "autoscale.metrics[0].kind", "resources.cpu, which is 0", "none, or add what is missing"),
    (
        described({"placement": {"exclusive": True}, "instances": 1}, min=1),
        "autoscale.max",
        "of an exclusive app there is one instance",
        "leave autoscale out",
    ),
    (described({"kind": "system", "instances": 0}), "autoscale", "means nothing for kind: system", "leave it out"),
]


@pytest.mark.parametrize(("document", "field", "problem", "allowed"), WRONG, ids=[f"{item[1]} {item[2]}" for item in WRONG])
def test_mistakes_are_told(document: Document, field: str, problem: str, allowed: str) -> None:
    with pytest.raises(GestaltError) as refused:
        validate_spec(document)
    (detail,) = refused.value.details
    assert detail.field == field
    assert problem in detail.problem
    assert allowed in detail.allowed


@pytest.mark.parametrize(
    "document",
    [
        described({"instances": 5}),
        described({"ports": [WEB]}, metrics=[{"kind": "requests", "target": "12.5"}, {"kind": "queue", "target": 3}, CPU]),
        described({"resources": {"memory": "64MiB"}}, metrics=[{"kind": "memory", "target": 80}], window="10s", max_step=1),
        described({"placement": {"exclusive": True}}, min=1, max=1),
    ],
)
def test_what_is_right_is_taken(document: Document) -> None:
    assert validate_spec(document).autoscale is not None
