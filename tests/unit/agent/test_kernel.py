"""What the agent says of a kernel that lacks what it needs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from gestalt.agent.kernel import check_pidfds
from gestalt.errors import GestaltError, Kind


def test_this_kernel_has_it_and_no_file_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    check_pidfds()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_python_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(GestaltError, match="this Python was built without it") as caught:
        check_pidfds()
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_it_is_named(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "pidfd_open", raising(number))
    with pytest.raises(GestaltError, match=rf"the kernel, {os.uname().release},.*{os.strerror(number)}"):
        check_pidfds()


def test_a_lack_that_passes_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", raising(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        check_pidfds()


def raising(number: int) -> object:
    def refuse(_pid: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refuse
