"""`pull` and `verify`: what needs whole artifacts on this machine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from cis490.progress import Meter
from training.fleet import naming, render_job
from training.fleet.exits import OK, REFUSED, VERIFY_IMPOSSIBLE, Stop
from training.fleet.tables import safe_lines, text_of
from training.fleet.verb import Call, named

if TYPE_CHECKING:
    from training.fleet.comparison import Comparison


def verify(call: Call) -> int:
    """Start or find the run, wait, compare. The exit code is the verdict's."""
    bundles = _zstd("verify")
    from training.fleet import verification

    job, terminal = named(call), call.terminal
    shadow, hosts, was_there = verification.begin(call.client, job, again=call.args.again)
    found: Comparison | None = None
    is_earlier = was_there and text_of(shadow, "status") in verification.ENDED
    if not call.args.no_wait or is_earlier:
        shadow = verification.wait(call.client, shadow, terminal.err, terminal.now_s, terminal.sleep)
        progress = Meter("downloading", terminal.err, now_s=terminal.now_s)
        try:
            found = verification.judge(call.client, shadow, progress)
        except bundles.PullError as fault:
            raise Stop(VERIFY_IMPOSSIBLE, *safe_lines(str(fault))) from fault
    verified = verification.Verified(shadow, hosts, found, is_earlier)
    call.say(verified.as_json(job), lambda: render_job.verified(call.view, job, verified))
    return OK if found is None else verification.EXIT_OF[found.verdict]


def _zstd(verb: str) -> ModuleType:
    """The module that unpacks bundles; Stop where what it needs is not installed."""
    try:
        from training.fleet import pull as found
    except ModuleNotFoundError as fault:
        raise Stop(
            REFUSED,
            f"{verb} cannot unpack a bundle: the Python module {fault.name} is missing",
            "  next: python -m pip install backports.zstd   (not needed from Python 3.14 on)",
            error_code="E009",
        ) from fault
    return found


def pull(call: Call) -> int:
    """Download an artifact, verify it and unpack it; with its signed record, where there is one."""
    bundles = _zstd("pull")
    from training.fleet import pulled_record as records

    progress = Meter("downloading", call.terminal.err, now_s=call.terminal.now_s)
    try:
        artifact, name = naming.artifact_of(call.client.jobs(), call.args.what)
        folder = Path(call.args.out or f"{name}-{artifact[:12]}")
        record = records.of_artifact(call, artifact)
        keep = call.args.keep_bundle
        files, metrics = bundles.pull(call.client, artifact, folder, progress, keep_bundle=keep)
        leaky = bundles.is_leaky(folder)
        record.write(folder)
    except (bundles.PullError, naming.NoArtifact) as fault:
        raise Stop(REFUSED, *safe_lines(str(fault))) from fault
    told = {
        "artifact_id": artifact,
        "folder": str(folder),
        "files": files,
        "metrics": metrics,
        "leaky": leaky,
    }
    return call.say(
        told | {"provenance": record.as_json()},
        lambda: [
            *render_job.pulled(call.view, artifact, str(folder), files, metrics, leaky=leaky),
            *record.lines(call.view, str(folder)),
        ],
    )
