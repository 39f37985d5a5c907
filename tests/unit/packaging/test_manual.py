"""The man pages: one for each command, with all that its help says, the same everywhere, and shown by groff without a complaint."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from gestalt import shell
from gestalt.ctl.main import cli

ROOT = Path(__file__).resolve().parents[3]
SPEC = (ROOT / "packaging/gestalt.spec").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def manual() -> ModuleType:
    found = importlib.util.spec_from_file_location("manual", ROOT / "packaging/manual.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["manual"] = module  # where its dataclasses look for their types
    found.loader.exec_module(module)
    return module


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from commands(found, (*words, word))


def test_every_command_has_a_page_that_belongs_to_a_package(manual: ModuleType) -> None:
    names = [page.name for page in manual.pages()]
    wanted = ["-".join(words) for words, _ in commands(cli, ("gestaltctl",))]
    daemons = ["gestalt-agent", "gestalt-agent-join"]
    daemons += ["gestalt-coordinator", "gestalt-coordinator-join", "gestalt-coordinator-import", "gestalt-fence"]
    assert names == [*wanted, *daemons]
    packed = [Path(line) for line in re.findall(r"^%\{_mandir\}/(\S+)$", SPEC, re.MULTILINE)]
    for page in manual.pages():
        assert any(Path(f"{page.file}.gz").match(str(pattern)) for pattern in packed), page.file
        assert set(page.related) <= set(names), page.name


def test_every_option_stands_by_itself(manual: ModuleType) -> None:
    pages = {page.name: manual.roff(page) for page in manual.pages()}
    for words, command in commands(cli, ("gestaltctl",)):
        for option in (option for option in command.params if isinstance(option, click.Option) and not option.hidden):
            longest = max(option.opts, key=len).replace("-", r"\-")
            terms = re.findall(r"^\.TP\n\\fB(.+?)\\fR\n\S", pages["-".join(words)], re.MULTILINE)
            assert any(re.search(rf"(^|[ /]){re.escape(longest)}\b", term) for term in terms), (words, option.opts)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed: scripts/install-packages test")
async def test_groff_shows_all_that_the_help_says_and_has_nothing_to_complain_of(manual: ModuleType) -> None:
    for page in manual.pages():
        shown = await shell.run(("groff", "-man", "-ww", "-Tutf8", "-P-cbou"), limit=30, stdin=manual.roff(page).encode())
        assert (shown.code, shown.stderr.decode()) == (0, ""), page.name
        text = shown.stdout.decode()
        said = page.help.replace("`", "")
        headers = [line.strip() for line in said.splitlines() if line.endswith(":") or line.lower().startswith("usage: ")]
        words = set(said.split()) - {word for header in headers for word in header.split()}
        assert words - set(text.split()) == set(), page.name
        assert "\nNAME\n" in text
        assert "\nSYNOPSIS\n" in text
        assert max(map(len, text.splitlines())) <= 120, page.name


def test_where_they_are_made_does_not_show(manual: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert manual.main([str(one)]) == 0
    for name, value in {"COLUMNS": "40", "HOME": "/nowhere", "LINES": "5", "NO_COLOR": "1", "LANG": "C"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert manual.main([str(other)]) == 0
    made = {file.relative_to(one): file.read_bytes() for file in one.rglob("*.gz")}
    assert made == {file.relative_to(other): file.read_bytes() for file in other.rglob("*.gz")}


@pytest.mark.parametrize("words", [[], ["--help"], ["one", "two"]])
def test_it_wants_one_folder(manual: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert manual.main(words) == 2
    assert "usage: manual.py FOLDER" in capsys.readouterr().err
