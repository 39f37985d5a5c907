"""What an agent says of its machine that its settings decide: what is kept free, what is offered more than once, devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.agent.facts import host_facts
from gestalt.config import AgentSettings, TlsSettings
from gestalt.errors import GestaltError
from gestalt.settings_file import dump_settings, load_settings

OFFER = """
offer:
  reserved: {cpu: 0.5, memory: 512MiB, disk: 10GiB, pids: 1000}
  overcommit: {cpu: 4, memory: 1.2}
  devices: {gpu: 2, example.org/fpga: 1}
"""


def loaded(folder: Path, more: str) -> AgentSettings:
    tls = TlsSettings(ca=folder, certificate=folder, key=folder)
    settings = AgentSettings(node_id="n", node_name="n", cluster_id="c", coordinators=("a:1",), tls=tls, data_dir=folder)
    file = folder / "agent.yaml"
    file.write_text(dump_settings(settings) + more, encoding="utf-8")
    return load_settings(file, AgentSettings)


def test_the_settings_are_told_as_facts(tmp_path: Path) -> None:
    facts = host_facts(loaded(tmp_path, OFFER))
    assert (facts.reserved.cpu, facts.reserved.memory, facts.reserved.disk, facts.reserved.pids) == (0.5, 512 * 2**20, 10 * 2**30, 1000)
    assert (facts.cpu_overcommit, facts.memory_overcommit) == (4.0, 1.2)
    assert dict(facts.devices) == {"gpu": 2, "example.org/fpga": 1}
    assert facts.pids > 1000


def test_by_default_all_is_offered_once(tmp_path: Path) -> None:
    facts = host_facts(loaded(tmp_path, ""))
    assert (facts.reserved.cpu, facts.reserved.memory, facts.cpu_overcommit, dict(facts.devices)) == (0.0, 0, 1.0, {})


@pytest.mark.parametrize(
    ("offer", "field"),
    [
        ("{overcommit: {cpu: 0}}", "offer.overcommit.cpu"),
        ("{overcommit: {memory: 11}}", "offer.overcommit.memory"),
        ("{reserved: {memory: -1}}", "offer.reserved.memory"),
        ("{reserved: {cores: 1}}", "offer.reserved.cores"),
        ("{devices: {gpu: -1}}", "offer.devices.gpu"),
        ("{devices: {GPU: 1}}", "offer.devices.GPU"),
    ],
)
def test_mistakes_name_the_field(tmp_path: Path, offer: str, field: str) -> None:
    with pytest.raises(GestaltError) as caught:
        loaded(tmp_path, f"offer: {offer}\n")
    assert field in caught.value.details[0].field
