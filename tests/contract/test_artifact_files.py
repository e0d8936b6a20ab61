"""Looking into an artifact without fetching it: its files, one of its texts, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cis490.zstd import zstd
from tests.factories import artifacts
from tests.factories.live_receiver import Answer, LiveReceiver, live_receiver
from training.fleet import artifact_files, bundle

JOBS = """
name = "t"
[[jobs]]
model = "gbt"
mode = "realistic"
priority = 3
[[jobs]]
model = "gbt"
mode = "oracle"
priority = 2
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, JOBS, max_artifact_bytes=8 << 20) as running:
        yield running


@pytest.fixture
def artifact(receiver: LiveReceiver) -> str:
    return artifacts.complete_next(receiver, artifacts.packed(artifacts.files()), duration_s=12.5)


def get(receiver: LiveReceiver, artifact_id: str, path: str) -> Answer:
    return receiver.send("GET", f"/v1/model/{artifact_id}/{path}")


def test_the_list_names_each_file_with_its_size_and_the_job(receiver: LiveReceiver, artifact: str) -> None:
    found = get(receiver, artifact, "files").body
    assert found["files"] == [
        {"name": name, "size_bytes": len(text.encode())} for name, text in sorted(artifacts.files().items())
    ]
    assert (found["job"]["name"], found["artifact_id"]) == ("gbt-realistic", artifact)
    assert found["size_bytes"] == len(receiver.send("GET", f"/v1/model/{artifact}").raw)


def test_a_text_comes_as_it_is_and_no_browser_carries_it_out(receiver: LiveReceiver, artifact: str) -> None:
    kinds = {
        "plots/roc.csv": "text/csv; charset=utf-8",
        "config.json": "application/json",
        "model_card.md": "text/plain; charset=utf-8",
        "plots/roc.svg": "text/plain; charset=utf-8",
    }
    for name, kind in kinds.items():
        found = get(receiver, artifact, f"file/{name}")
        assert (found.status, found.raw.decode()) == (200, artifacts.files()[name])
        assert found.headers["content-type"] == kind
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_a_text_comes_as_json_too(receiver: LiveReceiver, artifact: str) -> None:
    found = get(receiver, artifact, "file/plots/roc.csv?as=json").body
    assert found == {
        "artifact_id": artifact, "name": "plots/roc.csv", "size_bytes": len(artifacts.ROC), "text": artifacts.ROC,
    }  # fmt: skip
    assert get(receiver, artifact, "file/plots/roc.csv?as=xml").status == 400


def test_only_a_name_of_the_list_is_found(receiver: LiveReceiver, artifact: str) -> None:
    ways_out = (
        "nothing.csv",
        "../config.json",
        "plots",
        "plots/",
        "/config.json",
        "..%2F..%2Fetc%2Fpasswd",
        "%00",
    )
    for name in ways_out:
        assert get(receiver, artifact, f"file/{name}").status in (404, 415), name


def test_an_unknown_artifact_is_said_to_be_one(receiver: LiveReceiver) -> None:
    for path in ("files", "file/config.json", "lineage"):
        for artifact_id, status in (("0" * 64, 404), ("A" * 64, 400), ("x", 400)):
            found = get(receiver, artifact_id, path)
            assert (found.status, bool(found.body["error"])) == (status, True)


def test_what_is_no_text_or_too_long_is_left_to_pull(receiver: LiveReceiver) -> None:
    members: dict[str, str | bytes] = {
        **artifacts.files(),
        "model.safetensors": "weights",
        "long.csv": "x" * (artifact_files.MAX_MEMBER_BYTES + 1),
        "binary.csv": b"\xff\xfe\x00",
    }
    artifact_id = artifacts.complete_next(receiver, artifacts.packed(members))
    wanted = {"model.safetensors": 415, "long.csv": 413, "binary.csv": 415}
    for name, status in wanted.items():
        found = get(receiver, artifact_id, f"file/{name}")
        assert (found.status, "cis490-jobs pull" in found.body["error"]) == (status, True)


def test_a_text_too_long_to_be_kept_is_read_when_it_is_asked_for(receiver: LiveReceiver) -> None:
    long = "a,b\n" * (artifact_files.KEPT_MEMBER_BYTES // 4 + 1)
    artifact_id = artifacts.complete_next(
        receiver, artifacts.packed(artifacts.files(predictions_dot_csv=long))
    )
    assert [get(receiver, artifact_id, "file/predictions.csv").raw.decode() for _ in range(2)] == [long, long]


def _bomb(n_files: int, size_mib: int) -> bytes:
    """Files of so many mebibytes of zeros, in a few kilobytes."""
    packer = zstd.ZstdCompressor(level=3)
    parts = []
    for number in range(n_files):
        parts.append(packer.compress(artifacts_header(b"%03d.csv" % number, size_mib << 20)))
        parts += [packer.compress(bytes(1 << 20)) for _ in range(size_mib)]
    return b"".join(parts) + packer.compress(bytes(1024)) + packer.flush()


def artifacts_header(name: bytes, size_bytes: int, kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A ustar header, right in every byte."""
    head = (
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size_bytes + b"00000000000\0"
    )
    tail = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 256) + tail


def _tar(*entries: bytes) -> bytes:
    return zstd.compress(b"".join(entries) + bytes(1024))


HOSTILE = {
    "no zstd at all": b"<html>not a bundle</html>",
    "nothing": b"",
    "half a frame": artifacts.packed(artifacts.files())[:-20],
    "something after the end": artifacts.packed(artifacts.files()) + b"x",
    "zstd of no tar": zstd.compress(b"x" * 5000),
    "an empty tar": zstd.compress(bytes(1024)),
    "a symbolic link": _tar(artifacts_header(b"config.json", 0, b"2", b"/etc/passwd")),
    "a hard link": _tar(artifacts_header(b"config.json", 0, b"1", b"/etc/passwd")),
    "a way out": _tar(artifacts_header(b"../config.json", 0)),
    "an absolute name": _tar(artifacts_header(b"/config.json", 0)),
    "a name twice": _tar(artifacts_header(b"a.csv", 0), artifacts_header(b"a.csv", 0)),
    "a size it does not have": _tar(artifacts_header(b"a.csv", 1 << 20)),
    "a tower of entries": _tar(*[artifacts_header(b"%06d.csv" % n, 0) for n in range(10_002)]),
    "a file larger than all that is read": _bomb(1, 513),
    "files that are too much together": _bomb(9, 64),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_artifact_is_refused_in_words(receiver: LiveReceiver, data: bytes) -> None:
    artifact_id = artifacts.complete_next(receiver, data)
    for path in ("files", "file/config.json", "file/a.csv?as=json"):
        found = get(receiver, artifact_id, path)
        assert (found.status, artifact_id[:12] in found.body["error"]) == (422, True), path
    assert receiver.send("GET", "/v1/health").status == 200
    assert receiver.send("GET", f"/v1/model/{artifact_id}").raw == data, "it may still be fetched"


def test_an_artifact_that_is_no_bundle_is_read_once_however_often_it_is_asked_for(
    receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb costs a second of a processor; a page asks anew at every event."""
    artifact_id = artifacts.complete_next(receiver, HOSTILE["a tower of entries"])
    reads: list[str] = []

    def counted(path: Path, *args: object, **kwargs: object) -> object:
        reads.append(path.name)
        return bundle.read_members(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact_files, "read_members", counted)
    answers = {str(get(receiver, artifact_id, "files").body) for _ in range(3)}
    assert (len(reads), len(answers)) == (1, 1)


def test_nothing_is_left_on_the_disk(receiver: LiveReceiver, artifact: str, tmp_path: Path) -> None:
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    get(receiver, artifact, "file/plots/roc.csv")
    after = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert after == before


def test_many_who_ask_at_once_share_one_reading(
    receiver: LiveReceiver, artifact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    started, go_on = threading.Event(), threading.Event()
    original = bundle.read_members

    def slow(path: Path, *args: object, **kwargs: object) -> object:
        reads.append(path.name)
        started.set()
        assert go_on.wait(10)
        return original(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(artifact_files, "read_members", slow)
    answers: list[int] = []
    asking = [
        threading.Thread(target=lambda: answers.append(get(receiver, artifact, "file/plots/pr.csv").status))
        for _ in range(5)
    ]
    for one in asking:
        one.start()
    assert started.wait(10)
    go_on.set()
    for one in asking:
        one.join(10)
    assert (answers, len(reads)) == ([200] * 5, 1)
    get(receiver, artifact, "file/plots/roc.csv")
    assert len(reads) == 1, "it was kept"


def test_lineage_leads_from_the_artifact_to_job_attempt_host_data_and_code(
    receiver: LiveReceiver, artifact: str
) -> None:
    found = get(receiver, artifact, "lineage").body
    assert found["artifact"] | {"uploaded_at": 0} == {
        "artifact_id": artifact,
        "size_bytes": len(artifacts.packed(artifacts.files())),
        "stored": True,
        "uploaded_at": 0,
    }
    assert (found["job"]["name"], found["job"]["is_current"]) == ("gbt-realistic", True)
    assert (found["attempt"]["epoch"], found["attempt"]["duration_s"]) == (1, 12.5)
    assert (found["host"]["host"], found["host"]["known"]) == ("a", True)
    assert set(found["data"]) >= {"dataset_id", "is_current"}
    assert found["code"]["trainer_digest"] is None or len(found["code"]["trainer_digest"]) == 64
    assert "token" not in json.dumps(found)


def test_siblings_are_the_other_mode_verification_runs_and_other_results_of_the_job(
    receiver: LiveReceiver, artifact: str
) -> None:
    job_id = get(receiver, artifact, "lineage").body["job"]["job_id"]
    oracle = artifacts.complete_next(receiver, artifacts.packed(artifacts.files(a_dot_txt="oracle")))
    assert receiver.operator(f"/v1/job/{job_id}/verify").status == 200
    shadow = artifacts.complete_next(receiver, artifacts.packed(artifacts.files(a_dot_txt="again")))
    assert receiver.operator(f"/v1/job/{job_id}/requeue", {"force": True}).status == 200
    later = artifacts.complete_next(receiver, artifacts.packed(artifacts.files(a_dot_txt="later")))
    found = get(receiver, artifact, "lineage").body
    assert {(one["relation"], one["artifact_id"]) for one in found["siblings"]} == {
        ("verification run", shadow), ("later result of this job", later), ("the same in oracle mode", oracle),
    }  # fmt: skip
    assert found["job"]["is_current"] is False
    of_the_run = get(receiver, shadow, "lineage").body
    assert [(one["relation"], one["artifact_id"]) for one in of_the_run["siblings"]] == [
        ("verified by this run", artifact)
    ]


def test_the_models_say_what_they_cost(receiver: LiveReceiver, artifact: str) -> None:
    (group,) = receiver.send("GET", "/v1/models").body["groups"]
    (model,) = group["models"]
    assert (model["size_bytes"], model["duration_s"], model["hyper"]) == (
        len(artifacts.packed(artifacts.files())), 12.5, {},
    )  # fmt: skip


def test_an_artifact_that_was_removed_keeps_its_lineage(receiver: LiveReceiver, artifact: str) -> None:
    path = receiver.store.path_of(artifact)
    assert path is not None
    path.unlink()
    assert get(receiver, artifact, "files").status == 404
    assert get(receiver, artifact, "lineage").body["artifact"]["stored"] is False


def test_the_digest_is_that_of_the_upload(receiver: LiveReceiver) -> None:
    data = artifacts.packed(artifacts.files())
    assert artifacts.complete_next(receiver, data) == hashlib.sha256(data).hexdigest()
