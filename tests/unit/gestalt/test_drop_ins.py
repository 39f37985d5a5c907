"""Drop-ins: what is put together from several files, in which order, and that mistakes name the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gestalt.agent.fence.settings import load_fence_settings
from gestalt.appliance.layout import Layout
from gestalt.appliance.removal import destroy
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.settings_document import Document, passed_over, read_document
from gestalt.settings_file import load_settings
from gestalt.settings_shown import sources

AGENT = "node_id: n\nnode_name: one\ncluster_id: c\ncoordinators: [a:1]\ntls: {ca: /ca, certificate: /crt, key: /key}\n"
LEADER = "cluster_id: c\ntls: {ca: /ca, certificate: /crt, key: /key}\n"


def written(folder: Path, main: str, drop_ins: Mapping[str, str], name: str = "agent") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(main, encoding="utf-8")
    (folder / f"{name}.d").mkdir()
    for drop_in, text in drop_ins.items():
        (folder / f"{name}.d" / drop_in).write_text(text, encoding="utf-8")
    return path


def agent(folder: Path, drop_ins: Mapping[str, str], more: str = "") -> AgentSettings:
    return load_settings(written(folder, AGENT + more, drop_ins), AgentSettings)


def refused(folder: Path, drop_ins: Mapping[str, str], main: str = AGENT) -> list[str]:
    """Return the mistakes that are told, without the folder's name."""
    with pytest.raises(GestaltError) as caught:
        load_settings(written(folder, main, drop_ins), AgentSettings)
    assert caught.value.kind is Kind.INVALID
    return [f"{detail.field}: {detail.problem}".replace(f"{folder}/", "") for detail in caught.value.details]


def test_the_last_name_has_the_last_word(tmp_path: Path) -> None:
    assert agent(tmp_path, {"20.yaml": "resync: 20s\n", "3.yaml": "resync: 3s\n", "10.yaml": "resync: 10s\n"}, "resync: 1s\n").resync == 3.0


def test_sections_are_put_together_and_lists_are_replaced(tmp_path: Path) -> None:
    settings = agent(
        tmp_path,
        {
            "10.yaml": "proxy: {http_port: 81}\ncoordinators: [b:2]\noffer: {devices: {gpu: 1}}\n",
            "20.yaml": "offer: {devices: {fpga: 2}}\n",
        },
        "proxy: {http_port: 8080, stats_port: 9}\n",
    )
    assert (settings.proxy.http_port, settings.proxy.stats_port) == (81, 9)
    assert settings.coordinators == ("b:2",)
    assert settings.offer.devices == {"gpu": 1, "fpga": 2}


def test_only_yaml_is_read_and_what_is_not_is_known(tmp_path: Path) -> None:
    drop_ins = {"a.yaml~": "resync: 7s\n", "b.yml": "resync: 8s\n", ".c.yaml": "resync: 9s\n", "d.yaml": "# resync: 10s\n"}
    assert agent(tmp_path, drop_ins).resync == AgentSettings.model_fields["resync"].default
    assert [path.name for path in passed_over(tmp_path / "agent.yaml")] == ["a.yaml~", "b.yml"]


def test_mistakes_name_the_file_that_holds_them(tmp_path: Path) -> None:
    told = refused(
        tmp_path, {"10.yaml": "resnyc: 3\n", "20.yaml": "proxy:\n  http_port: many\n", "30.yaml": "tls: {kay: /k}\n"}, AGENT + "resync: x\n"
    )
    assert [line.partition(": ")[0] for line in told] == ["agent.d/30.yaml:1", "agent.yaml:6", "agent.d/20.yaml:2", "agent.d/10.yaml:1"]
    assert "agent.d/10.yaml:1: resnyc: is not a setting; did you mean 'resync'?" in told


def test_a_section_that_is_replaced_by_no_section_is_the_mistake_of_who_did_it(tmp_path: Path) -> None:
    (told,) = refused(tmp_path, {"10.yaml": "tls: /etc/tls\n"})
    assert told.startswith("agent.d/10.yaml:1: tls: ")
    assert refused_again(tmp_path, "tls:\n") == "agent.d/10.yaml:1: tls"


def refused_again(folder: Path, text: str) -> str:
    (folder / "agent.d" / "10.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(GestaltError) as caught:
        load_settings(folder / "agent.yaml", AgentSettings)
    (detail,) = caught.value.details
    return detail.field.replace(f"{folder}/", "")


def test_what_does_not_go_together_is_told_with_the_files_of_both(tmp_path: Path) -> None:
    (told,) = refused(tmp_path, {"10.yaml": "\nport_last: 2000\n"}, AGENT + "port_first: 3000\n")
    assert "no range of ports" in told
    assert told.endswith("(port_first: agent.yaml:6, port_last: agent.d/10.yaml:2)")


def test_the_fence_and_the_coordinator_have_drop_ins_too(tmp_path: Path) -> None:
    fence = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1]}\n"
    path = written(tmp_path, fence, {"10.yaml": "timing: {lease: 9s}\nzookeeper: {root: /other}\n"}, "fence")
    settings = load_fence_settings(path)
    assert (settings.timing.lease, settings.zookeeper.root, settings.zookeeper.hosts) == (9.0, "/other", ("a:1",))
    (tmp_path / "fence.d" / "20.yaml").write_text("timing: {leese: 1s}\n", encoding="utf-8")
    with pytest.raises(GestaltError, match=r"fence\.d/20\.yaml:1: timing\.leese: is not a setting; did you mean 'lease'"):
        load_fence_settings(path)
    leader = written(tmp_path, LEADER, {"10.yaml": "heartbeat: 1s\n"}, "coordinator")
    assert load_settings(leader, CoordinatorSettings).heartbeat == 1.0


@pytest.mark.parametrize(("text", "problem"), [("- a\n", "holds no settings"), ("a: [1\n", "is not YAML")])
def test_a_drop_in_that_holds_no_settings_is_refused_by_name(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(GestaltError, match=r"agent\.d/10\.yaml") as caught:
        agent(tmp_path, {"10.yaml": text})
    assert caught.value.kind is Kind.INVALID
    assert problem in caught.value.message


def test_every_field_is_shown_with_its_source(tmp_path: Path) -> None:
    path = written(tmp_path, AGENT + "docker: {limit: 5s}\n", {"10.yaml": "docker:\n  limit: 1m\noffer: {devices: {gpu: 2}}\n"})
    table = [line.split() for line in sources(load_settings(path, AgentSettings), read_document(path, "")).splitlines()]
    assert ["docker.limit", "60", f"{tmp_path}/agent.d/10.yaml:2"] in table
    assert ["offer.devices.gpu", "2", f"{tmp_path}/agent.d/10.yaml:3"] in table
    assert ["tls.key", '"/key"', f"{tmp_path}/agent.yaml:5"] in table
    assert ["fence", "null", "default"] in table
    assert len(table) == len({row[0] for row in table}) > 30


def test_what_was_taken_away_in_between_is_no_source(tmp_path: Path) -> None:
    path = written(tmp_path, "a: {x: 1}\n", {"1.yaml": "a: none\n", "2.yaml": "a: {y: 2}\n"})
    document: Document = read_document(path, "")
    assert document.values == {"a": {"y": 2}}
    assert document.source(("a", "x")) == ""
    assert document.source(("a", "y")) == f"{tmp_path}/agent.d/2.yaml:1"


async def test_destroy_leaves_drop_ins_to_those_who_made_them(tmp_path: Path) -> None:
    layout, said = Layout(tmp_path / "root"), list[str]()
    for folder in ("agent.d", "coordinator.d"):
        (layout.settings / folder).mkdir(parents=True)
    drop_in = layout.settings / "agent.d" / "10.yaml"
    drop_in.write_text("resync: 5s\n", encoding="utf-8")
    await destroy(layout, said.append)
    assert list(layout.settings.rglob("*")) == [drop_in.parent, drop_in]
    assert said[-1] == f"nothing of the appliance is left below {layout.root}; not made by it, and kept: {drop_in}"
    drop_in.unlink()
    await destroy(layout, said.append)
    assert said[-1] == f"nothing of the appliance is left below {layout.root}"
    assert not layout.root.exists()
