"""Random trouble on the whole cluster. GESTALT_SOAK_SECONDS: for how long; GESTALT_SOAK_SEED: which, to have it once more."""

from __future__ import annotations

import os
import random
from itertools import count

import pytest

from gestalt.clock import monotonic

from .lab.chaos import Plan
from .lab.chaos_run import ChaosRun
from .lab.cluster import Cluster, web
from .lab.nodes import can_run
from .lab.scene import PATIENT_CHECK

USUAL = 4
"""The seed of a run that nobody asked to be long: always the same, so that its failure is news."""
SOLO = "/lab/main/chaos/solo"
"""An exclusive app, which no step changes: it must never be at work twice."""
SHORT = 40.0
ROUND = 150.0
SOAK = float(os.environ.get("GESTALT_SOAK_SECONDS", "0"))

pytestmark = [
    pytest.mark.real,
    pytest.mark.soak,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420 + 2 * SOAK),
    pytest.mark.skipif(not can_run(), reason="lab nodes need root, systemd-sysv and busybox-static"),
]


async def test_whatever_fails_in_any_order_nothing_acknowledged_is_lost_and_the_cluster_converges(cluster: Cluster) -> None:
    """Rounds of trouble, each with a seed of its own that is printed before it; every second one hurts more than is promised."""
    given = os.environ.get("GESTALT_SOAK_SEED")
    first = int(given) if given else random.SystemRandom().randrange(2**32) if SOAK else USUAL
    end = monotonic() + max(SHORT, SOAK)
    await cluster.launch(web(SOLO, checks=[PATIENT_CHECK], placement={"exclusive": True}))
    for number in count():
        left = end - monotonic()
        if number and left < SHORT:
            return
        run = ChaosRun(cluster, Plan(first + number, len(cluster.lab.nodes), wild=bool((first + number) % 2)), {SOLO})
        print(f"GESTALT_SOAK_SEED={run.plan.seed}{' (wild)' if run.plan.wild else ''}")
        await run.go(min(ROUND, left))
        print("\n".join([*run.timeline, str(dict(run.outcomes))]) if SOAK else dict(run.outcomes))
