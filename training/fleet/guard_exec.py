"""Linux: become the trainer, but die with the worker. `python -m training.fleet.guard_exec PARENT_PID PROGRAM ARGS...`

Asks the kernel to send SIGKILL to this process when its parent ends (PR_SET_PDEATHSIG), then replaces
itself by the program. A process of its own, because running Python between fork and exec in a daemon that
has threads may deadlock. The wish survives exec; it concerns the *thread* that started this process, so
the worker starts trainers from its main thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PARENT_GONE = 75
"""EX_TEMPFAIL: the worker died before the wish was made; nobody is left to read this."""


def main(arguments: Sequence[str]) -> NoReturn:
    """Become the program, or end with exit code 1 and a sentence."""
    parent, program = int(arguments[0]), list(arguments[1:])
    if sys.platform != "linux":
        raise OSError("PR_SET_PDEATHSIG exists on Linux only")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(PARENT_GONE)
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"cannot start {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
