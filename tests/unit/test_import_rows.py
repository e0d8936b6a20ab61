"""Rows that cannot be imported: every one is told with file and line, and nothing is left behind."""

from pathlib import Path

import pytest

from tests.factories.csv_folder import Importer, changed, description, table


@pytest.fixture
def importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


def refused(importer: Importer, content: str | bytes, *expected: str, text: str = "") -> None:
    """The file is refused with code 65 and a message that holds all of these; nothing is left."""
    done = importer({"a.csv": content}, text)
    assert done.code == 65, done.err + done.out
    for part in expected:
        assert part in done.err
    assert "Traceback" not in done.err
    assert importer.left_behind() == []


@pytest.mark.parametrize("quoted", [False, True], ids=["fast", "quoted"])
@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("4.100,,attack", "column 'load': found an empty cell, expected a number; to accept such cells"),
        ("4.100,nan,attack", "column 'load': found 'nan', expected a number"),
        ("4.100,inf,attack", "column 'load': found 'inf', expected a number"),
        ("4.100,1e999,attack", "column 'load': found '1e999', expected at most 92233720368547758"),
        ("4.100,0x10,attack", "column 'load': found '0x10'"),
        ("4.100,1_0,attack", "column 'load': found '1_0'"),
        ("4.100,٣,attack", "column 'load': found '٣'"),
        ("4.100,1\x002,attack", "found a zero byte, expected text"),
        ("4.100,99999999999999999999,attack", "expected at most 92233720368547758 with the decimals"),
        ("4.100,-99999999999999999999,attack", "expected at most 92233720368547758 with the decimals"),
        ("soon,1,attack", "column 't': found 'soon', expected seconds"),
        ("1e300,1,attack", "column 't': found '1e300', expected seconds"),
        (",1,attack", "column 't': found an empty cell, expected seconds"),
        ("4.100,1,atack", "column 'what': found 'atack', expected one of 'attack', 'normal'"),
        ("4.100,1,attack\x00", "found a zero byte, expected text"),
        ("4.100,1," + "attack" * 30, "column 'what': found 'attackattack"),
        ("4.100,1", "found 2 cells, expected 3 as in the first line"),
        ("4.100,1,attack,5", "found 4 cells, expected 3 as in the first line; is the decimal sign a comma?"),
        ("4.000,1,attack", "column 't': found the same time as in the row before, expected a later time"),
        ("3.500,1,attack", "column 't': found 0.5 s back in time"),
        ("", "found an empty line, expected a row"),
        ('4.100,"1,attack', "found a line that is no CSV"),
        ("4.100,1\r,attack", "found a line that is no CSV"),
    ],
)
def test_a_bad_row_is_told_with_file_line_and_column(
    importer: Importer, row: str, found: str, quoted: bool
) -> None:
    """Line 43 is 4.1 s. The same faults are found where another row makes the whole file take the exact path."""
    replaced = {43: row, **({2: '0.000,"1","nor""mal"'} if quoted else {})}
    label = 'column = "what"\nsuspicious = ["attack"]\nbenign = ["normal", "nor\\"mal"]\n'
    refused(importer, changed(table(), replaced), "a.csv:43: ", found, text=description(label=label))


def test_a_fault_far_down_a_long_file_has_its_own_line(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collection.importing.reader.BLOCK_BYTES", 4096)
    lines = table(seconds=1200)
    refused(importer, changed(lines, {10_007: "x,1,normal"}), "a.csv:10007: column 't': found 'x'")


def test_twenty_faults_are_shown_and_the_others_counted(importer: Importer) -> None:
    done = importer({"a.csv": changed(table(), {n: f"{n},bad,normal" for n in range(10, 40)})})
    assert done.code == 65
    lines = done.err.splitlines()
    assert [line.split(": ")[1] for line in lines[:20]] == [f"a.csv:{n}" for n in range(10, 30)]
    assert lines[20].endswith("... and 10 further faults")
    assert lines[21].endswith("nothing was imported; mend the rows or the description, then import again")


def test_a_file_of_nothing_but_faults_is_not_read_to_its_end(importer: Importer) -> None:
    done = importer({"a.csv": "t,load,what\n" + "x,y,z\n" * 10_500})
    assert done.code == 65
    assert "stopped reading after 10000 faults" in done.err


def test_faults_of_all_files_are_told_together(importer: Importer) -> None:
    bad = changed(table(), {5: "x,1,normal"})
    done = importer({"b.csv": bad, "a.csv": bad, "c.csv": table()})
    assert [line.split(": ")[1] for line in done.err.splitlines()[:2]] == ["a.csv:5", "b.csv:5"]


def test_columns_that_are_missing_are_told_with_a_guess(importer: Importer) -> None:
    content = changed(table(), {1: "time,loud,what"})
    refused(
        importer,
        content,
        "a.csv:1: column 'load': found no such column",
        "did you mean 'loud'?",
        "column 't'",
    )


def test_a_column_that_is_there_twice_is_refused(importer: Importer) -> None:
    refused(importer, changed(table(), {1: "t,load,load"}), "column 'load': found it twice")


def test_a_wrong_delimiter_is_guessed(importer: Importer) -> None:
    content = changed(table(), {}).replace(",", ";")
    refused(importer, content, "a.csv:1", "the line has 2 ';': set files.delimiter = ';'")


def test_a_wrong_decimal_sign_is_guessed(importer: Importer) -> None:
    content = changed(table(), {}).replace(",", ";").replace(".", ",")
    text = description(files='delimiter = ";"', time='column = "t"\nunit = "s"\n')
    refused(importer, content, "found '0,000', expected seconds", "set files.decimal = ','", text=text)
    refused(
        importer,
        changed(table(), {}).replace(",", ";"),
        "set files.decimal = '.'",
        text=description(files='delimiter = ";"\ndecimal = ","'),
    )


def test_separators_of_thousands_are_refused_and_not_read_as_decimals(importer: Importer) -> None:
    comma = description(files='delimiter = ";"\ndecimal = ","')
    content = changed(table(), {}).replace(",", ";").replace(".", ",")
    refused(
        importer,
        content.replace("0,100;9,25", "0,100;1.234"),
        "a.csv:3: column 'load': found '1.234'",
        text=comma,
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "a.csv: found no rows"),
        (b"t,load,what\n", "a.csv: found no rows"),
        ("t,load,what\n0,1,é\n".encode("latin-1"), "a.csv:2: found the byte 0xe9, expected UTF-8"),
        ("t,load,what\n".encode("utf-16"), "found UTF-16, expected UTF-8; save the file as UTF-8"),
        (b"x" * (2 << 20), "a line is longer than"),
        (b"t,load,what\n1,2,normal\n", "found no two rows with growing time"),
    ],
)
def test_what_is_no_table_is_told(importer: Importer, content: bytes, found: str) -> None:
    refused(importer, content, found)


def test_rows_too_fast_for_the_trainer_hint_at_the_unit(importer: Importer) -> None:
    refused(
        importer, "t,load,what\n" + "".join(f"{n / 5000},1,normal\n" for n in range(99)), "check time.unit"
    )


def test_files_of_different_rates_are_not_mixed(importer: Importer) -> None:
    done = importer({"a.csv": table(hz=10), "b.csv": table(hz=20)})
    assert done.code == 65
    assert "b.csv: column 't': found rows 0.05 s apart, expected 0.1 s as a.csv has" in done.err


def test_a_gap_is_a_fault_on_request(importer: Importer) -> None:
    text = description(time='column = "t"\nunit = "s"\non_gap = "refuse"')
    content = changed([line for n, line in enumerate(table()) if not 20 < n < 40], {})
    refused(
        importer,
        content,
        "a.csv:22: column 't': found 2 s after the row before, expected at most 0.3 s",
        text=text,
    )


def test_rows_of_two_hosts_in_turns_are_refused(importer: Importer) -> None:
    episode = description()[description().index("[episode]") :].replace('"lab-a"', '{ column = "host" }')
    text = description(episode="")[: description(episode="").index("[[channels]]")] + episode
    lines = ["t,load,what,host", *(f"{n / 10},1,normal,lab-{'ab'[n % 2]}" for n in range(40))]
    refused(
        importer,
        changed(lines, {}),
        "a.csv:4: ",
        "host 'lab-a' again after another",
        "sort the file by host",
        text=text,
    )


def test_an_episode_that_no_memory_would_hold_is_refused(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collection.importing.cutter.MAX_CELLS", 60)
    refused(importer, changed(table(), {}), "set episode.seconds to cut the series")


def test_labels_that_change_with_every_row_make_no_episode(importer: Importer) -> None:
    lines = ["t,load,what", *(f"{n / 1000},1,{('normal', 'attack')[n % 2]}" for n in range(5000))]
    refused(importer, changed(lines, {}), "a.csv:2: makes no valid episode", "set a smaller episode.seconds")


def test_a_time_before_1970_is_refused_and_hints_at_the_clock(importer: Importer) -> None:
    text = description(time='column = "t"\nunit = "s"\nzero = 1970-01-01T00:00:00Z')
    content = changed(table(start_s=-100), {})
    refused(importer, content, "started_at_s is '-100'", "check time.unit and time.zero", text=text)


def test_two_rows_on_one_line_are_not_evened_out_by_an_empty_line(importer: Importer) -> None:
    """A reader that takes a carriage return for a line end would find as many rows as there are lines."""
    lines = table()
    content = changed(lines, {43: f"{lines[42]}\r{lines[43]}", 44: ""})
    refused(importer, content, "a.csv:43: found a line that is no CSV", "lines must end with a line feed")


def test_a_byte_order_mark_inside_a_file_is_no_beginning(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collection.importing.reader.BLOCK_BYTES", 20)
    lines = changed(table(), {10: "\ufeff0.800,1,normal"})
    refused(importer, lines, "a.csv:10: column 't': found '\\ufeff0.800'")


def test_a_series_without_any_piece_long_enough_is_refused(importer: Importer) -> None:
    refused(importer, changed(table(seconds=1), {}), "no unbroken series of 2 s in 10 rows")


def test_faults_of_a_file_are_told_line_by_line(importer: Importer) -> None:
    """Labels are judged after numbers; a person mends a file from top to bottom."""
    done = importer({"a.csv": changed(table(), {9: "0.700,1,lek", 5: "0.300,1,lek", 7: "0.500,x,normal"})})
    assert [line.split(": ")[1] for line in done.err.splitlines()[:3]] == ["a.csv:5", "a.csv:7", "a.csv:9"]


def test_a_time_with_a_long_tail_is_no_time(importer: Importer) -> None:
    """Long texts are cut in the fast path; what is left of this one would be a time."""
    rows = ["t,load,what", *(f"2026-01-01T00:00:{n // 10:02d}.{n % 10},1,normal" for n in range(600))]
    text = description(time='column = "t"\nunit = "iso8601"\n')
    content = changed(rows, {300: f"2026-01-01T00:00:29.{'8' * 30} or so,1,normal"})
    refused(importer, content, "a.csv:300: column 't': found '2026-01-01T00:00:29.8", text=text)


def test_a_file_that_is_no_table_does_not_write_to_the_terminal(importer: Importer) -> None:
    done = importer({"a.csv": b"\x1b[2J\x07,\x1b]0;gone\n1,2\n"})
    assert done.code == 65
    assert "the columns are '\\x1b[2J\\x07'," in done.err
    assert "\x1b" not in done.err
