"""Whatever a file holds, the manifest loader gives a Manifest or a TrainingManifestError, and nothing else;
and the line index knows every key of every TOML text that the parser takes."""

import json
import re
import tomllib
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from training.fleet import toml_lines
from training.fleet.manifest import Manifest, TrainingManifestError, loads
from training.fleet.toml_lines import index_lines

EXAMPLE = (Path(__file__).parents[2] / "etc" / "training_manifest.toml.example").read_text("utf-8")
CUTTINGS = [
    *("[", "]", "{", "}", '"', "'", '"""', "'''", "=", ".", ",", "#", "\n", "\\", "\0", "\u2028", "\ufeff"),
    *("nan", "inf", "-0.0", "1e400", "1979-05-27", "07:32:00", "true", "-1", "9" * 5000, "0x" + "f" * 5000),
    *('""', "[]", "{}", "[[]]", "{ a = 1 }", "[1, 'a']", '"../x"', '"\\u0000"', '"\\n"'),
    *("[[jobs]]\n", "[[hosts]]\n", "[hosts.a]\n", "[policy]\n", "[dataset]\n", "[jobs.hyper]\n", "hyper = "),
    *("name = ", "seed = ", "capability = ", "gpus = ", "allow_jobs = ", "train_hosts = ", "min_vram_gib = "),
]


def judged(text: str) -> Manifest | TrainingManifestError:
    try:
        return loads(text)
    except TrainingManifestError as error:
        return error


def assert_judged(text: str) -> None:
    verdict = judged(text)
    if isinstance(verdict, Manifest):
        assert len({job.job_id for job in verdict.jobs}) == len(verdict.jobs)
        assert all(re.fullmatch("[0-9a-f]{64}", job.job_id) for job in verdict.jobs)
    else:
        assert verdict.faults
        lines = str(verdict).split("\n")
        assert len(lines) == min(len(verdict.faults), 20) + (len(verdict.faults) > 20)
        assert str(verdict).replace("\n", "").isprintable()
        last = text.count("\n") + 1
        assert all(fault.line is None or 1 <= fault.line <= last for fault in verdict.faults)


@given(st.text())
@example("\ud800")
@example("a" * (4 * 1024 * 1024 + 1))
@example(".".join("a" * 1000) + " = 1")
@example("[[" + ".".join("a" * 1000) + "]]")
def test_any_text_is_judged(text: str) -> None:
    assert_judged(text)


@given(st.lists(st.sampled_from(CUTTINGS), max_size=12))
def test_any_mixture_of_toml_is_judged(parts: list[str]) -> None:
    assert_judged("".join(parts))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1), st.integers(0, 40), st.sampled_from(["", *CUTTINGS]) | st.text(max_size=5)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_damage_to_the_example_is_judged(edits: list[tuple[float, int, str]]) -> None:
    """Each edit replaces some characters at a relative place of the file."""
    text = EXAMPLE
    for place, length, replacement in edits:
        at = int(place * len(text))
        text = text[:at] + replacement + text[at + length :]

    assert_judged(text)


ODD_VALUES = st.sampled_from(
    [
        *(
            "nan",
            "-inf",
            "1979-05-27",
            "07:32:00",
            "0x" + "f" * 5000,
            "true",
            "-1",
            "0",
            "2.5",
            '"x"',
            '"gbt"',
        ),
        *(
            "[]",
            "{}",
            "[[1]]",
            "[nan]",
            "[{}]",
            "[[[]]]",
            '["gbt", 1]',
            "{ a = [{ b = 1 }] }",
            '"../x"',
            '"\\n"',
        ),
    ]
)
LINES_WITH_VALUES = [
    match.span(1) for match in re.finditer(r"(?m)^[a-z_]+ = (.*?)(?=\s+#|$)", EXAMPLE) if match[1]
]


@given(st.sampled_from(LINES_WITH_VALUES), ODD_VALUES)
def test_any_value_in_the_place_of_another_is_judged(span: tuple[int, int], value: str) -> None:
    text = EXAMPLE[: span[0]] + value + EXAMPLE[span[1] :]

    tomllib.loads(text)  # still TOML: it is the checks that are tried here
    assert_judged(text)


# --- The line index -----------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b-1", "_c", "9"]) | st.text(max_size=4)
SCALARS = st.integers(-9, 9) | st.booleans() | st.text(max_size=8)
VALUES: st.SearchStrategy[object] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TABLES: st.SearchStrategy[dict[str, object]] = st.dictionaries(KEYS, VALUES, max_size=4)


class Writer:
    """Writes TOML in some layout and keeps the book on lines: the index must find the same."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw
        self.text = ""
        self.lines: dict[toml_lines.Path, int] = {}

    def _put(self, text: str) -> None:
        self.text += text

    def _gap(self) -> None:
        """Where line ends and comments are allowed."""
        self._put(self._draw(st.sampled_from(["", " ", "\n", "\n\n  ", " # ] } \" '\n\t", "\r\n"])))

    def _here(self, path: toml_lines.Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def _key(self, key: str) -> str:
        if re.fullmatch("[A-Za-z0-9_-]+", key) and self._draw(st.booleans()):
            return key
        if "'" not in key and key.isprintable() and self._draw(st.booleans()):
            return f"'{key}'"
        return _basic(key)

    def document(self, top: dict[str, object], tables: list[tuple[str, dict[str, object]]]) -> None:
        self._pairs((), top)
        seen: dict[str, int] = {}
        for name, table in tables:
            position = seen[name] = seen.get(name, -1) + 1
            self._gap()
            self._put("\n")
            self._here((name,))
            self._here((name, position))
            self._put(f"[[ {self._key(name)} ]] # [[no]]\n")
            self._pairs((name, position), table)

    def _pairs(self, table: toml_lines.Path, values: dict[str, object]) -> None:
        for key, value in values.items():
            self._gap()
            self._put("\n")
            self._here((*table, key))
            self._put(f"{self._key(key)} = ")
            self._value((*table, key), value)
            self._put("\n")

    def _value(self, path: toml_lines.Path, value: object) -> None:
        if isinstance(value, bool):
            self._put("true" if value else "false")
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, list):
            self._list(path, value)
        elif isinstance(value, dict):
            self._inline(path, value)
        else:
            self._put(str(value))

    def _text(self, value: str) -> None:
        """A line end right behind three quotes is not part of the text."""
        plain = value.replace("\n", "").isprintable()
        if plain and "'" not in value and self._draw(st.booleans()):
            self._put(f"'''\n{value}'''")
        elif plain and not set(value) & set('"\\') and self._draw(st.booleans()):
            self._put(f'"""\n{value}"""')
        else:
            self._put(_basic(value))

    def _list(self, path: toml_lines.Path, items: list[object]) -> None:
        self._put("[")
        for position, item in enumerate(items):
            self._gap()
            self._here((*path, position))
            self._value((*path, position), item)
            self._gap()
            if position < len(items) - 1 or self._draw(st.booleans()):
                self._put(",")
        self._gap()
        self._put("]")

    def _inline(self, path: toml_lines.Path, values: dict[str, object]) -> None:
        self._put("{ ")
        for position, (key, value) in enumerate(values.items()):
            if position:
                self._put(", ")
            self._here((*path, key))
            self._put(f"{self._key(key)}={' ' * (position % 2)}")
            self._value((*path, key), value)
        self._put(" }")


def _basic(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for characters beyond 16 bits and DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(st.data())
def test_the_index_finds_every_key_in_the_line_where_it_was_written(data: st.DataObject) -> None:
    top = data.draw(TABLES)
    names = st.sampled_from([name for name in ("x y", "jobs", "t") if name not in top] or ["unused"])
    tables = data.draw(st.lists(st.tuples(names, TABLES), max_size=4))
    writer = Writer(data)
    writer.document(top, tables)
    document = tomllib.loads(writer.text)

    index = index_lines(writer.text)

    assert {key: document[key] for key in top} == top
    assert {path: index.line(path) for path in writer.lines} == writer.lines


@given(st.text(alphabet="ab[]{}=.,#\"'\\\n \t1"))
def test_the_index_never_fails_and_stays_within_the_text(text: str) -> None:
    index = index_lines(text)

    assert index.line(("a",)) <= text.count("\n") + 1
