"""How check drivers put what they saw into words for people."""

from __future__ import annotations

import asyncio
import ssl

from gestalt.plugin.check import CheckResult, CheckTarget
from gestalt.spec.schema import Check

OUTPUT_MAX = 500


def result(ok: bool, text: str) -> CheckResult:
    """Return a result whose output is one printable line of at most 500 characters."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text[: OUTPUT_MAX * 4])
    line = " ".join(clean.split())
    return CheckResult(ok, line if len(line) <= OUTPUT_MAX else line[: OUTPUT_MAX - 1] + "…")


def find_port(check: Check, target: CheckTarget) -> int | None:
    """Return the port to ask, the app's first one when the check names none; None when the instance has no such port."""
    return target.ports.get(check.port) if check.port else next(iter(target.ports.values()), None)


def no_port(check: Check) -> CheckResult:
    return result(False, f"the instance has no port called {check.port!r}" if check.port else "the instance has no port to ask")


def no_answer(check: Check) -> CheckResult:
    """The result of a run that reached its time limit, whoever watched over it."""
    return result(False, f"did not answer within {check.timeout:g} s")


def explain(error: OSError | asyncio.IncompleteReadError | EOFError, place: str) -> str:
    """Return why a connection to `place` failed."""
    if isinstance(error, ConnectionRefusedError):
        return f"{place} refuses connections"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {place} is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection to {place}: {error.reason or error}"
    if isinstance(error, EOFError | ConnectionError):
        return f"{place} closed the connection before the answer was complete"
    return f"{place} cannot be reached: {error.strerror or error}"
