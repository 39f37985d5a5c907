"""`python -m demo up` and `python -m demo down`; `make demo` and `make demo-down` call it."""

from __future__ import annotations

import os
import sys

from demo.show import Show
from demo.stage import Stage, StageError, find_docker, remove_everything, say


def main(argv: list[str]) -> int:
    """Return the exit code: 0 when everything worked and no request failed."""
    if argv not in (["up"], ["down"]):
        sys.stderr.write("usage: python -m demo up|down\n")
        return 2
    if os.geteuid() != 0:
        os.execvp("sudo", ["sudo", "--preserve-env=DEMO_RUNTIME,DEMO_ROOT", sys.executable, "-m", "demo", *argv])
    try:
        return up() if argv == ["up"] else down()
    except StageError as error:
        say(f"the demo stopped: {error}", style="31")
        say("run it again (make demo), or remove it (make demo-down)")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; run it again (make demo), or remove it (make demo-down)")
        return 130


def up() -> int:
    """Play the show."""
    show = Show(Stage(find_docker()))
    show.play()
    return 1 if show.failed else 0


def down() -> int:
    """Remove every trace."""
    remove_everything()
    say("nothing of the demo is left; the system's packages stay, and .venv")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
