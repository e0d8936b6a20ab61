"""The episode file: one labelled recording, as bytes that are the same wherever they are written.

    line 1   CIS490-EPISODE 1
    line 2   canonical JSON: the meta data (sorted keys, no spaces, ASCII, integers and strings only)
    rest     payload: int64 matrix, one row per channel, one column per sample; see `arrays` for its byte order

The file is not compressed, so that its SHA-256, the `episode_id`, does not depend on a compressor's version.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

EPISODE_SUFFIX: Final = ".episode"
MAGIC: Final = b"CIS490-EPISODE 1\n"
SCHEMA: Final = 1
MAX_HEADER_BYTES: Final = 65_536
MAX_CELLS: Final = 16_000_000
"""Upper bound of rows x columns (128 MiB of payload); a shipped episode has about 12 000."""

Kind = Literal["counter", "gauge"]
Label = Literal["benign", "suspicious"]
Phase = Literal["baseline", "onset", "active"]
Scaling = Literal["relative", "plain"]
"""How a trainer is to read the values. `relative`: as the change against the episode's baseline, which every
episode then needs; `plain`: as they are, for series whose level means the same everywhere."""

MAX_STARTED_AT_S: Final = 253_402_300_799
"""The end of the year 9999, the last second that Python's dates know."""
MAX_PER_UNIT: Final = 10**15

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CHANNEL = re.compile(r"(sys|block|net|tree|guest)(\.[a-z0-9_]+)+")
_INT64_MAX: Final = 2**63 - 1


class EpisodeError(Exception):
    """A file is not a valid episode. The message names the file, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One measured quantity. A counter only grows while its host runs; a gauge is a level at the sample's time.

    The first part of the name decides who may read it: `sys`, `block` and `net` are visible from outside the
    workload, `tree` and `guest` are not. `per_unit` says how many steps of the stored integers make one unit:
    1000 for volts that are stored in millivolts.
    """

    name: str
    unit: str
    kind: Kind
    per_unit: int = 1


@dataclass(frozen=True, slots=True)
class Interval:
    """Half-open time span [t0_us, t1_us) in microseconds since the start of the episode."""

    t0_us: int
    t1_us: int
    label: Label
    phase: Phase


@dataclass(frozen=True, slots=True)
class EpisodeMeta:
    """What was recorded, where, and how.

    `variant` numbers the drawn `parameters` of a `profile`; `background` is the profile that ran through the
    whole episode, or "none". `channels` names the payload's rows from the second on; the first row is time.
    `simulated` is true when the host is a shaped part of another machine, and `shape` says which part.
    `started_at_s` is the start as Unix time in UTC, None when nobody knows it.

    The header leaves out what has its default among `OPTIONAL` and a channel's `per_unit`, so that an episode
    has the same identity as before those fields existed.
    """

    host: str
    profile: str
    family: str
    variant: int
    parameters: Mapping[str, int | str]
    background: str
    intervals: tuple[Interval, ...]
    hz: int
    n_samples: int
    dropped_samples: int
    channels: tuple[Channel, ...]
    kernel: str
    cpu_count: int
    tool_version: str
    simulated: bool
    shape: str
    licence: str
    clock: str = "monotonic"
    schema: int = SCHEMA
    started_at_s: int | None = None
    scaling: Scaling = "relative"

    @property
    def label(self) -> Label:
        """The label of the episode as a whole: suspicious when any part of it is."""
        return "suspicious" if any(i.label == "suspicious" for i in self.intervals) else "benign"

    @property
    def payload_bytes(self) -> int:
        """Size the payload must have."""
        return 8 * (1 + len(self.channels)) * self.n_samples


def episode_id(data: bytes) -> str:
    """Identity of an episode: SHA-256 (64 lower-case hex digits) of the whole file."""
    return hashlib.sha256(data).hexdigest()


def encode(meta: EpisodeMeta, payload: bytes) -> bytes:
    """The file's bytes. Raises `EpisodeError` when `parse` would refuse them."""
    data = MAGIC + _header(meta) + b"\n" + payload
    parse(data, f"episode of profile {meta.profile!r} on host {meta.host!r}")
    return data


def parse(data: bytes, where: str) -> tuple[EpisodeMeta, bytes]:
    """Meta data and payload of an episode file. `where` names the file in messages.

    Raises `EpisodeError` for every deviation, also for meta data that is right but not in canonical form: two
    spellings of one episode would have two identities.
    """
    if not data.startswith(MAGIC):
        raise EpisodeError(f"{where}: the file starts with {data[: len(MAGIC)]!r}, expected {MAGIC!r}")
    end = data.find(b"\n", len(MAGIC), len(MAGIC) + MAX_HEADER_BYTES)
    if end < 0:
        raise EpisodeError(f"{where}: no end of the meta data line within {MAX_HEADER_BYTES} bytes")
    line = data[len(MAGIC) : end]
    meta = _Reader(where).meta(_json(line, where))
    if _header(meta) != line:
        raise EpisodeError(f"{where}: the meta data is not canonical JSON (sorted keys, no spaces, ASCII)")
    payload = data[end + 1 :]
    if len(payload) != meta.payload_bytes:
        raise EpisodeError(
            f"{where}: the payload has {len(payload)} bytes, expected {meta.payload_bytes} "
            f"(8 bytes x {1 + len(meta.channels)} rows x {meta.n_samples} samples); the file may be cut short"
        )
    return meta, payload


def _header(meta: EpisodeMeta) -> bytes:
    fields: dict[str, object] = {name: getattr(meta, name) for name in _REQUIRED}
    fields |= {
        name: getattr(meta, name) for name, default in OPTIONAL.items() if getattr(meta, name) != default
    }
    fields["parameters"] = dict(meta.parameters)
    fields["intervals"] = [[i.t0_us, i.t1_us, i.label, i.phase] for i in meta.intervals]
    fields["channels"] = [
        {"name": c.name, "unit": c.unit, "kind": c.kind}
        | ({"per_unit": c.per_unit} if c.per_unit != 1 else {})
        for c in meta.channels
    ]
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def _json(line: bytes, where: str) -> object:
    try:
        return cast(object, json.loads(line.decode("ascii")))
    except (ValueError, RecursionError) as error:
        raise EpisodeError(f"{where}: the meta data is not ASCII JSON: {error}") from error


OPTIONAL: Final[Mapping[str, object]] = {"started_at_s": None, "scaling": "relative"}
"""Meta data that a header may lack, each with what that means."""

_REQUIRED: Final = tuple(name for name in EpisodeMeta.__dataclass_fields__ if name not in OPTIONAL)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Checks meta data key by key; `where` is the file."""

    where: str

    def fault(self, key: str, found: object, expected: str) -> EpisodeError:
        return EpisodeError(f"{self.where}: {key} is {str(found)[:200]!r}, expected {expected}")

    def table(
        self, value: object, key: str, keys: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, object]:
        if not isinstance(value, dict):
            raise self.fault(key, value, "an object")
        missing, unknown = sorted(set(keys) - set(value)), sorted(set(value) - {*keys, *optional})
        if missing or unknown:
            raise EpisodeError(f"{self.where}: {key}: missing keys {missing}, unknown keys {unknown}")
        return cast(dict[str, object], value)

    def items(self, value: object, key: str) -> list[object]:
        if not isinstance(value, list):
            raise self.fault(key, value, "a list")
        return cast(list[object], value)

    def integer(self, value: object, key: str, low: int, high: int = _INT64_MAX) -> int:
        if type(value) is not int or not low <= value <= high:
            raise self.fault(key, value, f"an integer from {low} to {high}")
        return value

    def text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= 200 or not value.isprintable():
            raise self.fault(key, value, "1 to 200 printable characters")
        return value

    def name(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self.fault(key, value, "a name: letters, digits, '.', '_', '-', not starting with a dot")
        return value

    def choice(self, value: object, key: str, choices: tuple[str, ...]) -> str:
        if not isinstance(value, str) or value not in choices:
            raise self.fault(key, value, f"one of {choices}")
        return value

    def meta(self, value: object) -> EpisodeMeta:
        raw = self.table(value, "meta data", _REQUIRED, OPTIONAL)
        if raw["schema"] != SCHEMA or type(raw["schema"]) is not int:
            raise self.fault("schema", raw["schema"], f"{SCHEMA}; a newer program may be needed")
        if raw["clock"] != "monotonic":
            raise self.fault("clock", raw["clock"], "'monotonic'")
        if not isinstance(raw["simulated"], bool):
            raise self.fault("simulated", raw["simulated"], "true or false")
        meta = EpisodeMeta(
            host=self.name(raw["host"], "host"),
            profile=self.name(raw["profile"], "profile"),
            family=self.name(raw["family"], "family"),
            variant=self.integer(raw["variant"], "variant", 0),
            parameters=self.parameters(raw["parameters"]),
            background=self.name(raw["background"], "background"),
            intervals=self.intervals(raw["intervals"]),
            hz=self.integer(raw["hz"], "hz", 1, 1000),
            n_samples=self.integer(raw["n_samples"], "n_samples", 1, MAX_CELLS),
            dropped_samples=self.integer(raw["dropped_samples"], "dropped_samples", 0),
            channels=self.channels(raw["channels"]),
            kernel=self.text(raw["kernel"], "kernel"),
            cpu_count=self.integer(raw["cpu_count"], "cpu_count", 1, 65_536),
            tool_version=self.text(raw["tool_version"], "tool_version"),
            simulated=raw["simulated"],
            shape=self.text(raw["shape"], "shape"),
            licence=self.text(raw["licence"], "licence"),
            started_at_s=(
                self.integer(raw["started_at_s"], "started_at_s", 0, MAX_STARTED_AT_S)
                if "started_at_s" in raw
                else None
            ),
            scaling=cast(Scaling, self.choice(raw.get("scaling", "relative"), "scaling", get_args(Scaling))),
        )
        if meta.payload_bytes > 8 * MAX_CELLS:
            raise self.fault("channels x samples", meta.payload_bytes // 8, f"at most {MAX_CELLS}")
        return meta

    def parameters(self, value: object) -> dict[str, int | str]:
        if not isinstance(value, dict):
            raise self.fault("parameters", value, "an object")
        checked: dict[str, int | str] = {}
        for key, item in value.items():
            name = f"parameters.{self.name(key, 'a key of parameters')}"
            is_text = isinstance(item, str)
            checked[key] = self.text(item, name) if is_text else self.integer(item, name, -_INT64_MAX)
        return checked

    def intervals(self, value: object) -> tuple[Interval, ...]:
        found: list[Interval] = []
        end_us = 0
        for n, item in enumerate(self.items(value, "intervals")):
            key = f"intervals[{n}]"
            parts = self.items(item, key)
            if len(parts) != 4:
                raise self.fault(key, item, "[t0_us, t1_us, label, phase]")
            t0_us = self.integer(parts[0], f"{key}.t0_us", end_us)
            end_us = self.integer(parts[1], f"{key}.t1_us", t0_us + 1)
            if parts[2] not in get_args(Label) or parts[3] not in get_args(Phase):
                raise self.fault(key, item, f"a label of {get_args(Label)} and a phase of {get_args(Phase)}")
            found.append(Interval(t0_us, end_us, cast(Label, parts[2]), cast(Phase, parts[3])))
        if not found:
            raise self.fault("intervals", value, "at least one interval")
        return tuple(found)

    def channels(self, value: object) -> tuple[Channel, ...]:
        found: dict[str, Channel] = {}
        for n, item in enumerate(self.items(value, "channels")):
            key = f"channels[{n}]"
            raw = self.table(item, key, ("name", "unit", "kind"), ("per_unit",))
            name = raw["name"]
            if not isinstance(name, str) or not _CHANNEL.fullmatch(name) or name in found:
                raise self.fault(f"{key}.name", name, "a new name such as 'sys.cpu.user'")
            kind = cast(Kind, self.choice(raw["kind"], f"{key}.kind", get_args(Kind)))
            per_unit = self.integer(raw.get("per_unit", 1), f"{key}.per_unit", 1, MAX_PER_UNIT)
            found[name] = Channel(name, self.text(raw["unit"], f"{key}.unit"), kind, per_unit)
        if not found:
            raise self.fault("channels", value, "at least one channel")
        return tuple(found.values())
