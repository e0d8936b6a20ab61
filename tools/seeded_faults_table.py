"""The faults that `tools.seeded_faults` seeds, one row each. A test sees that each can still be seeded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeededFault:
    """One edit that breaks one promise, and the tests that must notice."""

    name: str
    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Files or node ids of pytest, the quickest that must catch it."""


QUEUE = "tests/contract/test_queue_sqlite.py"
WRITER = "tests/unit/test_writer_and_reaper.py"
POWER = "tests/faults/test_power_database.py"
HTTP = "tests/contract/test_http_contract.py"

FAULTS: tuple[SeededFault, ...] = (
    SeededFault(
        "no-token-check",
        "a job has at most one live lease",
        "training/fleet/leases.py",
        '    return hmac.compare_digest(expected.encode("utf-8"), given.encode("utf-8", "replace"))\n',
        "    return True\n",
        (QUEUE,),
    ),
    SeededFault(
        "epoch-not-raised",
        "an attempt's number is never used twice",
        "training/fleet/sql/queries.sql",
        "epoch = epoch + 1",
        "epoch = max(epoch, 1)",
        (QUEUE,),
    ),
    SeededFault(
        "completion-without-artifact",
        "a completed job's artifact is stored",
        "training/fleet/queue.py",
        "if require_upload and not self.has_upload(job_id, row.epoch, artifact_id):",
        "if False:",
        (f"{HTTP}::test_completion_without_the_upload_is_refused",),
    ),
    SeededFault(
        "artifact-not-synced",
        "what was answered 201 survives a power cut",
        "cis490/blobs/local.py",
        "            os.fsync(descriptor)\n            self._close()\n",
        "            self._close()\n",
        ("tests/faults/test_power_store.py",),
    ),
    SeededFault(
        "commit-not-synced",
        "what was answered 200 survives a power cut",
        "cis490/database/sqlite.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = NORMAL",
        (f"{POWER}::test_after_a_power_cut_everything_acknowledged_is_there_and_nothing_by_halves",),
    ),
    SeededFault(
        "memory-before-commit",
        "nobody sees what was not committed",
        "training/fleet/ledger.py",
        "        self.rebuild()\n        self._torn = False\n",
        "        self._torn = False\n",
        (QUEUE,),
    ),
    SeededFault(
        "lapsed-accepted-after-reclaim",
        "at most one result is accepted per generation",
        "training/fleet/queue_state.py",
        'return latest, "holder" if current and latest.outcome in (None, "lapsed") else "ended"',
        'return latest, "holder" if latest.outcome in (None, "lapsed", "superseded") else "ended"',
        (QUEUE,),
    ),
    SeededFault(
        "freeze-too-late",
        "a trainer runs only inside its lease",
        "training/fleet/guard.py",
        "deadline_s - margin_s(command.lease_s)",
        "deadline_s + 4 * margin_s(command.lease_s)",
        ("tests/unit/test_guard.py::test_a_trainer_outside_its_lease_is_frozen_and_goes_on_inside_it",),
    ),
    SeededFault(
        "kill-on-pipe-end-missing",
        "kill -9 of the daemon leaves no trainer",
        "training/fleet/guard_main.py",
        '    run.kill()\n    failpoint("guard.daemon_gone")\n    inbox.put({"do": "kill"})\n',
        '    failpoint("guard.daemon_gone")\n    time.sleep(3600)\n',
        ("tests/unit/test_guarded_run.py::test_kill_of_the_daemon_leaves_no_process_after_a_second",),
    ),
    SeededFault(
        "spool-deleted-early",
        "a finished result is kept until it was taken",
        "training/fleet/delivery.py",
        '                failpoint("worker.upload_answered")\n',
        '                failpoint("worker.upload_answered")\n                bundle.unlink()\n',
        (
            "tests/unit/test_worker.py::test_a_result_that_the_receiver_lost_between_two_requests_is_offered_again",
        ),
    ),
    SeededFault(
        "second-daemon-allowed",
        "one daemon for each state folder",
        "training/fleet/worker.py",
        "        with state.locked():\n",
        "        if True:\n",
        ("tests/e2e/test_worker_process.py::test_a_second_worker_is_refused_with_the_pid_of_the_first",),
    ),
    SeededFault(
        "wake-up-lost",
        "a waiting claim gets the job that it could have",
        "training/fleet/waiters.py",
        "                self._set_timer(again_in_s)\n",
        "                pass\n",
        ("tests/property/test_waiting.py::test_wake_up_time_alone_wakes_a_claim",),
    ),
    SeededFault(
        "upload-at-a-wrong-offset",
        "an upload goes on where it broke off",
        "training/fleet/store.py",
        "            if found != offset:\n",
        "            if found < offset:\n",
        (
            "tests/contract/test_uploads.py::test_a_range_from_a_wrong_offset_is_416_with_the_right_one_and_loses_nothing",
        ),
    ),
    SeededFault(
        "digest-not-verified",
        "no name in the store holds anything but what it names",
        "training/fleet/store.py",
        "        if actual != upload.expected:\n",
        "        if False:\n",
        (f"{HTTP}::test_a_wrong_digest_is_refused_and_leaves_nothing",),
    ),
    SeededFault(
        "no-extension-after-a-stall",
        "a receiver that was away punishes nobody",
        "training/fleet/reaper.py",
        "        queue.extend_leases(away_s)\n",
        "        pass\n",
        (f"{WRITER}::test_a_receiver_that_slept_punishes_nobody",),
    ),
    SeededFault(
        "operator-token-not-compared",
        "nothing fails open",
        "training/fleet/http_io.py",
        'if not given or not expected.fits(given.encode("latin-1")):',
        "if not given:",
        (f"{HTTP}::test_operator_verbs_need_the_token",),
    ),
    SeededFault(
        "drained-host-gets-jobs",
        "why and claim never disagree",
        "training/fleet/eligibility.py",
        "    drained = host.drained_reason is not None\n",
        "    drained = False\n",
        (
            "tests/unit/test_drain.py::TestDrain::test_a_drained_host_finishes_what_it_has_and_gets_nothing_new",
        ),
    ),
    SeededFault(
        "no-audit-row",
        "every change of state is told by one audit row",
        "training/fleet/queue_state.py",
        "            self.audit_add(actor, event, new.job_id, old.phase, new.phase, new.epoch, detail)\n",
        "            pass\n",
        (QUEUE,),
    ),
    SeededFault(
        "record-of-any-lab",
        "a record holds for who has the lab's root, and for nobody else",
        "training/fleet/provenance.py",
        "    if not pki.is_issued_by(certificate, root):\n",
        "    if False:\n",
        ("tests/unit/test_provenance.py",),
    ),
    SeededFault(
        "token-for-the-trainer",
        "no program that a worker starts gets the operator token of a shell",
        "training/fleet/guard_wire.py",
        'SECRETS = ("CIS490_OPERATOR_TOKEN", "CIS490_OPERATOR_TOKEN_PREVIOUS")\n',
        "SECRETS = ()\n",
        ("tests/unit/test_capability.py",),
    ),
)
