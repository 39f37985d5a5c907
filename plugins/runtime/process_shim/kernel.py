"""What the standard library does not offer of the kernel, and the one error that the shim tells."""

from __future__ import annotations

import ctypes
import os

SET_PDEATHSIG, CAPBSET_READ, CAPBSET_DROP, SET_SUBREAPER, SET_NO_NEW_PRIVS, CAP_AMBIENT = 1, 23, 24, 36, 38, 47
KEEPCAPS, AMBIENT_RAISE, CAPABILITY_VERSION_3 = 8, 2, 0x20080522
CLONE_NEWNS, AF_UNIX, SOCK_DGRAM = 0x00020000, 1, 2
libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """It cannot be executed so; the sentence is for the operator."""


def check(result: int, what: str) -> None:
    if result < 0:
        raise RefusedError(f"{what}: {os.strerror(ctypes.get_errno())}")
