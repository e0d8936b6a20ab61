"""How a command of `cis490-jobs` may end, and the two environment variables that it reads. Imports next to nothing."""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:8445"
URL_VARIABLE = "CIS490_RECEIVER_URL"
TOKEN_VARIABLE = "CIS490_OPERATOR_TOKEN"

OK, REFUSED, USAGE, UNREACHABLE, MANIFEST_FAULTY, INTERRUPTED = 0, 1, 2, 3, 78, 130
EXIT_CODES = {
    OK: "done (also when jobs have failed)",
    REFUSED: "the receiver refused, or the result cannot be used; the message says why",
    USAGE: "wrong usage, or no such job, host or artifact",
    UNREACHABLE: "the receiver does not answer",
    MANIFEST_FAULTY: "reload: the manifest is faulty, all its faults are listed; nothing was changed",
    INTERRUPTED: "interrupted (Ctrl-C)",
}


class Stop(Exception):
    """Ends the command with `code` after `lines` went to standard error."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(lines[0])
        self.code = code
        self.lines = lines
