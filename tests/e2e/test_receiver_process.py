"""The receiver as a program: what it refuses to start with, what it says, and how it ends."""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cis490.digest import sha256_bytes
from tests.factories.processes import wait_until
from training.fleet.client import FleetClient
from training.fleet.receiver_settings import ListenAddress, arguments, listen_address
from training.fleet.types import Capability

GOOD = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'


def start(folder: Path, *more: str, manifest: str = GOOD) -> subprocess.Popen[str]:
    (folder / "m.toml").write_text(manifest)
    return subprocess.Popen(
        [
            sys.executable, "-m", "training.fleet.receiver", "--manifest", str(folder / "m.toml"),
            "--db", str(folder / "q.db"), "--store-root", str(folder / "models"),
            "--incoming-root", str(folder / "incoming"), "--index-path", str(folder / "models" / "index.jsonl"),
            "--listen-addr", f"unix:{folder}/r.sock", *more,
        ],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"CIS490_OPERATOR_TOKEN": "t" * 20},
    )  # fmt: skip


def until_listening(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if "receiver.listening" in line:
            return
    pytest.fail("the receiver ended before it listened")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8445", ListenAddress(None, "127.0.0.1", 8445)),
        ("8445", ListenAddress(None, "127.0.0.1", 8445)),
        (":8445", ListenAddress(None, "127.0.0.1", 8445)),
        ("[::1]:8445", ListenAddress(None, "::1", 8445)),
        ("localhost:0", ListenAddress(None, "localhost", 0)),
        ("unix:/run/x.sock", ListenAddress("/run/x.sock")),
    ],
)
def test_listen_addresses_in_every_spelling(text: str, address: ListenAddress) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("0.0.0.0:8445", "loopback"),
        ("[::]:8445", "loopback"),
        ("192.168.1.5:8445", "loopback"),
        ("lab-pi:8445", "loopback"),
        ("::1:8445", "brackets"),
        ("127.0.0.1:port", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),
        ("127.0.0.1:-1", "HOST:PORT"),
        ("", "HOST:PORT"),
        ("unix:run.sock", "absolute"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        listen_address(text)


def test_a_faulty_manifest_exits_78_with_every_fault(tmp_path: Path) -> None:
    process = start(tmp_path, manifest='[[jobs]]\nmodel = "gbd"\nmode = "orakel"\n')
    _, said = process.communicate(timeout=30)
    assert process.returncode == 78
    assert "gbt" in said
    assert "oracle" in said
    assert "Traceback" not in said


def test_a_missing_manifest_exits_78(tmp_path: Path) -> None:
    process = start(tmp_path, "--manifest", str(tmp_path / "none.toml"))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 78
    assert "none.toml" in said


def test_a_dataset_that_is_not_the_pinned_one_exits_78(tmp_path: Path) -> None:
    (tmp_path / "d.tar.zst").write_bytes(b"not an archive")
    process = start(tmp_path, manifest=f'[dataset]\nid = "{"0" * 64}"\nfile = "d.tar.zst"\n' + GOOD[11:])
    _, said = process.communicate(timeout=30)
    assert process.returncode == 78
    assert "d.tar.zst" in said


def test_a_folder_that_cannot_be_written_exits_73(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path, "--db", str(tmp_path / "file" / "q.db"))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 73
    assert "Traceback" not in said


def test_it_stops_on_sigterm_with_0_and_a_second_one_is_refused_meanwhile(tmp_path: Path) -> None:
    first = start(tmp_path)
    until_listening(first)
    second = start(tmp_path)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 69
    assert str(first.pid) in said
    assert (tmp_path / "r.sock").stat().st_mode & 0o777 == 0o660
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 0
    assert "receiver.stopped" in said
    assert "t" * 20 not in said, "the token is nowhere in the log"


def unread_bytes(sender: socket.socket) -> int:
    """What the other end has not received yet."""
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(sender, termios.TIOCOUTQ, count)
    return count[0]


@pytest.mark.parametrize("size", [1000, 4_000_000], ids=["small", "large"])
def test_an_upload_under_way_does_not_hold_up_its_end_and_goes_on_afterwards(
    tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    headers = {"X-Lab-Host": "a", "X-Content-SHA256": sha256_bytes(data)}
    first = start(tmp_path)
    until_listening(first)
    client = FleetClient(f"unix:{tmp_path}/r.sock", host="a")
    claimed = client.claim(Capability(), request_id="r")
    assert claimed is not None
    headers["X-Lease-Token"] = claimed.lease_token or ""
    lines = [f"PUT /v1/model/{claimed.job_id} HTTP/1.1", "Host: x", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.socket(socket.AF_UNIX) as sender:
        sender.settimeout(30)
        sender.connect(f"{tmp_path}/r.sock")
        sender.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + data[: size // 2])
        wait_until(lambda: unread_bytes(sender) == 0, "the receiver to have taken it")
        client._upload_offset(claimed.job_id, headers, size)  # answered after the upload's lease was judged
        first.send_signal(signal.SIGTERM)
        assert sender.recv(4096).split()[1] == b"503"
    _, said = first.communicate(timeout=30)
    assert first.returncode == 0
    assert "Traceback" not in said
    assert "graceful shutdown exceeded" not in said
    second = start(tmp_path)
    until_listening(second)
    bundle = tmp_path / "bundle"
    bundle.write_bytes(data)
    assert client._upload_offset(claimed.job_id, headers, size) == size // 2
    assert client.upload(claimed.job_id, claimed.lease_token, bundle, sha256_bytes(data)) == "stored"
    client.close()
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=30)
    assert second.returncode == 0


def test_the_defaults_are_the_contracts() -> None:
    defaults = vars(arguments().parse_args([]))
    assert {key: str(defaults[key]) for key in (
        "listen_addr", "manifest", "db", "store_root", "incoming_root", "index_path", "operator_token_env", "log_level"
    )} == {
        "listen_addr": "127.0.0.1:8445",
        "manifest": "/etc/cis490/training_manifest.toml",
        "db": "/var/lib/cis490/training_jobs.db",
        "store_root": "/var/lib/cis490/models",
        "incoming_root": "/var/lib/cis490/incoming-models",
        "index_path": "/var/lib/cis490/models/index.jsonl",
        "operator_token_env": "CIS490_OPERATOR_TOKEN",
        "log_level": "INFO",
    }  # fmt: skip
