"""What the daemons' programs say when they are asked for help, and that what they name is there."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from gestalt.agent.fence.main import main as fence
from gestalt.agent.main import main as agent
from gestalt.coordinator.main import main as coordinator

Said = Callable[..., str]


@pytest.fixture
def said_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Said:
    """Return what a program says to its arguments, which are to end it well."""

    def run(main: Callable[[], int], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("main", "program", "words"),
    [(agent, "gestalt-agent", ("join",)), (coordinator, "gestalt-coordinator", ("join", "import")), (fence, "gestalt-fence", ())],
)
def test_help_lists_what_else_the_program_does_with_an_example(
    said_by: Said, main: Callable[[], int], program: str, words: tuple[str, ...]
) -> None:
    text = said_by(main, "--help")
    commands, _, examples = text.partition("examples:")
    assert f"  {program} --check-config\n" in examples
    assert ("commands, instead of being the daemon" in commands) == bool(words)
    for word in words:
        assert f"       {program} {word} …\n" in text
        assert f"\n  {word} " in commands
        assert f"\n  {program} {word} " in examples


@pytest.mark.parametrize(
    ("main", "words", "option"),
    [
        (agent, "gestalt-agent join", "--token-file"),
        (coordinator, "gestalt-coordinator join", "--token-file"),
        (coordinator, "gestalt-coordinator import", "FILE"),
    ],
)
def test_what_the_help_lists_has_a_help_of_its_own(said_by: Said, main: Callable[[], int], words: str, option: str) -> None:
    text = said_by(main, words.partition(" ")[2], "--help")
    assert text.startswith(f"usage: {words} ")
    assert option in text
