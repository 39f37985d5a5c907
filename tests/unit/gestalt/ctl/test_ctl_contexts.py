"""The file of contexts: where it is, what is wrong with it, how the current one changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.ctl import contexts
from gestalt.errors import GestaltError, Kind

_GOOD = """\
# my clusters
current: prod   # the important one
contexts:
  prod: {coordinators: ["10.0.0.1:7400", "[::1]:7400"], ca: ca.crt, certificate: /abs/me.crt, key: me.key}
  test: {coordinators: [localhost:7400], ca: ca.crt, certificate: me.crt, key: me.key}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(_GOOD)
    return path


def test_paths_count_from_the_folder_of_the_file(file: Path) -> None:
    chosen = contexts.load(file).choose("")
    assert chosen.coordinators == ("10.0.0.1:7400", "[::1]:7400")
    assert (chosen.ca, chosen.certificate) == (file.parent / "ca.crt", Path("/abs/me.crt"))


def test_a_context_is_chosen_by_option_then_variable_then_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GESTALT_CONTEXT", raising=False)
    assert contexts.choose(str(file), None).name == "prod"
    monkeypatch.setenv("GESTALT_CONTEXT", "test")
    assert contexts.choose(str(file), None).name == "test"
    assert contexts.choose(str(file), "prod").name == "prod"


def test_the_file_is_found_by_option_then_variable_then_home(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GESTALT_CONFIG", raising=False)
    monkeypatch.setattr(contexts, "APPLIANCE_FILE", file)
    assert contexts.find(None) == file
    own = tmp_path / "home" / "gestalt" / "config.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert contexts.find(None) == own
    monkeypatch.setenv("GESTALT_CONFIG", "/from/variable")
    assert contexts.find(None) == Path("/from/variable")
    assert contexts.find("/from/option") == Path("/from/option")


def test_using_a_context_changes_that_line_alone(file: Path) -> None:
    file.chmod(0o600)
    contexts.use(contexts.load(file), "test")
    assert file.read_text() == _GOOD.replace("current: prod   # the important one", "current: test")
    assert file.stat().st_mode & 0o777 == 0o600


def test_using_a_context_that_is_not_there_changes_nothing(file: Path) -> None:
    with pytest.raises(GestaltError, match="no context 'dev'") as caught:
        contexts.use(contexts.load(file), "dev")
    assert "prod, test" in caught.value.hint
    assert file.read_text() == _GOOD


def test_a_missing_file_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(GestaltError) as caught:
        contexts.load(tmp_path / "none.yaml")
    assert caught.value.kind is Kind.INVALID
    assert "gestaltctl appliance init" in caught.value.hint


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("contexts:\n  a: {coordinators: [nohost], ca: x, certificate: y, kee: z}\n  b: 3\n")
    with pytest.raises(GestaltError) as caught:
        contexts.load(path)
    assert [detail.field for detail in caught.value.details] == [
        "contexts.a.kee",
        "contexts.a.coordinators",
        "contexts.a.key",
        "contexts.b",
    ]


@pytest.mark.parametrize("text", ["", "[]", "contexts: 3", "{", "a: &x [*x]", "contexts: {a: {coordinators: 'x:1'}}"])
def test_whatever_the_file_holds_the_error_is_ours(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(GestaltError) as caught:
        contexts.load(path)
    assert caught.value.kind is Kind.INVALID
