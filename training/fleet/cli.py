"""`cis490-jobs`: what an operator types. The command line; its exit codes stand in `exits.EXIT_CODES`.

What a verb does is in `verbs`, how the answer looks in `render`. Both are imported only when a verb is to be
carried out, so that `--help` and a typing error pay for argparse alone. Standard output carries the answer,
standard error all else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from training.fleet.exits import (
    DEFAULT_URL,
    EXIT_CODES,
    INTERRUPTED,
    OK,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Stop,
)

if TYPE_CHECKING:
    from training.fleet.verbs import Terminal


def _status(word: str) -> str:
    from training.fleet.types import STATUSES

    if word not in STATUSES:
        raise argparse.ArgumentTypeError(f'"{word}" is no state; expected one of {", ".join(STATUSES)}')
    return word


def parser() -> argparse.ArgumentParser:
    """The whole command line; the documentation test walks over it."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    epilog = (
        "A JOB is a job's name, its id, or at least 4 characters of the id.\n\n"
        f"environment:\n  {URL_VARIABLE:<22} where the receiver is (default {DEFAULT_URL})\n"
        f"  {TOKEN_VARIABLE:<22} needed by cancel, requeue, verify, reload, drain and undrain\n\nexit codes:\n{codes}"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--url", default=argparse.SUPPRESS, help="the receiver: http://HOST:PORT or unix:PATH"
    )
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the receiver's answer as JSON"
    )
    main_parser = argparse.ArgumentParser(
        prog="cis490-jobs",
        description="See and steer the training fleet.",
        epilog=epilog,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = main_parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    verb("status", "the fleet on one screen: hosts, running jobs, what failed, what is stuck")
    verb("list", "all jobs, one line each").add_argument(
        "--status", type=_status, metavar="STATE", help="only jobs in this state"
    )
    verb("show", "all that is known of one job").add_argument("job", metavar="JOB")
    verb("workers", "what each host can do, and where that differs from the manifest")
    verb("models", "what was trained, best first: measures, intervals, and the gap between the modes")
    why = verb("why", "why a job does not run, or with --host why a host is idle")
    why.add_argument("job", metavar="JOB", nargs="?")
    why.add_argument("--host", help="judge every job on this host instead")
    verb("cancel", "stop a job, or take it out of the queue").add_argument("job", metavar="JOB")
    requeue = verb("requeue", "queue a failed or cancelled job again, with fresh budgets")
    requeue.add_argument("job", metavar="JOB")
    requeue.add_argument("--force", action="store_true", help="a completed job too: train it once more")
    drain = verb("drain", "let a host finish what it has, and give it nothing more")
    drain.add_argument("host", metavar="HOST")
    drain.add_argument("--reason", default="", metavar="TEXT", help="why; shown wherever the host is")
    verb("undrain", "give a drained host jobs again").add_argument("host", metavar="HOST")
    verify = verb("verify", "train a completed job once more, and compare what comes out with its artifact")
    verify.add_argument("job", metavar="JOB")
    verify.add_argument(
        "--no-wait", action="store_true", help="only start it; the same command waits for it later"
    )
    verify.add_argument(
        "--again", action="store_true", help="start another one, also when one has ended already"
    )
    verb("reload", "read the manifest again; a faulty one changes nothing")
    pull = verb("pull", "download a trained model, verify it and unpack it")
    pull.add_argument("what", metavar="JOB|ARTIFACT")
    pull.add_argument("--out", metavar="DIR", help="the folder to make (default ./NAME-DIGEST)")
    return main_parser


def run(argv: Sequence[str], terminal: Terminal | None = None) -> int:
    """Carry out one command line; returns the exit code. argparse itself exits for `--help` and usage faults.

    `terminal` is this process's own unless a test passes another.
    """
    made = parser()
    args = made.parse_args(argv)
    if args.verb == "why" and (args.job is None) == (args.host is None):
        made.error("why: give either a JOB or --host HOST")
    from training.fleet import verbs

    terminal = terminal or verbs.own_terminal()
    url = getattr(args, "url", None) or terminal.env.get(URL_VARIABLE) or DEFAULT_URL
    try:
        return verbs.carry_out(args, url, terminal)
    except Stop as stop:
        print("\n".join((f"cis490-jobs: {stop.lines[0]}", *stop.lines[1:])), file=terminal.err)
        return stop.code


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `cis490-jobs`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader (head, less) has seen enough: no fault, and nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
