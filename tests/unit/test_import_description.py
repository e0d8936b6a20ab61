"""The description of an import: every fault at once, with key, found and expected."""

import tomllib
from pathlib import Path

import pytest

from cis490.episodes.format import Channel
from collection.importing.description import Description, Source, load, parse
from collection.importing.errors import BadDescription, MissingInput
from tests.factories.csv_folder import DESCRIPTION, description

EXAMPLE = Path(__file__).resolve().parents[2] / "etc" / "import.toml.example"


def read(text: str) -> Description:
    return parse(tomllib.loads(text), "import.toml")


def test_the_example_loads_and_names_every_key(tmp_path: Path) -> None:
    found = load(EXAMPLE)
    assert [one.channel.name for one in found.channels] == [
        "sys.cpu.busy",
        "sys.mem.free",
        "net.tx.bytes",
        "guest.shells",
    ]
    assert found.channels[0].channel == Channel("sys.cpu.busy", "s", "counter", 100)
    text = EXAMPLE.read_text(encoding="utf-8")
    tables = (found.files, found.label, found.missing, found.episode)
    keys = {key for table in tables for key in table.__slots__} | {
        "column",
        "unit",
        "hz",
        "zero",
        "max_gap",
        "on_gap",
    }
    assert {key for key in keys if key not in text} == set()


def test_commented_defaults_of_the_example_are_the_defaults() -> None:
    found = read(description())
    assert (found.files.delimiter, found.files.decimal, found.files.header) == (",", ".", True)
    assert (found.files.include, found.files.skip_lines, found.files.encoding) == (("*.csv",), 0, "utf-8")
    assert (found.time.max_gap, found.time.split_at_gaps, found.time.zero_s) == (3.0, True, None)
    assert (found.missing.policy, found.label.uncovered) == ("refuse", "refuse")
    assert found.missing.values == {"", "NA", "N/A", "NaN", "nan", "null", "NULL"}
    assert (found.episode.baseline_s, found.episode.variant) == (0.0, Source())


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        (
            {"files": 'delimeter = ";"'},
            "files.delimeter: found a key that is not known, expected one of include,",
        ),
        ({"files": 'delimeter = ";"'}, "did you mean 'delimiter'?"),
        ({"files": 'delimiter = "x"'}, "files.delimiter: found 'x', expected one of ','"),
        ({"files": 'decimal = ","'}, "files.delimiter and files.decimal: found both are ','"),
        ({"files": "name = '('"}, "files.name: found '(', expected a regular expression"),
        ({"files": "name = '(?P<hots>.*)'"}, "did you mean 'host'?"),
        ({"files": "header = 1"}, "files.header: found 1, expected true or false"),
        ({"files": "skip_lines = -1"}, "files.skip_lines: found -1, expected a whole number from 0"),
        (
            {"files": 'include = "../*.csv"'},
            "files.include: found '../*.csv', expected patterns below the folder",
        ),
        (
            {"files": 'include = "/*.csv"'},
            "files.include: found '/*.csv', expected patterns below the folder",
        ),
        ({"episode": f'licence = "{"x" * 201}"'}, "episode.licence: found 'xxx"),
        ({"files": "include = []"}, "files.include: found a list of 0, expected a text or a list of texts"),
        ({"files": "header = false"}, "column: found 't', expected the number of a column"),
        (
            {"time": 'unit = "s"'},
            "time.column: found nothing, expected the column that holds the time, or time.hz",
        ),
        ({"time": 'column = "t"'}, "time.unit: found nothing, expected one of 's', 'ms'"),
        ({"time": 'column = "t"\nunit = "min"'}, "time.unit: found 'min'"),
        (
            {"time": 'hz = 10\nunit = "s"'},
            "time.unit: found 's', expected no unit where there is no time.column",
        ),
        (
            {"time": "hz = 2000"},
            "time.hz: found 2000, expected a number from 0.0001 to 1000 (rows per second)",
        ),
        ({"time": "hz = true"}, "time.hz: found true, expected a number"),
        (
            {"time": 'hz = 10\nzero = "now"'},
            "time.zero: found 'now', expected a date and time such as 1970-01-01T00:00:00Z",
        ),
        ({"time": 'column = "t"\nunit = "iso8601"\nzero = 1970-01-01T00:00:00Z'}, "time.zero"),
        ({"time": 'hz = 10\non_gap = "spilt"'}, "did you mean 'split'?"),
        ({"time": "hz = 10\nmax_gap = 1"}, "time.max_gap: found 1, expected a number from 1.5"),
        ({"time": 'column = "load"\nunit = "s"'}, "time.column: found 'load', which is a channel too"),
        (
            {"time": 'column = "what"\nunit = "s"'},
            "time.column: found 'what', expected a column that holds nothing but time",
        ),
        ({"label": ""}, "label: found no source, expected exactly one of column, group, table"),
        (
            {"label": 'column = "a"\ntable = "b"\nsuspicious = ["x"]\nbenign = ["y"]'},
            "label: found column and table",
        ),
        (
            {"label": 'column = "what"\nsuspicious = ["x"]'},
            "label.benign: found nothing, expected the labels that count",
        ),
        (
            {"label": 'column = "what"\nsuspicious = "others"\nbenign = "others"'},
            "only one of the two can be 'others'",
        ),
        (
            {"label": 'column = "what"\nsuspicious = ["x"]\nbenign = ["x"]'},
            "label.benign: found 'x' in both lists",
        ),
        (
            {"label": 'column = "load"\nsuspicious = [1]\nbenign = "others"'},
            "a model that reads it reads the answer",
        ),
        (
            {"label": 'group = "label"\nsuspicious = [1]\nbenign = "others"'},
            "label.group: found 'label', expected a named group",
        ),
        (
            {"label": DESCRIPTION["label"] + 'uncovered = "benign"'},
            "label.uncovered: found 'benign', expected nothing",
        ),
        ({"missing": 'policy = "prevoius"'}, "did you mean 'previous'?"),
        ({"episode": ""}, "episode.licence: found nothing, expected under which licence"),
        ({"episode": ""}, "episode.scaling: found nothing, expected one of 'plain', 'relative'"),
        ({"episode": 'host = "a b"'}, "episode.host: found 'a b', expected a name: 1 to 64 letters"),
        ({"episode": "host = 3"}, "episode.host: found 3, expected a name"),
        ({"episode": "host = { colunm = 'x' }"}, "did you mean 'column'?"),
        (
            {"episode": "host = { group = 'host' }"},
            "episode.host.group: found 'host', expected a named group (?P<host>...)",
        ),
        ({"episode": "host = { stretch_s = 3 }"}, "episode.host.stretch_s: found a key that is not known"),
        (
            {"episode": "variant = { stretch_s = 0 }"},
            "episode.variant.stretch_s: found 0, expected a number from 1",
        ),
        (
            {"episode": "seconds = 10\nbaseline_s = 10"},
            "episode.baseline_s: found 10, expected less than episode.seconds",
        ),
        (
            {"episode": "seconds = 10\nshortest_s = 11"},
            "episode.shortest_s: found 11, expected at most episode.seconds",
        ),
        (
            {"episode": 'scaling = "relative"\nbaseline_s = 1'},
            "episode.baseline_s: found 1, expected at least 3",
        ),
        (
            {"channels": 'column = "load"\nname = "cpu.load"\nunit = "x"'},
            "channels[0].name: found 'cpu.load', expected a channel such",
        ),
        (
            {"channels": 'column = "load"\nname = "sys.Load"\nunit = "x"'},
            "channels[0].name: found 'sys.Load'",
        ),
        ({"channels": 'column = "load"\nname = "sys.load"'}, "channels[0].unit: found nothing"),
        (
            {"channels": DESCRIPTION["channels"] + "decimals = 16"},
            "channels[0].decimals: found 16, expected a whole number from 0 to 15",
        ),
        ({"channels": DESCRIPTION["channels"] + 'kind = "meter"'}, "channels[0].kind: found 'meter'"),
        (
            {"channels": DESCRIPTION["channels"] + "\n\n" + DESCRIPTION["channels"]},
            "channels[1].name: found 'sys.load', expected a name that no",
        ),
        (
            {"channels": DESCRIPTION["channels"] + "\n\n" + DESCRIPTION["channels"]},
            "channels[1].column: found 'load', expected a column that no",
        ),
    ],
)
def test_a_fault_names_key_found_and_expected(tables: dict[str, str], fault: str) -> None:
    text = description(**tables).replace("decimals = 2\ndecimals", "decimals")
    with pytest.raises(BadDescription) as refusal:
        read(text)
    assert fault in str(refusal.value)
    assert all(line.startswith("import.toml: ") for line in str(refusal.value).splitlines())


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadDescription) as refusal:
        parse({"file": {}, "time": 3, "channels": {}}, "import.toml")
    lines = str(refusal.value).splitlines()
    for start in (
        "file: found a key",
        "time: found 3, expected a table",
        "label: ",
        "episode.host: ",
        "channels: ",
    ):
        assert any(line.startswith(f"import.toml: {start}") for line in lines), start


def test_a_description_that_is_missing_or_no_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[files\n")
    with pytest.raises(BadDescription, match=r"bad\.toml: is no TOML"):
        load(tmp_path / "bad.toml")


def test_a_description_as_windows_writes_it_loads(tmp_path: Path) -> None:
    (tmp_path / "import.toml").write_bytes(b"\xef\xbb\xbf" + description().replace("\n", "\r\n").encode())
    assert load(tmp_path / "import.toml") == read(description())


@pytest.mark.parametrize(
    ("suspicious", "benign", "answers"),
    [
        (("x",), ("y",), {"x": True, "y": False, "z": None}),
        (("x",), None, {"x": True, "y": False, "z": False}),
        (None, ("y",), {"x": True, "y": False, "z": True}),
    ],
)
def test_what_a_label_means(
    suspicious: tuple[str, ...] | None, benign: tuple[str, ...] | None, answers: dict[str, bool | None]
) -> None:
    lists = {"suspicious": suspicious, "benign": benign}
    text = "".join(f"{key} = {list(words) if words else 'others'!r}\n" for key, words in lists.items())
    rules = read(description(label='column = "what"\n' + text)).label
    assert {word: rules.is_suspicious(word) for word in answers} == answers
