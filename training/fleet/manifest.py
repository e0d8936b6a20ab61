"""The manifest: one TOML file that says which hosts there are, what they may run, and which models are wanted.

A file is judged whole. Either every check passes, or TrainingManifestError lists every fault with its line,
what was found, what was expected and, where it can be guessed, what was meant. docs/manifest.md explains each key.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from pathlib import Path

from cis490.digest import is_digest, sha256_bytes
from cis490.files import is_safe_name
from training.fleet.manifest_faults import Fault, Faults, TrainingManifestError, shown
from training.fleet.manifest_hosts import read_hosts
from training.fleet.manifest_jobs import read_jobs
from training.fleet.manifest_notify import read_notify
from training.fleet.manifest_retention import read_retention
from training.fleet.manifest_table import Table
from training.fleet.toml_lines import index_lines
from training.fleet.types import (
    DatasetPin,
    HostSpec,
    JobSpec,
    Manifest,
    Policy,
    TrainerPolicy,
    UnknownHosts,
)
from training.trainer.registry import load_plugins

__all__ = [
    "Fault",
    "HostSpec",
    "JobSpec",
    "Manifest",
    "TrainingManifestError",
    "load",
    "load_canonical",
    "loads",
]

CANONICAL_PATH = "/etc/cis490/training_manifest.toml"
PATH_VARIABLE = "CIS490_TRAINING_MANIFEST"
MAX_BYTES = 4 * 1024 * 1024
DEFAULT_NAME = "cis490"
_MAX_PATH_CHARS = 500
_MAX_REASON_CHARS = 200

TOP_KEYS = ("name", "policy", "dataset", "retention", "notify", "hosts", "jobs")
POLICY_KEYS = (
    "unknown_hosts",
    "trainer",
    "prefer_cuda_grace_s",
    "same_host_s",
    "max_failures",
    "max_host_losses",
    "pause_after_failures",
)
DATASET_KEYS = ("id", "file")
_UNKNOWN_HOSTS: tuple[UnknownHosts, ...] = ("deny", "allow")
_TRAINER: tuple[TrainerPolicy, ...] = ("same", "any")


def load_canonical() -> Manifest:
    """The fleet's manifest: the file that $CIS490_TRAINING_MANIFEST names, or else
    /etc/cis490/training_manifest.toml. Raises TrainingManifestError."""
    return load(canonical_path())


def canonical_path() -> Path:
    """Where the fleet's manifest is looked for when nothing else is said."""
    return Path(os.environ.get(PATH_VARIABLE) or CANONICAL_PATH)


def load(path: str | os.PathLike[str]) -> Manifest:
    """The manifest in a file. Raises TrainingManifestError, also for a file that is not there."""
    load_plugins()  # a job may be of a model that another package offers
    where, data, folder = os.fspath(path), _read(Path(path)), os.path.abspath(Path(path).parent)
    found = _remembered(data, where, folder)
    if found.dataset is not None and not os.path.isfile(found.dataset.path):  # it was there a while ago
        return _judged(data, where, Path(folder))
    return found


@functools.lru_cache(maxsize=2)
def _remembered(data: bytes, where: str, folder: str) -> Manifest:
    """A reload that follows its plan reads the same bytes again; a thousand jobs take a tenth of a second."""
    return _judged(data, where, Path(folder))


def loads(
    text: str, where: str = "manifest.toml", folder: Path = Path("."), default_name: str | None = None
) -> Manifest:
    """The manifest in a text. `where` names it in messages, `[dataset] file` is relative to `folder`, and
    `default_name` is what the fleet is called without a `name`. Raises TrainingManifestError."""
    return _judged(text.encode("utf-8", "surrogatepass"), where, folder, default_name)


def _read(path: Path) -> bytes:
    """At most one byte more than a manifest may have."""
    hint = f"copy etc/training_manifest.toml.example there, or name another file in ${PATH_VARIABLE}"
    try:
        if path.exists() and not path.is_file():
            raise _refused(
                str(path), "is a folder or a device", "the manifest, a TOML file", hint, code="E101"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        found, expected = "there is no such file", "the manifest, a TOML file"
        raise _refused(str(path), found, expected, hint, code="E101") from None
    except (OSError, ValueError) as error:
        found, expected = f"cannot be read ({error})", "the manifest, a TOML file"
        raise _refused(str(path), found, expected, hint, code="E101") from None


def _judged(data: bytes, where: str, folder: Path, default_name: str | None = None) -> Manifest:
    text = _decoded(data, where)
    document = _parsed(text, where)
    faults = Faults(where, index_lines(text))
    stem = default_name or Path(where).stem
    manifest = _assembled(document, faults, where, folder, stem, digest=sha256_bytes(data))
    faults.raise_if_any()
    return manifest


def _decoded(data: bytes, where: str) -> str:
    if len(data) > MAX_BYTES:
        found = f"the file has more than {MAX_BYTES} bytes"
        hint = f"name the right file with --manifest or ${PATH_VARIABLE}"
        raise _refused(where, found, "a manifest of at most 4 MiB", hint, code="E102")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x} is not UTF-8"
        hint = "save it as UTF-8"
        raise _refused(where, found, "a text file in UTF-8", hint, code="E103", line=line) from None
    return text.removeprefix("\ufeff")  # the byte order mark that Windows editors write


_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_ENDLESS_NUMBER = re.compile(r"[0-9_]{4300,}")
_AT_END = "end of the file"
_SYNTAX_HINTS = (
    (_AT_END, "a list, a table or a text is still open"),
    ("Invalid value", 'texts stand in "double quotes"; true and false are lower-case'),
    ("Unescaped '\\'", "write a Windows path in 'single quotes'"),
    ("Invalid hex value", "write a Windows path in 'single quotes'"),
    ("Illegal character '\\n'", "a text ends in its line, with the quote it began with"),
    ("Cannot ", "the same key or table stands above already"),
    ("Duplicate", "the same key stands twice"),
    ("Expected '='", "every line is a [table], a key = value or a # comment"),
)
_SYNTAX_HINT = "compare the line with etc/training_manifest.toml.example"
_KEY = re.compile(r"\s*\[*\s*([A-Za-z0-9_.-]{1,60})")


def _parsed(text: str, where: str) -> dict[str, object]:
    try:
        document: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, where) from None
    except RecursionError:
        found, hint = "lists or tables are nested too deeply", "write [[hosts]] and [[jobs]], not one list"
        raise _refused(where, found, "at most a few levels", hint, code="E105") from None
    except ValueError:  # what int() says to more than 4300 digits
        endless = _ENDLESS_NUMBER.search(text)
        line = text.count("\n", 0, endless.start()) + 1 if endless else None
        found, hint = "a number has thousands of digits", "write at most 18 digits"
        raise _refused(where, found, "numbers of 64 bits", hint, code="E106", line=line) from None
    return document


def _syntax_error(message: str, text: str, where: str) -> TrainingManifestError:
    """The parser stops at its first fault, so this is the only one of its file."""
    position = _POSITION.search(message)
    if position is None or position[1] is None:
        line, place = text.rstrip().count("\n") + 1, _AT_END
    else:
        line, place = int(position[1]), f"column {position[2]}"
    reason = shown(_POSITION.sub("", message), _MAX_REASON_CHARS)
    hint = next((hint for part, hint in _SYNTAX_HINTS if part in reason or part == place), _SYNTAX_HINT)
    written = (text.splitlines() or [""])[min(line, text.count("\n") + 1) - 1 :]
    key = _KEY.match(written[0]) if written else None
    found = f"{place}: {reason}"
    return _refused(where, found, "valid TOML", hint, code="E104", line=line, key=key[1] if key else "")


def _refused(
    source: str, found: str, expected: str, hint: str, *, code: str, line: int | None = None, key: str = ""
) -> TrainingManifestError:
    """An error that ends the reading at once."""
    return TrainingManifestError((Fault(line, "", found, expected, hint, source, key, code),))


def _assembled(
    document: dict[str, object], faults: Faults, where: str, folder: Path, stem: str, digest: str
) -> Manifest:
    top = Table(faults, (), "", document)
    if not document:
        hint = "was it saved half-way? begin with etc/training_manifest.toml.example"
        top.add_whole("the file declares nothing", "[[hosts]] and [[jobs]]", hint, code="E107")
    top.reject_unknown(TOP_KEYS)
    policy = _read_policy(top.table("policy"))
    hosts = read_hosts(document.get("hosts"), faults)
    closed = bool(hosts) and policy.unknown_hosts == "deny"
    return Manifest(
        name=top.name("name", stem if is_safe_name(stem) else DEFAULT_NAME),
        hosts=hosts,
        jobs=read_jobs(document.get("jobs"), faults, tuple(hosts) if closed else None),
        policy=policy,
        dataset=_read_dataset(top.table("dataset"), folder),
        retention=read_retention(top.table("retention")),
        notify=read_notify(top.table("notify")),
        path=where,
        digest=digest,
    )


def _read_policy(table: Table | None) -> Policy:
    default = Policy()
    if table is None:
        return default
    table.reject_unknown(POLICY_KEYS)
    return Policy(
        unknown_hosts=table.choice("unknown_hosts", _UNKNOWN_HOSTS, default.unknown_hosts),
        trainer=table.choice("trainer", _TRAINER, default.trainer),
        prefer_cuda_grace_s=table.number("prefer_cuda_grace_s", default.prefer_cuda_grace_s, 0),
        same_host_s=table.number("same_host_s", default.same_host_s, 0),
        max_failures=table.whole("max_failures", default.max_failures, 1),
        max_host_losses=table.whole("max_host_losses", default.max_host_losses, 1),
        pause_after_failures=table.whole("pause_after_failures", default.pause_after_failures, 0),
    )


def _read_dataset(table: Table | None, folder: Path) -> DatasetPin | None:
    """The pin. That the file's content has this id is checked when it is first used, not here."""
    if table is None:
        return None
    table.reject_unknown(DATASET_KEYS)
    dataset_id = table.text("id", None, "64 hex digits in lower case", required=True)
    name = table.text("file", None, "the path of a packed data set", required=True)
    if dataset_id is not None and not is_digest(dataset_id):
        hint = "write the id that packing the data set printed"
        table.refuse("id", "64 hex digits in lower case", hint)
    if name is None:
        return None
    path = os.path.abspath(folder / name)
    if not os.path.isfile(path):
        expected = f"a file; there is none at {shown(path, _MAX_PATH_CHARS)}"
        hint = "write the path from the manifest's folder, or the whole path"
        table.refuse("file", expected, hint, code="E121")
    return DatasetPin(dataset_id or "", path)
