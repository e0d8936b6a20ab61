"""`diff A B`: two trained models side by side. Nothing is downloaded: the receiver reads the artifacts."""

from __future__ import annotations

from training.fleet import naming, render_diff
from training.fleet.artifact_diff import Side, difference, parsed
from training.fleet.client import FleetClient, Refused
from training.fleet.exits import REFUSED, Stop
from training.fleet.tables import Row, count_of, row_of, rows_of, safe_lines, text_of
from training.fleet.verb import Call

MAX_READ_BYTES = 256 * 1024
"""Texts that are not larger are compared word for word; of others only the size."""
MOST_READ = 12
_READABLE = (".json", ".csv", ".md", ".svg", ".txt")


def diff(call: Call) -> int:
    """Compare the artifacts of two jobs, or two artifacts."""
    jobs = call.client.jobs()
    sides = [_side(call.client, *_artifact(jobs, word)) for word in (call.args.one, call.args.other)]
    found = difference(*sides)
    return call.say(found.as_json(), lambda: render_diff.diff(call.view, found))


def _artifact(jobs: list[dict[str, object]], word: str) -> tuple[str, str]:
    try:
        return naming.artifact_of(jobs, word)
    except naming.NoArtifact as fault:
        raise Stop(REFUSED, *safe_lines(str(fault))) from fault


def _side(client: FleetClient, artifact_id: str, name: str) -> Side:
    listed = client.model_files(artifact_id)
    files = {text_of(one, "name"): count_of(one, "size_bytes") for one in rows_of(listed, "files")}
    readable = [name for name, size in files.items() if name.endswith(_READABLE) and size <= MAX_READ_BYTES]
    first = [name for name in ("config.json", "metrics.json") if name in files]
    texts = {}
    for file in dict.fromkeys([*first, *readable[:MOST_READ]]):
        try:
            texts[file] = client.model_text(artifact_id, file)
        except Refused as refusal:
            if refusal.status not in (404, 413, 415, 422):
                raise
    metrics = parsed(texts.get("metrics.json", ""))
    return Side(
        artifact_id, name, _lineage(client, artifact_id), parsed(texts.get("config.json", "")),
        row_of(metrics, "test") or metrics, files, texts,
    )  # fmt: skip


def _lineage(client: FleetClient, artifact_id: str) -> Row:
    """Where it comes from; nothing for an artifact that no job was completed with."""
    try:
        return client.lineage(artifact_id)
    except Refused as refusal:
        if refusal.status != 404:
            raise
        return {}
