"""The lab's certificate authority: `python -m training.fleet.ca VERB`, on the machine of the receiver, as root.

Nothing here needs a running receiver. Passphrases come from a file or from standard input, never from an argument.
Exit codes: 0 done (also when there was nothing to do), 1 refused, the sentence says why, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from cryptography.hazmat.primitives.asymmetric import ec

from cis490.files import atomic_write
from cis490.pki import age
from cis490.pki import certificates as pki
from cis490.pki.authority import Fleet, read_certificates, read_fleet
from cis490.pki.certificates import PkiError
from training.fleet import ca_backup, ca_checks, ca_files, ca_members, ca_restore, manifest
from training.fleet.credentials import CredentialsError

CA = Path("/etc/cis490/ca")
PROXY = Path("/etc/cis490/caddy")
PASSPHRASE = Path("/etc/cis490/backup-passphrase")
BACKUPS = Path("/var/backups/cis490")
LIBRARY = Path("/var/lib/cis490")
TOKEN = Path("/etc/cis490/operator-token")
KEEP = 14
_RESTORABLE = ("ca", "database", "manifest", "token")


@dataclass(frozen=True, slots=True)
class Call:
    """What a verb gets."""

    args: argparse.Namespace
    now: datetime
    stdin: TextIO
    out: Callable[[str], None]
    log2_work: int
    """How hard passphrases are to guess: scrypt's N is 2 to this."""


def main(
    argv: Sequence[str] | None = None,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    stdin: TextIO | None = None,
    log2_work: int = age.LOG2_WORK,
) -> int:
    """Carry out one verb; see the module's text for exit codes."""
    args = parser().parse_args(argv)
    call = Call(args, now(), stdin or sys.stdin, print, log2_work)
    try:
        return int(args.act(call))
    except (PkiError, age.AgeError, CredentialsError) as error:
        print(f"ca: {error}", file=sys.stderr)
    except UnicodeDecodeError:  # its text would quote the passphrase
        print("ca: the passphrase is no text in UTF-8; nothing was done", file=sys.stderr)
    except (EOFError, KeyboardInterrupt):
        print("ca: nothing was typed; nothing was done", file=sys.stderr)
    except OSError as error:
        name = f"{error.filename or args.dir}: "
        hint = "; this needs root: sudo" if isinstance(error, PermissionError) and _uid() != 0 else ""
        print(f"ca: {args.verb}: {name}{error.strerror or error}{hint}", file=sys.stderr)
    return 1


def parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    top = argparse.ArgumentParser(
        prog="python -m training.fleet.ca", description=(__doc__ or "").splitlines()[0]
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, act: Callable[[Call], int], text: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(act=act)
        one.add_argument("--dir", type=Path, default=CA, help=f"the authority's folder (default: {CA})")
        return one

    one = verb("init", _init, "make the authority; again: bring its addresses up to date")
    one.add_argument(
        "--name", required=True, help="of the fleet, like a host name; stands in every certificate"
    )
    one.add_argument(
        "--address", required=True, help="host name or IP address under which others reach the receiver"
    )
    _also(one)
    one = verb("server", _server, "issue the proxy's certificate and key")
    one.add_argument("--out", type=Path, default=PROXY, help=f"folder for them (default: {PROXY})")
    one.add_argument(
        "--if-due", action="store_true", help="only when a third of its life is over, or it does not fit"
    )
    _also(one)
    for role in ("operator", "reader"):
        one = verb(role, _member, f"a folder of credentials for a {role}, without the receiver")
        one.add_argument("name", metavar="NAME")
        one.add_argument("--out", type=Path, required=True, help="folder for them")
        one.add_argument(
            "--days", type=int, default=ca_members.DAYS, help="how long it is valid (default: 30)"
        )
        one.add_argument(
            "--p12", type=Path, help="also a file for browsers; its password is read from standard input"
        )
        one.add_argument("--owner", help="the user who is to own the folder")
        one.add_argument("--replace", action="store_true", help="issue another one though there is one")
    one = verb("show", _show, "what is there, until when, and what to do about it")
    one.add_argument("--out", type=Path, default=PROXY, help=f"the proxy's folder (default: {PROXY})")
    one.add_argument("--json", action="store_true", help="for programs")
    one = verb("rotate", _rotate, "a new issuer under the same root; what the former issued goes on counting")
    one.add_argument("part", choices=ca_files.PARTS)
    one.add_argument("--root-key", type=Path, help="the exported root key, if it is not in the folder")
    one.add_argument("--stolen", action="store_true", help="what the former issued must not count any more")
    _also(one)
    _passphrase(one)
    one = verb("root-key", _root_key, "take the root's key away from this machine")
    one.add_argument("act_on", choices=("export", "remove"), metavar="export|remove")
    one.add_argument("--out", type=Path, help="export: the encrypted file to write")
    one.add_argument(
        "--exported", type=Path, help="remove: the encrypted file, which is opened and compared first"
    )
    _passphrase(one)
    one = verb("backup", _backup, "keys, queue and manifest in one encrypted file")
    one.add_argument(
        "--out",
        type=Path,
        default=BACKUPS,
        help=f"a file, or a folder that keeps the newest (default: {BACKUPS})",
    )
    one.add_argument(
        "--keep", type=int, default=KEEP, help=f"how many stay in the folder, 0: all (default: {KEEP})"
    )
    _places(one)
    _passphrase(one, PASSPHRASE)
    one = verb("restore", _restore, "open a backup, compare it, and put it back")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--only", action="append", choices=_RESTORABLE, help="a part of it, may be repeated")
    one.add_argument("--check", action="store_true", help="only open and compare it; nothing is changed")
    one.add_argument("--replace", action="store_true", help="move aside what is there")
    _places(one)
    _passphrase(one)
    return top


def _also(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--also-address",
        action="append",
        default=[],
        metavar="HOST",
        help="a further name or address, may be repeated",
    )


def _passphrase(one: argparse.ArgumentParser, default: Path | None = None) -> None:
    shown = "standard input" if default is None else f"{default}, else standard input"
    one.add_argument(
        "--passphrase-file", type=Path, help=f"its first line is the passphrase (default: {shown})"
    )
    one.set_defaults(usual_passphrase_file=default)


def _places(one: argparse.ArgumentParser) -> None:
    database, canonical = LIBRARY / ca_backup.DATABASE, Path(manifest.CANONICAL_PATH)
    one.add_argument("--db", type=Path, default=database, help=f"the queue (default: {database})")
    one.add_argument("--manifest", type=Path, default=canonical, help=f"(default: {canonical})")
    one.add_argument("--token-file", type=Path, default=TOKEN, help=f"the operator token (default: {TOKEN})")


# -- the verbs


def _init(call: Call) -> int:
    args = call.args
    also = tuple(host for host in dict.fromkeys(args.also_address) if host != args.address)
    for line in ca_files.init(args.dir, Fleet(args.name, args.address, also=also), call.now):
        call.out(line)
    return 0


def _server(call: Call) -> int:
    args = call.args
    _, text = ca_files.issue_server(
        args.dir, args.out, call.now, also=args.also_address, only_if_due=args.if_due
    )
    call.out(text)
    return 0


def _member(call: Call) -> int:
    args = call.args
    password = None if args.p12 is None else _secret(call, "password for the browser's file", is_new=True)
    member = ca_members.Member(args.verb, args.name, args.days)
    _, lines = ca_members.make(args.dir, args.out, member, call.now, replace=args.replace)
    if password is not None:
        atomic_write(args.p12, ca_members.pkcs12_of(args.out, password), 0o600)
        lines.append(
            f"{args.p12}: import it into the browser, and {args.out / 'root.pem'} as an authority for web sites"
        )
    if args.owner is not None:
        ca_members.give_to(args.out, args.owner)
    for line in lines:
        call.out(line)
    return 0


def _show(call: Call) -> int:
    args = call.args
    fleet, root = read_fleet(args.dir), read_certificates(args.dir / "root.pem")[0]
    found = [*ca_checks.of_authority(args.dir, call.now)]
    if args.out.exists():
        found.append(ca_checks.of_server(args.out, call.now))
    if args.json:
        about = {
            "fleet": asdict(fleet),
            "root_sha256": pki.fingerprint(root),
            "found": [asdict(one) for one in found],
        }
        call.out(json.dumps(about, indent=2))
        return 0
    call.out(f"fleet {fleet.name}, reached at {', '.join((fleet.address, *fleet.also))}")
    call.out(f"root {pki.fingerprint(root)}")
    for one in found:
        call.out(f"{one.state:<5}{one.found}")
        if one.fix and one.state != "OK":
            call.out(f"     {one.fix}")
    return 0


def _rotate(call: Call) -> int:
    args = call.args
    with ca_files.alone(args.dir):
        key = ca_files.read_root_key(args.dir) if args.root_key is None else _exported(call, args.root_key)
        lines = ca_files.rotate(
            args.dir, args.part, key, call.now, also=args.also_address, is_stolen=args.stolen
        )
    for line in lines:
        call.out(line)
    return 0


def _root_key(call: Call) -> int:
    args = call.args
    with ca_files.alone(args.dir):
        if args.act_on == "export":
            return _export_root_key(call)
        if args.exported is None:
            raise PkiError(
                "root-key remove needs --exported FILE: the copy is opened and compared before anything goes"
            )
        call.out(ca_files.remove_root_key(args.dir, _exported(call, args.exported)))
    return 0


def _export_root_key(call: Call) -> int:
    args = call.args
    if args.out is None:
        raise PkiError("root-key export needs --out FILE, best on a stick that is then kept elsewhere")
    key = ca_files.read_root_key(args.dir)
    passphrase = _strong_passphrase(call)
    sealed = age.encrypt([pki.key_pem(key)], passphrase, secrets.token_bytes, log2_work=call.log2_work)
    atomic_write(args.out, b"".join(sealed), 0o600)
    call.out(f"{args.out}: the root's key, encrypted")
    call.out(f"next: {ca_files.COMMAND} root-key remove --dir {args.dir} --exported {args.out}")
    return 0


def _exported(call: Call, path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        with path.open("rb") as file:
            pem = b"".join(age.decrypt(file, _passphrase_of(call)))
        return pki.load_key(pem)
    except (PkiError, age.AgeError) as error:
        raise PkiError(f"{path}: {error}") from error


def _backup(call: Call) -> int:
    args = call.args
    passphrase = _strong_passphrase(call)
    made = ca_backup.backup(
        _places_of(args), args.out, passphrase, call.now, keep=args.keep, log2_work=call.log2_work
    )
    call.out(f"{made.path}: {made.size_bytes} bytes, {len(made.files)} files")
    if made.missing:
        call.out(f"not there, and so not in it: {', '.join(made.missing)}")
    for path in made.removed:
        call.out(f"{path}: removed, it was older than the newest {args.keep}")
    return 0


def _restore(call: Call) -> int:
    args = call.args
    passphrase = _passphrase_of(call)
    scratch = args.dir.parent if args.dir.parent.is_dir() else args.file.parent
    with ca_restore.opened(args.file, passphrase, scratch) as found:
        call.out(f"{args.file}: whole; {found.fleet} as of {found.made_at}, root {found.root_sha256}")
        for name, row in found.files.items():
            call.out(f"  {name}  {row['size_bytes']} bytes")
        if args.check:
            return 0
        only = frozenset(args.only or _RESTORABLE)
        for line in ca_restore.restore(found, _places_of(args), only, call.now, replace=args.replace):
            call.out(line)
        call.out(f"next: {ca_files.COMMAND} server --dir {args.dir} --if-due   then start receiver and proxy")
    return 0


def _places_of(args: argparse.Namespace) -> ca_backup.Places:
    return ca_backup.Places(args.dir, args.db, args.manifest, args.token_file)


# -- secrets


def _strong_passphrase(call: Call) -> str:
    found = _passphrase_of(call, is_new=True)
    if len(found) < age.MIN_PASSPHRASE:
        raise PkiError(
            f"found a passphrase of {len(found)} characters, expected at least {age.MIN_PASSPHRASE}: it is all that "
            "protects the keys on whatever the file is copied to. A good one: openssl rand -base64 18"
        )
    return found


def _passphrase_of(call: Call, *, is_new: bool = False) -> str:
    args = call.args
    path = args.passphrase_file
    if path is None and args.usual_passphrase_file is not None and args.usual_passphrase_file.exists():
        path = args.usual_passphrase_file
    if path is None:
        return _secret(call, "passphrase", is_new=is_new)
    if path.stat().st_mode & 0o077:
        raise PkiError(f"{path} can be read by others than its owner: chmod 600 {path}")
    return _first_line(path.read_text(encoding="utf-8"), str(path))


def _secret(call: Call, what: str, *, is_new: bool) -> str:
    """One line of standard input; at a terminal it is asked for, without showing it, and twice when it is new."""
    if not call.stdin.isatty():
        return _first_line(call.stdin.readline(), "standard input")
    found = getpass.getpass(f"{what}: ")
    if is_new and getpass.getpass(f"{what} once more: ") != found:
        raise PkiError("the two were not the same; nothing was done")
    return _first_line(found, "what was typed")


def _first_line(text: str, where: str) -> str:
    line = (text.splitlines() or [""])[0].strip()
    if not line:
        raise PkiError(f"found no passphrase in {where}")
    return line


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


if __name__ == "__main__":
    sys.exit(main())
