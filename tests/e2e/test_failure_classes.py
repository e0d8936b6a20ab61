"""A real worker and a real receiver: each way in which a trainer (here a stub) can fail, as the operator sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.factories.command import run
from tests.factories.fleet import job, job_id, manifest
from tests.factories.live_receiver import TOKEN, live_receiver
from tests.factories.processes import pid_in
from training.fleet.specs import Reference

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")

MANIFEST = 'name = "t"\n[[jobs]]\nmodel = "gbt"\nmode = "realistic"\n'
DATASET = "d" * 64
TIMEOUT_S = 90


def test_every_failure_is_reported_with_its_class_its_words_its_time_and_its_memory(tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    jobs = [  # in this order; the thread below waits for the first one's process
        job("killed", hyper={"pid": str(tmp_path / "pid"), "wait_for": never}),
        job("fits-nowhere", hyper={"exit": 71, "say": "needs more memory than there is"}),
        job("bad-config", hyper={"exit": 78, "say": "num_leaves must be at least 2"}),
        job("no-data", hyper={"exit": 66, "say": "episode 7 is not there"}),
        job("crash", hyper={"exit": 1, "say": "Traceback: boom"}),
        job("hung", hyper={"wait_for": never}, stall_s=0.6),
        job("slow", hyper={"wait_for": never}, timeout_s=0.6),
        job("good", hyper={}),
    ]
    wanted = {
        "fits-nowhere": ("oom", "needs more memory"), "bad-config": ("bad_config", "num_leaves"),
        "no-data": ("missing", "episode 7"), "crash": ("program", "boom"), "killed": ("program", "SIGKILL"),
        "hung": ("stalled", ""), "slow": ("timeout", ""),
    }  # fmt: skip
    (tmp_path / "state/datasets" / DATASET).mkdir(parents=True)
    with live_receiver(tmp_path, MANIFEST) as receiver:
        receiver.queue.apply_manifest(manifest(max_failures=1, pause_after_failures=0))
        specs = [one.to_dict() for one in jobs]
        receiver.queue.sync_from_manifest(specs, reference=Reference(DATASET))
        killer = threading.Thread(target=lambda: os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL))
        killer.start()
        command = [
            sys.executable, "-m", "training.fleet.worker", "--receiver-url", receiver.url, "--host", "lab-a",
            "--state-dir", str(tmp_path / "state"), "--poll-s", "0.1", "--exit-when-idle", "0.5",
            "--trainer-module", "tests.factories.stub_trainer",
        ]  # fmt: skip
        worker = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        killer.join()
        assert worker.returncode == 0, worker.stderr[-3000:]
        for name, (fail_class, words) in wanted.items():
            found = receiver.send("GET", f"/v1/job/{job_id(name)}").body["job"]
            (attempt,) = found["attempts_log"]
            assert (found["status"], attempt["fail_class"]) == ("failed", fail_class), name
            assert words in attempt["error"], name
            assert attempt["duration_s"] > 0, name
            assert attempt["peak_rss_mib"] > 1, name
            shown = " ".join(run(receiver.url, "show", name, token=TOKEN).out.split())
            assert f"FAILED ({fail_class})" in shown, name
            assert "lab-a" in shown
        good = receiver.queue.get(job_id("good"))
        assert good is not None
        assert good.status == "completed", "the next job is not the worse for all that"
    print(f"{len(wanted)} kinds of failure")
