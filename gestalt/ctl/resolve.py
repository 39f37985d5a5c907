"""From what a person types to an app's path or an instance's id: short names, as long as they are unambiguous."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from gestalt.errors import GestaltError, Kind

if TYPE_CHECKING:
    from gestalt.client import Client
    from gestalt.proto.v1 import api_pb2

_HINT = "gestaltctl ps lists instances, gestaltctl ps --apps lists apps"


@dataclass(frozen=True, slots=True)
class Subject:
    """What was meant: an app, or one instance of it."""

    app: str
    instance: str = ""


async def find_app(client: Client, text: str) -> str:
    """Return the path of the app that `text` names: its path, or the end of it.

    Raises:
        GestaltError: NOT_FOUND or INVALID, when it names none or several.
    """
    return text if text.startswith("/") else choose_app(await everything(client), text)


async def find(client: Client, text: str) -> Subject:
    """Return the app or the instance that `text` names: a path, the end of one, an instance id or the start of one.

    Raises:
        GestaltError: NOT_FOUND or INVALID, when it names none or several.
    """
    if text.startswith("/"):
        return Subject(text)
    known = await everything(client)
    exact = [item for item in known.instances if item.id == text]
    if exact:
        return Subject(exact[0].app, exact[0].id)
    begun = [item for item in known.instances if item.id.startswith(text)]
    if len(begun) == 1 and not _ending_in(known, text):
        return Subject(begun[0].app, begun[0].id)
    if len(begun) > 1 and not _ending_in(known, text):
        raise _ambiguous(text, [item.id for item in begun])
    return Subject(choose_app(known, text))


async def everything(client: Client, prefix: str = "") -> api_pb2.ListReply:
    """Return all apps below a prefix with their instances."""
    from gestalt.proto.v1 import api_pb2

    return await client.call(lambda api: api.apps.List, api_pb2.ListRequest(prefix=prefix, with_instances=True))


def choose_app(known: api_pb2.ListReply, text: str) -> str:
    """Return the path of the one app that ends in `text`, whole parts of the path only.

    Raises:
        GestaltError: NOT_FOUND or INVALID, when there is none or several.
    """
    ending = _ending_in(known, text)
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise _ambiguous(text, ending)
    names = {app.path.rpartition("/")[2]: app.path for app in known.apps} | {item.id: item.id for item in known.instances}
    close = get_close_matches(text, names, n=1)
    hint = f"did you mean {names[close[0]]}? {_HINT}" if close else _HINT
    raise GestaltError(Kind.NOT_FOUND, f"no app or instance is called {text!r}", hint=hint)


def _ending_in(known: api_pb2.ListReply, text: str) -> list[str]:
    return [app.path for app in known.apps if app.path.endswith(f"/{text}")]


def _ambiguous(text: str, found: list[str]) -> GestaltError:
    shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
    return GestaltError(Kind.INVALID, f"{text!r} may mean {len(found)} things: {shown}", hint="write the whole path or id")
