"""No secret leaves the place it belongs to: a whole fleet is enrolled and worked, then everything is searched.

Real processes (receiver, Caddy, command line, join, worker, guard, trainer), real certificates. While they run, the
arguments and environments of every process of the machine are read; afterwards every log, answer, message and file.
What is searched for: the operator's token, the secret of a join token, the token of a lease, and private keys, each in
the forms in which it could have slipped out.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cis490.episodes.dataset import pack
from cis490.pki import certificates as pki
from tests.factories.episodes import write_dataset
from tests.factories.fleet_pki import FleetPki, key_of
from tests.factories.live_receiver import Answer
from tests.factories.processes import wait_until
from tests.factories.proxied_fleet import TlsConnection, answer_over, caddy, caddy_program, own_address
from training.fleet import caddyfile, credentials, join_token

pytestmark = [
    pytest.mark.slow,  # some twenty processes, one after the other
    pytest.mark.skipif(sys.platform != "linux", reason="/proc"),
]
ROOT = Path(__file__).resolve().parents[2]
OPERATOR_TOKEN = "canary-operator-3f9c1e7a5d2b4860"
FORMER_TOKEN = "canary-former-operator-77c0d1e2f3a4b5c6"
WRONG_TOKEN = "canary-wrong-operator-0011223344556677"
PASSPHRASE = "canary passphrase of a backup 5d1c9e"
TIMEOUT_S = 60.0
HOST = "gpu-1"


def forms_of(secret: str | bytes) -> tuple[bytes, ...]:
    """In which a secret may show: as it is, in base64, in hex."""
    raw = secret.encode() if isinstance(secret, str) else secret
    return raw, base64.b64encode(raw).rstrip(b"="), raw.hex().encode()


def forms_of_key(folder: Path) -> tuple[bytes, ...]:
    """Each line of the PEM text, the DER form, the number itself."""
    return _key_forms(key_of(folder))


def _key_forms(key: Any) -> tuple[bytes, ...]:
    lines = [line for line in pki.key_pem(key).splitlines() if not line.startswith(b"-----")]
    number = key.private_numbers().private_value.to_bytes(32, "big")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return (*lines, der, *forms_of(number))


@dataclass
class Searched:
    """What was said and shown, by where."""

    found: dict[str, bytes] = field(default_factory=dict)

    def add(self, where: str, text: bytes | str) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.found[where] = self.found.get(where, b"") + b"\n" + raw

    def places_with(self, forms: Sequence[bytes]) -> list[str]:
        return sorted(where for where, text in self.found.items() if any(form in text for form in forms))


def processes(kind: str) -> bytes:
    """`cmdline` or `environ` of every process of this machine that this user may read, this one left out."""
    out = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != str(os.getpid()):
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                out.append((process / kind).read_bytes())
    return b"\n".join(out)


class Scene:
    """One lab: what runs in it, and all that was seen."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, Searched()
        address = own_address()
        self.pki = FleetPki(folder, address=address, hosts=(address,))
        self.pki.at(join=29001, workers=29002, operators=29003)
        self.operator = self.pki.operator("ada", token=OPERATOR_TOKEN)
        self.worker_folder, self.state = folder / "credentials", folder / "state"
        self.secrets: dict[str, tuple[bytes, ...]] = {
            "operator token": forms_of(OPERATOR_TOKEN),
            "former operator token": forms_of(FORMER_TOKEN),
            "mistyped operator token": forms_of(WRONG_TOKEN),
            "backup passphrase": forms_of(PASSPHRASE),
            "root key": _key_forms(self.pki.root.key),
            "key of the servers' authority": _key_forms(self.pki.servers.key),
            "key of the clients' authority": _key_forms(self.pki.clients.key),
            "signing key": _key_forms(self.pki.signing.key),
            "operator's key": forms_of_key(self.operator),
        }
        token_file = folder / "operator-token"
        token_file.write_text(f"{OPERATOR_TOKEN}\n{FORMER_TOKEN}\n")
        token_file.chmod(0o600)
        dataset = pack(write_dataset(folder / "episodes"), folder / "data.tar.zst")
        (folder / "manifest.toml").write_text(
            f'[dataset]\nid = "{dataset}"\nfile = "{folder / "data.tar.zst"}"\n[policy]\ntrainer = "any"\n'
            f'[[hosts]]\nname = "{HOST}"\n[[jobs]]\nmodel = "gbt"\nmode = "oracle"\n'
        )
        (folder / "say").touch()
        self.socket = Path(os.path.relpath(folder / "r.sock")) if len(str(folder)) > 80 else folder / "r.sock"
        self.receiver_log = folder / "receiver.log"

    # -- who runs

    def start(
        self, log: str, module: str, *options: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", module, *options], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, "CIS490_TEST_SAY": str(self.folder), **(env or {})},
            )  # fmt: skip

    def run(
        self,
        where: str,
        module: str,
        *options: str,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        shows: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """To its end, with /proc read all the while. `shows`: its standard output is to hold a secret."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(env or {})},
        )  # fmt: skip
        watching = threading.Thread(target=self._watch, args=(process, where))
        watching.start()
        out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        watching.join()
        if not shows:
            self.seen.add(f"{where}: standard output", out)
        self.seen.add(f"{where}: standard error", err)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _watch(self, process: subprocess.Popen[str], where: str) -> None:
        pause = threading.Event()
        while process.poll() is None:
            self.look(where, environ=f"{process.pid}")
            pause.wait(0.05)

    def look(self, where: str, *, environ: str = "") -> None:
        """Read /proc: the arguments of all, and the environments of all (or of one process: the quicker)."""
        self.seen.add(f"{where}: arguments", processes("cmdline"))
        if environ:
            with contextlib.suppress(OSError):
                self.seen.add(f"{where}: environment", Path(f"/proc/{environ}/environ").read_bytes())
        else:
            self.seen.add(f"{where}: environments", processes("environ"))

    def jobs(
        self, *words: str, shows: bool = False, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`cis490-jobs`, as the operator."""
        given = {"CIS490_CREDENTIALS": str(self.operator), **(env or {})}
        return self.run(f"cis490-jobs {words[0]}", "training.fleet.cli", *words, shows=shows, env=given)

    def send(
        self,
        identity: Path | None,
        port: int,
        method: str,
        path: str,
        body: object,
        headers: Mapping[str, str],
    ) -> Answer:
        """One request through the proxy; its answer is searched."""
        if identity is None:
            context = ssl.create_default_context(cafile=str(self.pki.ca / "root.pem"))
        else:
            context = credentials.context_of(identity)
        connection = TlsConnection(self.pki.fleet.address, port, context, self.pki.fleet.server_name)
        try:
            found = answer_over(connection, method, path, body, headers)
        finally:
            connection.close()
        self.seen.add(
            f"answer of {method} {path.partition('?')[0][:40]}", found.raw + repr(found.headers).encode()
        )
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The whole story, told once; the tests below only search."""
    one = Scene(tmp_path_factory.mktemp("secrets"))
    at = one.folder
    options = {
        "--listen-addr": f"unix:{at / 'r.sock'}", "--manifest": at / "manifest.toml", "--db": at / "db" / "queue.db",
        "--store-root": at / "models", "--incoming-root": at / "incoming", "--index-path": at / "models/index.jsonl",
        "--worker-auth": "mtls", "--ca-dir": one.pki.ca, "--operator-token-file": at / "operator-token",
        "--log-level": "DEBUG", "--heartbeat-s": 0.5,
    }  # fmt: skip
    (at / "db").mkdir()
    receiver = one.start(
        "receiver.log", "training.fleet.receiver", *(str(w) for pair in options.items() for w in pair)
    )
    files = one.pki.server_files
    settings = caddyfile.Settings(
        one.pki.fleet, str(files.certificate), str(files.key), str(files.pool), str(at / "r.sock"),
        bind=one.pki.fleet.address,
    )  # fmt: skip
    worker: subprocess.Popen[bytes] | None = None
    try:
        with caddy(caddy_program("wheel"), settings, at) as (_, caddy_log):
            wait_until((at / "r.sock").exists, "the receiver")
            _enrol(one)
            worker = one.start(
                "worker.log", "training.fleet.worker", "--credentials", str(one.worker_folder), "--state-dir",
                str(one.state), "--poll-s", "0.1", "--log-level", "DEBUG",
                "--trainer-module", "tests.factories.printing_trainer",
                # Left in somebody's shell:
                env={"CIS490_OPERATOR_TOKEN": WRONG_TOKEN, "CIS490_OPERATOR_TOKEN_PREVIOUS": FORMER_TOKEN},
            )  # fmt: skip
            _train(one, worker)
            _fail_in_many_ways(one)
            _back_up(one)
            worker.send_signal(signal.SIGTERM)
            worker.wait(TIMEOUT_S)
            receiver.send_signal(signal.SIGTERM)
            receiver.wait(TIMEOUT_S)
            _meet_no_receiver(one)
            one.seen.add("log of Caddy", caddy_log.read_bytes())
        for log in ("receiver.log", "worker.log"):
            one.seen.add(f"log: {log}", (at / log).read_bytes())
        yield one
    finally:
        for process in (receiver, worker):
            if process is not None:
                process.kill()
                process.wait(TIMEOUT_S)


def _enrol(one: Scene) -> None:
    made = one.jobs("hosts", "add", HOST, "--json", shows=True)
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    one.secrets["join token"] = forms_of(token)
    one.secrets["secret of the join token"] = forms_of(join_token.parse(token).secret)
    where = ("--credentials", str(one.worker_folder), "--state-dir", str(one.state), "--skip-trainer")
    joined = one.run("join", "training.fleet.join", *where, stdin=token + "\n")
    assert joined.returncode == 0, joined.stderr
    one.secrets["host's key"] = forms_of_key(one.worker_folder)
    elsewhere = ("--credentials", str(one.folder / "thief"), "--state-dir", str(one.folder / "state-2"))
    again = one.run(
        "join with a used token", "training.fleet.join", *elsewhere, "--skip-trainer", stdin=token
    )
    assert again.returncode == 1, again.stderr
    torn = one.run(
        "join with a torn token", "training.fleet.join", *elsewhere, "--skip-trainer", stdin=token[:-9] + "\n"
    )
    assert torn.returncode != 0
    one.jobs("hosts", "list")


def _train(one: Scene, worker: subprocess.Popen[bytes]) -> None:
    """A job runs; its processes are looked at; then it ends well."""
    wait_until(lambda: bool(list((one.state / "leases").glob("*"))) and _trainer_runs(), "the trainer")
    (record,) = (one.state / "leases").glob("*.json")
    token = json.loads(record.read_text())["token"]
    one.secrets["token of the lease"] = forms_of(token)
    one.look("while a trainer runs")
    for process in _of_the_worker(worker.pid):
        with contextlib.suppress(OSError):  # one of those that live for moments
            one.seen.add("environment of guard and trainer", Path(f"/proc/{process}/environ").read_bytes())
    (one.folder / "say").write_text("a line of the trainer\n")
    (one.folder / "end.part").write_text("0")
    (one.folder / "end.part").rename(one.folder / "end")
    wait_until(
        lambda: (
            b"worker.completed" in (one.folder / "worker.log").read_bytes()
            or not list((one.state / "leases").glob("*"))
        ),
        "the result",
    )


def _trainer_runs() -> bool:
    return b"tests.factories.printing_trainer\0--spec" in processes("cmdline")


def _of_the_worker(pid: int) -> list[int]:
    """Its descendants."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {pid})


def _fail_in_many_ways(one: Scene) -> None:
    """Each refusal has a sentence, made while the secret is at hand."""
    fleet, lease = one.pki.fleet, one.secrets["token of the lease"][0].decode()
    job_id = json.loads(one.jobs("list", "--json").stdout)["jobs"][0]["job_id"]
    one.jobs("show", "gbt-oracle", "--json")
    one.jobs("events", "--json")
    one.jobs("requeue", "gbt-oracle", env={"CIS490_OPERATOR_TOKEN": WRONG_TOKEN})
    one.jobs("requeue", "gbt-oracle", env={"CIS490_OPERATOR_TOKEN": FORMER_TOKEN})
    one.jobs("status", "--json")
    as_host = functools.partial(one.send, one.worker_folder, fleet.workers_port)
    as_host("POST", f"/v1/job/{job_id}/heartbeat", {}, {"X-Lease-Token": lease})
    as_host("POST", f"/v1/job/{job_id}/complete", {"artifact_id": lease}, {"X-Lease-Token": lease})
    as_host("POST", f"/v1/job/{job_id}/fail", b"{torn", {"X-Lease-Token": lease})
    as_host("POST", f"/v1/job/{'0' * 64}/release", {}, {"X-Lease-Token": lease})
    as_host("GET", f"/v1/job/{job_id}/upload", None, {"X-Lease-Token": lease + "x"})
    as_operator = functools.partial(one.send, one.operator, fleet.operators_port)
    for token in (OPERATOR_TOKEN, FORMER_TOKEN, WRONG_TOKEN):
        as_operator("POST", "/v1/job/none/cancel", {}, {"X-Operator-Token": token})
        as_operator(
            "POST", "/v1/manifest/plan", {"text": f"token = '{token[:7]}'"}, {"X-Operator-Token": token}
        )
    nobody = functools.partial(one.send, None, fleet.join_port)
    secret = one.secrets["secret of the join token"][0].decode()
    for body in (
        {"secret": secret, "role": "host", "name": HOST, "csr_pem": "none"},
        {"secret": secret, "role": 7, "name": HOST, "csr_pem": secret},
        {
            "secret": secret,
            "role": "host",
            "name": "other",
            "csr_pem": pki.make_request(pki.new_key(), "x").decode(),
        },
        f'{{"secret": "{secret}", torn'.encode(),
    ):
        assert nobody("POST", "/v1/enrol/join", body, {}).status >= 400
    login = {"Content-Type": "application/x-www-form-urlencoded"}
    one.send(None, fleet.operators_port, "POST", "/login", f"token={WRONG_TOKEN}".encode(), login)
    one.send(None, fleet.operators_port, "GET", "/login", None, {})


def _back_up(one: Scene) -> None:
    """All keys, the queue and the token into one file, while the receiver runs; what is in it is not to be seen."""
    at, file, right, wrong = (one.folder / name for name in (".", "backup.age", "passphrase", "mistyped"))
    for path, words in ((right, PASSPHRASE), (wrong, PASSPHRASE[:-1])):
        path.touch(mode=0o600)
        path.write_text(words)
    places = (
        "--dir", str(one.pki.ca), "--db", str(at / "db/queue.db"), "--manifest", str(at / "manifest.toml"),
        "--token-file", str(at / "operator-token"), "--passphrase-file",
    )  # fmt: skip
    made = one.run("ca backup", "training.fleet.ca", "backup", "--out", str(file), *places, str(right))
    assert made.returncode == 0, made.stderr
    one.seen.add("the backup", file.read_bytes())
    check = ("training.fleet.ca", "restore", str(file), "--check", *places)
    assert one.run("ca restore", *check, str(right)).returncode == 0
    assert one.run("ca restore with a mistyped passphrase", *check, str(wrong)).returncode == 1


def _meet_no_receiver(one: Scene) -> None:
    """What the proxy and the programs say when the receiver is away: a proxy likes to log such requests whole."""
    fleet = one.pki.fleet
    lease = one.secrets["token of the lease"][0].decode()
    down = one.send(
        one.operator, fleet.operators_port, "POST", "/v1/gc", {}, {"X-Operator-Token": OPERATOR_TOKEN}
    )
    assert down.status == 502
    one.send(
        one.worker_folder, fleet.workers_port, "POST", "/v1/job/x/heartbeat", {}, {"X-Lease-Token": lease}
    )
    one.jobs("cancel", "gbt-oracle")
    broken = one.folder / "broken"
    broken.mkdir()
    for name in (credentials.ABOUT, credentials.ROOT, credentials.IDENTITY):
        (broken / name).write_bytes((one.worker_folder / name).read_bytes())
    identity = (broken / credentials.IDENTITY).read_text()
    (broken / credentials.IDENTITY).write_text(identity.replace("-----END PRIVATE KEY-----", ""))
    arguments = ("--credentials", str(broken), "--state-dir", str(one.folder / "state-3"), "--once")
    assert one.run("worker with a torn key", "training.fleet.worker", *arguments).returncode != 0
    one.run("renewal with a torn key", "training.fleet.renewal", "--credentials", str(broken))
    torn_ca = one.folder / "torn-ca"
    torn_ca.mkdir(mode=0o700)
    for path in one.pki.ca.iterdir():
        (torn_ca / path.name).write_bytes(path.read_bytes())
        (torn_ca / path.name).chmod(0o600)
    key = (torn_ca / "clients-key.pem").read_text()
    (torn_ca / "clients-key.pem").write_text(key.replace("-----END PRIVATE KEY-----", ""))
    refused = one.run(
        "receiver with a torn key", "training.fleet.receiver", "--listen-addr", f"unix:{one.folder / 'n.sock'}",
        "--manifest", str(one.folder / "manifest.toml"), "--db", str(one.folder / "db" / "other.db"), "--store-root",
        str(one.folder / "m2"), "--incoming-root", str(one.folder / "i2"), "--index-path",
        str(one.folder / "m2/index.jsonl"), "--worker-auth", "mtls", "--ca-dir", str(torn_ca),
    )  # fmt: skip
    assert refused.returncode == 78


ALL = (
    "operator token", "former operator token", "mistyped operator token", "key of the clients' authority",
    "signing key", "root key", "key of the servers' authority", "backup passphrase", "operator's key", "join token",
    "secret of the join token", "host's key", "token of the lease",
)  # fmt: skip


@pytest.mark.parametrize("secret", ALL)
def test_a_secret_shows_in_no_argument_environment_log_answer_or_message(scene: Scene, secret: str) -> None:
    # Set by the test itself, to see that neither guard nor trainer inherits it.
    mine = {
        "mistyped operator token": {"cis490-jobs requeue: environment", "while a trainer runs: environments"},
        "former operator token": {"cis490-jobs requeue: environment", "while a trainer runs: environments"},
    }.get(secret, set())
    assert set(scene.seen.places_with(scene.secrets[secret])) - mine == set()


def test_every_kind_of_place_was_searched(scene: Scene) -> None:
    """Else the tests above would find nothing because there was nothing."""
    found = scene.seen.found
    assert b"training.fleet.worker" in found["while a trainer runs: arguments"]
    assert b"printing_trainer" in found["while a trainer runs: arguments"]
    assert b"guard_main" in found["while a trainer runs: arguments"]
    assert b"training.fleet.join" in found["join: arguments"]
    assert b"PATH=" in found["join: environment"]
    assert b"CIS490_TEST_SAY=" in found["environment of guard and trainer"]
    assert b"job.completed" in found["log: receiver.log"]
    assert b"worker." in found["log: worker.log"]
    assert b'"level":"info"' in found["log of Caddy"]
    assert b"used" in found["join with a used token: standard error"]


def test_the_search_finds_what_is_there(scene: Scene) -> None:
    """Every form of every secret, put into a place, is seen."""
    for secret, forms in scene.secrets.items():
        for form in forms:
            place = Searched()
            place.add("log", b"before " + form + b" after")
            assert place.places_with(scene.secrets[secret]) == ["log"]


@pytest.mark.parametrize("token", [WRONG_TOKEN, FORMER_TOKEN])
def test_the_operators_token_of_a_shell_does_not_reach_the_trainer(scene: Scene, token: str) -> None:
    assert forms_of(token)[0] not in scene.seen.found["environment of guard and trainer"]


class TestTheDatabase:
    @pytest.fixture
    def content(self, scene: Scene) -> bytes:
        return b"".join(path.read_bytes() for path in (scene.folder / "db").iterdir() if path.is_file())

    @pytest.mark.parametrize("secret", [one for one in ALL if one != "token of the lease"])
    def test_it_holds_no_secret(self, scene: Scene, content: bytes, secret: str) -> None:
        assert [form for form in scene.secrets[secret] if form in content] == []

    def test_of_a_join_token_it_holds_the_hash(self, scene: Scene, content: bytes) -> None:
        secret = scene.secrets["secret of the join token"][0]
        raw = base64.urlsafe_b64decode(secret + b"=" * (-len(secret) % 4))
        assert any(sha256(one).hexdigest().encode() in content for one in (secret, raw))

    def test_others_may_not_read_it(self, scene: Scene) -> None:
        """It has the tokens of leases in the clear: a repeated claim is answered with the one it had."""
        assert [
            oct(_mode(path))
            for path in (scene.folder / "db").glob("queue.db*")
            if path.suffix != ".lock" and _mode(path) & 0o077
        ] == []


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_with_secrets_are_their_owners_alone(scene: Scene) -> None:
    """Whatever the umask of whoever made them."""
    assert _mode(scene.worker_folder) == 0o700
    assert _mode(scene.worker_folder / credentials.IDENTITY) == 0o600
    assert _mode(scene.state / "leases") == 0o700


def test_artifacts_and_their_index_hold_no_secret(scene: Scene) -> None:
    places = Searched()
    for path in (scene.folder / "models").rglob("*"):
        if path.is_file():
            places.add(path.name, path.read_bytes())
    assert places.found
    assert {
        name: places.places_with(forms) for name, forms in scene.secrets.items() if places.places_with(forms)
    } == {}


UNITS = [*sorted((ROOT / "etc").glob("*.service")), *sorted((ROOT / "etc").glob("*.timer"))]
SECRET_WORDS = re.compile(
    r"(?im)^\s*(Environment|ExecStart\w*)=.*(token=|secret|password|PRIVATE KEY|cis490-join-)"
)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_no_unit_has_a_secret_in_its_text(unit: Path) -> None:
    assert SECRET_WORDS.findall(unit.read_text(encoding="utf-8")) == []


def test_the_receivers_unit_hands_its_secrets_over_as_credentials() -> None:
    text = (ROOT / "etc" / "cis490-trainer-receiver.service").read_text(encoding="utf-8")
    assert re.search(r"(?m)^LoadCredential=operator-token:", text)
