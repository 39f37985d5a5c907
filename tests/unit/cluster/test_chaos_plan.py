"""Random trouble can be had again, and never hurts more at once than the cluster promises to bear, unless it says so."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.cluster.lab.chaos import DECIDING, Plan, Step

LINKS = ("isolate", "cut", "cut_one_way", "refuse", "lose")
MENDED_BY = {"kill": "boot", "pause": "unpause", "freeze": "thaw"}


def steps(seed: int, nodes: int, *, wild: bool = False) -> list[Step]:
    return list(islice(Plan(seed, nodes, wild), 400))


def hurt_at_each_step(plan: list[Step]) -> list[set[int]]:
    """Return what is hurt after each step, told from the steps alone."""
    hurt: dict[int, str] = {}
    history = []
    for step in plan:
        if step.verb in LINKS:
            hurt[step.node] = "heal"
        elif step.verb in MENDED_BY:
            hurt[step.node] = MENDED_BY[step.verb]
        elif step.verb == "heal":
            hurt = {node: end for node, end in hurt.items() if end != "heal"}
        elif step.verb in MENDED_BY.values():
            assert hurt.pop(step.node) == step.verb
        history.append(set(hurt))
    return history


def test_the_same_seed_gives_the_same_steps_and_another_one_others() -> None:
    assert steps(7, 5) == steps(7, 5)
    assert steps(7, 5) != steps(8, 5)


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_a_plan_hurts_no_more_than_what_is_promised(seed: int, nodes: int) -> None:
    plan = steps(seed, nodes)
    for step, hurt in zip(plan, hurt_at_each_step(plan), strict=True):
        assert step.promised
        assert sum(node <= DECIDING for node in hurt) <= 1, f"{step}: {hurt}"
        assert len(hurt) * 2 < nodes


def test_a_wild_plan_hurts_more_and_says_when() -> None:
    plan = steps(1, 5, wild=True)
    told = [step.promised for step in plan]
    true = [sum(node <= DECIDING for node in hurt) <= 1 and len(hurt) * 2 < 5 for hurt in hurt_at_each_step(plan)]
    assert told == true
    assert True in told
    assert False in told


def test_every_fault_and_every_change_has_its_turn_on_every_node() -> None:
    plan = [step for seed in range(20) for step in steps(seed, 5)]
    assert {step.verb for step in plan} >= {*LINKS, *MENDED_BY, *MENDED_BY.values(), "heal", "crash", "restart"}
    assert {step.verb for step in plan if step.app} == {"launch", "scale", "update", "delete"}
    assert {step.node for step in plan if step.node} == {1, 2, 3, 4, 5}
    assert all(step.node <= DECIDING for step in plan if step.part in ("coordinator", "zookeeper"))


def test_no_fault_lasts_for_ever() -> None:
    plan = steps(3, 3)
    history = hurt_at_each_step(plan)
    for begin in range(len(history) - 30):
        assert not set.intersection(*history[begin : begin + 30]), plan[begin : begin + 30]
