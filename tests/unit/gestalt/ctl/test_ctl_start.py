"""gestaltctl starts at once: what a start imports, what its help says, how it ends."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from gestalt.ctl import main
from gestalt.ctl.exits import OF_KIND, Exit
from gestalt.ctl.lazy import Entry
from gestalt.errors import Detail, GestaltError, Kind

_HEAVY = ("grpc", "pydantic", "rich", "yaml", "google.protobuf", "asyncio", "cryptography", "docker")


@pytest.mark.parametrize(
    "code",
    ["import gestalt.ctl.main", "import gestalt.ctl.main as m; m.run(['--help'])", "import gestalt.ctl.main as m; m.run(['--version'])"],
)
def test_a_start_imports_nothing_heavy(code: str) -> None:
    script = f"import sys; {code}; print([name for name in {_HEAVY} if name in sys.modules], file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert ended.stderr.strip() == "[]"


def test_the_help_of_a_command_imports_no_grpc() -> None:
    names = ("ps", "launch", "exec", "status")
    script = f"import sys; from gestalt.ctl.main import run; [run([name, '--help']) for name in {names}]; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=30)


def _commands() -> list[tuple[str, Entry]]:
    return list(main.ENTRIES.items())


@pytest.mark.parametrize(("name", "entry"), _commands())
def test_the_table_of_commands_says_what_each_says_itself(name: str, entry: Entry) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0].strip() == entry.help


@pytest.mark.parametrize(("name", "entry"), [item for item in _commands() if item[0] != "appliance"])
def test_every_command_shows_examples_that_name_it(name: str, entry: Entry) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None
    assert f"gestaltctl {name}" in (command.epilog or "")


def test_every_kind_of_error_has_an_exit_code() -> None:
    assert set(OF_KIND) == set(Kind)
    assert {Exit.OK, Exit.INTERNAL} & set(OF_KIND.values()) == set()


@pytest.mark.parametrize("kind", Kind)
def test_an_error_is_told_with_its_details_and_what_to_do(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = GestaltError(
        kind, "it did not work", hint="try again", details=[Detail("apps[0].path", "is odd", "a path"), Detail("", "so is this")]
    )
    _break_with(error, monkeypatch)
    assert main.run(["version"]) == OF_KIND[kind]
    assert capsys.readouterr().err == "error: it did not work\n  apps[0].path: is odd (allowed: a path)\n  so is this\nhint: try again\n"


def test_a_mistake_that_is_the_sentence_already_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    detail = Detail("after", "is no token", "a token")
    _break_with(GestaltError(Kind.INVALID, "after: is no token; allowed: a token", details=[detail]), monkeypatch)
    assert main.run(["version"]) == Exit.USAGE
    assert capsys.readouterr().err == "error: after: is no token; allowed: a token\n"


def test_a_mistake_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _break_with(ZeroDivisionError("by zero"), monkeypatch)
    assert main.run(["version"]) == Exit.INTERNAL
    told = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: by zero" in told
    assert "Traceback" not in told


def test_interrupted_is_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _break_with(KeyboardInterrupt(), monkeypatch)
    assert main.run(["version"]) == Exit.INTERRUPTED


def _break_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("version")
    def broken() -> None:
        raise error

    monkeypatch.setattr(main.cli, "get_command", lambda *_: broken)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["pss"], "error: no command 'pss'; did you mean 'ps'?\nhint: gestaltctl --help\n"),
        (["scale", "/a"], "error: Missing argument 'COUNT'.\nhint: gestaltctl scale --help\n"),
        (["scale", "/a", "-1"], "hint: gestaltctl scale --help\n"),
        (["restart", "/a", "--timeout", "soon"], "is not a duration"),
        (["tasks", "--watch"], "error: --watch needs the id of a task\nhint: gestaltctl tasks --help\n"),
        (["exec", "web", "--"], "error: after -- comes the command\n"),
        (["exec", "-e", "NAME", "web", "env"], "error: 'NAME' is not NAME=VALUE\n"),
        (["exec", "-t", "web", "sh"], "error: -t needs -i and a terminal"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_where_help_is(args: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(args) == Exit.USAGE
    assert told in capsys.readouterr().err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == Exit.USAGE
    assert "Inside an instance:" in capsys.readouterr().err
