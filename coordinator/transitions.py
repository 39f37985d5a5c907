"""What is worth an event when an agent reports an instance anew: a pure comparison of two observations."""

from __future__ import annotations

from gestalt.model import Health, Observed, Phase


def transitions(before: Observed | None, after: Observed) -> list[tuple[str, str]]:
    """Return (kind, sentence) of what happened between two reports on one instance."""
    name = after.instance
    found: list[tuple[str, str]] = []
    if before is not None and after.attempt > before.attempt:
        found.append(("instance.restarted", f"{name} was restarted in place: attempt {after.attempt}"))
    if after.phase is Phase.FAILED and (before is None or before.phase is not Phase.FAILED or before.reason != after.reason):
        found.append(("instance.failed", f"{name} failed: {after.reason or 'no reason is known'}"))
    if after.crash_loop and not (before is not None and before.crash_loop):
        found.append(("instance.crash-loop", f"{name} is in a crash loop: {after.reason}"))
    was_ready = before is not None and before.ready
    if after.ready and not was_ready:
        found.append(("instance.healthy", f"{name} is healthy"))
    if was_ready and not after.ready and after.phase is Phase.RUNNING:
        found.append(("instance.unhealthy", f"{name} is not healthy any more: {_failing(after)}"))
    return found


def _failing(observed: Observed) -> str:
    failing = [f"check {check.name}: {check.output}" for check in observed.checks if check.health is Health.UNHEALTHY]
    return "; ".join(failing) or observed.reason or "no reason is known"
