"""Named places in the code where a test may strike: kill the process, stop it, or let the disk fail.

A place is `failpoint("store.renamed")`. It does nothing unless the environment variable `CIS490_FAILPOINT`
names it at the start of the process: `NAME=ACTION` or `NAME:N=ACTION` for its N-th passage (from 1; default 1).

| action | what happens |
|---|---|
| `kill` | SIGKILL to this process, as `kill -9` or a power cut of the process would |
| `stop` | SIGSTOP to this process; it goes on after SIGCONT |
| `full` | OSError ENOSPC, from this passage on |
| `broken` | OSError EIO, once |

`CIS490_FAILPOINT_TICKETS` may name a folder: then each strike first takes (deletes) one file of it, and without a file
left there is none. So processes that inherit both variables strike together as often as there were tickets, and whoever
laid them out sees whether the place was passed.

Names are `area.moment`, lower case. They are found by reading the source, so that no list has to be kept; a
test strikes at every one of them. Not for production: whoever may set a process's environment may end it anyway.
"""

import errno
import os
import re
import signal
from dataclasses import dataclass
from typing import Literal, get_args

VARIABLE = "CIS490_FAILPOINT"
TICKETS_VARIABLE = "CIS490_FAILPOINT_TICKETS"
Action = Literal["kill", "stop", "full", "broken"]
_FORM = re.compile(r"(?P<name>[a-z0-9_.]+)(:(?P<passage>[1-9][0-9]{0,5}))?=(?P<action>[a-z]+)")


@dataclass(slots=True)
class Armed:
    """One place that is to strike."""

    name: str
    action: Action
    passages_left: int


def parse(text: str) -> Armed | None:
    """What the variable's text arms; None for an empty text. ValueError for anything else that is not of the form."""
    if not text:
        return None
    match = _FORM.fullmatch(text)
    action = next((known for known in get_args(Action) if match and match["action"] == known), None)
    if match is None or action is None:
        raise ValueError(
            f"{VARIABLE}: found {text!r}, expected NAME=ACTION or NAME:N=ACTION with one of {get_args(Action)}"
        )
    return Armed(match["name"], action, int(match["passage"] or 1))


_armed = parse(os.environ.get(VARIABLE, ""))


def failpoint(name: str) -> None:
    """Strike here, if this place is armed. Raises OSError for the actions of a failing disk."""
    if _armed is not None and _armed.name == name:
        strike(_armed)


def strike(armed: Armed) -> None:
    """One passage of an armed place."""
    if armed.passages_left > 1:
        armed.passages_left -= 1
        return
    if not _has_ticket(os.environ.get(TICKETS_VARIABLE)):
        return
    match armed.action:
        case "full":
            raise OSError(errno.ENOSPC, f"failpoint {armed.name}")
        case "broken" if armed.passages_left == 1:
            armed.passages_left = 0
            raise OSError(errno.EIO, f"failpoint {armed.name}")
        case "kill" if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop" if hasattr(signal, "SIGSTOP") and armed.passages_left == 1:
            armed.passages_left = 0
            os.kill(os.getpid(), signal.SIGSTOP)


def _has_ticket(folder: str | None) -> bool:
    """Take one of the tickets in `folder`, if there is one; without a folder there is no limit."""
    if not folder:
        return True
    for name in os.listdir(folder):
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:  # another process was quicker
            continue
        return True
    return False
