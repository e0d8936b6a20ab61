"""Command line: record a set of episodes, or pack a recorded folder.

python -m collection.record --set main --out FOLDER
python -m collection.record --pack FOLDER --out FILE.tar.zst
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from cis490.episodes.arrays import to_payload
from cis490.episodes.dataset import DatasetError, episode_paths, pack
from cis490.episodes.format import EpisodeError, EpisodeMeta, Interval, encode
from collection.channels import CHANNELS
from collection.hosts import HELDOUT_HOSTS, LAB_HOSTS, MAIN_HOSTS, Cage, HostError
from collection.plan import EPISODE_S, HZ, EpisodePlan, plan
from collection.profiles import PROFILES
from collection.recorder import Recording, record
from collection.workload import WorkloadSpec, assert_ordinary_priority

TOOL_VERSION: Final = "cis490-collection 1"
LICENCE: Final = "CC0-1.0"
GAP_S: Final = 0.7
LEAD_S: Final = 0.4
"""Between "ready" and the first sample: lets the writes of the preparation die down."""


@dataclass(frozen=True, slots=True)
class RecordingSet:
    """A named set: its hosts, episodes on each, and the seed of its plan."""

    hosts: tuple[str, ...]
    episodes: int
    seed: int


SETS: Final = {"main": RecordingSet(MAIN_HOSTS, 30, 4901), "heldout": RecordingSet(HELDOUT_HOSTS, 24, 4902)}


class RecordError(Exception):
    """An episode could not be recorded."""


def record_episode(
    todo: EpisodePlan, cage: Cage | None, scratch: Path, seconds: int
) -> tuple[bytes, Recording]:
    """Run the workload of `todo` in a fresh folder below `scratch` and record it; returns the file's bytes."""
    # The workload removes its folders itself; this one goes also when the workload had to be killed.
    with tempfile.TemporaryDirectory(prefix="cis490-episode-", dir=scratch) as folder:
        return _record_in(folder, todo, cage, seconds)


def _record_in(folder: str, todo: EpisodePlan, cage: Cage | None, seconds: int) -> tuple[bytes, Recording]:
    spec = WorkloadSpec(
        profile=todo.profile,
        parameters=todo.parameters,
        background=todo.background,
        background_parameters=todo.background_parameters,
        baseline_ms=min(todo.baseline_ms, seconds * 1000 // 3),
        onset_ms=todo.onset_ms,
        seed=todo.seed,
        # A little longer than the recording, which must not see the workload end.
        duration_s=seconds + 0.2,
        scratch=folder,
    )
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "collection.workload"]
        workload = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            onset_us, started_at_s, recording = _converse(workload, spec, cage, seconds)
        except (OSError, ValueError, subprocess.SubprocessError, RecordError) as error:
            errors.seek(0)
            raise RecordError(
                f"episode {todo.file_name} on {todo.host}: {error}\n{errors.read()[-2000:]}"
            ) from error
        finally:
            _end_group(workload)
        errors.seek(0)
        sys.stderr.write(errors.read())
    meta = replace(_meta(todo, cage, recording, onset_us, seconds), started_at_s=started_at_s)
    return encode(meta, _payload(recording)), recording


def _converse(
    workload: subprocess.Popen[str], spec: WorkloadSpec, cage: Cage | None, seconds: int
) -> tuple[int, int, Recording]:
    """(onset in us, Unix time of the start in s, the recording) of one episode."""
    assert workload.stdin is not None and workload.stdout is not None
    if cage is not None:
        cage.add(workload.pid)
    print(spec.to_json(), file=workload.stdin, flush=True)
    if workload.stdout.readline() != "ready\n":
        raise RecordError("the workload failed before it was ready")
    start, started_at_s = time.monotonic() + LEAD_S, int(time.time() + LEAD_S)
    print(repr(start), file=workload.stdin, flush=True)
    recording = record(workload.pid, round(start * 1e9), seconds, HZ)
    answer = workload.stdout.readline()
    if workload.wait(timeout=10) != 0 or not answer:
        raise RecordError("the workload failed during the episode")
    return int(json.loads(answer)["onset_us"]), started_at_s, recording


def _end_group(workload: subprocess.Popen[str]) -> None:
    try:
        os.killpg(workload.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    workload.wait()
    for pipe in (workload.stdin, workload.stdout):
        if pipe is not None:
            pipe.close()


def _meta(
    todo: EpisodePlan, cage: Cage | None, recording: Recording, onset_us: int, seconds: int
) -> EpisodeMeta:
    profile = PROFILES[todo.profile]
    active_us, end_us = onset_us + todo.onset_ms * 1000, seconds * 1_000_000
    return EpisodeMeta(
        host=todo.host,
        profile=profile.name,
        family=profile.family,
        variant=todo.variant,
        parameters=todo.parameters,
        background=todo.background,
        intervals=(
            Interval(0, onset_us, "benign", "baseline"),
            Interval(onset_us, active_us, profile.label, "onset"),
            Interval(active_us, end_us, profile.label, "active"),
        ),
        hz=HZ,
        n_samples=len(recording.t_us),
        dropped_samples=recording.dropped_samples,
        channels=CHANNELS,
        kernel=f"{platform.system()} {platform.release()}",
        cpu_count=os.cpu_count() or 1,
        tool_version=TOOL_VERSION,
        simulated=cage is not None,
        shape=LAB_HOSTS[todo.host].text if cage is not None else "the whole machine",
        licence=LICENCE,
    )


def _payload(recording: Recording) -> bytes:
    table = np.array(
        [[t, *row] for t, row in zip(recording.t_us, recording.rows, strict=True)], dtype=np.int64
    )
    return to_payload(np.ascontiguousarray(table.T))


def record_set(plans: Sequence[EpisodePlan], out: Path, scratch: Path, seconds: int) -> None:
    """Record what is missing in `out`, host by host, with one line of progress an episode.

    A failed episode is reported and left out, so that a long recording goes on; `RecordError` tells of it at the end.
    """
    left = [todo for todo in plans if not (out / todo.host / todo.file_name).exists()]
    print(f"{len(plans)} episodes planned, {len(plans) - len(left)} already in {out}", flush=True)
    began, done, failed = time.monotonic(), 0, 0
    for host in dict.fromkeys(todo.host for todo in left):
        shape = LAB_HOSTS.get(host)
        print(f"host {host}: {'simulated: ' + shape.text if shape else 'this machine as it is'}", flush=True)
        with Cage(shape, scratch) if shape else nullcontext() as cage:
            for todo in (one for one in left if one.host == host):
                done += 1
                try:
                    data, recording = record_episode(todo, cage, scratch, seconds)
                except RecordError as error:
                    failed += 1
                    print(f"record: {error}", file=sys.stderr, flush=True)
                    continue
                _write(out / host / todo.file_name, data)
                eta_s = (time.monotonic() - began) / done * (len(left) - done)
                print(f"[{done}/{len(left)}] {_line(todo, recording)} eta {eta_s / 60:.1f} min", flush=True)
                time.sleep(GAP_S)
    if failed:
        raise RecordError(f"{failed} of {len(left)} episodes failed; the same command records only those")


def _line(todo: EpisodePlan, recording: Recording) -> str:
    gaps = [b - a for a, b in pairwise(recording.t_us)] or [0]
    return (
        f"{todo.host} {todo.profile} with {todo.background}: {len(recording.t_us)} samples, "
        f"{recording.dropped_samples} dropped, interval {statistics.median(gaps) / 1000:.1f} ms "
        f"(longest {max(gaps) / 1000:.0f}), {recording.cpu_s * 1000 / len(recording.t_us):.2f} ms CPU a sample,"
    )


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def _pack(folder: Path, target: Path) -> None:
    found, episodes = pack(folder, target), len(episode_paths(folder))
    print(f"dataset_id {found}\nepisodes   {episodes}\nsize       {target.stat().st_size} bytes ({target})")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m collection.record", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--set", choices=sorted(SETS), help="record this set")
    what.add_argument("--pack", type=Path, metavar="FOLDER", help="pack a recorded folder into --out")
    parser.add_argument("--out", type=Path, required=True, help="folder to record into, or archive to write")
    parser.add_argument(
        "--hosts", nargs="+", metavar="HOST", help="only these; an unknown name = this machine as it is"
    )
    parser.add_argument("--episodes", type=int, help="episodes on each host (even; default: as the set says)")
    parser.add_argument(
        "--seconds", type=int, default=EPISODE_S, help="length of an episode (default: %(default)s)"
    )
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where workloads make files"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 after a message on standard error."""
    arguments = _arguments(argv)
    try:
        if arguments.pack is not None:
            _pack(arguments.pack, arguments.out)
            return 0
        assert_ordinary_priority()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        load = os.getloadavg()[0]
        if load > 0.5:
            print(f"warning: load average is {load:.1f}; other work on this machine ends up in the recording")
        chosen = SETS[arguments.set]
        count = arguments.episodes or chosen.episodes
        plans = [todo for host in arguments.hosts or chosen.hosts for todo in plan(chosen.seed, host, count)]
        record_set(plans, arguments.out, arguments.scratch, arguments.seconds)
    except (RecordError, HostError, DatasetError, EpisodeError, ValueError) as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("record: stopped; the same command goes on with the next episode", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
