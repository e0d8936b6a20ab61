"""Every workload stays inside its bounds; the sandbox refuses what lies outside."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from collection import sandbox
from collection.profiles import BENIGN, PROFILES, STAND_INS, Profile
from collection.sandbox import BudgetSpent, Limits, Sandbox, SandboxError, make_folder, remove_folder
from collection.workload import WorkloadSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workloads are recorded on Linux only")

ROOT = Path(__file__).parents[2]
DURATION_S = 0.5
Change = Callable[[], object]

WATCHED = r"""
import os, sys
allowed = os.path.realpath(sys.argv[1]) + os.sep
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
def outside(path):
    return not (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(allowed)
def watch(event, args):
    bad = False
    if event == "open" and not isinstance(args[0], int):
        bad = bool(args[2] & writing) and outside(args[0])
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "shutil.rmtree"):
        bad = outside(args[0])
    elif event in ("os.rename", "os.link", "os.symlink"):
        bad = True
    elif event == "sqlite3.connect":
        bad = outside(args[0])
    elif event in ("socket.connect", "socket.bind"):
        bad = args[1][0] != "127.0.0.1"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        bad = args[0] != "127.0.0.1"
    elif event == "os.posix_spawn":
        bad = args[0] != sys.executable
    elif event in ("subprocess.Popen", "os.exec", "os.system", "socket.sendto", "os.kill", "os.killpg"):
        bad = event != "os.kill" or args[0] <= 1
    if bad:
        os.write(2, f"FORBIDDEN {event} {args!r}\n".encode())
        os._exit(3)
import runpy
import collection.workload
sys.addaudithook(watch)
sys.argv = ["workload"]
runpy.run_path(collection.workload.__file__, run_name="__main__")
"""
"""Runs the workload with an audit hook: a write, connection or program outside its bounds ends it with status 3."""


@dataclass(frozen=True)
class Outcome:
    status: int
    errors: str
    answer: str
    late_s: float
    left_behind: list[str]


def tiny(profile: Profile) -> dict[str, int]:
    """The fastest and smallest variant of a profile."""
    small = {name: high if name == "rate_kib_s" else low for name, (low, high) in profile.ranges.items()}
    return small | ({"file_count": 2} if "file_count" in small else {})


def start(profile: Profile, home: Path) -> subprocess.Popen[str]:
    spec = WorkloadSpec(
        profile=profile.name,
        parameters=tiny(profile),
        background="interactive",
        background_parameters=tiny(PROFILES["interactive"]),
        baseline_ms=50,
        onset_ms=50,
        seed=1,
        duration_s=DURATION_S,
        scratch=str(home / "scratch"),
    )
    (home / "scratch").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(home / "scratch")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(home), "TMPDIR": str(home)},
    )
    assert process.stdin is not None
    print(spec.to_json(), file=process.stdin, flush=True)
    return process


def go(process: subprocess.Popen[str]) -> None:
    """Wait until the workload is ready (or has failed) and start it."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() == "ready\n":
        print(repr(time.monotonic()), file=process.stdin, flush=True)


def finish(process: subprocess.Popen[str], home: Path, begin: float) -> Outcome:
    answer, errors = process.communicate(timeout=20)
    late_s = time.monotonic() - begin - DURATION_S
    left = [str(path) for path in home.rglob("*") if path != home / "scratch"]
    return Outcome(process.returncode, errors, answer, late_s, left)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Each profile, run for a moment; four at a time, because most of that time is Python starting."""
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        pytest.skip("workloads refuse to run niced")
    found: dict[str, Outcome] = {}
    names = list(PROFILES)
    for batch in (names[n : n + 4] for n in range(0, len(names), 4)):
        homes = {name: tmp_path_factory.mktemp(name) for name in batch}
        running = {name: start(PROFILES[name], home) for name, home in homes.items()}
        for process in running.values():
            go(process)
        begin = time.monotonic()
        found |= {name: finish(process, homes[name], begin) for name, process in running.items()}
    return found


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_stays_inside_its_bounds_and_leaves_nothing(
    outcomes: dict[str, Outcome], name: str
) -> None:
    outcome = outcomes[name]
    assert outcome.errors == ""
    assert outcome.status == 0
    assert json.loads(outcome.answer)["onset_us"] >= 50_000
    assert outcome.left_behind == []


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_profile_ends_in_time(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].late_s < 3


def test_the_watch_of_these_tests_sees_a_forbidden_write(tmp_path: Path) -> None:
    """Guards the tests above, which would pass with a watch that sees nothing."""
    code = WATCHED.replace('sys.argv = ["workload"]', 'open("outside.txt", "w")')
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "allowed")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "FORBIDDEN open" in done.stderr
    assert not (tmp_path / "outside.txt").exists()


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def box_in(folder: Path, clock: Clock | None = None, **limits: int) -> Sandbox:
    clock = clock or Clock()
    bounds = {"write_bytes": 1000, "children": 1, "starts": 2} | limits
    return Sandbox(folder, Limits(**bounds, wall_s=10.0), clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".", "..", sandbox.MARKER, "a\0b", "x" * 65]
)
def test_a_path_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    box = box_in(folder)
    changes: list[Change] = [
        lambda: box.write(name, b"x"),
        lambda: box.delete(name),
        lambda: box.read(name, 0, 1),
    ]
    for change in changes:
        with pytest.raises(SandboxError, match="plain names only"):
            change()


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"keep")
    (folder / "link").symlink_to(tmp_path / "precious")
    changes: list[Change] = [
        lambda: box_in(folder).write("link", b"x"),
        lambda: box_in(folder).delete("link"),
    ]
    for change in changes:
        with pytest.raises(SandboxError, match="is a link"):
            change()
    assert (tmp_path / "precious").read_bytes() == b"keep"


def test_a_folder_that_we_did_not_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"keep")
    with pytest.raises(SandboxError, match="not made by the recorder"):
        box_in(tmp_path)
    with pytest.raises(SandboxError, match="not made by the recorder"):
        remove_folder(tmp_path)
    assert (tmp_path / "precious").exists()


def test_without_its_marker_nothing_is_changed_any_more(folder: Path) -> None:
    box = box_in(folder)
    box.write("file", b"x")
    (folder / sandbox.MARKER).unlink()
    changes: list[Change] = [
        lambda: box.write("file", b"y"),
        lambda: box.delete("file"),
        lambda: remove_folder(folder),
    ]
    for change in changes:
        with pytest.raises(SandboxError, match="not made by the recorder"):
            change()
    assert (folder / "file").read_bytes() == b"x"


def test_removing_stops_at_what_a_workload_cannot_have_made(folder: Path) -> None:
    (folder / "sub").mkdir()
    with pytest.raises(SandboxError, match="delete it by hand"):
        remove_folder(folder)
    assert (folder / "sub").exists()


def test_the_byte_budget_ends_writing(folder: Path) -> None:
    box = box_in(folder, write_bytes=10)
    box.write("file", b"12345678")
    with pytest.raises(BudgetSpent, match="wrote 8 bytes of 10"):
        box.write("file", b"123")
    assert (folder / "file").stat().st_size == 8


def test_the_process_budget_ends_starting(folder: Path) -> None:
    box = box_in(folder, starts=2)
    box.run_short(1, wait=True)
    box.run_short(1, wait=True)
    with pytest.raises(BudgetSpent, match="started 2 processes of 2"):
        box.run_short(1, wait=True)


def test_more_children_at_once_than_allowed_are_not_started(folder: Path) -> None:
    box = box_in(folder, children=1, starts=9)
    box._children.add(
        os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(30)"], {})
    )
    with pytest.raises(BudgetSpent):
        box.run_short(1, wait=False)
    box.close()
    assert not box._children


def test_no_wait_goes_past_the_deadline(folder: Path) -> None:
    clock = Clock()
    box = box_in(folder, clock)
    box.pause(1e9)
    assert clock.now == 110.0
    assert not box.running


def test_the_onset_runs_at_half_the_pace(folder: Path) -> None:
    clock = Clock()
    box = box_in(folder, clock)
    box.ramp(1.5)
    box.pause(1.0)
    assert clock.now == 102.0
    box.pause(1.0)
    assert clock.now == 103.0


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "0.0.0.0", "192.168.1.1", "::1", "localhost", "127.0.0.2", ""]
)
def test_an_address_other_than_loopback_is_refused(folder: Path, address: str) -> None:
    box = box_in(folder)
    with pytest.raises(SandboxError, match=r"only use 127\.0\.0\.1"):
        box.connect(9, address)
    with pytest.raises(SandboxError, match=r"only use 127\.0\.0\.1"):
        box.listen(address)


def test_our_own_server_can_be_reached(folder: Path) -> None:
    with box_in(folder).listen() as listener:
        connection = box_in(folder).connect(listener.getsockname()[1])
        assert isinstance(connection, socket.socket)
        connection.close()


def test_ranges_of_shared_parameters_overlap_between_the_labels() -> None:
    """Otherwise one parameter would give the label away."""
    for stand_in in STAND_INS:
        for name, (low, high) in stand_in.ranges.items():
            others = [profile.ranges[name] for profile in BENIGN if name in profile.ranges]
            assert not others or any(low < other[1] and other[0] < high for other in others), (
                stand_in.name,
                name,
            )


def test_profiles_are_named_once_and_families_have_one_label() -> None:
    assert len(PROFILES) == len(BENIGN) + len(STAND_INS)
    assert not {p.family for p in BENIGN} & {p.family for p in STAND_INS}
    assert {p.label for p in BENIGN} == {"benign"}
    assert {p.label for p in STAND_INS} == {"suspicious"}
