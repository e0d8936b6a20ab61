"""Log lines: one record, one line, keys and values, no secrets."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cis490 import logs
from cis490.logs import configure, event, goes_into_a_file

_log = logging.getLogger("cis490.test")


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_an_event_is_one_line_of_keys_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    event(_log, "job.claimed", job_id="abc", took_s=0.25, epoch=3)
    line = capsys.readouterr().err
    assert line.startswith("at=20")
    assert line.endswith("level=info logger=cis490.test event=job.claimed job_id=abc took_s=0.25 epoch=3\n")


@pytest.mark.parametrize(
    "value", ["two words", "", 'quo"te', "a=b", "new\nat=forged", "esc\x1b[31m", "caf\u00e9"]
)
def test_a_value_cannot_break_the_line_or_forge_another(
    capsys: pytest.CaptureFixture[str], value: str
) -> None:
    configure("INFO")
    event(_log, "job.failed", error=value)
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.isascii()
    assert text.rstrip("\n").isprintable()
    assert 'error="' in text


@pytest.mark.parametrize(
    "key", ["lease_token", "operator_token", "password", "Authorization", "client_secret"]
)
def test_a_secret_is_never_written(capsys: pytest.CaptureFixture[str], key: str) -> None:
    configure("INFO")
    fields: dict[str, Any] = {key: "s3cret"}
    event(_log, "job.claimed", **fields)
    assert f"{key}=[hidden]" in (text := capsys.readouterr().err)
    assert "s3cret" not in text


def test_a_plain_message_of_a_library_is_a_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    logging.getLogger("library").warning("took %d tries", 3)
    assert 'level=warning logger=library event=log message="took 3 tries"' in capsys.readouterr().err


def test_an_error_inside_an_except_block_brings_its_indented_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("INFO")
    try:
        raise RuntimeError("line one\nat=forged")
    except RuntimeError:
        event(_log, "reaper.failed", level=logging.ERROR)
    first, *rest = capsys.readouterr().err.splitlines()
    assert "event=reaper.failed" in first
    assert any("RuntimeError: line one" in line for line in rest)
    assert all(line.startswith("  ") for line in rest)


def test_an_error_outside_an_except_block_brings_none(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    event(_log, "reaper.late", level=logging.ERROR)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_events_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning")
    event(_log, "job.claimed")
    event(_log, "job.lapsed", level=logging.WARNING)
    assert [line.split("event=")[1] for line in capsys.readouterr().err.splitlines()] == ["job.lapsed"]


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    configure("INFO")
    event(_log, "job.claimed")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_unknown_level_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'LOUD' is not known; expected one of DEBUG, INFO"):
        configure("LOUD")


def test_a_log_file_takes_everything_and_says_nothing_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", tmp_path / "worker.log")
    assert goes_into_a_file()
    event(_log, "job.claimed", job="caf\u00e9")
    assert 'event=job.claimed job="caf\\u00e9"\n' in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""
    configure("INFO")
    assert not goes_into_a_file()


def test_a_log_file_grows_no_further_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    configure("INFO", tmp_path / "worker.log")
    for number in range(50):
        event(_log, "job.claimed", number=number)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() <= {"worker.log", "worker.log.1"}
    assert sizes["worker.log.1"] < 1200
    kept = "".join((tmp_path / name).read_text(encoding="utf-8") for name in sorted(sizes, reverse=True))
    numbers = [int(line.rsplit("=", 1)[1]) for line in kept.splitlines()]
    assert numbers == list(range(numbers[0], 50))
    configure("INFO")


def test_a_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        configure("INFO", tmp_path / "absent" / "worker.log")
