"""The description of an import: what the files and columns mean. `etc/import.toml.example` explains each key."""

import datetime
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from cis490.episodes.format import Channel, Kind, Scaling
from collection.importing.errors import BadDescription, MissingInput
from collection.importing.toml_table import KeyFaults, Table, described, did_you_mean

TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]
MissingPolicy = Literal["refuse", "previous", "drop_row"]
OTHERS = "others"
BASELINE_S = 3.0
"""What a trainer takes as the quiet beginning of an episode whose scaling is `relative`."""
MAX_HZ = 1000
MAX_DECIMALS = 15
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "a name: 1 to 64 letters, digits, '.', '_', '-', the first a letter or digit"
CHANNEL = re.compile(r"(sys|block|net|tree|guest)(\.[a-z0-9_]+)+")
CHANNEL_RULE = (
    "a channel such as 'sys.cpu.user': sys, block, net, tree or guest, then lower-case words, with dots"
)
GROUPS = ("host", "family", "variant", "label")
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a name comes from: exactly one of the four is given. `stretch_s` counts stretches of a file."""

    constant: str | None = None
    column: str | None = None
    group: str | None = None
    stretch_s: float | None = None


@dataclass(frozen=True, slots=True)
class FileRules:
    """Which files, and how a line is written. `name` must match the whole path below the folder."""

    include: tuple[str, ...]
    name: re.Pattern[str] | None
    delimiter: str
    decimal: str
    header: bool
    skip_lines: int
    encoding: str


@dataclass(frozen=True, slots=True)
class TimeRules:
    """`column` is None when rows are `hz` a second. `zero_s` is the Unix time at which the clock shows 0."""

    column: str | None
    unit: TimeUnit
    hz: float | None
    zero_s: int | None
    max_gap: float
    split_at_gaps: bool


@dataclass(frozen=True, slots=True)
class LabelRules:
    """Exactly one of column, group and table is given. None among the words: all other words."""

    column: str | None
    group: str | None
    table: str | None
    suspicious: tuple[str, ...] | None
    benign: tuple[str, ...] | None
    uncovered: Literal["benign", "suspicious", "refuse"]

    def is_suspicious(self, word: str) -> bool | None:
        """What a word of the label column means; None when the description does not say."""
        if self.suspicious is not None and word in self.suspicious:
            return True
        if self.benign is not None and word in self.benign:
            return False
        if self.suspicious is None:
            return True
        return False if self.benign is None else None

    @property
    def expected(self) -> str:
        """The words that are known, for messages."""
        known = [*(self.suspicious or ()), *(self.benign or ())]
        return "one of " + ", ".join(map(repr, known))


@dataclass(frozen=True, slots=True)
class MissingRules:
    """What a cell without a value looks like, and what becomes of its row."""

    policy: MissingPolicy
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class EpisodeRules:
    """How series become episodes. `seconds` None: one episode for each unbroken series."""

    host: Source
    family: Source
    variant: Source
    seconds: float | None
    shortest_s: float
    baseline_s: float
    scaling: Scaling
    licence: str


@dataclass(frozen=True, slots=True)
class ChannelColumn:
    """A column and the channel that it becomes."""

    column: str
    channel: Channel


@dataclass(frozen=True, slots=True)
class Description:
    """A whole description."""

    files: FileRules
    time: TimeRules
    label: LabelRules
    missing: MissingRules
    episode: EpisodeRules
    channels: tuple[ChannelColumn, ...]


def load(path: Path) -> Description:
    """Read a description. Raises BadDescription with every fault found, MissingInput when it is not there."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw = tomllib.loads(text.replace("\r\n", "\n"))
    except OSError as error:
        raise MissingInput(f"{path}: cannot be read: {error.strerror}; pass --description FILE") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadDescription(f"{path}: is no TOML: {error}") from error
    return parse(raw, path.name)


def parse(raw: dict[str, object], source: str) -> Description:
    """A description from its TOML tables; `source` names the file in messages. Raises BadDescription."""
    faults = KeyFaults(source)
    top = Table(faults, "", raw, ("files", "time", "label", "missing", "episode", "channels"))
    files = _files(Table(faults, "files.", raw.get("files", {}), FileRules.__slots__))
    time = _time(
        Table(faults, "time.", raw.get("time", {}), ("column", "unit", "hz", "zero", "max_gap", "on_gap"))
    )
    label = _label(Table(faults, "label.", raw.get("label", {}), LabelRules.__slots__))
    missing = _missing(Table(faults, "missing.", raw.get("missing", {}), MissingRules.__slots__))
    episode = _episode(Table(faults, "episode.", raw.get("episode", {}), EpisodeRules.__slots__))
    channels = _channels(top)
    found = Description(files, time, label, missing, episode, channels)
    _check_together(found, faults)
    faults.raise_if_any()
    return found


def _files(table: Table) -> FileRules:
    delimiter = str(table.values.get("delimiter", ","))
    if delimiter not in DELIMITERS:
        table.fault("delimiter", "one of ',', ';', '\\t' (a tab), '|'")
        delimiter = ","
    decimal = table.choice("decimal", (".", ","), ".")
    if decimal == delimiter:
        table.faults.add(
            "files.delimiter and files.decimal",
            f"both are {decimal!r}",
            "two different signs",
            "tables with a decimal comma are mostly written with delimiter = ';'",
        )
    pattern = None
    if "name" in table:
        try:
            pattern = re.compile(table.text("name", "a regular expression"))
        except re.error as error:
            table.fault("name", "a regular expression", str(error))
    for group in pattern.groupindex if pattern else ():
        if group not in GROUPS:
            hint = did_you_mean(group, GROUPS)
            table.faults.add("files.name", f"the group {group!r}", f"one of {', '.join(GROUPS)}", hint)
    include = table.words("include", ("*.csv",))
    for pattern_text in include:
        if not pattern_text or pattern_text.startswith(("/", "\\")) or ".." in pattern_text.split("/"):
            expected = "patterns below the folder, such as '*.csv' or '*/*.csv'"
            table.faults.add("files.include", repr(pattern_text), expected)
    return FileRules(
        include=include,
        name=pattern,
        delimiter=delimiter,
        decimal=decimal,
        header=table.boolean("header", True),
        skip_lines=table.integer("skip_lines", 0, 10_000, 0),
        encoding=table.choice("encoding", ("utf-8", "latin-1"), "utf-8"),
    )


def _time(table: Table) -> TimeRules:
    column = table.text("column", "the name of a column") if "column" in table else None
    hz = table.number("hz", 0.0001, MAX_HZ, None, "rows per second")
    if column is None and "hz" not in table:
        table.fault("column", "the column that holds the time, or time.hz = the number of rows in a second")
    if column is None and "unit" in table:
        table.fault("unit", "no unit where there is no time.column")
    units = ("s", "ms", "us", "ns", "iso8601")
    unit = table.choice("unit", units) if column is not None else "s"
    zero = table.values.get("zero")
    zero_s: int | None = None
    if unit == "iso8601":
        zero_s = 0
        if zero is not None:
            table.fault("zero", "nothing: an ISO 8601 time says its date itself")
    elif isinstance(zero, datetime.datetime):
        moment = zero if zero.tzinfo else zero.replace(tzinfo=datetime.UTC)
        zero_s = int(moment.timestamp())
    elif zero is not None:
        table.fault("zero", "a date and time such as 1970-01-01T00:00:00Z")
    return TimeRules(
        column=column,
        unit=cast(TimeUnit, unit),
        hz=hz,
        zero_s=zero_s,
        max_gap=table.number("max_gap", 1.5, 1e9, 3.0, "distances between two rows") or 3.0,
        split_at_gaps=table.choice("on_gap", ("split", "refuse"), "split") == "split",
    )


def _label(table: Table) -> LabelRules:
    given = [key for key in ("column", "group", "table") if key in table]
    if len(given) != 1:
        table.faults.add("label", " and ".join(given) or "no source", "exactly one of column, group, table")
    words: dict[str, tuple[str, ...] | None] = {}
    for key in ("suspicious", "benign"):
        if table.values.get(key) == OTHERS:
            words[key] = None
        elif key in table:
            words[key] = table.words(key, ())
        else:
            words[key] = ()
            table.fault(
                key, f"the labels that count as {key}, or {OTHERS!r} for all that the other list lacks"
            )
    if words["suspicious"] is None and words["benign"] is None:
        table.fault("benign", "a list: only one of the two can be 'others'")
    both = sorted(set(words["suspicious"] or ()) & set(words["benign"] or ()))
    if both:
        table.faults.add("label.benign", f"{both[0]!r} in both lists", "each label in one list")
    if "uncovered" in table and "table" not in table:
        table.fault("uncovered", "nothing: it belongs to label.table")
    uncovered = table.choice("uncovered", ("benign", "suspicious", "refuse"), "refuse")
    return LabelRules(
        column=table.text("column", "the name of a column") if "column" in table else None,
        group=table.choice("group", ("label",)) if "group" in table else None,
        table=table.text("table", "the name of a CSV file in the folder") if "table" in table else None,
        suspicious=words["suspicious"],
        benign=words["benign"],
        uncovered=cast(Literal["benign", "suspicious", "refuse"], uncovered),
    )


def _missing(table: Table) -> MissingRules:
    policy = table.choice("policy", ("refuse", "previous", "drop_row"), "refuse")
    values = table.words("values", ("", "NA", "N/A", "NaN", "nan", "null", "NULL"), many=False)
    return MissingRules(cast(MissingPolicy, policy), frozenset(values))


def _episode(table: Table) -> EpisodeRules:
    seconds = table.number("seconds", 1, 86_400, None)
    shortest = table.number("shortest_s", 0, 86_400, seconds / 2 if seconds else 0.0)
    scaling = cast(Scaling, table.choice("scaling", ("plain", "relative")))
    baseline = table.number("baseline_s", 0, 86_400, BASELINE_S if scaling == "relative" else 0.0) or 0.0
    if scaling == "relative" and baseline < BASELINE_S:
        expected = (
            f"at least {BASELINE_S:g}: relative scaling compares with the first seconds of each episode"
        )
        table.fault("baseline_s", expected)
    if seconds and baseline >= seconds:
        table.fault("baseline_s", f"less than episode.seconds = {seconds:g}")
    if seconds and shortest is not None and shortest > seconds:
        table.fault("shortest_s", f"at most episode.seconds = {seconds:g}")
    return EpisodeRules(
        host=_source(table, "host"),
        family=_source(table, "family"),
        variant=_source(table, "variant") if "variant" in table else Source(),
        seconds=seconds,
        shortest_s=shortest or 0.0,
        baseline_s=baseline,
        scaling=scaling,
        licence=table.text("licence", "under which licence these data may be used, such as 'CC-BY-4.0'"),
    )


def _source(table: Table, key: str) -> Source:
    value = table.values.get(key)
    forms = ("column", "group", "stretch_s") if key == "variant" else ("column", "group")
    spelled = " or ".join(f"{{ {form} = ... }}" for form in forms)
    if isinstance(value, str) and NAME.fullmatch(value):
        return Source(constant=value)
    if isinstance(value, str):
        table.fault(key, NAME_RULE)
    elif not isinstance(value, dict) or len(value) != 1:
        table.fault(key, f"{NAME_RULE}; or {spelled}")
    else:
        inner = Table(table.faults, f"{table.where}{key}.", value, forms)
        if "column" in inner:
            return Source(column=inner.text("column", "the name of a column"))
        if "group" in inner:
            return Source(group=inner.choice("group", (key,)))
        if "stretch_s" in inner:
            return Source(stretch_s=inner.number("stretch_s", 1, 31_536_000, 1.0))
    return Source(constant="unknown")


def _channels(top: Table) -> tuple[ChannelColumn, ...]:
    tables = top.values.get("channels", [])
    if not isinstance(tables, list) or not tables:
        top.fault("channels", "at least one [[channels]] table with column, name and unit")
        return ()
    found: list[ChannelColumn] = []
    for n, values in enumerate(tables):
        keys = ("column", "name", "unit", "kind", "decimals")
        table = Table(top.faults, f"channels[{n}].", values, keys)
        if not isinstance(values, dict):
            continue
        column, name = table.text("column", "the name of a column"), table.text("name", CHANNEL_RULE)
        if name and not CHANNEL.fullmatch(name):
            table.fault("name", CHANNEL_RULE)
        for other in found:
            if name and other.channel.name == name:
                table.fault("name", f"a name that no other channel has ({other.column!r} has it)")
            if column and other.column == column:
                table.fault("column", f"a column that no other channel has ({other.channel.name!r} has it)")
        unit = table.text("unit", "the unit after scaling, such as 'KiB' or 'processes'")
        kind = cast(Kind, table.choice("kind", ("gauge", "counter"), "gauge"))
        decimals = table.integer("decimals", 0, MAX_DECIMALS, 0)
        found.append(ChannelColumn(column, Channel(name, unit, kind, 10**decimals)))
    return tuple(found)


def _check_together(found: Description, faults: KeyFaults) -> None:
    """What no table shows alone."""
    sources = {"host": found.episode.host, "family": found.episode.family, "variant": found.episode.variant}
    groups = {f"episode.{name}": source.group for name, source in sources.items()}
    known = found.files.name.groupindex if found.files.name else {}
    for key, group in {**groups, "label": found.label.group}.items():
        if group is not None and group not in known:
            faults.add(f"{key}.group", repr(group), f"a named group (?P<{group}>...) in files.name")
    read = {one.column for one in found.channels}
    answers = {"label.column": found.label.column, "time.column": found.time.column}
    answers |= {f"episode.{name}.column": source.column for name, source in sources.items()}
    for key, column in answers.items():
        if column is not None and column in read:
            hint = (
                "a model that reads it reads the answer" if key != "time.column" else "time is no measurement"
            )
            faults.add(
                key, f"{described(column)}, which is a channel too", "a column that is no channel", hint
            )
    names = [column for key, column in answers.items() if key != "time.column"]
    if found.time.column is not None and found.time.column in names:
        faults.add("time.column", described(found.time.column), "a column that holds nothing but time")
    for column in read | {column for column in answers.values() if column is not None}:
        if not found.files.header and not (column.isdecimal() and int(column) >= 1):
            hint = "without a header line columns are numbered: '1' is the first"
            faults.add("column", described(column), "the number of a column", hint)
