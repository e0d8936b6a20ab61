"""A Windows worker against a receiver of this machine: Windows' CPython under Wine, a real Caddy, real certificates."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cis490.episodes.dataset import pack
from tests.factories.episodes import write_dataset
from tests.factories.fleet_pki import key_of, leaf_of
from tests.factories.live_receiver import TOKEN, Answer
from tests.factories.proxied_fleet import ProxiedFleet, proxied_fleet
from tests.platforms import wine as wines
from tests.platforms.stand_in_trainer import ORDERS, STEPS
from tests.platforms.wine import Wine, until, windows_path
from training.fleet import join_token
from training.fleet.bundle import extract

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.skipif(wines.why_not() is not None, reason=str(wines.why_not())),
]

MODULES = ("--trainer-module", "tests.platforms.stand_in_trainer")
JOBS = "".join(
    f'[[jobs]]\nname = "{name}"\nmodel = "{model}"\nmode = "{mode}"\nallowed_hosts = ["{host}"]\n'
    for name, model, mode, host in (
        ("first", "gbt", "realistic", "win-a"),
        ("second", "mlp", "oracle", "win-a"),
        ("killed-worker", "gbt", "oracle", "win-b"),
        ("killed-guard", "mlp", "realistic", "win-c"),
    )
)
HOSTS = "".join(f'[[hosts]]\nname = "win-{letter}"\n' for letter in "abcdef")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedFleet]:
    folder = tmp_path_factory.mktemp("fleet")
    write_dataset(folder / "episodes")
    dataset = pack(folder / "episodes", folder / "data.tar.zst")
    head = f'name = "windows"\n[dataset]\nid = "{dataset}"\nfile = "data.tar.zst"\n'
    with proxied_fleet(folder, head + HOSTS + JOBS, build="wheel") as running:
        assert operator(running, "POST", "/v1/manifest/reload").status == 200
        yield running


@pytest.fixture
def wine(tmp_path: Path) -> Iterator[Wine]:
    """With a package that is called numpy, since the real one ends the process under Wine; nothing here uses it."""
    (tmp_path / "modules" / "numpy").mkdir(parents=True)
    (tmp_path / "modules" / "numpy" / "__init__.py").write_text("raise ImportError('not under Wine')\n")
    with Wine(tmp_path, [tmp_path / "modules"]) as running:
        yield running


def operator(fleet: ProxiedFleet, method: str, path: str, body: object = None) -> Answer:
    ada = fleet.pki.folder / "ada"
    if not ada.exists():
        fleet.pki.operator("ada", into=ada)
    return fleet.send(ada, method, path, body, {"X-Operator-Token": TOKEN}, site="operators")


def token_for(fleet: ProxiedFleet, name: str) -> str:
    made = operator(fleet, "POST", f"/v1/identity/host/{name}/token")
    assert made.status == 200, made
    return str(made.body["token"])


def job(fleet: ProxiedFleet, name: str) -> dict[str, Any]:
    jobs: list[dict[str, Any]] = operator(fleet, "GET", "/v1/jobs").body["jobs"]
    return next(one for one in jobs if one["name"] == name)


def test_a_windows_machine_joins_with_a_token_trains_and_delivers(
    fleet: ProxiedFleet, wine: Wine, tmp_path: Path, record_property: Any
) -> None:
    state, credentials = tmp_path / "state", tmp_path / "state" / "credentials"
    credentials.mkdir(parents=True)  # as the installer makes it
    places = ("--state-dir", windows_path(state), "--credentials", windows_path(credentials))
    token, began_s = token_for(fleet, "win-a"), time.monotonic()

    checked = wine.python("-m", "training.fleet.join", "--check", *places, *MODULES, stdin=token + "\r\n")
    assert checked.code == 0, checked
    assert "this machine can join" in checked.out
    assert "models: gbt, mlp" in checked.out
    assert list(credentials.iterdir()) == []

    joined = wine.python("-m", "training.fleet.join", *places, *MODULES, stdin="\ufeff" + token + "\r\n")
    assert joined.code == 0, joined
    assert leaf_of(credentials).public_key() == key_of(credentials).public_key()

    again = wine.python("-m", "training.fleet.join", *places, *MODULES, stdin=token)
    assert again.code == 0, again
    assert "nothing to do" in again.out

    log = state / "worker.log"
    worker = wine.start(
        "-m", "training.fleet.worker", *places, *MODULES, "--poll-s", "0.1", "--log-file", windows_path(log)
    )
    seen = wine.python("-m", "training.fleet.join", "--wait-seen", "60", *places)
    assert seen.code == 0, (seen, log.read_text("utf-8"))
    took_s = time.monotonic() - began_s
    for _ in until():
        if {job(fleet, name)["status"] for name in ("first", "second")} == {"completed"}:
            break
        assert worker.poll() is None, log.read_text("utf-8")
    record_property("join_to_first_heartbeat_s", round(took_s, 1))
    print(f"from the first line to the first heartbeat: {took_s:.1f} s")

    done = job(fleet, "first")
    assert done["claimed_by"] == "win-a"
    bundle = fleet.receiver.store_root / "gbt_realistic" / done["artifact_id"] / "bundle.tar.zst"
    extract(bundle, tmp_path / "out")
    model = json.loads((tmp_path / "out" / "model.json").read_text("utf-8"))
    assert model["files"] > 10
    assert model["weight"] > 0
    told = operator(fleet, "GET", f"/v1/job/{done['job_id']}/progress").body
    assert f'"step": {STEPS}' in json.dumps(told)
    assert "event=job.completed job=first" in log.read_text("utf-8")
    left = wine.python("-m", "training.fleet.join", "--may-leave", *places)
    assert left.code == 0, left


@pytest.mark.parametrize("ago", [timedelta(days=-18), timedelta(days=5)], ids=["day 12 of 30", "5 days late"])
def test_a_certificate_is_renewed_with_a_new_key(
    fleet: ProxiedFleet, wine: Wine, tmp_path: Path, ago: timedelta
) -> None:
    is_late = ago > timedelta(0)
    folder = (
        fleet.pki.host("win-d", expired=ago, into=tmp_path / "credentials")
        if is_late
        else fleet.pki.host("win-d", age=timedelta(days=12), into=tmp_path / "credentials")
    )
    before, old_key = leaf_of(folder), key_of(folder).private_numbers()
    renewed = wine.python("-m", "training.fleet.renewal", "--credentials", windows_path(folder))
    assert renewed.code == 0, renewed
    after = leaf_of(folder)
    assert after.serial_number != before.serial_number
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert key_of(folder).private_numbers() != old_key
    assert after.public_key() == key_of(folder).public_key()
    assert fleet.send(folder, "GET", "/v1/workers").status == 200


def test_a_token_for_another_lab_is_refused_before_its_secret_is_sent(
    fleet: ProxiedFleet, wine: Wine, tmp_path: Path
) -> None:
    right = join_token.parse(token_for(fleet, "win-e"))
    fields = {name: getattr(right, name) for name in right.__slots__} | {"root_sha256": "0" * 64}
    places = ("--state-dir", windows_path(tmp_path), "--credentials", windows_path(tmp_path / "credentials"))
    refused = wine.python(
        "-m", "training.fleet.join", *places, *MODULES, stdin=join_token.JoinToken(**fields).encode()
    )
    assert refused.code == 1, refused
    assert "cis490-jobs hosts add win-e" in refused.err
    assert not (tmp_path / "credentials" / "identity.pem").exists()


def test_a_revoked_worker_is_told_so_in_its_log(fleet: ProxiedFleet, wine: Wine, tmp_path: Path) -> None:
    folder, log = fleet.pki.host("win-f", into=tmp_path / "credentials"), tmp_path / "worker.log"
    assert operator(fleet, "POST", "/v1/identity/host/win-f/revoke", {"reason": "sold"}).status == 200
    wine.start(
        "-m", "training.fleet.worker", "--credentials", windows_path(folder), "--state-dir",
        windows_path(tmp_path / "state"), *MODULES, "--log-file", windows_path(log),
    )  # fmt: skip
    said = ""
    for _ in until():
        if log.exists() and "worker.claim_failing" in (said := log.read_text("utf-8")):
            break
    assert "revoked" in said


@pytest.mark.parametrize(
    ("host", "victim"), [("win-b", "training.fleet.worker"), ("win-c", "training.fleet.guard_main")]
)
def test_whoever_of_worker_and_guard_is_killed_takes_the_trainer_and_its_children_along(
    fleet: ProxiedFleet, wine: Wine, tmp_path: Path, host: str, victim: str
) -> None:
    folder, orders = fleet.pki.host(host, into=tmp_path / "credentials"), tmp_path / "orders.json"
    files = {name: windows_path(tmp_path / name) for name in ("pid", "grandchild", "wait_for")}
    orders.write_text(json.dumps(files), encoding="utf-8")
    log = tmp_path / "worker.log"
    wine.start(
        "-m", "training.fleet.worker", "--credentials", windows_path(folder), "--state-dir",
        windows_path(tmp_path / "state"), *MODULES, "--poll-s", "60", "--once", "--log-file", windows_path(log),
        env={ORDERS: windows_path(orders)},
    )  # fmt: skip
    for _ in until():
        if (tmp_path / "pid").exists():
            break
    trainer = wine.processes("stand_in_trainer", "--spec")
    child = wine.processes("time.sleep(600)")
    assert trainer
    assert child
    (doomed,) = wine.processes(victim)
    wine.kill(doomed)
    for _ in until():
        running = wine.processes()
        if not (trainer.keys() | child.keys()) & running.keys():
            break
    assert not (tmp_path / "wait_for").exists()


def test_the_job_object_holds_what_is_promised(wine: Wine) -> None:
    """`on_windows.py`: tests that call Windows, so Windows' Python runs them."""
    tested = wine.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/platforms/on_windows.py")
    assert tested.code == 0, tested.out
    assert "6 passed" in tested.out


UNITS = (
    "capability",
    "certificate_dates",
    "checkpoint_folders",
    "credentials",
    "guard_rules",
    "host_class",
    "identity",
    "joining",
    "locks",
    "log_feed",
    "logs",
    "progress",
    "renewal",
    "reports",
    "segments",
    "self_test",
    "tls_words",
    "upload_progress",
    "worker_credentials",
)
KNOWN = (
    # Written for one line end, for a program that Wine starts, or for a path that Windows cannot have.
    "test_a_killed_holder_leaves_no_lock",
    "test_a_program_that_is_not_there_is_an_answer_too",
    "test_the_last_words_come_before_the_failure_is_told",
    "test_the_machines_come_before_the_users",
)


def test_the_workers_own_tests_pass_there(wine: Wine, record_property: Any) -> None:
    files = [f"tests/unit/test_{name}.py" for name in UNITS]
    files = [name for name in files if (wines.ROOT / name).exists()]
    skipped = ["-k", " and ".join(f"not {name}" for name in KNOWN)]
    tested = wine.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *skipped, *files)
    assert tested.code == 0, tested.out[-6000:]
    record_property("passed_under_wine", tested.out.strip().splitlines()[-1])
    print(tested.out.strip().splitlines()[-1])
