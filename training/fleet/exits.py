"""How a command of `cis490-jobs` may end, and the two environment variables that it reads. Imports next to nothing."""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:8445"
URL_VARIABLE = "CIS490_RECEIVER_URL"
TOKEN_VARIABLE = "CIS490_OPERATOR_TOKEN"

OK, REFUSED, USAGE, UNREACHABLE, MANIFEST_FAULTY, INTERRUPTED = 0, 1, 2, 3, 78, 130
VERIFY_CLOSE, VERIFY_DIFFERENT, VERIFY_FAILED, VERIFY_IMPOSSIBLE = 10, 11, 12, 13
EXIT_CODES = {
    OK: "done (also when jobs have failed); verify: bit-identical",
    REFUSED: "the receiver refused, or the result cannot be used; the message says why",
    USAGE: "wrong usage, or no such job, host or artifact",
    UNREACHABLE: "the receiver does not answer",
    VERIFY_CLOSE: "verify: not the same bytes, but no score differs by more than 0.001",
    VERIFY_DIFFERENT: "verify: another result",
    VERIFY_FAILED: "verify: the second training has failed or was cancelled",
    VERIFY_IMPOSSIBLE: "verify: nothing to compare: the job is not completed or stale, or no host is like its own",
    MANIFEST_FAULTY: "reload: the manifest is faulty, all its faults are listed; nothing was changed",
    INTERRUPTED: "interrupted (Ctrl-C)",
}


class Stop(Exception):
    """Ends the command with `code` after `lines` went to standard error."""

    def __init__(self, code: int, *lines: str) -> None:
        super().__init__(lines[0])
        self.code = code
        self.lines = lines
