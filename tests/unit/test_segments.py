"""A stream of bytes in a folder: bounded, readable from any offset, across writers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.fleet.segments import SegmentWriter, read


def writer(folder: Path, segment_bytes: int = 10, segments: int = 3) -> SegmentWriter:
    return SegmentWriter(folder, segment_bytes=segment_bytes, segments=segments)


def test_what_was_written_is_read_from_any_offset(tmp_path: Path) -> None:
    one = writer(tmp_path / "log")
    one.append(b"0123456789")
    one.append(b"abcde")
    assert read(tmp_path / "log", 0, 100).data == b"0123456789abcde"
    piece = read(tmp_path / "log", 8, 4)
    assert (piece.data, piece.offset, piece.first_offset, piece.end_offset) == (b"89ab", 8, 0, 15)


def test_a_folder_that_is_not_there_is_an_empty_stream(tmp_path: Path) -> None:
    piece = read(tmp_path / "none", 7, 100)
    assert (piece.data, piece.offset, piece.end_offset) == (b"", 0, 0)


def test_the_oldest_segment_goes_first_and_the_reader_is_told(tmp_path: Path) -> None:
    one = writer(tmp_path)
    for letter in "abcdef":
        one.append(letter.encode() * 10)
    piece = read(tmp_path, 5, 100)
    assert (piece.data, piece.offset) == (b"d" * 10 + b"e" * 10 + b"f" * 10, 30)
    assert one.kept_bytes == 30
    assert one.end_offset == 60


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere a file that is being read can be deleted")
def test_a_segment_that_is_being_read_goes_one_turn_later(tmp_path: Path) -> None:
    one = writer(tmp_path)
    for letter in "abc":
        one.append(letter.encode() * 10)
    oldest = min(tmp_path.iterdir())
    with oldest.open("rb"):
        one.append(b"d" * 10)
        assert one.kept_bytes == 40
    one.append(b"e" * 10)
    assert not oldest.exists()
    assert read(tmp_path, 0, 100).data == b"c" * 10 + b"d" * 10 + b"e" * 10


def test_another_writer_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    writer(tmp_path).append(b"abc")
    two = writer(tmp_path)
    assert two.end_offset == 3
    two.append(b"def")
    assert read(tmp_path, 0, 100).data == b"abcdef"


def test_after_a_hole_only_what_follows_it_counts(tmp_path: Path) -> None:
    """A power cut may take the end of an older segment."""
    one = writer(tmp_path)
    one.append(b"a" * 10)
    one.append(b"b" * 10)
    (tmp_path / "0000000000000000.log").write_bytes(b"aaa")
    assert read(tmp_path, 0, 100).data == b"b" * 10
    assert writer(tmp_path).end_offset == 20


def test_more_than_a_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="11 bytes do not fit"):
        writer(tmp_path).append(b"x" * 11)


def test_other_files_in_the_folder_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "points.jsonl").write_text("{}")
    (tmp_path / "x.log").write_text("no")
    writer(tmp_path).append(b"abc")
    assert read(tmp_path, 0, 100).data == b"abc"


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.binary(max_size=7), max_size=25), offset=st.integers(0, 90), limit=st.integers(0, 90)
)
def test_the_stream_is_the_end_of_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes], offset: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("stream")
    one = writer(folder, 7, 3)
    for block in blocks:
        one.append(block)
    whole = b"".join(blocks)
    piece = read(folder, offset, limit)
    assert piece.end_offset == one.end_offset == len(whole)
    assert piece.end_offset - piece.first_offset == one.kept_bytes <= 21
    assert piece.offset == min(max(offset, piece.first_offset), len(whole))
    assert piece.data == whole[piece.offset : piece.offset + limit]
