"""A real worker and a real receiver: each way in which a trainer (here a stub) can fail, as the operator sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cis490.episodes.dataset import pack
from tests.factories.command import run
from tests.factories.episodes import write_dataset
from tests.factories.fleet import job, job_id, manifest
from tests.factories.live_receiver import TOKEN, live_receiver
from tests.factories.processes import pid_in
from training.fleet.specs import Reference
from training.fleet.types import Capability, HostSpec

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


def test_the_real_trainers_last_sentence_reaches_the_operator_whole(tmp_path: Path) -> None:
    """Bad data, a bad configuration, no CUDA and no memory: nothing but real parts, and what `show` says of each."""
    dataset_id = pack(write_dataset(tmp_path / "episodes"), tmp_path / "data.tar.zst")
    datasets = tmp_path / "state/datasets"
    datasets.mkdir(parents=True)
    (tmp_path / "episodes").rename(datasets / dataset_id)
    bad_episode = sorted((datasets / dataset_id).rglob("*-*"))[3]
    jobs = [
        job("no-memory", model="mlp", priority=4, hyper={"hidden": [4096] * 8, "batch_size": 65536}),
        job("no-cuda", model="cnn", priority=3, require_cuda=True),
        job("bad-config", priority=2, hyper={"rounds": -3, "learning_rat": 0.1}),
        job("bad-data", priority=1),
    ]
    wanted = {
        "no-memory": ("oom", 71, ["out of memory", "GiB of RAM", "min_ram_gib"]),
        "no-cuda": ("no_cuda", 69, ["asks for CUDA, and this host has none", "cis490-jobs workers"]),
        "bad-config": ("bad_config", 78, ["hyper.rounds", "-3", "did you mean learning_rate?"]),
        "bad-data": ("bad_data", 65, [bad_episode.name]),
    }
    able = Capability(
        models=["gbt", "mlp", "cnn"], has_cuda=True
    )  # the manifest insists on what is not there
    with live_receiver(tmp_path, MANIFEST) as receiver:
        hosts = {"lab-a": HostSpec("lab-a", capability=able, force=True)}
        receiver.queue.apply_manifest(manifest(hosts=hosts, max_failures=1, pause_after_failures=0))
        for one in jobs:
            if one.name == "bad-data":
                bad_episode.write_bytes(bad_episode.read_bytes()[:200])
            receiver.queue.sync_from_manifest(
                [one.to_dict()], reference=Reference(dataset_id), remove_missing=False
            )
            worker = [
                sys.executable, "-m", "training.fleet.worker", "--receiver-url", receiver.url, "--host", "lab-a",
                "--state-dir", str(tmp_path / "state"), "--poll-s", "0.1", "--once",
            ]  # fmt: skip
            limit_kib = 1024 * 1024  # of address space, so that no test host is brought to its knees
            command = ["sh", "-c", f'ulimit -v {limit_kib} && exec "$@"', "sh", *worker]
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        for name, (fail_class, code, words) in wanted.items():
            found = receiver.send("GET", f"/v1/job/{job_id(name)}").body["job"]
            (attempt,) = found["attempts_log"]
            assert (found["status"], attempt["fail_class"], attempt["exit_code"]) == (
                "failed",
                fail_class,
                code,
            ), found
            sentence = attempt["error"].partition("\n")[0]
            assert sentence.startswith("run: "), sentence
            assert sentence.endswith(f"(exit code {code})"), sentence
            assert all(word in sentence for word in words), sentence
            shown = " ".join(run(receiver.url, "show", name, token=TOKEN).out.split())
            assert sentence in shown
            status = run(
                receiver.url, "status", "--all", token=TOKEN
            ).out  # a path longer than a line is broken
            assert "".join(sentence.split()) in "".join(status.split())
