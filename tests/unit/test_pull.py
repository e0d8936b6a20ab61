"""`cis490-jobs pull`: real bundles, served by a receiver of canned answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.digest import sha256_file
from tests.factories.command import run
from tests.factories.fake_api import FakeApi, job
from training.fleet import exits
from training.fleet.bundle import pack
from training.fleet.naming import artifact_of
from training.fleet.pull import headline


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi(job("gbt-oracle", status="running"), job("mlp-realistic", status="completed")) as fake:
        yield fake


@pytest.fixture
def artifact(api: FakeApi, tmp_path: Path) -> str:
    """A real bundle, served as the artifact of mlp-realistic."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"schema": 1, "test": {"roc_auc": 0.94, "deep": {"x": 1}}}')
    (folder / "model.txt").write_text("weights")
    digest = pack(folder, tmp_path / "bundle.tar.zst").sha256
    api.artifacts[digest] = (tmp_path / "bundle.tar.zst").read_bytes()
    api.jobs[1]["artifact_id"] = digest
    return digest


class TestPull:
    def test_it_verifies_unpacks_and_prints_files_and_metrics(
        self, api: FakeApi, artifact: str, tmp_path: Path
    ) -> None:
        done = run(api, "pull", "mlp-realistic", "--out", str(tmp_path / "got"))
        assert (tmp_path / "got/model.txt").read_text() == "weights"
        assert done.code == exits.OK
        assert "roc_auc  0.94" in done.out
        assert "model.txt" in done.out

    @pytest.mark.parametrize("length", [64, 8])
    def test_an_artifact_may_be_named_by_its_digest_or_a_prefix(
        self, api: FakeApi, artifact: str, tmp_path: Path, length: int
    ) -> None:
        done = run(api, "pull", artifact[:length], "--out", str(tmp_path / "got"), "--json")
        assert done.json["artifact_id"] == artifact
        assert done.json["files"] == {"metrics.json": 58, "model.txt": 7}

    def test_an_artifact_that_no_job_names_any_more_can_be_fetched_by_its_digest(
        self, api: FakeApi, artifact: str, tmp_path: Path
    ) -> None:
        api.jobs.clear()
        assert run(api, "pull", artifact, "--out", str(tmp_path / "got")).code == exits.OK

    def test_without_out_the_folder_is_named_after_job_and_digest(
        self, api: FakeApi, artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run(api, "pull", "mlp-realistic")
        assert (tmp_path / f"mlp-realistic-{artifact[:12]}/model.txt").exists()

    def test_wrong_bytes_leave_nothing_behind(self, api: FakeApi, artifact: str, tmp_path: Path) -> None:
        api.artifacts[artifact] = b"not this"
        done = run(api, "pull", "mlp-realistic", "--out", str(tmp_path / "there/got"))
        assert done.code == exits.REFUSED
        assert "nothing was kept" in done.err
        assert list((tmp_path / "there").iterdir()) == []

    def test_an_archive_that_is_none_is_refused_with_the_reason(self, api: FakeApi, tmp_path: Path) -> None:
        (tmp_path / "junk").write_bytes(b"junk")
        digest = sha256_file(tmp_path / "junk")
        api.artifacts[digest] = b"junk"
        done = run(api, "pull", digest, "--out", str(tmp_path / "got"))
        assert done.code == exits.REFUSED
        assert "cannot be unpacked" in done.err
        assert not (tmp_path / "got").exists()

    def test_a_folder_in_use_is_left_alone(self, api: FakeApi, artifact: str, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("precious")
        done = run(api, "pull", "mlp-realistic", "--out", str(tmp_path))
        assert done.code == exits.REFUSED
        assert "--out ANOTHER_FOLDER" in done.err
        assert (tmp_path / "mine").read_text() == "precious"

    def test_a_jobs_name_never_leads_out_of_the_folder(self, api: FakeApi, artifact: str) -> None:
        api.jobs[1]["name"] = "../../elsewhere"
        assert artifact_of(api.jobs, artifact) == (artifact, "artifact")

    def test_a_job_without_an_artifact_says_so(self, api: FakeApi) -> None:
        done = run(api, "pull", "gbt-oracle")
        assert done.code == exits.REFUSED
        assert "gbt-oracle has no artifact yet: it is running" in done.err

    def test_an_artifact_the_store_lacks_is_a_refusal(self, api: FakeApi, tmp_path: Path) -> None:
        assert run(api, "pull", "cd" * 32, "--out", str(tmp_path / "got")).code == exits.REFUSED


class TestMetrics:
    def test_the_figures_of_the_test_side_are_the_headline(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.json"
        path.write_text(
            '{"schema": 1, "test": {"auc": 0.9, "ci": [0.8, 1], "none": null, "deep": {}, "text": "x"}}'
        )
        assert headline(path) == {"auc": 0.9, "ci": [0.8, 1], "none": None}

    @pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '"x"'])
    def test_a_file_that_is_none_gives_no_figures(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "metrics.json").write_text(text)
        assert headline(tmp_path / "metrics.json") == {}
