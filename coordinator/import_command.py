"""`gestalt-coordinator import`: the command line around putting an export back. `gestaltctl cluster import` becomes this."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from gestalt.config import CoordinatorSettings
from gestalt.errors import GestaltError
from gestalt.exits import OF_KIND, Exit
from gestalt.settings_file import load_settings

from .importing import Choice, Outcome, put_back

_NEXT = (
    "next: start the coordinators, wait until the nodes are back (gestaltctl status), then:",
    "      gestaltctl cluster recover            shows what runs and is not in the state",
    "      gestaltctl cluster recover --confirm  has it removed, and what is lost replaced",
)


def import_command(arguments: Sequence[str]) -> int:
    """Import as the arguments say; return the exit code. Everything that went wrong has been told."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        settings = load_settings(options.settings, CoordinatorSettings)
        outcome = asyncio.run(put_back(settings, Choice(options.file, options.replace, options.above)))
    except GestaltError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return OF_KIND[error.kind]
    except PermissionError as error:
        sys.stderr.write(f"error: {error.filename} may not be used by this user\nhint: run this with sudo\n")
        return Exit.REFUSED
    _tell(outcome, options.output)
    return 0


def _tell(outcome: Outcome, output: str) -> None:
    match output:
        case "json":
            text = json.dumps(_shape(outcome), indent=2)
        case "yaml":
            text = yaml.safe_dump(_shape(outcome), sort_keys=False).rstrip()
        case "name":
            text = outcome.restored.history_id
        case _:
            text = "\n".join(_lines(outcome))
    sys.stdout.write(text + "\n")


def _lines(outcome: Outcome) -> list[str]:
    header, restored = outcome.header, outcome.restored
    return [
        f"restored {header.documents} documents of commit {header.commit}, exported {header.at}",
        *([f"replaced: {outcome.loss.sentence()}"] if outcome.loss else []),
        f"the store is at commit {restored.commit} of epoch {restored.epoch}, in the new history {restored.history_id}",
        *_NEXT,
    ]


def _shape(outcome: Outcome) -> dict[str, Any]:
    lost = outcome.loss
    replaced = {"commits": lost.commits, "apps": list(lost.apps), "nodes": list(lost.nodes), "changed": lost.changed}
    return {"from": asdict(outcome.header), "restored": asdict(outcome.restored), "replaced": replaced if lost else None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gestalt-coordinator import",
        description="Put a file of `gestaltctl cluster export` into the store of this machine's coordinator, while nobody leads.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--settings", type=Path, default=Path("/etc/gestalt/coordinator.yaml"), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--replace", action="store_true", help="in the place of a state that is newer, or of another history")
    parser.add_argument("--above", type=int, default=0, metavar="EPOCH", help="an epoch that agents have seen, if they say so")
    parser.add_argument("--output", choices=("table", "wide", "json", "yaml", "name"), default="table", help="how to print the outcome")
    return parser
