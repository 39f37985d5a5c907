"""Init: what it makes, that it keeps what is there, and that it completes whatever an interruption left."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from gestalt.appliance.init import InitOptions, initialise
from gestalt.appliance.layout import Layout
from gestalt.appliance.removal import destroy
from gestalt.config import AgentSettings, CoordinatorSettings
from gestalt.errors import GestaltError, Kind
from gestalt.pki import NODE_HOST, Identity, Role, identity_in
from gestalt.settings_file import load_settings

OPTIONS = InitOptions(api_port=7410, http_port=8081, port_range=(5000, 5100))


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check_whole(layout: Layout) -> None:
    """Everything is there and belongs together."""
    coordinator = load_settings(layout.coordinator_settings, CoordinatorSettings)
    agent = load_settings(layout.agent_settings, AgentSettings)
    assert agent.cluster_id == coordinator.cluster_id
    assert agent.coordinators == (coordinator.listen,) == ("127.0.0.1:7410",)
    context = yaml.safe_load(layout.client_settings.read_text())["contexts"]["appliance"]
    wanted = {
        coordinator.tls.certificate: Identity(coordinator.cluster_id, Role.COORDINATOR, "coordinator"),
        agent.tls.certificate: Identity(coordinator.cluster_id, Role.NODE, agent.node_id),
        Path(context["certificate"]): Identity(coordinator.cluster_id, Role.USER, "admin"),
    }
    authority = x509.load_pem_x509_certificate(agent.tls.ca.read_bytes())
    for path, identity in wanted.items():
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        assert identity_in(certificate) == identity
    node = x509.load_pem_x509_certificate(agent.tls.certificate.read_bytes())
    hosts = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert hosts == [NODE_HOST], "no host where a coordinator is looked for"
    for key in layout.pki.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_init_makes_a_whole_appliance(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert all(file.made for file in initialise(layout, OPTIONS))
    check_whole(layout)
    agent = load_settings(layout.agent_settings, AgentSettings)
    assert (agent.proxy.http_port, agent.port_first, agent.port_last) == (8081, 5000, 5100)


def test_a_runtime_that_is_not_installed_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(GestaltError, match="no runtime driver called 'nix'") as told:
        initialise(Layout(tmp_path), InitOptions(runtimes=("process", "nix")))
    assert told.value.kind is Kind.INVALID
    assert not list(tmp_path.iterdir())


async def test_a_runtime_that_is_not_installed_any_more_can_be_skipped_by_destroy(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "root")
    initialise(layout, InitOptions(runtimes=("process",)))
    settings = yaml.safe_load(layout.agent_settings.read_text())
    layout.agent_settings.write_text(yaml.safe_dump(settings | {"runtimes": ["nix"], "proxy": {"enabled": False}}))
    with pytest.raises(GestaltError, match="no runtime driver called 'nix'") as told:
        await destroy(layout, _silent)
    assert "--skip-unavailable" in told.value.hint
    await destroy(layout, _silent, skip_unavailable=True)
    assert not layout.agent_settings.exists()


def _silent(_: str) -> None:
    """Nobody listens."""


def test_a_second_init_changes_nothing_and_says_what_it_kept(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    initialise(layout, OPTIONS)
    before = files_of(tmp_path)
    again = initialise(layout, InitOptions(http_port=9999, api_port=7410))
    assert files_of(tmp_path) == before
    assert not any(file.made for file in again)
    assert [file.note for file in again if file.note] == ["keeps its own http_port: edit it to change that"]


def test_an_init_that_was_interrupted_anywhere_is_completed(tmp_path: Path) -> None:
    """For every n: only the first n files that init writes are there."""
    whole = Layout(tmp_path / "whole")
    initialise(whole, OPTIONS)
    order = sorted((path for path in whole.root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    assert len(order) == 11, "three settings files, four certificates, four keys"
    complete = files_of(whole.root)
    for count in range(len(order)):
        shutil.rmtree(whole.root)
        for path in order[:count]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(complete[path])
            path.chmod(0o600 if path.suffix == ".key" else 0o644)
        initialise(whole, OPTIONS)
        check_whole(whole)
        kept = {path for path in order[:count] if path.read_bytes() == complete[path]}
        redone = set(order[:count]) - kept
        assert len(redone) <= 1, "at most the key of the one certificate that was under way is made anew"
        assert all(path.suffix == ".key" and path.name != "ca.key" for path in redone)


def test_settings_of_two_clusters_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    initialise(layout, OPTIONS)
    layout.coordinator_settings.unlink()
    with pytest.raises(GestaltError, match="two clusters") as caught:
        initialise(layout, OPTIONS)
    assert caught.value.kind is Kind.CONFLICT


def test_broken_settings_are_told_and_left_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    initialise(layout, OPTIONS)
    layout.agent_settings.write_text("node_id: 3\n", encoding="utf-8")
    with pytest.raises(GestaltError, match=r"agent\.yaml is not valid"):
        initialise(layout, OPTIONS)
    assert layout.agent_settings.read_text(encoding="utf-8") == "node_id: 3\n"


def test_sockets_fit_below_any_root() -> None:
    for root in ("/", "/srv/x", "/" + "deep/" * 30):
        assert len(str(Layout(Path(root)).run / "agent")) + 40 <= 107
    assert Layout(Path("/")).run == Path("/run/gestalt")
    assert Layout(Path("/a" * 60)).run != Layout(Path("/b" * 60)).run
