"""What `parse` takes and what it refuses."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cis490.episodes.arrays import from_payload, to_payload
from cis490.episodes.format import (
    EPISODE_SUFFIX,
    MAGIC,
    Channel,
    EpisodeError,
    EpisodeMeta,
    Interval,
    encode,
    episode_id,
    parse,
)
from tests.factories.minimal_episode import MATRIX, META, PAYLOAD, episode_bytes

Raw = dict[str, object]


def with_header(change: Callable[[Raw], object]) -> bytes:
    """The minimal episode with its meta data changed, written canonically."""
    end = episode_bytes().index(b"\n", len(MAGIC))
    raw: Raw = json.loads(episode_bytes()[len(MAGIC) : end])
    change(raw)
    line = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    return MAGIC + line.encode() + b"\n" + PAYLOAD


def setting(key: str, value: object) -> Callable[[Raw], object]:
    return lambda raw: raw.update({key: value})


def test_a_written_episode_is_read_back_whole() -> None:
    meta, payload = parse(episode_bytes(), "x")
    t_us, values = from_payload(meta, payload)
    assert meta == META
    assert t_us.tolist() == [3, 100_004, 200_001]
    assert values.tolist() == [[10, 4], [12, 5], [15, 4]]


def test_the_identity_is_the_digest_of_the_file_and_stays_the_same() -> None:
    """A golden value: when this fails, every data set in the field has lost its name."""
    assert episode_id(episode_bytes()) == hashlib.sha256(episode_bytes()).hexdigest()
    assert episode_id(episode_bytes()) == "fbf3693a10e0ef52541ef1d139c1b1c41c11e5c5b79d471faf0dd49a7504e8fe"
    assert EPISODE_SUFFIX == ".episode"


def test_the_payload_holds_differences_as_byte_planes() -> None:
    matrix = np.array([[1, 258], [5, 4]], dtype=np.int64)
    lowest = bytes([1, 1, 5, 255])  # 1, 257 = 0x101, 5, -1
    second = bytes([0, 1, 0, 255])
    assert to_payload(matrix) == lowest + second + bytes([0, 0, 0, 255]) * 6


def test_an_episode_is_suspicious_when_a_part_of_it_is() -> None:
    assert META.label == "benign"
    assert replace(
        META, intervals=(*META.intervals, Interval(200_000, 300_000, "suspicious", "active"))
    ).label == ("suspicious")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (setting("extra", 1), r"unknown keys \['extra'\]"),
        (lambda raw: raw.pop("host"), r"missing keys \['host'\]"),
        (setting("schema", 2), "schema is '2', expected 1"),
        (setting("schema", True), "schema is 'True'"),
        (setting("host", "../lab"), "host is '../lab', expected a name"),
        (setting("profile", ".hidden"), "profile is '.hidden'"),
        (setting("clock", "wall"), "expected 'monotonic'"),
        (setting("hz", 10.0), "hz is '10.0', expected an integer"),
        (setting("hz", True), "hz is 'True'"),
        (setting("n_samples", 0), "n_samples is '0'"),
        (setting("n_samples", 2**40), "n_samples"),
        (setting("n_samples", 16_000_000), "channels x samples"),
        (setting("variant", -1), "variant is '-1'"),
        (setting("simulated", 1), "simulated is '1', expected true or false"),
        (setting("licence", ""), "licence is ''"),
        (setting("shape", "two\nlines"), "printable"),
        (setting("parameters", {"x_ms": 1.5}), "parameters.x_ms is '1.5'"),
        (setting("parameters", []), "parameters"),
        (setting("intervals", []), "at least one interval"),
        (setting("intervals", [[0, 5, "benign"]]), "expected .t0_us, t1_us, label, phase"),
        (setting("intervals", [[5, 5, "benign", "active"]]), "t1_us is '5'"),
        (setting("intervals", [[0, 9, "benign", "active"], [8, 12, "benign", "active"]]), "t0_us is '8'"),
        (setting("intervals", [[0, 9, "evil", "active"]]), "a label of"),
        (setting("intervals", [[0, 9, ["benign"], "active"]]), "a label of"),
        (setting("channels", []), "at least one channel"),
        (setting("channels", [{"name": "cpu", "unit": "s", "kind": "gauge"}]), "channels.0..name is 'cpu'"),
        (setting("channels", [{"name": "sys.a", "unit": "s", "kind": "rate"}]), "kind is 'rate'"),
        (setting("channels", [{"name": "sys.a", "unit": "s", "kind": "gauge"}] * 2), "a new name"),
        (setting("channels", [{"name": "sys.a"}]), "missing keys"),
    ],
)
def test_a_fault_is_named_with_what_was_found(change: Callable[[Raw], object], says: str) -> None:
    with pytest.raises(EpisodeError, match=says) as caught:
        parse(with_header(change), "lab-a/x.episode")
    assert str(caught.value).startswith("lab-a/x.episode: ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "the file starts with b''"),
        (b"CIS490-EPISODE 2\n{}\n", "expected b'CIS490-EPISODE 1"),
        (MAGIC + b"{" * 70_000, "no end of the meta data line"),
        (MAGIC + b"[" * 60_000 + b"\n", "not ASCII JSON"),
        (MAGIC + b'{"host":"\xff"}\n', "not ASCII JSON"),
        (MAGIC + b"[]\n", "expected an object"),
        (episode_bytes()[:-1], "the payload has 71 bytes, expected 72"),
        (episode_bytes() + b"\0", "the payload has 73 bytes, expected 72"),
        (episode_bytes().replace(b'"hz":10', b'"hz": 10'), "not canonical"),
        (episode_bytes().replace(b'{"background"', b'{"hz":10,"background"'), "not canonical"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(EpisodeError, match=says):
        parse(data, "x")


def test_writing_refuses_what_reading_would_refuse() -> None:
    wrong: list[tuple[EpisodeMeta, bytes]] = [
        (replace(META, host="a/b"), PAYLOAD),
        (replace(META, channels=(Channel("guess.x", "s", "gauge"),)), PAYLOAD),
        (META, PAYLOAD[1:]),
    ]
    for meta, payload in wrong:
        with pytest.raises(EpisodeError):
            encode(meta, payload)


@pytest.mark.parametrize("times", [[-1, 5, 9], [0, 5, 5], [0, 9, 5]])
def test_time_that_does_not_grow_is_refused(times: list[int]) -> None:
    matrix = MATRIX.copy()
    matrix[0] = times
    with pytest.raises(EpisodeError, match="do not grow"):
        from_payload(META, to_payload(matrix))


def test_only_a_matrix_of_integers_becomes_a_payload() -> None:
    with pytest.raises(ValueError, match="float64"):
        to_payload(np.zeros((2, 2)))  # type: ignore[arg-type]
