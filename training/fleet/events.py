"""An audit row as an event: its public form, its kind, and one sentence for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

DurableKind = Literal["job", "host", "manifest", "fleet"]
EphemeralKind = Literal["progress", "usage", "log"]
DURABLE_KINDS: tuple[DurableKind, ...] = get_args(DurableKind)
EPHEMERAL_KINDS: tuple[EphemeralKind, ...] = get_args(EphemeralKind)


def of_row(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The event of an audit row (its columns, and the job's `name`)."""
    found = {
        "seq": raw["seq"], "at": raw["at"], "actor": raw["actor"], "event": raw["event"],
        "kind": _kind(raw), "job_id": raw["job_id"] or None, "name": raw["name"] or None, "host": _host(raw),
        "from": raw["from_phase"], "to": raw["to_phase"], "epoch": raw["epoch"], "detail": raw["detail"],
    }  # fmt: skip
    return found | {"text": text(found)}


def _kind(raw: Mapping[str, Any]) -> DurableKind:
    if raw["job_id"]:
        return "job"
    if raw["host"]:
        return "host"
    return "manifest" if raw["actor"] == "manifest" else "fleet"


def _host(raw: Mapping[str, Any]) -> str | None:
    """The host that the event is about: the one that did it, or that it was done to."""
    who, _, name = str(raw["actor"]).partition(":")
    found = raw["host"] or (name if who == "host" else "")
    if not found and raw["event"] == "expire":  # the reaper writes down whose lease it was
        found = raw["detail"]
    return str(found) or None


def text(event: Mapping[str, Any]) -> str:
    """One sentence about the event, in plain text on one line."""
    say = _SENTENCES.get((event["kind"], event["event"]))
    sentence = say(event) if say is not None else _anything(event)
    return " ".join(sentence.split())


def _subject(event: Mapping[str, Any]) -> str:
    return event["name"] or (event["job_id"] or "")[:12] or event["host"] or "the fleet"


def _because(event: Mapping[str, Any]) -> str:
    return f": {event['detail']}" if event["detail"] else ""


def _next_state(event: Mapping[str, Any]) -> str:
    return "has failed for good" if event["to"].startswith("failed") else "waits again"


def _by(event: Mapping[str, Any]) -> str:
    return "" if event["actor"] == "operator" else f" by {event['actor']}"


def _heartbeat(event: Mapping[str, Any]) -> str:
    if event["from"] == "claimed":
        return f"{_subject(event)} is running on {event['host']}"
    return f"{event['host']} came back with {_subject(event)}, which goes on running there"


def _fail(event: Mapping[str, Any]) -> str:
    return f"{_subject(event)} failed on {event['host']} ({event['detail'] or 'program'}) and {_next_state(event)}"


def _expire(event: Mapping[str, Any]) -> str:
    return f"{event['host'] or 'its host'} stopped reporting; {_subject(event)} {_next_state(event)}"


def _reload(event: Mapping[str, Any]) -> str:
    said = {
        "added": "was added by the manifest",
        "updated": "was changed by the manifest",
        "returned": "is in the manifest again",
    }
    return f"{_subject(event)} {said.get(event['detail'], event['detail'] or 'was changed by the manifest')}"


def _verify(event: Mapping[str, Any]) -> str:
    if event["detail"].startswith("by "):
        return f"{_subject(event)} is verified {event['detail']}"
    return f"{_subject(event)} was started to verify an artifact: {event['detail']}"


def _anything(event: Mapping[str, Any]) -> str:
    """For an event that has no sentence of its own here."""
    moved = f", {event['from']} to {event['to']}" if event["from"] != event["to"] else ""
    return f"{_subject(event)}: {event['event']}{moved}{_because(event)}"


_SENTENCES: dict[tuple[str, str], Callable[[Mapping[str, Any]], str]] = {
    ("job", "claim"): lambda e: f"{_subject(e)} was claimed by {e['host']}, attempt {e['epoch']}",
    ("job", "heartbeat"): _heartbeat,
    ("job", "complete"): lambda e: f"{_subject(e)} completed on {e['host']}",
    ("job", "fail"): _fail,
    ("job", "release"): lambda e: f"{e['host']} gave {_subject(e)} back unharmed{_because(e)}",
    ("job", "expire"): _expire,
    ("job", "cancel"): lambda e: f"{_subject(e)} was cancelled{_by(e)}",
    ("job", "requeue"): lambda e: f"{_subject(e)} was put back in line{_by(e)}",
    ("job", "reload"): _reload,
    ("job", "retrain"): lambda e: f"{_subject(e)} is trained anew: what it depends on has changed",
    ("job", "verify"): _verify,
    ("job", "pause"): lambda e: f"{_subject(e)} was paused{_by(e)}{_because(e)}",
    ("job", "resume"): lambda e: f"{_subject(e)} was resumed{_by(e)}",
    ("host", "drain"): lambda e: f"{e['host']} is given no more jobs{_because(e)}",
    ("host", "undrain"): lambda e: f"{e['host']} is given jobs again",
    ("host", "resume"): lambda e: f"{e['host']} is given jobs again: its pause was ended{_by(e)}",
    ("host", "token"): lambda e: f"{e['host']} may join{_by(e)}: {e['detail']}",
    ("host", "join"): lambda e: f"{e['host']} joined: {e['detail']}",
    ("host", "renew"): lambda e: f"{e['host']} renewed its certificate: {e['detail']}",
    ("host", "revoke"): lambda e: f"{e['host']} was revoked{_by(e)}{_because(e)}",
    ("fleet", "pause"): lambda e: f"the fleet was paused{_by(e)}{_because(e)}",
    ("fleet", "resume"): lambda e: f"the fleet was resumed{_by(e)}",
    ("fleet", "gc"): lambda e: f"cleaned up{_by(e)}{_because(e)}",
    ("fleet", "token"): lambda e: f"somebody may join{_by(e)}, {e['detail']}",
    ("fleet", "join"): lambda e: f"somebody joined, {e['detail']}",
    ("fleet", "renew"): lambda e: f"a certificate was renewed, {e['detail']}",
    ("fleet", "revoke"): lambda e: f"an identity was revoked{_by(e)}, {e['detail']}",
    ("manifest", "reload"): lambda e: f"the manifest was put in force{_because(e)}",
}
"""Of what is written to the audit trail, in docs/protocol.md's order."""
