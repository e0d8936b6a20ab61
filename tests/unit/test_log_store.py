"""The receiver's logs: bounded for each attempt and in all, whole characters, points that are thinned."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cis490.clock import ManualClock
from tests.factories.fleet import job_id
from training.fleet.log_store import POINTS_BYTES, LogStore, WrongOffset

A, B = (job_id("a"), 1), (job_id("b"), 4)
MIB = 1024 * 1024


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> LogStore:
    return LogStore(tmp_path / "logs", clock.wall_s)


def text(store: LogStore, key: tuple[str, int] = A) -> str:
    return store.read(key, 0, 2 * MIB).data.decode()


class TestText:
    def test_appends_follow_each_other(self, store: LogStore) -> None:
        assert store.append(A, 0, b"one\n") == 4
        assert store.append(A, 4, b"two\n") == 8
        assert text(store) == "one\ntwo\n"

    @pytest.mark.parametrize("offset", [0, 3, 5, 10**12])
    def test_an_append_elsewhere_is_refused_with_the_right_offset(self, store: LogStore, offset: int) -> None:
        store.append(A, 0, b"one\n")
        with pytest.raises(WrongOffset) as refused:
            store.append(A, offset, b"two\n")
        assert refused.value.expected == 4
        assert text(store) == "one\n"

    def test_attempts_do_not_mix(self, store: LogStore) -> None:
        store.append(A, 0, b"a")
        store.append((A[0], 2), 0, b"second")
        assert text(store) == "a"
        assert store.epochs(A[0]) == [1, 2]

    def test_a_log_goes_on_after_a_restart(self, store: LogStore, clock: ManualClock) -> None:
        store.append(A, 0, b"one\n")
        again = LogStore(store.root, clock.wall_s)
        assert again.append(A, 4, b"two\n") == 8
        assert text(again) == "one\ntwo\n"

    def test_an_attempt_keeps_its_last_mebibyte(self, store: LogStore) -> None:
        block, at = b"x" * 99_999 + b"\n", 0
        for _ in range(30):
            at = store.append(A, at, block)
        piece = store.read(A, 0, 2 * MIB)
        assert piece.end_offset == 3_000_000
        assert 700_000 < len(piece.data) <= MIB
        assert store.size_bytes() <= MIB
        assert sum(path.stat().st_size for path in store.root.rglob("*.log")) == store.size_bytes()

    def test_a_read_never_splits_a_character(self, store: LogStore) -> None:
        store.append(A, 0, "aé漢🙂z".encode())
        for offset in range(11):
            for limit in range(4, 12):
                assert "\ufffd" not in store.read(A, offset, limit).data.decode("utf-8", "replace")

    @settings(max_examples=50, deadline=None)
    @given(said=st.text(max_size=40), limit=st.integers(4, 9))
    def test_pages_make_up_the_whole(
        self, tmp_path_factory: pytest.TempPathFactory, said: str, limit: int
    ) -> None:
        store = LogStore(tmp_path_factory.mktemp("logs"), ManualClock().wall_s)
        store.append(A, 0, said.encode("utf-8", "replace"))
        parts, at = "", 0
        while (piece := store.read(A, at, limit)).data:
            parts += piece.data.decode()
            at = piece.offset + len(piece.data)
        assert parts == said.encode("utf-8", "replace").decode()

    def test_a_job_id_cannot_lead_out_of_the_folder(self, store: LogStore) -> None:
        with pytest.raises(ValueError, match="cannot be a folder's name"):
            store.append(("../../etc", 1), 0, b"x")


class TestBounds:
    def test_the_oldest_attempts_go_first(self, tmp_path: Path, clock: ManualClock) -> None:
        store = LogStore(tmp_path, clock.wall_s, total_bytes=1000)
        keys = [(job_id(str(number)), 1) for number in range(5)]
        for key in keys:
            clock.advance(1.0)
            store.append(key, 0, b"x" * 300)
        assert store.size_bytes() <= 1000
        assert [len(text(store, key)) for key in keys] == [0, 0, 300, 300, 300]
        assert not (tmp_path / keys[0][0]).exists()

    def test_the_bound_holds_for_what_an_earlier_receiver_left(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        LogStore(tmp_path, clock.wall_s).append(A, 0, b"x" * 900)
        store = LogStore(tmp_path, clock.wall_s, total_bytes=1000)
        store.append(B, 0, b"x" * 300)
        assert (len(text(store, A)), len(text(store, B))) == (0, 300)

    def test_expiry_drops_what_is_old_and_not_to_be_kept(self, store: LogStore, clock: ManualClock) -> None:
        store.append(A, 0, b"x" * 10)
        store.append(B, 0, b"x" * 20)
        clock.advance(1000.0)
        new = (job_id("new"), 1)
        store.append(new, 0, b"x")
        before = clock.wall_s() - 500

        def keep(job: str, epoch: int) -> bool:
            return (job, epoch) == B

        assert store.expire(before, keep, dry_run=True) == (1, 10)
        assert text(store, A) != ""
        assert store.expire(before, keep) == (1, 10)
        assert [text(store, key) != "" for key in (A, B, new)] == [False, True, True]
        assert store.expire(before, keep) == (0, 0)
        assert store.size_bytes() == 21

    def test_a_failing_disk_leaves_the_log_as_it_was(
        self, store: LogStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.append(A, 0, b"one\n")
        folder = store.root / A[0] / "1"
        target = folder / "0000000000000000.log"
        kept = target.read_bytes()
        target.unlink()
        target.mkdir()  # opening it for writing fails
        with pytest.raises(OSError, match="directory"):
            store.append(A, 4, b"two\n")
        target.rmdir()
        target.write_bytes(kept)
        assert store.append(A, 4, b"two\n") == 8
        assert text(store) == "one\ntwo\n"


class TestPoints:
    def test_points_and_the_latest_peak_come_back(self, store: LogStore, clock: ManualClock) -> None:
        store.add_points(A, [{"step": 1}, {"step": 2}, {"peak": {"job_rss_gib": 1.0}}])
        store.add_points(A, [{"step": 3}, {"peak": {"job_rss_gib": 2.0}}])
        again = LogStore(store.root, clock.wall_s)
        assert again.points(A) == ([{"step": 1}, {"step": 2}, {"step": 3}], {"job_rss_gib": 2.0})

    def test_an_attempt_without_points_has_none(self, store: LogStore) -> None:
        assert store.points(A) == ([], {})

    def test_a_line_that_was_cut_short_costs_itself_alone(self, store: LogStore) -> None:
        store.add_points(A, [{"step": 1}])
        with (store.root / A[0] / "1/points.jsonl").open("ab") as file:
            file.write(b'{"step": 2, "lo')
        store.add_points(A, [{"step": 3}])
        assert [row["step"] for row in store.points(A)[0]] == [1, 3]

    def test_very_many_are_thinned_and_the_first_and_the_last_stay(self, store: LogStore) -> None:
        for start in range(0, 20_000, 250):
            rows = [
                {"step": step, "metric": {"validation_loss": 0.123456}} for step in range(start, start + 250)
            ]
            store.add_points(A, [*rows, {"peak": {"job_rss_gib": float(start)}}])
        points, peak = store.points(A)
        assert (points[0]["step"], points[-1]["step"]) == (0, 19_999)
        steps = [row["step"] for row in points]
        assert steps == sorted(set(steps))
        assert store.size_bytes() <= POINTS_BYTES
        assert peak == {"job_rss_gib": 19_750.0}
        assert (store.root / A[0] / "1/points.jsonl").stat().st_size == store.size_bytes()
