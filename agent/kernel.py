"""What the agent asks of the kernel, and of the Python that it runs with, before it begins."""

from __future__ import annotations

import errno
import os

from gestalt.errors import GestaltError, Kind

_NEVER = {errno.ENOSYS, errno.EPERM, errno.EINVAL}
"""What a kernel without the call answers, and a filter of system calls that does not know it."""


def check_pidfds() -> None:
    """See that processes can be watched and signalled without mistaking one for another.

    Raises:
        GestaltError: there is no `pidfd_open` here: a kernel before 5.3 without that of newer ones, a Python built for such a one, or a
            filter of system calls. Trying again does not help.
    """
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        reason = "this Python was built without it"
    except OSError as error:
        if error.errno not in _NEVER:
            raise
        reason = f"the kernel, {os.uname().release}, or a filter of system calls refuses it: {error.strerror}"
    else:
        return
    raise GestaltError(
        Kind.INVALID,
        f"an agent needs the system call pidfd_open, and {reason}",
        hint="kernels have it from 5.3 on, RHEL's from 9 on for certain: run the node on such a one (docs/support.md)",
    )
