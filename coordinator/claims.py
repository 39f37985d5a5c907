"""Which services an app asks for, and who has them already: no app takes the requests of another by being launched."""

from __future__ import annotations

from gestalt.errors import Detail, GestaltError, Kind
from gestalt.spec.schema import AppSpec

from .state import Draft


def claims(spec: AppSpec) -> dict[str, str]:
    """Return the services that a description asks for, as words for people, each with the field that asks."""
    found: dict[str, str] = {}
    for index, port in enumerate(spec.ports):
        for host in (port.http.hosts or ("any host",)) if port.http is not None else ():
            assert port.http is not None, "the loop runs for http services alone"
            found[f"http {host} {port.http.path_prefix.rstrip('/') or '/'}"] = f"ports[{index}].http"
        if port.tcp is not None:
            found[f"tcp port {port.tcp.port}"] = f"ports[{index}].tcp"
    return found


def conflicts(draft: Draft, path: str, spec: AppSpec) -> tuple[Detail, ...]:
    """Return what a description asks for and another app, which is not stopped, has already."""
    wanted = claims(spec)
    if not wanted:
        return ()
    found = []
    for other in draft.apps():
        versions = [draft.version(other.path, number) for number in {other.version, other.goal}]
        if other.path == path or other.stopped or other.deleting:
            continue
        common = {service for version in versions if version is not None for service in claims(version.spec)} & wanted.keys()
        found += [Detail(wanted[service], f"{service} belongs to {other.path}", "a service that no running app has") for service in common]
    return tuple(sorted(found, key=lambda detail: (detail.field, detail.problem)))


def refuse_conflicts(draft: Draft, path: str, spec: AppSpec) -> None:
    """Refuse a goal that would take another app's requests.

    Raises:
        GestaltError: CONFLICT, naming each service and who has it.
    """
    if found := conflicts(draft, path, spec):
        hint = "choose another host, path or port, or stop the other app first"
        raise GestaltError(Kind.CONFLICT, f"{path} asks for a service of another app: {found[0].problem}", hint=hint, details=found)
