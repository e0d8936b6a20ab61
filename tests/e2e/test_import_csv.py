"""The importer's command line, from a folder of CSV files to a trained model; and all or nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cis490.episodes.dataset import pack, unpack, verify_folder
from tests.factories.csv_folder import Importer, changed, description, lab_files, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


def test_the_worked_example_of_the_docs_is_true(importer: Importer, tmp_path: Path) -> None:
    """docs/data.md shows the head of a file, the description, the command and what it prints; then a model trains."""
    csv_head, rules, _, printed = examples()
    files = lab_files()
    assert files["ada/00.csv"].startswith(csv_head)
    archive = tmp_path / "lab.tar.zst"
    done = importer(files, rules, "lab", "--pack", str(archive))
    assert done.code == 0, done.err
    assert done.out.replace(f"{tmp_path}{os.sep}", "") == printed
    assert verify_folder(done.folder, done.dataset_id) == 36
    assert unpack(archive, tmp_path / "copy", done.dataset_id) == 36

    command = [sys.executable, "-m", "training.trainer.run", "--model", "gbt", "--mode", "realistic", "--rounds", "20",
               "--seed", "1", "--data", str(tmp_path / "copy"), "--out", str(tmp_path / "model")]  # fmt: skip
    trained = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert trained.returncode == 0, trained.stderr
    measured = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert measured["test"]["roc_auc"] > 0.9


def examples() -> list[str]:
    """The fenced blocks of the section on one's own data, without the indented or inline ones."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.partition("## Bring your own data\n")[2].partition("\n## ")[0]
    return re.findall(r"```[a-z]+\n(.*?)```\n", section, flags=re.DOTALL)


def test_an_existing_target_is_refused_before_anything_is_read(importer: Importer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = importer({"a.csv": "not read"})
    assert (done.code, done.err) == (
        73,
        f"import_csv: {tmp_path / 'out'}: exists already; delete it or choose another name\n",
    )
    (tmp_path / "out").rmdir()
    (tmp_path / "x.zst").write_text("mine")
    done = importer({"a.csv": table()}, "", "out", "--pack", str(tmp_path / "x.zst"))
    assert done.code == 73
    assert (tmp_path / "x.zst").read_text() == "mine"
    assert not done.folder.exists()


def test_a_target_that_cannot_be_written_is_73(importer: Importer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = importer({"a.csv": table()}, "", "file/out")
    assert done.code == 73
    assert "cannot be created" in done.err


def test_a_pack_that_cannot_be_written_leaves_nothing(importer: Importer, tmp_path: Path) -> None:
    """And it is told before anything is read."""
    done = importer({"a.csv": "not read"}, "", "out", "--pack", str(tmp_path / "none" / "x.zst"))
    assert done.code == 73
    assert "x.zst: cannot be written: there is no folder" in done.err
    assert importer.left_behind() == []


def test_folder_and_archive_of_one_name_are_refused(importer: Importer, tmp_path: Path) -> None:
    done = importer({"a.csv": "not read"}, "", "out", "--pack", str(tmp_path / "x" / ".." / "out"))
    assert done.code == 73
    done = importer({"a.csv": "not read"}, "", "out", "--pack", str(tmp_path / "out"))
    assert (done.code, "--out and --pack are the same" in done.err) == (73, True)
    assert importer.left_behind() == []


def test_a_data_set_too_large_for_an_archive_is_refused_and_leaves_nothing(
    importer: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def for_small_hosts(folder: Path, target: Path) -> str:
        return pack(folder, target, max_total_bytes=500)

    monkeypatch.setattr("collection.importing.folder.pack", for_small_hosts)
    done = importer({"a.csv": table()}, "", "out", "--pack", str(tmp_path / "x.zst"))
    assert done.code == 65
    assert "expected at most 500 in one archive; make several data sets" in done.err
    assert f"{tmp_path / 'out'}: its episodes have" in done.err
    assert "Traceback" not in done.err
    assert importer.left_behind() == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_link_to_a_recording_that_is_not_there_is_not_passed_over(
    importer: Importer, tmp_path: Path
) -> None:
    """As git-annex and DVC leave it where a file was not fetched: a data set without it would be half of one."""
    (tmp_path / "csv-out").mkdir()
    (tmp_path / "csv-out" / "b.csv").symlink_to("elsewhere/b.csv")
    done = importer({"a.csv": table()})
    assert done.code == 66
    assert "b.csv: a link to a file that is not there" in done.err
    assert importer.left_behind() == []


def test_a_target_that_somebody_else_makes_meanwhile_is_left_alone_and_the_archive_goes(
    importer: Importer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed_while_another_came(folder: Path, target: Path) -> str:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("")
        return pack(folder, target)

    monkeypatch.setattr("collection.importing.folder.pack", packed_while_another_came)
    done = importer({"a.csv": table()}, "", "out", "--pack", str(tmp_path / "x.zst"))
    assert done.code == 73
    assert importer.left_behind() == ["out"]
    assert [path.name for path in done.folder.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["csv", "--out", "out"], 64, "--description"),
        (["csv", "--description", "none.toml", "--out", "out"], 66, "none.toml: cannot be read"),
        (["none", "--description", "import.toml", "--out", "out"], 66, "none: no such folder"),
        (
            ["empty", "--description", "import.toml", "--out", "out"],
            66,
            "found no file that matches files.include = '*.csv'",
        ),
        (["csv", "--description", "bad.toml", "--out", "out"], 78, "did you mean 'delimiter'?"),
    ],
)
def test_exit_codes_and_what_they_say(tmp_path: Path, arguments: list[str], code: int, text: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "a.csv").write_text(changed(table(), {}))
    (tmp_path / "import.toml").write_text(description())
    (tmp_path / "bad.toml").write_text(description(files='delimeter = ";"'))
    command = [sys.executable, "-m", "collection.import_csv", *arguments]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.toml", "csv", "empty", "import.toml"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be caught there")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_stop_on_the_way_leaves_nothing(tmp_path: Path, name: str) -> None:
    """SIGHUP is a terminal that was closed, or a connection that broke."""
    (tmp_path / "csv").mkdir()
    fifo = tmp_path / "csv" / "b.csv"
    (tmp_path / "csv" / "a.csv").write_text(changed(table(), {}))
    fifo.write_text("")
    (tmp_path / "import.toml").write_text(description())
    # The second file never ends, so the signal arrives in the middle of the import.
    program = (
        "import signal, sys, time; import collection.importing.folder as folder\n"
        "from collection.import_csv import main\n"
        "def endless(self, advanced):\n    print('reading', flush=True)\n    time.sleep(60)\n    yield\n"
        "one = folder.CsvFile.blocks\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # under nohup it would be ignored
        "folder.CsvFile.blocks = lambda self, done: (endless if self._name == 'b.csv' else one)(self, done)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "csv", "--description", "import.toml", "--out", "out"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        assert len(list(tmp_path.glob(".out.partial-*/lab-a/*.episode"))) == 2
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors == "import_csv: stopped; nothing was imported\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "import.toml"]


def test_a_long_import_tells_how_far_it_is(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000, 7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr("collection.importing.reader.BLOCK_BYTES", 512)
    done = importer({"a.csv": table(seconds=20)})
    assert done.code == 0
    assert any(line.startswith("importing: ") and "rows/s" in line for line in done.err.splitlines())


def test_a_defect_is_told_as_one(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("collection.importing.folder.encoded", broken)
    done = importer({"a.csv": table()})
    assert done.code == 70
    assert done.err.splitlines()[-1] == "import_csv: internal error (RuntimeError: odd); nothing was imported"
    assert importer.left_behind() == []
