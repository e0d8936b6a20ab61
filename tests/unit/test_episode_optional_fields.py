"""Meta data that an episode may lack: time of the start, scaling, steps per unit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cis490.episodes.dataset import iter_episodes, unpack
from cis490.episodes.format import MAGIC, Channel, EpisodeError, EpisodeMeta, encode, episode_id, parse
from tests.factories.minimal_episode import META, PAYLOAD, episode_bytes

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
FULL = replace(
    META,
    started_at_s=1_700_000_000,
    scaling="plain",
    channels=(Channel("sys.cpu.user", "s", "counter", 1000), META.channels[1]),
)


def header(data: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(data.split(b"\n", 2)[1])
    return found


def with_header(**changes: object) -> bytes:
    """The minimal episode with some meta data replaced, in canonical form."""
    text = json.dumps({**header(episode_bytes()), **changes}, sort_keys=True, separators=(",", ":"))
    return MAGIC + text.encode() + b"\n" + PAYLOAD


@pytest.mark.parametrize("name", ["lab-v1", "lab-v1-heldout"])
def test_the_shipped_episodes_keep_their_bytes_and_their_data_set_its_id(name: str, tmp_path: Path) -> None:
    pin = json.loads((DATASETS / f"{name}.json").read_text())
    unpack(DATASETS / pin["file"], tmp_path / "set", pin["dataset_id"])
    for path, meta, payload in iter_episodes(tmp_path / "set"):
        assert (meta.started_at_s, meta.scaling) == (None, "relative")
        assert encode(meta, payload) == path.read_bytes()


def test_what_has_its_default_is_not_written() -> None:
    assert not {"started_at_s", "scaling"} & set(header(episode_bytes()))
    assert {len(channel) for channel in header(episode_bytes())["channels"]} == {3}  # type: ignore[attr-defined]


def test_what_differs_from_its_default_is_written_and_read_again() -> None:
    data = encode(FULL, PAYLOAD)
    assert parse(data, "here") == (FULL, PAYLOAD)
    assert header(data)["started_at_s"] == 1_700_000_000
    assert header(data)["scaling"] == "plain"
    assert episode_id(data) != episode_id(episode_bytes())


@pytest.mark.parametrize(
    "spelled_out",
    [
        {"scaling": "relative"},
        {"channels": [{"name": "sys.cpu.user", "unit": "ticks", "kind": "counter", "per_unit": 1}] * 1},
    ],
)
def test_a_default_that_is_spelled_out_would_give_one_episode_two_identities(
    spelled_out: dict[str, object],
) -> None:
    with pytest.raises(EpisodeError, match="not canonical JSON"):
        parse(with_header(**spelled_out), "here")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"started_at_s": None}, "started_at_s is 'None', expected an integer from 0"),
        ({"started_at_s": -1}, "started_at_s is '-1', expected an integer from 0"),
        ({"started_at_s": 1.5}, "started_at_s is '1.5', expected an integer"),
        ({"started_at_s": True}, "started_at_s is 'True', expected an integer"),
        ({"started_at_s": 253_402_300_800}, "expected an integer from 0 to 253402300799"),
        ({"scaling": "log"}, "scaling is 'log', expected one of ('relative', 'plain')"),
        ({"scaling": ["plain"]}, "expected one of ('relative', 'plain')"),
        ({"started_at": 3}, r"unknown keys ['started_at']"),
    ],
)
def test_a_wrong_optional_value_is_refused(changes: dict[str, object], found: str) -> None:
    with pytest.raises(EpisodeError) as refusal:
        parse(with_header(**changes), "here")
    assert found in str(refusal.value)


@pytest.mark.parametrize("per_unit", [0, -1, True, 1.0, "10", 10**15 + 1, None])
def test_steps_per_unit_are_a_positive_integer(per_unit: object) -> None:
    channel = {"name": "sys.x", "unit": "V", "kind": "gauge", "per_unit": per_unit}
    with pytest.raises(EpisodeError, match=r"channels\[0\]\.per_unit is"):
        parse(with_header(channels=[channel]), "here")


def test_the_optional_fields_are_those_with_a_default_in_the_class() -> None:
    assert EpisodeMeta.__dataclass_fields__["scaling"].default == "relative"
    assert EpisodeMeta.__dataclass_fields__["started_at_s"].default is None
