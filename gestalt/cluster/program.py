"""Going on as another of our programs, which does what gestaltctl may not import."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gestalt.errors import GestaltError, Kind


def become(name: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by a program that is installed beside this one, or on the PATH. Its output and exit code are ours then.

    Raises:
        GestaltError: NOT_FOUND, when it is not installed here.
    """
    places = (Path(sys.argv[0]).absolute().parent, Path(sys.executable).parent)
    program = next((found for place in places if (found := shutil.which(name, path=str(place)))), None) or shutil.which(name)
    if program is None:
        raise GestaltError(Kind.NOT_FOUND, f"{name} is not installed on this machine", hint="run this where a coordinator is installed")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [program, *arguments])  # noqa: S606 (one of ours; no shell)
