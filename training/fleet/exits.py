"""How a command of `cis490-jobs` may end, and the two environment variables that it reads. Imports next to nothing."""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:8445"
URL_VARIABLE = "CIS490_RECEIVER_URL"
TOKEN_VARIABLE = "CIS490_OPERATOR_TOKEN"
CREDENTIALS_VARIABLE = "CIS490_CREDENTIALS"

OK, REFUSED, USAGE, UNREACHABLE, MANIFEST_FAULTY, INTERRUPTED = 0, 1, 2, 3, 78, 130
CHANGES = 2
"""Of `plan`."""
VERIFY_CLOSE, VERIFY_DIFFERENT, VERIFY_FAILED, VERIFY_IMPOSSIBLE = 10, 11, 12, 13
JOB_FAILED, JOB_CANCELLED, TROUBLE = 20, 21, 22
EXIT_CODES = {
    OK: "done (also when jobs have failed); verify: bit-identical; plan: nothing to do",
    REFUSED: "the receiver refused, or the result cannot be used; the message says why",
    USAGE: "wrong usage, or no such job, host or artifact; plan: there are changes",
    UNREACHABLE: "the receiver does not answer",
    VERIFY_CLOSE: "verify: not the same bytes, but no score differs by more than 0.001",
    VERIFY_DIFFERENT: "verify: another result",
    VERIFY_FAILED: "verify: the second training has failed or was cancelled",
    VERIFY_IMPOSSIBLE: "verify: nothing to compare: the job is not completed or stale, or no host is like its own",
    JOB_FAILED: "watch --exit-status: the job has failed; status --check: a job has failed",
    JOB_CANCELLED: "watch --exit-status: the job was cancelled",
    TROUBLE: "status --check: no job has failed, but something else is an error: a host is lost, a disk full",
    MANIFEST_FAULTY: "plan, reload: the manifest is faulty, all its faults are listed; nothing was changed",
    INTERRUPTED: "interrupted (Ctrl-C)",
}


class Stop(Exception):
    """Ends the command with `code` after `lines` went to standard error."""

    def __init__(self, code: int, *lines: str, error_code: str = "") -> None:
        """`error_code`: which entry of `training.fleet.codes` says more; it goes behind the first line."""
        super().__init__(lines[0])
        self.code = code
        self.lines = (f"{lines[0]}  [{error_code}]", *lines[1:]) if error_code else lines
        self.error_code = error_code
