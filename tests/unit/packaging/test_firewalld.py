"""The services of firewalld open the ports that daemons have by default and that others are to reach, and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gestalt.appliance.init import InitOptions, initialise
from gestalt.appliance.layout import Layout
from gestalt.cluster.init import API_PORT, JOIN_PORT
from gestalt.config import AgentSettings, CoordinatorSettings, ProxySettings
from gestalt.ctl.commands.cluster import cluster
from gestalt.settings_file import load_settings

ROOT = Path(__file__).resolve().parents[3]
SERVICES = ROOT / "packaging/firewalld"
SPEC = (ROOT / "packaging/gestalt.spec").read_text(encoding="utf-8")


def opened(name: str) -> set[tuple[str, str]]:
    """Return what a service opens: protocol and port, or range of ports, of each."""
    root = ElementTree.parse(SERVICES / f"{name}.xml").getroot()
    assert root.tag == "service"
    assert [each.tag for each in root][:2] == ["short", "description"]
    assert {each.tag for each in root[2:]} == {"port"}
    return {(each.attrib["protocol"], each.attrib["port"]) for each in root[2:]}


def default(model: Any, field: str) -> Any:
    return model.model_fields[field].default


def test_the_coordinators_ports_are_those_of_its_settings() -> None:
    listen = default(CoordinatorSettings, "listen").rpartition(":")[2]
    assert opened("gestalt-coordinator") == {("tcp", listen), ("tcp", str(JOIN_PORT))}
    assert listen == str(API_PORT)


def test_the_agents_ports_are_those_of_its_settings() -> None:
    ports = f"{default(AgentSettings, 'port_first')}-{default(AgentSettings, 'port_last')}"
    assert opened("gestalt-agent") == {("tcp", str(default(ProxySettings, "http_port"))), ("tcp", ports), ("udp", ports)}


def test_what_the_commands_write_by_default_is_what_the_services_open(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    initialise(layout, InitOptions())
    settings = load_settings(layout.agent_settings, AgentSettings)
    written = {("tcp", str(settings.proxy.http_port)), ("tcp", f"{settings.port_first}-{settings.port_last}")}
    assert written <= opened("gestalt-agent")
    init = {option.name: option.default for option in cluster.commands["init"].params}
    assert {("tcp", str(init[name])) for name in ("api_port", "join_port")} == opened("gestalt-coordinator")


@pytest.mark.parametrize("name", ["gestalt-agent", "gestalt-coordinator"])
def test_each_comes_with_its_daemon(name: str) -> None:
    files = SPEC.split(f"%files -n {name}\n")[1].split("\n\n")[0]
    assert f"%{{_prefix}}/lib/firewalld/services/{name}.xml" in files.splitlines()
    assert re.search(r"^install .*packaging/firewalld/\*\.xml$", SPEC, re.MULTILINE)
    erased = SPEC.split(f"%preun -n {name}\n")[1].split("\n\n")[0]
    assert erased.splitlines()[-1] == f'if [ "$1" -eq 0 ]; then %{{_libexecdir}}/gestalt/forget-service {name} || :; fi'
    assert sorted(file.stem for file in SERVICES.iterdir()) == ["gestalt-agent", "gestalt-coordinator"]
