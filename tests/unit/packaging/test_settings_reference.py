"""The commented default files: in step with the models, complete, and right when their comments are taken away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from gestalt.settings_change import LIVE
from gestalt.settings_reference import KINDS, described, reference

ROOT = Path(__file__).resolve().parents[3]
SPEC = (ROOT / "packaging" / "gestalt.spec").read_text(encoding="utf-8")
TLS = {"ca": "/ca", "certificate": "/crt", "key": "/key"}
LEAST: dict[str, dict[str, Any]] = {
    "agent": {"node_id": "n", "node_name": "one", "cluster_id": "c", "coordinators": ["a:1"], "tls": TLS},
    "coordinator": {"cluster_id": "c", "tls": TLS},
    "fence": {"node_id": "n", "node_name": "one", "cluster_id": "c", "zookeeper": {"hosts": ["a:1"]}},
}
SETTING = re.compile(r"^#((?:  )*)([a-z_]+):(.*)$", re.MULTILINE)


def section(annotation: Any) -> type[BaseModel] | None:
    return next((kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def models(kind: type[BaseModel]) -> set[type[BaseModel]]:
    inner = [found for field in kind.model_fields.values() if (found := section(field.annotation)) is not None]
    return {kind}.union(*map(models, inner))


def uncommented(name: str) -> dict[str, Any]:
    """Return what a file holds when every setting in it counts."""
    text = "\n".join(match[0][1:] for match in SETTING.finditer(reference(name)))
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


def without_what_is_not_there(kind: type[BaseModel], document: dict[str, Any], least: dict[str, Any]) -> dict[str, Any]:
    """Fill in what has to be set, and leave out sections that are not there by default."""
    filled: dict[str, Any] = {}
    for name, value in document.items():
        field = kind.model_fields[name]
        inner = section(field.annotation)
        if inner is not None and (field.is_required() or field.default is not None):
            filled[name] = without_what_is_not_there(inner, value, least.get(name, {}))
        elif inner is None:
            assert not field.is_required() or value is None
            filled[name] = least[name] if field.is_required() else value
    return filled


@pytest.mark.parametrize("name", KINDS)
def test_the_files_are_what_the_models_say(name: str) -> None:
    file = ROOT / "packaging" / "settings" / f"{name}.yaml"
    assert file.read_text(encoding="utf-8") == reference(name), "make settings"


@pytest.mark.parametrize("name", KINDS)
def test_every_setting_is_there_with_a_description(name: str) -> None:
    for kind in models(KINDS[name]):
        assert described(kind).keys() == kind.model_fields.keys()
        assert all(sentence.endswith((".", "/etc/hosts")) for sentence in described(kind).values())
    assert uncommented(name).keys() == KINDS[name].model_fields.keys()


@pytest.mark.parametrize("name", KINDS)
def test_the_defaults_are_those_of_the_model(name: str) -> None:
    kind = KINDS[name]
    document = without_what_is_not_there(kind, uncommented(name), LEAST[name])
    assert kind.model_validate(document) == kind.model_validate(LEAST[name])


@pytest.mark.parametrize("name", KINDS)
def test_nothing_counts_as_it_is(name: str) -> None:
    assert yaml.safe_load(reference(name)) is None


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("agent", "(a whole number)\n#  max_connections: 2000"),
        ("agent", "(a whole number, at least 0 and at most 65535)\n#  http_port: 80"),
        ("agent", '(debug, info, warning or error) *\n#log_level: "info"'),
        ("agent", "(a size)\n#  image_high_water: 20GiB"),
        ("agent", "(names, each with a whole number, at least 0) *\n#  devices: {}"),
        ("agent", "(true or false)\n#failsafe: false"),
        ("coordinator", "(a time, at most 30d or null)\n#unreachable_after: null"),
        ("coordinator", "(a time, at most 365d) *\n#request_retention: 1d"),
        ("coordinator", "(a number, above 0 and at most 1) *\n#hands_off_share: 0.5"),
        ("fence", "(a list of texts; has to be set)\n#  hosts:"),
    ],
)
def test_what_is_allowed_is_said(name: str, lines: str) -> None:
    said = re.sub(r"\n#(  *#)? (?! )", " ", reference(name))
    assert lines in said


def test_what_is_taken_over_at_run_time_is_marked() -> None:
    for name, kind in KINDS.items():
        marked = {match[1] for match in re.finditer(r" \*\n#([a-z_]+):", reference(name))}
        assert marked >= {field for field, info in kind.model_fields.items() if LIVE in info.metadata and section(info.annotation) is None}
        assert "log_level" in marked


@pytest.mark.parametrize(("package", "names"), [("gestalt-agent", ["agent", "fence"]), ("gestalt-coordinator", ["coordinator"])])
def test_the_packages_ship_them(package: str, names: list[str]) -> None:
    listed = SPEC.split(f"%files -n {package}\n")[1].split("\n%files")[0]
    assert re.findall(r"%\{_datadir\}/gestalt/settings/(\w+)\.yaml", listed) == names
    assert "%{buildroot}%{_datadir}/gestalt/settings packaging/settings/*.yaml" in SPEC
