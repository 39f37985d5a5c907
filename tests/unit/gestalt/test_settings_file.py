"""Settings files: what is read back is what was written, and every mistake is told with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gestalt.config import AgentSettings, CoordinatorSettings, TlsSettings
from gestalt.errors import GestaltError, Kind
from gestalt.settings_file import dump_settings, load_settings

TLS = TlsSettings(ca=Path("/ca"), certificate=Path("/crt"), key=Path("/key"))
AGENT = AgentSettings(node_id="n", node_name="one", cluster_id="c", coordinators=("127.0.0.1:7400",), tls=TLS, resync=12.5)
GOOD = dump_settings(AGENT)


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(GestaltError) as caught:
        load_settings(write(folder, text), AgentSettings)
    assert caught.value.kind is Kind.INVALID
    return [f"{detail.field.removeprefix(str(folder))}: {detail.problem}" for detail in caught.value.details]


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, GOOD), AgentSettings) == AGENT


def test_units_are_understood(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "orphan_grace: 1m30s\ndocker: {image_high_water: 2GiB}\n"), AgentSettings)
    assert (settings.orphan_grace, settings.docker.image_high_water) == (90.0, 2 * 1024**3)


@pytest.mark.parametrize("address", ["", "localhost", "0.0.0.0", "::", "10.0.0.1:3000", "10.0.0.0/8", "224.0.0.1"])
def test_the_address_of_a_node_is_one_that_others_can_reach(tmp_path: Path, address: str) -> None:
    (told,) = mistakes(tmp_path, GOOD + f"address: '{address}'\n")
    assert "must be one IP address of this node" in told


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    line = GOOD.count("\n")
    told = mistakes(tmp_path, GOOD + "resnyc: 3\nproxy:\n  http_prot: 1\n  http_port: many\norphan_grace: soon\n")
    assert told == [
        f"/agent.yaml:{line + 5}: orphan_grace: {_duration_problem()}",
        f"/agent.yaml:{line + 4}: proxy.http_port: Input should be a valid integer, unable to parse string as an integer",
        f"/agent.yaml:{line + 3}: proxy.http_prot: is not a setting; did you mean 'http_port'?",
        f"/agent.yaml:{line + 1}: resnyc: is not a setting; did you mean 'resync'?",
    ]


def _duration_problem() -> str:
    return 'is not a duration; allowed: seconds, or a number with a unit: "500ms", "30s", "5m", "1h30m"'


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    assert "/agent.yaml:1: node_id: is missing" in mistakes(tmp_path, GOOD.replace("node_id: n\n", ""))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "", "a: [1\nb: 2", "a: \x00"])
def test_what_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text) == []


def test_a_file_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(GestaltError, match="cannot be read") as caught:
        load_settings(tmp_path / "none.yaml", CoordinatorSettings)
    assert caught.value.kind is Kind.NOT_FOUND
    assert "appliance init" in caught.value.hint


def test_a_node_is_unreachable_after_two_sessions_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    document = {"cluster_id": "c", "tls": yaml.safe_load(GOOD)["tls"]}
    default = CoordinatorSettings.model_validate(document)
    assert default.patience_with_agents(default.timing.session) == 4.0
    assert default.patience_with_agents(1.0) == 2.0
    assert default.patience_with_agents(0.5) == default.heartbeat, "no earlier than a heartbeat may come"
    chosen = CoordinatorSettings.model_validate({**document, "unreachable_after": "7s"})
    assert chosen.patience_with_agents(1.0) == 7.0


def test_times_and_ports_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    (told,) = mistakes(tmp_path, GOOD + "port_first: 4000\nport_last: 3000\n")
    assert "port_first (4000) and port_last (3000) are no range of ports" in told
    document = yaml.safe_load(GOOD)
    settings = {"cluster_id": "c", "tls": document["tls"], "heartbeat": "5s", "unreachable_after": "4s"}
    (tmp_path / "coordinator.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(GestaltError, match="must be above 0 and in this order"):
        load_settings(tmp_path / "coordinator.yaml", CoordinatorSettings)
