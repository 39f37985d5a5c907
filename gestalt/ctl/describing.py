"""From the files that -f names to validated app descriptions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt.errors import Detail, GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.spec.schema import AppSpec


def read_specs(files: Sequence[str]) -> tuple[AppSpec, ...]:
    """Return all descriptions of all files, `-` being standard input.

    Raises:
        GestaltError: INVALID, with the mistakes of all files, or when two of them describe the same app.
    """
    from gestalt.spec.load import load_specs

    specs: list[tuple[str, AppSpec]] = []
    problems: list[GestaltError] = []
    for file in files:
        source, text = _read(file)
        try:
            specs += [(source, spec) for spec in load_specs(text, source)]
        except GestaltError as error:
            problems.append(error)
    if problems:
        raise problems[0] if len(problems) == 1 else _together(problems)
    _check_unique(specs)
    _check_order(specs)
    return tuple(spec for _, spec in specs)


def _read(file: str) -> tuple[str, str]:
    try:
        if file == "-":
            return "<stdin>", sys.stdin.buffer.read().decode()
        return file, Path(file).read_bytes().decode()
    except OSError as error:
        hint = "name a file with app descriptions, or - for standard input"
        raise GestaltError(Kind.INVALID, f"{file} cannot be read: {error.strerror}", hint=hint) from error
    except UnicodeDecodeError as error:
        hint = "save the file as UTF-8 text"
        raise GestaltError(Kind.INVALID, f"{file} is not UTF-8 text: byte {error.start} is wrong", hint=hint) from error


def _together(problems: Sequence[GestaltError]) -> GestaltError:
    details = [detail for error in problems for detail in (error.details or (Detail("", error.message),))]
    return GestaltError(Kind.INVALID, f"{len(problems)} files have mistakes", details=details, hint=problems[0].hint)


def _check_unique(specs: Sequence[tuple[str, AppSpec]]) -> None:
    first: dict[str, str] = {}
    twice = []
    for source, spec in specs:
        if spec.path in first:
            twice.append(Detail(source, f"describes {spec.path}, as {first[spec.path]} does already"))
        first.setdefault(spec.path, source)
    if twice:
        raise GestaltError(Kind.INVALID, "an app is described twice", details=twice, hint="keep one description of each app")


def _check_order(specs: Sequence[tuple[str, AppSpec]]) -> None:
    """Refuse descriptions of different files that depend on each other in a circle."""
    from gestalt.spec.load import find_cycle
    from gestalt.spec.mistakes import show_place

    if (found := find_cycle(spec for _, spec in specs)) is not None:
        path, mistake = found
        source = next(source for source, spec in specs if spec.path == path)
        detail = Detail(f"{source}: {show_place(mistake.place)}", mistake.problem, mistake.allowed)
        raise GestaltError(Kind.INVALID, f"{detail.field} {mistake.problem}", details=[detail], hint="leave one of them out of depends_on")
