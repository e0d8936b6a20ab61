"""Each row of the audit trail as a sentence for people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from training.fleet import events
from training.fleet.lifecycle import EVENTS

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"


def row(**fields: Any) -> dict[str, Any]:
    plain = {
        "seq": 1, "at": 5.0, "actor": "operator", "event": "claim", "job_id": "8c" * 32, "name": "gru-oracle",
        "host": "", "from_phase": "", "to_phase": "", "epoch": 2, "detail": "",
    }  # fmt: skip
    return plain | fields


HOST = {"job_id": "", "name": "", "host": "w", "epoch": 0}
FLEET = HOST | {"host": ""}


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        (row(actor="host:w"), "job", "gru-oracle was claimed by w, attempt 2"),
        (row(actor="host:w", event="heartbeat", from_phase="claimed"), "job", "gru-oracle is running on w"),
        (row(actor="host:w", event="heartbeat", from_phase="pending_lapsed"), "job",
         "w came back with gru-oracle, which goes on running there"),
        (row(actor="host:w", event="fail", detail="oom", to_phase="pending"), "job",
         "gru-oracle failed on w (oom) and waits again"),
        (row(actor="host:w", event="fail", detail="oom", to_phase="failed"), "job",
         "gru-oracle failed on w (oom) and has failed for good"),
        (row(actor="reaper", event="expire", detail="w", to_phase="pending_lapsed"), "job",
         "w stopped reporting; gru-oracle waits again"),
        (row(actor="host:w", event="release", detail="stopping"), "job", "w gave gru-oracle back unharmed: stopping"),
        (row(event="cancel"), "job", "gru-oracle was cancelled"),
        (row(event="requeue", actor="ann"), "job", "gru-oracle was put back in line by ann"),
        (row(event="cancel", name=""), "job", "8c8c8c8c8c8c was cancelled"),
        (row(actor="manifest", event="reload", detail="no longer in the manifest: held"), "job",
         "gru-oracle no longer in the manifest: held"),
        (row(event="drain", detail="dust", **HOST), "host", "w is given no more jobs: dust"),
        (row(event="pause", detail="update", **FLEET), "fleet", "the fleet was paused: update"),
        (row(event="reload", actor="manifest", detail="1 added", **FLEET), "manifest",
         "the manifest was put in force: 1 added"),
        (row(event="unheard-of", from_phase="a", to_phase="b", detail="x\ny"), "job",
         "gru-oracle: unheard-of, a to b: x y"),
    ],
)  # fmt: skip
def test_an_event_in_words(raw: dict[str, Any], kind: str, text: str) -> None:
    found = events.of_row(raw)
    assert (found["kind"], found["text"]) == (kind, text)


def test_the_host_of_an_event_is_who_did_it_or_to_whom_it_was_done() -> None:
    hosts = [
        events.of_row(row(actor="host:w"))["host"],
        events.of_row(row(actor="reaper", event="expire", detail="v"))["host"],
        events.of_row(row(event="drain", **HOST))["host"],
        events.of_row(row(event="cancel"))["host"],
    ]
    assert hosts == ["w", "v", "w", None]


def test_every_event_of_a_job_has_a_sentence_of_its_own() -> None:
    assert [event for event in EVENTS if ("job", event) not in events._SENTENCES] == []


def test_every_event_with_a_sentence_is_documented() -> None:
    section = PROTOCOL.read_text(encoding="utf-8").split("### GET /v1/audit\n")[1].split("\n### ")[0]
    rows = dict(re.findall(r"(?m)^\| `(job|host|manifest|fleet)` \| (.*) \|$", section))
    documented = {(kind, name) for kind, text in rows.items() for name in re.findall(r"`([a-z]+)`", text)}
    assert documented == set(events._SENTENCES)
