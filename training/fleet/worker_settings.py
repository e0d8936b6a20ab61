"""Settings of the worker: one table of options, each also an environment variable; read once, then frozen."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cis490.files import is_safe_name
from training.fleet import credentials
from training.fleet.capability import TRAINER_MODULE

DEFAULT_RECEIVER_URL = "http://127.0.0.1:8445"
DEFAULT_STATE_DIR = "/var/lib/cis490-worker"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(Exception):
    """A setting that cannot be used; the text names the option and what was expected."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What an operator may choose."""

    receiver_url: str
    state_dir: Path
    host: str
    poll_s: float
    once: bool
    exit_when_idle_s: float | None
    trainer_module: str
    max_frozen_s: float | None
    log_level: str
    receiver_url_source: str = "--receiver-url"
    """The option, or the variable that the address came from: for a message about it."""
    credentials: Path | None = None
    """The folder with this host's identity; None: without a certificate."""
    log_file: Path | None = None
    """None: standard error."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: flag, environment variable, default (None: see the help), meaning."""

    flag: str
    env: str
    default: str | None
    metavar: str
    help: str


OPTIONS: tuple[Option, ...] = (
    Option("--receiver-url", "CIS490_RECEIVER_URL", DEFAULT_RECEIVER_URL, "URL",
           "the receiver: http://HOST:PORT, https://HOST or unix:/path/to.sock"),
    Option("--credentials", credentials.VARIABLE, None, "DIR",
           "folder with this host's certificate, made by `python -m training.fleet.join`; it names receiver and host"),
    Option("--state-dir", "CIS490_WORKER_STATE_DIR", DEFAULT_STATE_DIR, "DIR",
           "folder for leases, data sets and results on their way; one worker each"),
    Option("--host", "CIS490_HOST", None, "NAME",
           "name of this host in the manifest (default: the host's own name)"),
    Option("--poll-s", "CIS490_POLL_S", "5", "SECONDS",
           "pause between two questions for a job while there is none"),
    Option("--exit-when-idle", "CIS490_EXIT_WHEN_IDLE", None, "SECONDS",
           "end after so many seconds without a job (default: never)"),
    Option("--trainer-module", "CIS490_TRAINER_MODULE", TRAINER_MODULE, "MODULE",
           "the trainer, as in `python -m MODULE`"),
    Option("--max-frozen-s", "CIS490_MAX_FROZEN_S", None, "SECONDS",
           "give a job back whose trainer was frozen for so long, since the receiver was away (default: never)"),
    Option("--log-level", "CIS490_LOG_LEVEL", "INFO", "LEVEL", "one of " + ", ".join(LEVELS)),
    Option("--log-file", "CIS490_LOG_FILE", None, "FILE",
           "write the log there instead of on standard error; at 10 MiB it becomes FILE.1"),
)  # fmt: skip
"""An option on the command line wins over its variable. `--once` is a flag only."""


def parser() -> argparse.ArgumentParser:
    """The command line, made from `OPTIONS`."""
    made = argparse.ArgumentParser(
        prog="python -m training.fleet.worker",
        description="Claim jobs, train them, deliver the results, until told to stop.",
        allow_abbrev=False,
    )
    for option in OPTIONS:
        default = "" if option.default is None else f" (default {option.default})"
        text = f"{option.help}{default}; also ${option.env}"
        made.add_argument(option.flag, dest=option.flag, metavar=option.metavar, help=text)
    made.add_argument("--once", action="store_true", help="do one job, or none if there is none now, and end")
    return made


def read(
    argv: Sequence[str] | None, environ: Mapping[str, str], hostname: Callable[[], str] = socket.gethostname
) -> WorkerSettings:
    """Settings from the command line and the environment. Raises SettingsError; argparse exits for unknown flags."""
    given = vars(parser().parse_args(argv))
    values = {
        option.flag: given[option.flag] or environ.get(option.env) or option.default or ""
        for option in OPTIONS
    }
    named = {
        option.flag: option.flag if given[option.flag] else f"${option.env}"
        for option in OPTIONS
        if given[option.flag] or environ.get(option.env)
    }
    folder = Path(values["--credentials"]).absolute() if values["--credentials"] else None
    if folder is not None:
        _take_from(folder, values, named)
    host = values["--host"] or hostname()
    if not is_safe_name(host):
        rule = "1 to 64 of A-Z a-z 0-9 . _ - without a leading dot"
        hint = "pass the name that the manifest uses, as in --host lab-pc-3"
        raise _fault(named.get("--host", "--host (this host's own name)"), host, rule, hint)
    level = values["--log-level"].upper()
    if level not in LEVELS:
        source = named.get("--log-level", "--log-level")
        close = next((name for name in LEVELS if name[:1] == level[:1]), "INFO")
        raise _fault(
            source, values["--log-level"], f"one of {', '.join(LEVELS)}", f"write --log-level {close}"
        )
    idle, frozen = values["--exit-when-idle"], values["--max-frozen-s"]
    return WorkerSettings(
        receiver_url=values["--receiver-url"],
        state_dir=Path(values["--state-dir"]).absolute(),
        host=host,
        poll_s=_seconds(named.get("--poll-s", "--poll-s"), values["--poll-s"], 0.05, "--poll-s 5"),
        once=bool(given["once"]),
        exit_when_idle_s=(
            _seconds(named["--exit-when-idle"], idle, 0.0, "--exit-when-idle 600") if idle else None
        ),
        trainer_module=values["--trainer-module"],
        max_frozen_s=(
            _seconds(named["--max-frozen-s"], frozen, 1.0, "--max-frozen-s 3600") if frozen else None
        ),
        receiver_url_source=named.get("--receiver-url", "--receiver-url"),
        log_level=level,
        credentials=folder,
        log_file=log_file(argv, environ),
    )


def log_file(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Path | None:
    """Where the log is to go, known before the other settings are judged: what is wrong with them belongs there."""
    values, _ = parser().parse_known_args(argv)
    found = vars(values)["--log-file"] or environ.get("CIS490_LOG_FILE")
    return Path(found).absolute() if found else None


def _take_from(folder: Path, values: dict[str, str], named: dict[str, str]) -> None:
    """Receiver and name as the credentials say them. A receiver's address that was given wins; a name must agree."""
    source = named["--credentials"]
    try:
        about = credentials.read_about(folder)
        credentials.context_of(folder)
    except credentials.CredentialsError as error:
        raise unusable(source, folder, str(error)) from None
    if about.role != "host":
        raise unusable(source, folder, f"it belongs to the {about.role} {about.name}")
    if "--receiver-url" not in named:
        values["--receiver-url"], named["--receiver-url"] = about.url, str(folder / credentials.ABOUT)
    if values["--host"] and values["--host"] != about.name:
        raise _fault(
            named["--host"], values["--host"], f"{about.name}, the name in {folder / credentials.ABOUT}",
            f"pass --host {about.name}, or leave it out",
        )  # fmt: skip
    values["--host"] = about.name


def unusable(source: str, folder: Path, reason: str) -> SettingsError:
    """Credentials with which no worker can work."""
    return SettingsError(
        f"{source}: found {str(folder)!r}: {reason}; expected the folder that `python -m training.fleet.join` has made "
        "for this host; pass that one, or get a token for it: cis490-jobs hosts add NAME  [E040]"
    )


def _fault(source: str, found: str, expected: str, hint: str) -> SettingsError:
    """`source`: the option, or the variable that it came from."""
    return SettingsError(f"{source}: found {found!r}, expected {expected}; {hint}  [E211]")


def _seconds(source: str, text: str, at_least: float, instead: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not at_least <= value <= 86_400:
        expected = f"seconds from {at_least:g} to 86400"
        raise _fault(source, text, expected, f"write a number, such as {instead}")
    return value
