"""Signed records over HTTP and on the command line: made when a result is accepted, verified without the receiver."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cis490.pki import certificates as pki
from tests.factories import artifacts
from tests.factories.command import Result, run
from tests.factories.fleet_pki import FleetPki, leaf_of
from tests.factories.live_receiver import LiveReceiver, live_receiver
from training.fleet import exits, provenance, wire_headers

MANIFEST = """
[[hosts]]
name = "a"
slots = 9
[[jobs]]
model = "gbt"
mode = "realistic"
name = "gbt-lab"
[[jobs]]
model = "mlp"
mode = "oracle"
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> FleetPki:
    return FleetPki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def receiver(tmp_path: Path, lab: FleetPki) -> Iterator[LiveReceiver]:
    with live_receiver(tmp_path, MANIFEST, authority=lab.authority) as running:
        yield running


def completed(receiver: LiveReceiver) -> str:
    return artifacts.complete_next(receiver, artifacts.packed(artifacts.files()))


def records(receiver: LiveReceiver, artifact_id: str) -> list[dict[str, Any]]:
    answer = receiver.send("GET", f"/v1/model/{artifact_id}/provenance")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.body["provenance"]
    return found


def jobs(receiver: LiveReceiver, lab: FleetPki, *argv: str, **how: Any) -> Result:
    env = {exits.URL_VARIABLE: receiver.url, "HOME": "/nonexistent", "NO_COLOR": "1"}
    env[exits.CREDENTIALS_VARIABLE] = str(lab.reader("r"))
    return run(receiver.url, *argv, env=how.pop("env", env), **how)


def words(text: str) -> str:
    """However wide the terminal is."""
    return " ".join(text.split())


class TestTheReceiver:
    def test_a_completion_leaves_a_record_that_the_root_vouches_for(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        artifact_id = completed(receiver)
        (envelope,) = records(receiver, artifact_id)
        found = provenance.verify(json.dumps(envelope), lab.root.certificate)
        assert (found.artifact_id, found.name, found.host, found.epoch) == (artifact_id, "gbt-lab", "a", 1)
        assert found.statement["predicate"]["runDetails"]["metadata"]["cis490_recorded"] == "at completion"
        assert found.parameters["manifest_digest"] == receiver.coordinator.manifest.digest  # type: ignore[union-attr]

    def test_a_repeated_completion_leaves_the_first_record(self, receiver: LiveReceiver) -> None:
        artifact_id = completed(receiver)
        before = records(receiver, artifact_id)
        job_id = receiver.queue.list_jobs("completed")[0].job_id
        again = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": artifact_id})
        assert again.status == 200
        assert records(receiver, artifact_id) == before

    def test_the_same_bytes_from_two_jobs_have_a_record_each(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        first, second = completed(receiver), completed(receiver)
        assert first == second
        names = {
            provenance.verify(json.dumps(one), lab.root.certificate).name for one in records(receiver, first)
        }
        assert names == {"gbt-lab", "mlp-oracle"}

    def test_a_refused_completion_leaves_none(self, receiver: LiveReceiver) -> None:
        job_id = receiver.worker("POST", "/v1/job/claim", {"capability": {}}).body["job_id"]
        refused = receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": "ab" * 32})
        assert refused.status == 409
        assert receiver.queue.read("provenance_of", artifact_id="ab" * 32) == []

    def test_record_and_completion_are_one_transaction(
        self, receiver: LiveReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the one cannot be written, neither is the other, and the worker tries again."""

        def broken(*_: object) -> str:
            raise OSError("the disk is gone")

        monkeypatch.setattr(provenance, "sign", broken)
        with pytest.raises(AssertionError, match="disk is gone"):
            completed(receiver)
        assert [row.status for row in receiver.queue.list_jobs("completed")] == []
        monkeypatch.undo()
        job_id = receiver.queue.list_jobs("claimed")[0].job_id
        artifact_id = str(receiver.queue.read("retention_uploads")[0]["artifact_id"])
        assert (
            receiver.worker("POST", f"/v1/job/{job_id}/complete", {"artifact_id": artifact_id}).status == 200
        )
        assert len(records(receiver, artifact_id)) == 1

    def test_without_a_key_the_record_is_made_once_there_is_one(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        receiver.coordinator.authority = None
        artifact_id = completed(receiver)
        refused = receiver.send("GET", f"/v1/model/{artifact_id}/provenance")
        assert refused.status == 409
        assert "start it with --ca-dir" in refused.body["error"]
        receiver.coordinator.authority = lab.authority
        (envelope,) = records(receiver, artifact_id)
        found = provenance.verify(json.dumps(envelope), lab.root.certificate)
        assert found.statement["predicate"]["runDetails"]["metadata"]["cis490_recorded"] == "afterwards"
        assert (
            found.parameters["manifest_digest"] is None
        )  # which one was in force then is not known any more

    @pytest.mark.parametrize("days", [-1000, 4000])
    def test_a_certificate_that_is_not_in_force_signs_nothing_that_nobody_could_verify(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path, days: int
    ) -> None:
        """It has ended, or the clock of a machine without a battery has not been set yet: the record waits."""
        then = lab.root.certificate.not_valid_before_utc - timedelta(days=days)
        receiver.coordinator.authority = FleetPki(tmp_path / "pki", now=then).authority
        artifact_id = completed(receiver)
        refused = receiver.send("GET", f"/v1/model/{artifact_id}/provenance")
        assert refused.status == 409
        assert "signing certificate is in force from" in refused.body["error"]
        receiver.coordinator.authority = lab.authority
        (envelope,) = records(receiver, artifact_id)
        assert provenance.verify(json.dumps(envelope), lab.root.certificate).name == "gbt-lab"

    def test_those_who_ask_at_once_get_one_and_the_same(self, receiver: LiveReceiver, lab: FleetPki) -> None:
        receiver.coordinator.authority = None
        artifact_id = completed(receiver)
        receiver.coordinator.authority = lab.authority
        together = threading.Barrier(4)

        def ask() -> str:
            together.wait()
            return json.dumps(records(receiver, artifact_id))

        with ThreadPoolExecutor(4) as pool:
            assert len({one.result() for one in [pool.submit(ask) for _ in range(4)]}) == 1

    def test_an_artifact_of_no_job_has_none(self, receiver: LiveReceiver) -> None:
        answer = receiver.send("GET", f"/v1/model/{'ab' * 32}/provenance")
        assert (answer.status, answer.body["error"]) == (
            404,
            "no job was completed with artifact abababababab",
        )

    def test_what_is_no_artifact_id_is_refused(self, receiver: LiveReceiver) -> None:
        assert receiver.send("GET", "/v1/model/gbt/provenance").status == 400


def test_the_certificate_that_handed_in_the_result_stands_in_the_record(
    tmp_path: Path, lab: FleetPki
) -> None:
    """As the proxy in front hands it on; the receiver reads it itself."""
    folder = lab.host("a")
    leaf = leaf_of(folder)
    headers = {
        wire_headers.HEADER_PEER_SITE: "workers",
        wire_headers.HEADER_PEER_CERTIFICATE: base64.b64encode(leaf.public_bytes(Encoding.DER)).decode(),
    }
    with live_receiver(
        tmp_path, MANIFEST, authority=lab.authority, worker_auth="mtls", unix_path=tmp_path / "socket"
    ) as receiver:
        claimed = receiver.send("POST", "/v1/job/claim", {"capability": {}}, headers)
        job_id, data = claimed.body["job_id"], artifacts.packed({"metrics.json": "{}"})
        digest = hashlib.sha256(data).hexdigest()
        receiver.send("PUT", f"/v1/model/{job_id}", data, headers | {"X-Content-SHA256": digest})
        receiver.send("POST", f"/v1/job/{job_id}/complete", {"artifact_id": digest}, headers)
        (raw,) = receiver.queue.read("provenance_of", artifact_id=digest)
    found = provenance.verify(raw["envelope"], lab.root.certificate)
    assert found.host == "a"
    assert found.certificate_serial == pki.serial_of(leaf)
    host = found.parameters["host"]
    assert host == {
        "name": "a",
        "certificate": {"serial": pki.serial_of(leaf), "sha256": pki.fingerprint(leaf)},
    }


class TestTheCommandLine:
    def test_pull_leaves_the_record_and_says_that_it_holds(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        done = jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"))
        assert done.code == exits.OK
        assert "provenance.intoto.jsonl, verified with your root certificate: gbt-lab, by a" in words(
            done.out
        )
        assert (tmp_path / "got" / "provenance.intoto.jsonl").is_file()

    def test_a_pulled_folder_is_verified_without_a_receiver(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        artifact_id = completed(receiver)
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"), "--keep-bundle")
        root = str(lab.ca / "root.pem")
        done = run("http://127.0.0.1:9", "verify-provenance", str(tmp_path / "got"), "--root", root)
        assert (done.code, done.err) == (exits.OK, "")
        assert "verified gbt-lab, attempt 1" in words(done.out)
        assert "and the files in" in words(done.out)
        as_json = run(
            "http://127.0.0.1:9", "verify-provenance", str(tmp_path / "got"), "--root", root, "--json"
        )
        assert as_json.json["artifact_id"] == artifact_id
        assert as_json.json["records"][0]["host"] == "a"

    def test_a_job_is_verified_with_the_root_of_ones_credentials(
        self, receiver: LiveReceiver, lab: FleetPki
    ) -> None:
        artifact_id = completed(receiver)
        done = jobs(receiver, lab, "verify-provenance", "gbt-lab", terminal=False)
        header, row = (line.split("\t") for line in done.out.splitlines())
        assert dict(zip(header, row, strict=True)) | {
            "ARTIFACT": artifact_id,
            "HOST": "a",
            "CERTIFICATE": "-",
        } == dict(zip(header, row, strict=True))

    def test_a_changed_model_file_is_found(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        got = tmp_path / "got"
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(got), "--keep-bundle")
        (got / "metrics.json").write_text("{}")
        done = jobs(receiver, lab, "verify-provenance", str(got))
        assert done.code == exits.REFUSED
        assert "1 of its files are not those of the artifact: metrics.json  [E062]" in done.err

    def test_an_added_file_is_found(self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path) -> None:
        completed(receiver)
        got = tmp_path / "got"
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(got), "--keep-bundle")
        (got / "plots" / "extra.py").write_text("")
        assert "plots/extra.py  [E062]" in jobs(receiver, lab, "verify-provenance", str(got)).err

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
    def test_an_added_link_is_found_also_one_to_a_folder(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        got = tmp_path / "got"
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(got), "--keep-bundle")
        (tmp_path / "code").mkdir()
        (got / "more").symlink_to(tmp_path / "code")
        assert "more  [E062]" in jobs(receiver, lab, "verify-provenance", str(got)).err

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
    def test_a_file_that_is_a_link_elsewhere_is_found_though_it_has_the_right_bytes_now(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        got = tmp_path / "got"
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(got), "--keep-bundle")
        (got / "metrics.json").rename(tmp_path / "elsewhere.json")
        (got / "metrics.json").symlink_to(tmp_path / "elsewhere.json")
        assert "metrics.json  [E062]" in jobs(receiver, lab, "verify-provenance", str(got)).err

    def test_another_bundle_is_not_the_artifact(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        (tmp_path / "other").write_bytes(b"another bundle")
        done = jobs(receiver, lab, "verify-provenance", "gbt-lab", "--bundle", str(tmp_path / "other"))
        assert done.code == exits.REFUSED
        assert "is not the artifact: its sha256 is" in done.err

    def test_a_record_of_another_lab_is_refused(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"))
        other = FleetPki(tmp_path / "other").ca / "root.pem"
        done = jobs(receiver, lab, "verify-provenance", str(tmp_path / "got"), "--root", str(other))
        assert done.code == exits.REFUSED
        assert "does not come from the root" in done.err
        assert "[E061]" in done.err

    def test_pull_fetches_nothing_whose_record_is_forged(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        """A receiver (or whoever sits in between) that signs with a key of its own."""
        receiver.coordinator.authority = FleetPki(tmp_path / "forger").authority
        completed(receiver)
        done = jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"))
        assert done.code == exits.REFUSED
        assert "nothing was fetched" in done.err
        assert not (tmp_path / "got").exists()

    def test_pull_works_without_a_record_and_says_why_there_is_none(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        receiver.coordinator.authority = None
        completed(receiver)
        done = jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"))
        assert done.code == exits.OK
        assert "has no signed record, for this receiver" in words(done.out)

    def test_without_a_root_pull_says_that_nothing_was_checked(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        completed(receiver)
        env = {exits.URL_VARIABLE: receiver.url, "HOME": str(tmp_path), "NO_COLOR": "1"}
        done = jobs(receiver, lab, "pull", "gbt-lab", "--out", str(tmp_path / "got"), env=env)
        assert done.code == exits.OK
        assert "not verified: there is no root certificate here" in words(done.out)

    def test_without_a_root_verify_says_where_one_comes_from(
        self, receiver: LiveReceiver, tmp_path: Path
    ) -> None:
        (tmp_path / "record.jsonl").write_text("{}")
        done = run(
            receiver.url, "verify-provenance", str(tmp_path / "record.jsonl"), env={"HOME": str(tmp_path)}
        )
        assert done.code == exits.USAGE
        assert "[E063]" in done.err
        assert "--root root.pem" in done.err

    @pytest.mark.parametrize(
        ("content", "code"), [("", "E061"), ("{}", "E061"), ("no json", "E061"), (None, "E010")]
    )
    def test_a_file_that_is_no_record_is_refused(
        self, lab: FleetPki, tmp_path: Path, content: str | None, code: str
    ) -> None:
        path = tmp_path / "record.jsonl"
        if content is not None:
            path.write_text(content)
        done = run("http://127.0.0.1:9", "verify-provenance", str(path), "--root", str(lab.ca / "root.pem"))
        assert f"[{code}]" in done.err

    def test_records_of_two_artifacts_in_one_file_are_no_answer(
        self, receiver: LiveReceiver, lab: FleetPki, tmp_path: Path
    ) -> None:
        one = completed(receiver)
        other = artifacts.complete_next(receiver, artifacts.packed({"metrics.json": "{}"}))
        lines = [json.dumps(records(receiver, artifact_id)[0]) for artifact_id in (one, other)]
        (tmp_path / "two.jsonl").write_text("\n".join(lines))
        done = jobs(receiver, lab, "verify-provenance", str(tmp_path / "two.jsonl"))
        assert "the records are of different artifacts" in done.err
