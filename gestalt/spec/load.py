"""The doors through which descriptions come in: files of people, and documents over the wire."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from gestalt.errors import Detail, GestaltError, Kind

from .dependencies import Cycle, in_order
from .document import Document, Malformed, read_documents
from .honour import unhonoured, warnings
from .mistakes import Mistake, mistakes_of, show_place
from .schema import AppSpec

FILE_MAX = 4 * 1024**2
SPEC_MAX = 256 * 1024
HINT = "every field is explained in docs/app-reference.md"


def load_specs(text: str, source: str) -> tuple[AppSpec, ...]:
    """Return the descriptions in a text of YAML or JSON, one document each.

    Args:
        text: what the file holds.
        source: its name, for messages.

    Raises:
        GestaltError: INVALID, with every mistake of the whole text as a detail: `file:line: place`, what is wrong, what is allowed.
    """
    specs: dict[str, AppSpec] = {}
    documents: dict[str, Document] = {}
    details: list[Detail] = []
    if len(text) > FILE_MAX:
        raise _invalid(source, [Detail(source, f"has {len(text)} characters", f"at most {FILE_MAX}")])
    try:
        for document in read_documents(text):
            spec, mistakes = _check(document)
            if spec is not None and spec.path in specs:
                line = documents[spec.path].line(("path",))
                mistakes = (Mistake(("path",), f"is {spec.path}, as in line {line}", "one document an app"),)
            elif spec is not None:
                specs[spec.path], documents[spec.path] = spec, document
            details += [_detail(mistake, document, source) for mistake in mistakes]
    except Malformed as error:
        place = f"{source}:{error.line}:{error.column}" if error.column else f"{source}:{error.line}" if error.line else source
        details.append(Detail(place, f"this is not YAML: {error.problem}", "YAML or JSON"))
    if (found := find_cycle(specs.values())) is not None:
        path, mistake = found
        details.append(_detail(mistake, documents[path], source))
    if not details and not specs:
        details.append(Detail(source, "holds no description", "one document an app"))
    if details:
        raise _invalid(source, details)
    return tuple(specs.values())


def validate_spec(document: object) -> AppSpec:
    """Return the description that a document, plain data from anywhere, holds.

    Raises:
        GestaltError: INVALID, with every mistake as a detail.
    """
    spec, mistakes = _validate(document)
    if spec is None:
        details = [Detail(show_place(mistake.place), mistake.problem, mistake.allowed) for mistake in mistakes]
        raise GestaltError(Kind.INVALID, f"the description has {_count(len(details))}", hint=HINT, details=details)
    return spec


def find_cycle(specs: Iterable[AppSpec]) -> tuple[str, Mistake] | None:
    """Return a mistake of the app of this path, when descriptions depend on each other in a circle."""
    by_path = {spec.path: spec for spec in specs}
    try:
        in_order(by_path, lambda path: [other for other in by_path[path].depends_on if other in by_path])
    except Cycle as cycle:
        path, needed = cycle.way[:2]
        place = ("depends_on", by_path[path].depends_on.index(needed))
        return path, Mistake(place, f"makes a cycle: {cycle}", "apps that do not need this one themselves")
    return None


def _check(document: Document) -> tuple[AppSpec | None, tuple[Mistake, ...]]:
    """Return a document's description when nothing is wrong with it, and what is wrong."""
    spec, mistakes = _validate(document.data)
    if document.mistakes:
        places = {mistake.place for mistake in document.mistakes}
        mistakes = (*document.mistakes, *(mistake for mistake in mistakes if mistake.place not in places))
        return None, mistakes if () not in places else tuple(document.mistakes)
    return spec, mistakes


def _validate(data: object) -> tuple[AppSpec | None, tuple[Mistake, ...]]:
    try:
        spec = AppSpec.model_validate(data)
    except ValidationError as error:
        return None, mistakes_of(error)
    size = len(spec.model_dump_json())
    if size > SPEC_MAX:
        return None, (Mistake((), f"has {size} bytes", f"at most {SPEC_MAX}: put large things into files of the image or a volume"),)
    if spec.placement.exclusive and spec.instances > 1:  # no rule of the section: what was stored before must stay readable
        return None, (Mistake(("instances",), f"is {spec.instances}, but the app is exclusive", "0 or 1, or placement.exclusive: false"),)
    return spec, ()


def _detail(mistake: Mistake, document: Document, source: str) -> Detail:
    place = show_place(mistake.place)
    field = f"{source}:{document.line(mistake.place)}" + (f": {place}" if place else "")
    return Detail(field, mistake.problem, mistake.allowed)


def _invalid(source: str, details: Iterable[Detail]) -> GestaltError:
    found = tuple(details)
    return GestaltError(Kind.INVALID, f"{source} has {_count(len(found))}", hint=HINT, details=found)


def _count(number: int) -> str:
    return "a mistake" if number == 1 else f"{number} mistakes"


__all__ = ["find_cycle", "load_specs", "unhonoured", "validate_spec", "warnings"]
