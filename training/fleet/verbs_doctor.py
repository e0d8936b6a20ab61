"""`doctor`: looks at this machine and at the receiver, and says what is wrong and what mends it. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.fleet import capability, credentials, doctor, doctor_identity, doctor_worker
from training.fleet.capability import Survey
from training.fleet.client import FleetError, Refused, Unreachable
from training.fleet.doctor import RECEIVER_UNIT, Finding
from training.fleet.exits import OK, REFUSED, TOKEN_VARIABLE, URL_VARIABLE, USAGE, Stop
from training.fleet.tables import safe, tsv
from training.fleet.verb import Call, said
from training.fleet.worker_settings import SettingsError, WorkerSettings

AREA = "fleet"
MOST_SKEW_S = 5.0
NO_JOB = "doctor"
"""No id of a job: those are digests."""


def act(call: Call) -> int:
    """Look at what is on this machine, or only at what was asked for, and at the receiver; 1 when there is a fault."""
    services = doctor.service_env()
    env = {**services, **call.terminal.env}
    # The credentials of the shell are the command line's own, as a rule an operator's.
    worker_has = services.get(credentials.VARIABLE)
    try:
        own = doctor_worker.settings(call.args, env, Path(worker_has) if worker_has else None)
    except SettingsError as error:
        raise Stop(USAGE, f"doctor: {error}") from error
    findings: list[Finding] = []
    digest: str | None = None
    is_receiver, is_worker = _wanted(call, env, own)
    file_digest = None
    if is_receiver:
        from training.fleet import doctor_receiver  # needs what only the receiver needs

        where = doctor_receiver.places(call.args, env)
        findings += doctor.examine(
            doctor_receiver.AREA, doctor_receiver.checks(where, call.terminal.wall_s())
        )
        file_digest = doctor_receiver.manifest_digest(where)
    if is_worker:
        surveys: list[Survey] = []

        def survey() -> Survey:
            surveys.append(capability.survey(hostname=own.host, trainer_module=own.trainer_module))
            return surveys[0]

        checks = doctor_worker.checks(own, survey, call.terminal.wall_s())
        findings += doctor.examine(doctor_worker.AREA, checks)
        digest = surveys[0].capability.trainer_digest if surveys else None
    if call.client.credentials is not None:
        findings += doctor.examine(
            AREA, doctor_identity.checks(AREA, call.client.credentials, call.terminal.wall_s())
        )
    overview: dict[str, Any] = {}
    findings += doctor.examine(AREA, {"receiver": lambda: _remote(call, overview, file_digest)})
    if is_worker and overview:
        findings += doctor.examine(
            doctor_worker.AREA, {"manifest": lambda: doctor_worker.against_receiver(own, overview, digest)}
        )
    return _say(call, findings)


def _wanted(call: Call, env: Mapping[str, str], own: WorkerSettings) -> tuple[bool, bool]:
    """(receiver, worker): what was asked for, else what is found here."""
    if call.args.receiver or call.args.worker:
        return call.args.receiver, call.args.worker
    return _has_receiver(call, env), doctor_worker.is_here(own)


def _has_receiver(call: Call, env: Mapping[str, str]) -> bool:
    try:
        from training.fleet import doctor_receiver
    except ModuleNotFoundError:  # pragma: no cover - a worker host without what a receiver needs
        return False
    return doctor_receiver.is_here(doctor_receiver.places(call.args, env))


def _remote(call: Call, told: dict[str, Any], file_digest: str | None) -> Iterator[Finding]:
    """What can be asked of the receiver; leaves its overview in `told`."""
    client, url = call.client, call.client.url
    start = f"sudo systemctl start {RECEIVER_UNIT}   (elsewhere? --url http://HOST:PORT, or ${URL_VARIABLE})"
    try:
        health = client.health()
    except Unreachable as error:
        yield Finding(AREA, "receiver", "FAIL", f"{error}", start)
        return
    except Refused as refusal:
        yield Finding(
            AREA,
            "receiver",
            "FAIL",
            f"something answers at {url}, and it is no receiver: {said(refusal)}",
            start,
        )
        return
    yield Finding(AREA, "receiver", "OK", f"it answers at {url}")
    log = f"journalctl -u {RECEIVER_UNIT} -n 50   (on the receiver's machine)"
    for key, text in health.items():
        if key != "status" and isinstance(text, str):
            yield Finding(
                AREA, key, "FAIL", text, "df -h   (on the receiver's machine)" if key == "disk" else log
            )
    yield from _clock(call)
    yield from _token(call)
    try:
        told |= client.overview()
    except FleetError as error:
        yield Finding(
            AREA, "overview", "FAIL", str(error), "update the receiver to the version of this program"
        )
        return
    yield from _overview(told, file_digest)


def _clock(call: Call) -> Iterator[Finding]:
    before = call.terminal.wall_s()
    theirs = call.client.clock()
    if theirs is None:
        return
    after = call.terminal.wall_s()
    # The header has whole seconds: theirs lies between `theirs` and `theirs` + 1.
    skew_s = theirs - after if theirs > after else min(0.0, theirs + 1.0 - before)
    if abs(skew_s) <= MOST_SKEW_S:
        yield Finding(AREA, "clock", "OK", "this clock and the receiver's agree within a few seconds")
        return
    way = "ahead of" if skew_s > 0 else "behind"
    text = f"the receiver's clock is {abs(skew_s):.0f} s {way} this one: the times shown are wrong by that"
    yield Finding(
        AREA, "clock", "WARN", text, "timedatectl   on both machines, then: sudo timedatectl set-ntp true"
    )


def _token(call: Call) -> Iterator[Finding]:
    """Asked with an operator's verb for a job that does not exist, which changes nothing."""
    if not call.client.has_operator_token:
        text = f"${TOKEN_VARIABLE} is not set here: only the verbs that look will work"
        yield Finding(
            AREA, "operator token", "WARN", text, "set -a; . /etc/cis490/trainer-receiver.env; set +a"
        )
        return
    try:
        call.client.resume_job(NO_JOB)
    except Refused as refusal:
        yield _about_token(refusal)


def _about_token(refusal: Refused) -> Finding:
    """What the answer to an operator's verb says about the token."""
    if refusal.status == 403:
        restart = f"sudo systemctl restart {RECEIVER_UNIT}"
        return Finding(
            AREA, "operator token", "FAIL", "the receiver was started without one: every operator verb is closed",
            f"set {TOKEN_VARIABLE} in /etc/cis490/trainer-receiver.env   then: {restart}",
        )  # fmt: skip
    if refusal.status == 401:
        return Finding(
            AREA, "operator token", "FAIL", "the receiver knows another one: operator verbs are refused",
            "set -a; . /etc/cis490/trainer-receiver.env; set +a   (the value the receiver was started with)",
        )  # fmt: skip
    if refusal.status == 404 and "no such endpoint" not in str(refusal):
        return Finding(AREA, "operator token", "OK", "the receiver takes it")
    return Finding(AREA, "operator token", "WARN", said(refusal), f"journalctl -u {RECEIVER_UNIT} -n 50")


def _overview(told: Mapping[str, Any], file_digest: str | None) -> Iterator[Finding]:
    in_force = (told.get("manifest") or {}).get("digest")
    if in_force is None:
        yield Finding(
            AREA,
            "manifest",
            "FAIL",
            "the receiver has no manifest in force: no host is admitted",
            "cis490-jobs reload",
        )
    elif file_digest is not None and file_digest != in_force:
        yield Finding(
            AREA, "manifest", "WARN", "the manifest file was changed and is not in force yet",
            "cis490-jobs plan   then: cis490-jobs reload",
        )  # fmt: skip
    for problem in told.get("problems") or []:
        # What became of single jobs is for `status`; a pause, a lost host and the like stop the fleet.
        if problem.get("code") in ("fleet_paused", "host_lost", "host_paused"):
            yield Finding(
                AREA, str(problem.get("host") or "pause"), "WARN", str(problem["text"]), str(problem["next"])
            )
    if not told.get("hosts"):
        yield Finding(
            AREA,
            "hosts",
            "WARN",
            "no worker has called yet",
            "start one: sudo systemctl start cis490-trainer-worker",
        )


def _say(call: Call, findings: list[Finding]) -> int:
    failed = any(one.state == "FAIL" for one in findings)
    out = call.terminal.out
    if getattr(call.args, "json", False):
        shown = [json.dumps({"ok": not failed, "findings": [asdict(one) for one in findings]}, indent=2)]
    elif call.view.width is None:
        header = ["STATE", "AREA", "CHECK", "FOUND", "FIX"]
        shown = tsv(
            header, [[one.state, one.area, one.check, safe(one.found), safe(one.fix)] for one in findings]
        )
    else:
        shown = doctor.lines(findings)
    for line in shown:
        print(line, file=out)
    return REFUSED if failed else OK
