"""A context learns of coordinators, and the rest of its file stays as its owner wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gestalt.ctl.contexts import load, save_coordinators

FLOW = """# mine
current: prod
contexts:
  prod: {coordinators: ["a:1", 'b:2'], ca: ca.crt, certificate: me.crt, key: me.key}  # the real one
  lab: {coordinators: [x:9], ca: ca.crt, certificate: me.crt, key: me.key}
"""
BLOCK = """contexts:
  prod:
    coordinators:
      - a:1   # first
      - b:2
    # files
    ca: ca.crt
    certificate: me.crt
    key: me.key
current: prod
"""
TIGHT = BLOCK.replace("      - ", "    - ")


@pytest.mark.parametrize("text", [FLOW, BLOCK, TIGHT])
def test_only_the_addresses_change(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    path.chmod(0o600)
    before = load(path)
    assert save_coordinators(path, "prod", ["c:3", "[fd00::1]:4", "d:5"])
    after = load(path)
    assert after.contexts["prod"].coordinators == ("c:3", "[fd00::1]:4", "d:5")
    assert (after.current, after.contexts.keys()) == (before.current, before.contexts.keys())
    assert after.contexts["prod"].ca == before.contexts["prod"].ca
    assert [line for line in text.splitlines() if line.strip().startswith("#")] == [
        line for line in path.read_text().splitlines() if line.strip().startswith("#")
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not save_coordinators(path, "prod", ["d:5", "c:3", "[fd00::1]:4"]), "the same ones in another order are no change"
