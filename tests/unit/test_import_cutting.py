"""How rows become episodes: labels, lengths, gaps, names, time, and what is counted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.factories.csv_folder import DESCRIPTION, Done, Importer, changed, description, table

EPISODE = DESCRIPTION["episode"]


@pytest.fixture
def importer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importer:
    return Importer(tmp_path, capsys)


def intervals(done: Done) -> list[list[tuple[float, float, str, str]]]:
    """(start s, end s, label, phase) of each episode."""
    return [
        [(i.t0_us / 1e6, i.t1_us / 1e6, i.label, i.phase) for i in meta.intervals]
        for meta, _, _ in done.episodes()
    ]


def said(done: Done, name: str) -> str:
    """The value of a line of the summary, or nothing."""
    return next((line[18:] for line in done.out.splitlines() if line.split(" ")[0] == name), "")


# --- values and time ---


def test_values_are_stored_in_steps_of_the_decimals_that_were_asked_for(importer: Importer) -> None:
    done = importer(
        {"a.csv": ["t,load,what", "0,1.005,normal", "1,-2.5,normal", "2,3e2,normal", "3, 4. ,normal"]}
    )
    ((meta, t_us, values),) = done.episodes()
    assert values[:, 0].tolist() == [100, -250, 30_000, 400]
    assert t_us.tolist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert (meta.channels[0].per_unit, meta.hz, meta.scaling, meta.simulated) == (100, 1, "plain", False)


def test_numbers_that_a_float_cannot_hold_stay_exact(importer: Importer) -> None:
    channel = 'column = "load"\nname = "net.tx"\nunit = "bytes"\nkind = "counter"'
    big = [2**53 + 1, 2**62 + 3, 2**63 - 1]
    rows = ["t,load,what", *(f"{n},{value},normal" for n, value in enumerate(big))]
    ((_, _, values),) = importer({"a.csv": rows}, description(channels=channel)).episodes()
    assert values[:, 0].tolist() == big


@pytest.mark.parametrize(
    ("unit", "stamps"),
    [
        ("s", ["7.5", "8.0", "8.5", "9"]),
        ("ms", ["7500", "8000", "8500.0", "9000"]),
        ("us", ["1700000000000000", "1700000000500000", "1700000001000000", "1700000001500000"]),
        ("ns", ["1700000000000000001", "1700000000500000002", "1700000001000000003", "1.7000000015e18"]),
        (
            "iso8601",
            [
                "2026-01-31 23:59:59",
                "2026-01-31T23:59:59.5",
                "2026-02-01 00:00:00",
                "2026-02-01 00:00:00.500000",
            ],
        ),
        (
            "iso8601",
            [
                "2026-01-31 23:59:59+02:00",
                "2026-01-31 21:59:59.5Z",
                "2026-01-31 22:00:00Z",
                "2026-01-31T22:00:00.5Z",
            ],
        ),
    ],
)
def test_every_unit_of_time_gives_the_same_microseconds(
    importer: Importer, unit: str, stamps: list[str]
) -> None:
    text = description(
        time=f'column = "t"\nunit = "{unit}"\n', episode=EPISODE.replace("shortest_s = 2", "shortest_s = 1")
    )
    rows = ["t,load,what", *(f"{stamp},1,normal" for stamp in stamps)]
    ((_, t_us, _),) = importer({"a.csv": rows}, text).episodes()
    assert t_us.tolist() == [0, 500_000, 1_000_000, 1_500_000]


def test_times_with_and_without_an_offset_do_not_mix(importer: Importer) -> None:
    text = description(time='column = "t"\nunit = "iso8601"\n')
    rows = ["t,load,what", *(f"2026-01-31 10:00:{n:02d}{'Z' if n == 30 else ''},1,normal" for n in range(60))]
    done = importer({"a.csv": rows}, text)
    assert done.code == 65
    assert "a.csv:32: column 't': found '2026-01-31 10:00:30Z', expected a time such as" in done.err


def test_rows_without_time_come_at_the_rate_of_the_description(importer: Importer) -> None:
    rows = ["load,what", *("1,normal" for _ in range(13))]
    ((meta, t_us, _),) = importer({"a.csv": rows}, description(time="hz = 4")).episodes()
    assert t_us.tolist() == [n * 250_000 for n in range(13)]
    assert (meta.hz, meta.started_at_s) == (4, None)


def test_the_start_is_known_where_the_clock_has_a_date(importer: Importer) -> None:
    for time, start in (
        ('column = "t"\nunit = "s"\nzero = 2026-01-01T00:00:00Z', 1_767_225_600),
        ('column = "t"\nunit = "s"', None),
    ):
        done = importer({"a.csv": table(seconds=10)}, description(time=time), f"out-{start}")
        starts = [meta.started_at_s for meta, _, _ in done.episodes()]
        assert starts == ([None, None] if start is None else [start, start + 5])


def test_a_rate_is_found_from_time_stamps_in_whole_milliseconds(importer: Importer) -> None:
    rows = ["t,load,what", *(f"{int(n * 15.625)},1,normal" for n in range(640))]
    done = importer({"a.csv": rows}, description(time='column = "t"\nunit = "ms"\n'))
    assert [meta.hz for meta, _, _ in done.episodes()] == [64, 64]


@pytest.mark.parametrize(
    ("step_s", "said_so"),
    [(0.5, ""), (1, "train with hyper.window_s = 6 or more"), (30, "these are too far apart to train on")],
)
def test_slow_telemetry_is_told_which_windows_it_needs(
    importer: Importer, step_s: float, said_so: str
) -> None:
    rows = ["t,load,what", *(f"{n * step_s},1,normal" for n in range(40))]
    done = importer({"a.csv": rows}, description(episode=EPISODE.replace("seconds = 5\n", "")))
    assert done.code == 0, done.err
    assert said(done, "slow").endswith(said_so)
    assert bool(said(done, "slow")) == bool(said_so)


# --- labels ---


def test_labels_follow_the_rows_and_are_cut_along(importer: Importer) -> None:
    done = importer({"a.csv": table(seconds=10, attack_from_s=6.5)})
    assert intervals(done) == [
        [(0, 5.0, "benign", "active")],
        [(0, 1.5, "benign", "active"), (1.5, 5.0, "suspicious", "active")],
    ]
    assert said(done, "labels") == "1 suspicious, 1 benign episodes"


def test_a_baseline_is_the_beginning_of_every_episode_whatever_its_label(importer: Importer) -> None:
    episode = EPISODE.replace('"plain"', '"relative"')
    done = importer({"a.csv": table(seconds=10, attack_from_s=4)}, description(episode=episode))
    assert intervals(done) == [
        [(0, 3, "benign", "baseline"), (3, 4, "benign", "active"), (4, 5, "suspicious", "active")],
        [(0, 3, "suspicious", "baseline"), (3, 5, "suspicious", "active")],
    ]


def test_a_label_table_gives_spans_of_time(importer: Importer) -> None:
    label = 'table = "labels.csv"\nsuspicious = ["attack"]\nbenign = "others"\nuncovered = "benign"'
    labels = "file,start,end,label\nb.csv,1,2.5,attack\nb.csv,0,1,calm\n"
    rows = [line.rpartition(",")[0] for line in table(seconds=5)]
    done = importer({"a.csv": rows, "b.csv": rows, "labels.csv": labels}, description(label=label))
    assert intervals(done) == [
        [(0, 5, "benign", "active")],
        [(0, 1, "benign", "active"), (1, 2.5, "suspicious", "active"), (2.5, 5, "benign", "active")],
    ]


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (
            "file,from,to,label\n",
            "labels.csv:1: found the columns file, from, to, label, expected file, start, end, label",
        ),
        ("file,start,end,label\nb.csv,0,1,attack\n", "labels.csv:2: column 'file': found 'b.csv'"),
        (
            "file,start,end,label\na.csv,0,x,attack\n",
            "labels.csv:2: column 'end': found 'x', expected seconds",
        ),
        (
            "file,start,end,label\na.csv,2,2,attack\n",
            "labels.csv:2: column 'end': found '2', expected a time after",
        ),
        (
            "file,start,end,label\na.csv,0,1,what\n",
            "labels.csv:2: column 'label': found 'what', expected one of 'attack', 'normal'",
        ),
        (
            "file,start,end,label\na.csv,0,2,attack\na.csv,1,3,normal\n",
            "labels.csv:3: column 'start': found a span that overlaps the one of line 2",
        ),
        ("file,start,end,label\na.csv,0\n", "labels.csv:2: found 2 cells, expected 4"),
        (
            "file,start,end,label\na.csv,0,1,attack\na.csv,2,5,normal\n",
            "a.csv:12: found a row that no span of the label table covers",
        ),
    ],
)
def test_a_fault_of_the_label_table_has_its_line(importer: Importer, labels: str, fault: str) -> None:
    label = 'table = "labels.csv"\nsuspicious = ["attack"]\nbenign = ["normal"]'
    rows = [line.rpartition(",")[0] for line in table(seconds=5)]
    done = importer({"a.csv": rows, "labels.csv": labels}, description(label=label))
    assert done.code == 65
    assert fault in done.err
    assert importer.left_behind() == []


def test_label_and_names_come_from_the_file_name(importer: Importer) -> None:
    text = description(
        files="name = '(?P<host>[a-z]+)_(?P<family>[a-z]+)_(?P<label>[a-z]+)\\.csv'",
        label='group = "label"\nsuspicious = ["bad"]\nbenign = ["good"]',
        episode=EPISODE.replace('"lab-a"', '{ group = "host" }').replace('"web"', '{ group = "family" }'),
    )
    rows = [line.rpartition(",")[0] for line in table(seconds=5)]
    done = importer({"ada_scan_bad.csv": rows, "bob_web_good.csv": rows}, text)
    found = [(meta.host, meta.family, meta.profile, meta.label) for meta, _, _ in done.episodes()]
    assert found == [("ada", "scan", "ada_scan_bad", "suspicious"), ("bob", "web", "bob_web_good", "benign")]
    assert "twins" in done.out
    wrong = importer({"eve_scan_ugly.csv": rows, "notes.csv": rows}, text, "out2")
    assert wrong.code == 65
    assert "eve_scan_ugly.csv: found the label 'ugly' in the name, expected one of 'bad', 'good'" in wrong.err
    assert "notes.csv: found the name 'notes.csv', expected a name that matches" in wrong.err


# --- cutting ---


def test_a_gap_ends_an_episode_and_is_counted(importer: Importer) -> None:
    rows = [line for n, line in enumerate(table(seconds=10)) if not 21 <= n < 41 and n != 50]
    done = importer({"a.csv": rows})
    assert [meta.n_samples for meta, _, _ in done.episodes()] == [20, 49]
    assert [meta.dropped_samples for meta, _, _ in done.episodes()] == [0, 1]
    assert said(done, "gaps") == "1 longer than 3 rows: cut there"
    assert said(done, "lost") == "1 rows in shorter gaps"
    assert "10 rows in 1 pieces of less than 2 s" in done.out


def test_rests_that_are_too_short_are_left_out_and_counted(importer: Importer) -> None:
    done = importer({"a.csv": table(seconds=11)})
    assert [meta.n_samples for meta, _, _ in done.episodes()] == [50, 50]
    assert "10 rows in 1 pieces of less than 2 s" in done.out


def test_without_a_length_every_unbroken_series_is_one_episode(importer: Importer) -> None:
    text = description(episode=EPISODE.replace("seconds = 5\n", "").replace("shortest_s = 2\n", ""))
    done = importer({"a.csv": table(seconds=700)}, text)
    assert [meta.n_samples for meta, _, _ in done.episodes()] == [7000]


def test_another_host_or_variant_begins_an_episode(importer: Importer) -> None:
    text = description(
        episode=EPISODE.replace('"lab-a"', '{ column = "host" }') + 'variant = { column = "run" }\n',
    )
    names = [("lab-a", "1")] * 30 + [("lab-a", "2")] * 30 + [("lab-b", "2")] * 30
    rows = [
        "t,load,what,host,run",
        *(f"{n % 60 / 10},{n},normal,{host},{run}" for n, (host, run) in enumerate(names)),
    ]
    done = importer({"a.csv": rows}, text)
    assert [(meta.host, meta.profile, meta.n_samples) for meta, _, _ in done.episodes()] == [
        ("lab-a", "1", 30),
        ("lab-a", "2", 30),
        ("lab-b", "2", 30),
    ]


def test_the_family_of_an_episode_is_that_of_its_first_suspicious_row(importer: Importer) -> None:
    label = 'column = "what"\nsuspicious = "others"\nbenign = ["normal"]\n'
    text = description(label=label, episode=EPISODE.replace('"web"', '{ column = "what" }'))
    what = ["normal"] * 50 + ["normal"] * 10 + ["scan"] * 40
    rows = ["t,load,what", *(f"{n / 10},1,{word}" for n, word in enumerate(what))]
    done = importer({"a.csv": rows}, text)
    assert [(meta.family, meta.label) for meta, _, _ in done.episodes()] == [
        ("normal", "benign"),
        ("scan", "suspicious"),
    ]


def test_stretches_of_time_are_variants_and_end_an_episode(importer: Importer) -> None:
    text = description(episode=EPISODE + "variant = { stretch_s = 8 }\n")
    done = importer({"a.csv": table(seconds=16)}, text)
    found = [(meta.profile, meta.n_samples) for meta, _, _ in done.episodes()]
    assert found == [("a-0000", 50), ("a-0000", 30), ("a-0001", 20), ("a-0001", 50)]


@pytest.mark.parametrize("block_bytes", [64, 1000, 1 << 20])
def test_the_size_of_the_blocks_changes_nothing(
    importer: Importer, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    rows = [line for n, line in enumerate(table(seconds=40, attack_from_s=13)) if not 101 <= n < 141]
    whole = importer({"a.csv": rows}, out="whole")
    monkeypatch.setattr("collection.importing.reader.BLOCK_BYTES", block_bytes)
    cut = importer({"a.csv": rows}, out="cut")
    assert cut.dataset_id == whole.dataset_id


# --- spellings of one table ---


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n\n",
        lambda text: text.replace("normal", '"normal"').replace("attack", '"attack"'),
        lambda text: "\n".join(
            ",".join(f'"{cell}"' for cell in line.split(",")) for line in text.split("\n") if line
        ),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("\nt,", "\nt ,").replace("0.100", "1e-1"),
        lambda text: text.replace("0.100,", '"0.1""",').replace('"0.1"""', '"0.1"'),
    ],
    ids=[
        "bom",
        "crlf",
        "no-last-newline",
        "empty-last-lines",
        "quoted-words",
        "all-quoted",
        "spaces",
        "exponent",
        "one-quote",
    ],
)
def test_how_a_table_is_spelled_does_not_change_its_identity(
    importer: Importer, spelled: Callable[[str], str]
) -> None:
    text = changed(table(), {})
    plain = importer({"a.csv": text}, out="plain")
    other = importer({"a.csv": spelled(text)}, out="other")
    assert other.code == 0, other.err
    assert other.dataset_id == plain.dataset_id


def test_decimal_commas_and_tabs_do_not_either(importer: Importer) -> None:
    text = changed(table(), {})
    plain = importer({"a.csv": text}, out="plain")
    comma, tabs = description(files='delimiter = ";"\ndecimal = ","'), description(files='delimiter = "\\t"')
    for out, content, rules in (
        ("comma", text.replace(",", ";").replace(".", ","), comma),
        ("tabs", text.replace(",", "\t"), tabs),
    ):
        assert importer({"a.csv": content}, rules, out).dataset_id == plain.dataset_id


def test_lines_before_the_header_are_skipped_and_go_on_counting(importer: Importer) -> None:
    content = "exported by somebody,\n\n" + changed(table(), {})
    done = importer({"a.csv": content}, description(files="skip_lines = 2"))
    assert [meta.parameters["line"] for meta, _, _ in done.episodes()] == [4, 54]


def test_columns_without_a_header_are_numbered(importer: Importer) -> None:
    text = description(
        files="header = false",
        time='column = "1"\nunit = "s"',
        label=DESCRIPTION["label"].replace("what", "3"),
        channels=DESCRIPTION["channels"].replace('"load"', '"2"'),
    )
    named = importer({"a.csv": table()}, out="named").episodes()
    numbered = importer({"a.csv": table()[1:]}, text, "numbered").episodes()
    assert [values.tolist() for _, _, values in numbered] == [values.tolist() for _, _, values in named]
    assert [meta.parameters["line"] for meta, _, _ in numbered] == [1, 51]


def test_the_same_folder_gives_the_same_data_set_and_another_order_of_files_too(importer: Importer) -> None:
    files = {"b.csv": table(), "a/c.csv": table(start_s=3), "a.csv": table(start_s=9), "ü b.csv": table()}
    text = description(files='include = ["**/*.csv", "*.csv"]')
    first = importer(files, text, "first")
    again = importer(dict(reversed(files.items())), text, "again")
    assert first.dataset_id == again.dataset_id
    names = sorted(path.name for path in (first.folder / "lab-a").iterdir())
    assert names[0] == "a-0000-00000.episode"
    assert names[2:4] == ["a-c-0001-00000.episode", "a-c-0001-00001.episode"]
    assert len(names) == 8


# --- missing values ---


@pytest.mark.parametrize("time", ['column = "t"\nunit = "s"', "hz = 10"])
def test_missing_values_are_filled_or_their_rows_dropped_on_request_and_counted(
    importer: Importer, time: str
) -> None:
    gaps = {5: "0.300,,normal", 6: "0.400,NaN,normal", 300: "29.800, ,normal"}
    content = changed(table(seconds=40, attack_from_s=99), gaps)
    drop = importer({"a.csv": content}, description(time=time, missing='policy = "drop_row"'), "drop")
    fill = importer({"a.csv": content}, description(time=time, missing='policy = "previous"'), "fill")
    assert "3 rows with missing cells" in drop.out
    assert "3 cells without a value got the one before" in fill.out
    (_, t_dropped, dropped), (_, t_filled, filled) = drop.episodes()[0], fill.episodes()[0]
    kept = np.delete(np.arange(50), [3, 4])
    assert t_dropped.tolist() == (kept * 100_000).tolist()
    assert dropped[:, 0].tolist() == filled[kept, 0].tolist()
    assert filled[2:5, 0].tolist() == [filled[2, 0]] * 3
    assert len(t_filled) == 50


def test_a_first_row_without_a_value_has_nothing_to_be_filled_with(importer: Importer) -> None:
    content = changed(table(), {2: "0.000,,normal"})
    done = importer({"a.csv": content}, description(missing='policy = "previous"'))
    assert done.code == 65
    assert (
        "a.csv:2: column 'load': found an empty cell, expected a number: no row before it has one" in done.err
    )


def test_files_of_one_name_in_two_folders_are_two_variants(importer: Importer) -> None:
    files = {"ada/01.csv": table(seconds=5), "bob/01.csv": table(seconds=5), f"{'x' * 70}a.csv": table(seconds=5),
             f"{'x' * 70}b.csv": table(seconds=5)}  # fmt: skip
    done = importer(files, description(files='include = "**/*.csv"'))
    profiles = [meta.profile for meta, _, _ in done.episodes()]
    assert profiles[:2] == ["ada-01", "bob-01"]
    assert len(set(profiles)) == 4
