"""What the receiver can be told: its options, their defaults, and what is refused before anything is opened."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.fleet.manifest import canonical_path
from training.fleet.peers import WorkerAuth
from training.fleet.quotas import Limits

GIB = 1024**3
DEFAULT_PORT = 8445


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the receiver can be told; the defaults are those of `arguments()`."""

    listen: ListenAddress
    manifest: Path
    db: Path
    store_root: Path
    incoming_root: Path
    index_path: Path
    operator_token: str | None
    stale_after_s: float
    heartbeat_s: float
    sweep_every_s: float
    max_artifact_bytes: int
    dashboard: bool = True
    worker_auth: WorkerAuth = "header"
    ca_dir: Path | None = None
    former_operator_token: str | None = None
    host_limits: Limits = Limits()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: a Unix socket path, or a loopback host and port (0: any free one)."""

    unix_path: str | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return self.unix_path or f"{self.host}:{self.port}"


def listen_address(text: str) -> ListenAddress:
    """Parse `127.0.0.1:8445`, `[::1]:8445`, `localhost:8445`, a bare port, or `unix:/path`.

    Raises ValueError with a sentence; anything but loopback is refused: other machines come through the proxy.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise _bad_address(text, "a Unix socket without an absolute path", "unix:/run/cis490.sock")
        return ListenAddress(unix_path=path)
    host, _, port_text = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if ":" in host and not text.startswith("["):
        raise _bad_address(text, "an IPv6 address without brackets", f"[::1]:{DEFAULT_PORT}")
    if not port_text.isascii() or not port_text.isdecimal() or int(port_text) > 65535:
        raise _bad_address(text, "no port from 0 to 65535", f"127.0.0.1:{DEFAULT_PORT}")
    if not _is_loopback(host):
        found = "an address that other machines reach, where nobody asks for their certificates"
        hint = f"127.0.0.1:{port_text}, or unix:/PATH with --worker-auth mtls and the proxy in front"
        raise _bad_address(text, found, hint)
    return ListenAddress(host=host, port=int(port_text))


def _bad_address(text: str, found: str, instead: str) -> ValueError:
    return ValueError(
        f"--listen-addr: found {text!r}, {found}; expected HOST:PORT on loopback, or unix:/PATH; "
        f"write --listen-addr {instead}  [E201]"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def arguments() -> argparse.ArgumentParser:
    """The command line, in one place: the documentation is checked against it."""
    parser = argparse.ArgumentParser(
        prog="python -m training.fleet.receiver",
        description="Coordinate the training fleet: hands out jobs, takes artifacts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    lib = Path("/var/lib/cis490")
    parser.add_argument(
        "--listen-addr", default=f"127.0.0.1:{DEFAULT_PORT}", help="HOST:PORT, PORT or unix:/path"
    )
    parser.add_argument(
        "--manifest", type=Path, default=canonical_path(), help="the one file an operator edits"
    )
    parser.add_argument("--db", type=Path, default=lib / "training_jobs.db", help="the queue's SQLite file")
    parser.add_argument("--store-root", type=Path, default=lib / "models", help="where artifacts lie")
    parser.add_argument(
        "--incoming-root", type=Path, default=lib / "incoming-models", help="where uploads arrive"
    )
    parser.add_argument(
        "--index-path", type=Path, default=lib / "models" / "index.jsonl", help="a row for each artifact"
    )
    parser.add_argument(
        "--operator-token-env", default="CIS490_OPERATOR_TOKEN", help="variable with the token"
    )
    parser.add_argument(
        "--operator-token-file", type=Path, help="file with the token, and on a second line the former one"
    )
    parser.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="from which level on to log",
    )
    parser.add_argument(
        "--worker-auth", default="header", choices=["header", "mtls"], help="how a host proves its name"
    )
    parser.add_argument(
        "--ca-dir", type=Path, help="folder of the certificate authority, as training.fleet.ca writes it"
    )
    parser.add_argument(
        "--stale-after-s", type=_seconds, default=600.0, help="lease: silence that loses a job"
    )
    parser.add_argument("--heartbeat-s", type=_seconds, default=30.0, help="how often workers shall report")
    parser.add_argument(
        "--sweep-every-s", type=_seconds, default=60.0, help="how often stale leases are looked for"
    )
    parser.add_argument(
        "--max-artifact-bytes", type=_bytes, default=GIB, help="larger uploads are refused (413)"
    )
    parser.add_argument(
        "--host-requests-per-min", type=_count, default=Limits().requests_per_min,
        help="with mtls: requests of a host, on average",
    )  # fmt: skip
    parser.add_argument(
        "--host-uploads-at-once", type=_count, default=Limits().uploads_at_once,
        help="with mtls: uploads of a host under way",
    )  # fmt: skip
    parser.add_argument(
        "--host-bytes-per-day", type=_bytes, default=Limits().bytes_per_day,
        help="with mtls: what a host may upload in 24 hours",
    )  # fmt: skip
    parser.add_argument(
        "--no-dashboard", action="store_true", help="serve the interface below /v1/ only, no pages"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected seconds above 0, at most 10000000; write a number, such as 60  [E203]"
        )
    return value


def _count(text: str) -> int:
    return _whole(text, "a whole number above 0", "100")


def _bytes(text: str) -> int:
    return _whole(text, "a whole number of bytes above 0", str(GIB))


def _whole(text: str, expected: str, example: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected {expected}; write a number, such as {example}  [E203]"
        )
    return value


def operator_tokens(
    file: Path | None, variable: str, environment: Mapping[str, str]
) -> tuple[str | None, str | None]:
    """The operator token and, while tokens are rotated, the former one: from the file, else from the environment.

    Raises ValueError in words that hold no part of a token.
    """
    if file is None:
        return environment.get(variable), environment.get(f"{variable}_PREVIOUS")
    try:
        text, mode = file.read_text(encoding="ascii"), file.stat().st_mode
    except OSError as error:
        raise _bad_file(file, f"it cannot be read: {error.strerror}", f"ls -l {file}") from None
    except UnicodeDecodeError:
        raise _bad_file(file, "characters that no header can carry", _NEW_TOKEN.format(file)) from None
    if os.name == "posix" and mode & 0o007:
        raise _bad_file(file, "everybody on this machine may open it", f"chmod 600 {file}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 1 <= len(lines) <= 2 or any(len(line.split()) > 1 or not line.isprintable() for line in lines):
        found = f"{len(lines)} lines that are not empty, or one with several words"
        raise _bad_file(file, found, _NEW_TOKEN.format(file))
    return lines[0], lines[1] if len(lines) == 2 else None


_NEW_TOKEN = "(umask 077; head -c 32 /dev/urandom | base64 > {})"


def _bad_file(file: Path, found: str, command: str) -> ValueError:
    return ValueError(
        f"--operator-token-file: found '{file}', {found}; expected one token, and during a rotation the former one on "
        f"a second line, in a file that its owner alone may open; write {command}  [E207]"
    )


def check_access(listen: ListenAddress, worker_auth: WorkerAuth, ca_dir: Path | None) -> None:
    """Whether hosts can be told apart in this way. Raises ValueError with what to type instead."""
    if worker_auth == "header":
        return
    if ca_dir is None:
        raise ValueError(
            "--worker-auth: found 'mtls' without --ca-dir; expected the folder of the certificate authority too; "
            "write --ca-dir /etc/cis490/ca, which python -m training.fleet.ca init makes  [E204]"
        )
    if listen.unix_path is None:
        raise ValueError(
            f"--worker-auth: found 'mtls' with --listen-addr {listen}; expected a Unix socket that the proxy alone may "
            "open, for to a port every program of this machine could claim to be anybody; "
            "write --listen-addr unix:/run/cis490/receiver.sock  [E205]"
        )
