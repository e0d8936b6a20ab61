"""`cis490-jobs`: what an operator types. The command line; its exit codes stand in `exits.EXIT_CODES`.

What a verb does is in `verbs`, how the answer looks in `render`. Both are imported only when a verb is to be
carried out, so that `--help` and a typing error pay for argparse alone. Standard output carries the answer,
standard error all else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.fleet.exits import (
    CREDENTIALS_VARIABLE,
    DEFAULT_URL,
    EXIT_CODES,
    INTERRUPTED,
    OK,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Stop,
)
from training.fleet.parsing import Parser, nearest, verbs_of

if TYPE_CHECKING:
    from training.fleet.verbs import Terminal


def _status(word: str) -> str:
    from training.fleet.types import STATUSES

    if word not in STATUSES:
        guess = nearest(word, STATUSES)
        meant = f"; did you mean {guess}?" if guess else ""
        raise argparse.ArgumentTypeError(
            f'"{word}" is no state; expected one of {", ".join(STATUSES)}{meant}'
        )
    return word


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f'"{text}" is no number from 1 to 1000')
    return int(text)


def _lines(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 1_000_000):
        raise argparse.ArgumentTypeError(f'"{text}" is no number of lines')
    return int(text)


HELP = ("-h", "--help")
AddVerb = Callable[[str, str], argparse.ArgumentParser]
"""Adds a verb with its line of help; returns its own parser."""


def _looking(verb: AddVerb) -> None:
    """The verbs that change nothing."""
    status = verb("status", "the fleet on one screen: hosts, running jobs, what failed, what is stuck")
    status.add_argument("--all", action="store_true", help="every host and every problem, however many lines")
    status.add_argument(
        "--check",
        action="store_true",
        help="exit 20 when a job has failed, 22 when something else is an error",
    )
    verb("list", "all jobs, one line each").add_argument(
        "--status", type=_status, metavar="STATE", help="only jobs in this state"
    )
    verb("show", "all that is known of one job").add_argument("job", metavar="JOB")
    verb("workers", "what each host can do, and where that differs from the manifest")
    verb("models", "what was trained, best first: measures, intervals, and the gap between the modes")
    why = verb("why", "why a job does not run, or with --host why a host is idle")
    why.add_argument("job", metavar="JOB", nargs="?")
    why.add_argument("--host", help="judge every job on this host instead")
    watch = verb("watch", "the fleet, or one job, as it changes; in a pipe one line an event")
    watch.add_argument("job", metavar="JOB", nargs="?", help="only this job, until it has ended")
    watch.add_argument(
        "--exit-status", action="store_true", help="exit 20 when the job has failed, 21 when it was cancelled"
    )
    logs = verb("logs", "what an attempt of a job printed: of the running one, else of the last")
    logs.add_argument("job", metavar="JOB")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="and what it prints from now on, until it ends"
    )
    logs.add_argument("--attempt", type=_limit, metavar="N", help="of this attempt (default: the latest)")
    logs.add_argument("--tail", type=_lines, metavar="N", help="only the last N lines")
    events = verb("events", "what happened: the audit trail, oldest first")
    events.add_argument("-f", "--follow", action="store_true", help="and what happens from now on")
    events.add_argument("--job", metavar="JOB", help="only of this job")
    events.add_argument("--host", metavar="HOST", help="only of this host")
    events.add_argument(
        "--limit", type=_limit, default=50, metavar="N", help="how many (default 50, at most 1000)"
    )


def _steering(verb: AddVerb) -> None:
    """The verbs that need the operator token, but for `plan` of a file that is only looked at."""
    verb("cancel", "stop a job, or take it out of the queue").add_argument("job", metavar="JOB")
    requeue = verb("requeue", "queue a failed or cancelled job again, with fresh budgets")
    requeue.add_argument("job", metavar="JOB")
    requeue.add_argument("--force", action="store_true", help="a completed job too: train it once more")
    drain = verb("drain", "let a host finish what it has, and give it nothing more")
    drain.add_argument("host", metavar="HOST")
    drain.add_argument("--reason", default="", metavar="TEXT", help="why; shown wherever the host is")
    verb("undrain", "give a drained host jobs again").add_argument("host", metavar="HOST")
    pause = verb("pause", "hand out no job, or not this one; what runs goes on")
    pause.add_argument("job", metavar="JOB", nargs="?", help="only this job (default: the whole fleet)")
    pause.add_argument("--reason", default="", metavar="TEXT", help="why; shown wherever the pause is")
    gc = verb(
        "gc",
        "remove what the manifest's [retention] lets go: old artifacts, audit rows, logs, runs to verify",
    )
    gc.add_argument("--dry-run", action="store_true", help="only show what would go, and by which rule")
    gc.add_argument("--yes", action="store_true", help="do not ask first; needed where nobody can be asked")
    resume = verb("resume", "end a pause: of the fleet, of a job, or of a host after failures in a row")
    resume.add_argument("job", metavar="JOB", nargs="?", help="only this job (default: the whole fleet)")
    resume.add_argument("--host", metavar="HOST", help="a host that was paused by failures in a row")
    notify = verb("notify", "send a test message to each place that the manifest's [notify] names")
    notify.add_argument("--test", action="store_true", required=True, help="send it, and say how that went")
    verb("explain", "what a code such as E104 or a word such as oom means, and what to do").add_argument(
        "code", metavar="CODE", nargs="?"
    )
    plan = verb("plan", "what a reload would do: jobs, hosts, rules, with line numbers and effects")
    plan.add_argument(
        "file", metavar="FILE", nargs="?", help="look at this manifest instead; cannot be applied"
    )
    plan.add_argument("--full", action="store_true", help="list the jobs that stay as they are, too")
    reload = verb("reload", "put the edited manifest in force; a faulty one changes nothing")
    reload.add_argument("--plan", metavar="ID", help="only if this plan still holds")
    reload.add_argument("--yes", action="store_true", help="do not show the plan and ask first")


def _models(verb: AddVerb) -> None:
    """The verbs about what was trained."""
    verify = verb("verify", "train a completed job once more, and compare what comes out with its artifact")
    verify.add_argument("job", metavar="JOB")
    verify.add_argument(
        "--no-wait", action="store_true", help="only start it; the same command waits for it later"
    )
    verify.add_argument(
        "--again", action="store_true", help="start another one, also when one has ended already"
    )
    pull = verb("pull", "download a trained model, verify it and unpack it")
    pull.add_argument("what", metavar="JOB|ARTIFACT")
    pull.add_argument("--out", metavar="DIR", help="the folder to make (default ./NAME-DIGEST)")
    pull.add_argument(
        "--keep-bundle",
        action="store_true",
        help="leave the bundle there too, so that it can be verified later",
    )
    record = verb(
        "verify-provenance", "check a model's signed record, and that files here are what it was made for"
    )
    record.add_argument(
        "record", metavar="FILE|JOB", help="a record or a pulled folder here, or a job or artifact"
    )
    record.add_argument("--bundle", metavar="FILE", help="compare this bundle with the record")
    record.add_argument(
        "--root", metavar="FILE", help="the lab's root certificate (default: of your credentials)"
    )
    diff = verb("diff", "what two trained models have in common, and where they differ")
    diff.add_argument("one", metavar="JOB|ARTIFACT")
    diff.add_argument("other", metavar="JOB|ARTIFACT")


def _doctor(verb: AddVerb) -> None:
    doctor = verb("doctor", "find out what is wrong on this machine and with the receiver, and what mends it")
    doctor.add_argument(
        "--receiver", action="store_true", help="look at the receiver's files on this machine"
    )
    doctor.add_argument("--worker", action="store_true", help="look at the worker of this machine")
    doctor.add_argument(
        "--manifest", metavar="FILE", help="the receiver's manifest, if not at its usual place"
    )
    doctor.add_argument("--db", metavar="FILE", help="the receiver's database")
    doctor.add_argument("--store-root", metavar="DIR", help="where the receiver has its artifacts")
    doctor.add_argument("--incoming-root", metavar="DIR", help="where the receiver's uploads arrive")
    doctor.add_argument("--state-dir", metavar="DIR", help="the worker's state folder")
    doctor.add_argument("--host", metavar="NAME", help="the name of this machine's worker in the manifest")


def _identities(verb: AddVerb) -> None:
    """The verbs about who may take part."""
    for name, text in (
        ("hosts", "enrol a host (add prints one line to type there), list the certificates, revoke one"),
        ("operators", "the same for people: operators, and with --reader those who may only look"),
    ):
        made = verb(name, text)
        made.add_argument("action", choices=["add", "list", "revoke"], metavar="add|list|revoke")
        made.add_argument("name", nargs="?", metavar="HOST" if name == "hosts" else "NAME")
        made.add_argument("--reason", default="", metavar="TEXT", help="why it is revoked")
        if name == "operators":
            made.add_argument("--reader", action="store_true", help="one who may look and change nothing")


def _shell(verb: AddVerb) -> None:
    """The verbs for the shell that this runs in."""
    completion = verb("completion", "a script that completes verbs, options, jobs and hosts in your shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish", "powershell"], metavar="SHELL")


def parser(only: str | None = None) -> Parser:
    """The whole command line; the documentation test walks over it. With `only` a verb, or an option of `HELP`, no
    more than that, which takes a third of the time; the whole one if there is no such verb."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    epilog = (
        "A JOB is a job's name, its id, or the beginning of either that no other job shares; a HOST likewise.\n\n"
        f"environment:\n  {URL_VARIABLE:<22} where the receiver is (default {DEFAULT_URL})\n"
        f"  {TOKEN_VARIABLE:<22} needed by whatever changes something: cancel, requeue, pause, ...\n"
        f"  {CREDENTIALS_VARIABLE:<22} folder with your certificate, as --credentials; without it and without an\n"
        f"  {'':<22} address: /etc/cis490/operator, then ~/.config/cis490, where there is one\n\n"
        f"exit codes:\n{codes}"
    )
    common = Parser(add_help=False)
    common.add_argument(
        "--url", default=argparse.SUPPRESS, help="the receiver: http://HOST:PORT or unix:PATH"
    )
    common.add_argument(
        "--credentials",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="the folder with your certificate, made by `python -m training.fleet.join --operator`",
    )
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the receiver's answer as JSON"
    )
    main_parser = Parser(
        prog="cis490-jobs",
        description="See and steer the training fleet.",
        epilog=epilog,
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = main_parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        if only in HELP:  # their lines of help are all that is shown
            verbs.add_parser(name, help=text, add_help=False)
        if only not in (None, name):
            return _NOBODY
        return verbs.add_parser(name, help=text, description=text, parents=[common])

    for add in (_looking, _steering, _models, _identities, _doctor, _shell):
        add(verb)
    return main_parser if verbs.choices else parser()


class _Nobody(argparse.ArgumentParser):
    """In place of a verb that was not asked for: whatever is added to it is forgotten."""

    def __init__(self) -> None:
        """Nothing of a parser is made."""

    def add_argument(self, *_: Any, **__: Any) -> Any:
        return None

    def add_mutually_exclusive_group(self, **_: Any) -> Any:
        return self


_NOBODY = _Nobody()


def verbs() -> tuple[str, ...]:
    """Every verb."""
    return tuple(verbs_of(parser()))


def run(argv: Sequence[str], terminal: Terminal | None = None) -> int:
    """Carry out one command line; returns the exit code. argparse itself exits for `--help` and usage faults.

    `terminal` is this process's own unless a test passes another.
    """
    made = parser(argv[0] if argv and (argv[0] in HELP or argv[0][:1] not in "-_") else None)
    if argv[:1] == ["__complete"]:  # hidden: what the scripts of `completion` call at each Tab
        from training.fleet import verbs_shell

        words = argv[2:] if argv[1:2] == ["--"] else argv[1:]
        return verbs_shell.complete(made, words, os.environ)
    args = made.parse_args(argv)
    if args.verb == "watch" and args.exit_status and args.job is None:
        made.error("watch: --exit-status needs a JOB")
    if args.verb == "why" and (args.job is None) == (args.host is None):
        made.error("why: give either a JOB or --host HOST")
    from training.fleet import verbs as acts

    terminal = terminal or acts.own_terminal()
    try:
        return acts.carry_out(args, terminal)
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
