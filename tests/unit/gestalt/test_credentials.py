"""`credential:NAME` in settings: whose file that is, and what is said when systemd does not hand it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.agent.fence import settings as light
from gestalt.cluster.secrets import read_secret
from gestalt.config import AgentSettings, CoordinatorSettings, FenceSettings
from gestalt.credentials import is_credential, told
from gestalt.errors import GestaltError, Kind
from gestalt.settings_file import dump_settings, load_settings

TLS = "tls: {ca: /ca, certificate: /crt, key: %s}\n"
AGENT = "node_id: n\nnode_name: one\ncluster_id: c\ncoordinators: [127.0.0.1:7400]\n"
FENCE = "node_id: n\nnode_name: one\ncluster_id: c\nzookeeper: {hosts: [a:1], identity: me, secret_file: %s}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the credentials that a unit was given."""
    folder = tmp_path / "gestalt-coordinator.service"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_outside_a_unit_it_is_what_the_daemons_own_unit_was_given(tmp_path: Path) -> None:
    coordinator = "cluster_id: c\nauthority_passphrase: credential:phrase\n" + TLS % "credential:tls.key"
    settings = load_settings(write(tmp_path, coordinator), CoordinatorSettings)
    assert settings.authority_passphrase == Path("/run/credentials/gestalt-coordinator.service/phrase")
    assert settings.tls.key == Path("/run/credentials/gestalt-coordinator.service/tls.key")
    assert load_settings(write(tmp_path, dump_settings(settings)), CoordinatorSettings) == settings
    agent = load_settings(write(tmp_path, AGENT + TLS % "credential:node"), AgentSettings)
    assert agent.tls.key == Path("/run/credentials/gestalt-agent.service/node")
    path = write(tmp_path, FENCE % "credential:zookeeper")
    full, small = load_settings(path, FenceSettings), light.load_fence_settings(path)
    assert small.zookeeper.secret_file == full.zookeeper.secret_file == Path("/run/credentials/gestalt-fence.service/zookeeper")


def test_within_a_unit_it_is_what_that_was_given(tmp_path: Path, given: Path) -> None:
    (given / "zookeeper").write_text("sesame\n", encoding="utf-8")
    path = write(tmp_path, FENCE % "credential:zookeeper")
    for settings in (load_settings(path, FenceSettings), light.load_fence_settings(path)):
        assert settings.zookeeper.secret_file == given / "zookeeper"
        assert read_secret(given / "zookeeper") == "sesame"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a:b", "n" * 256])
def test_a_name_that_is_none_is_refused_by_both(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, FENCE % f"'credential:{name}'")
    with pytest.raises(GestaltError, match=r"names no credential; allowed: credential:NAME") as full:
        load_settings(path, FenceSettings)
    with pytest.raises(GestaltError, match=r"names no credential; allowed: credential:NAME") as small:
        light.load_fence_settings(path)
    assert full.value.kind is small.value.kind is Kind.INVALID
    assert ":4: zookeeper.secret_file: " in full.value.message


def test_one_that_was_not_given_is_told_by_its_name_with_what_to_do(given: Path) -> None:
    with pytest.raises(GestaltError, match=r"the secret in the credential phrase of gestalt-coordinator\.service") as caught:
        read_secret(given / "phrase")
    assert "`systemctl edit gestalt-coordinator.service`: LoadCredential=phrase:FILE" in caught.value.hint


def test_a_plain_path_is_none(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, FENCE % "/etc/gestalt/zookeeper-node.secret"), FenceSettings)
    assert settings.zookeeper.secret_file == Path("/etc/gestalt/zookeeper-node.secret")
    assert not is_credential(settings.zookeeper.secret_file)
    rows = [("a", "/run/credentials/gestalt-fence.service/x"), ("b", "/run/credentials"), ("c", 3), ("d", "/etc/gestalt")]
    assert told(rows) == "given by systemd while gestalt-fence.service runs: a, by LoadCredential=x in that unit\n"
