"""`status`: the fleet on one screen, from one request."""

from __future__ import annotations

from training.fleet import render_status
from training.fleet.exits import JOB_FAILED, OK, TROUBLE
from training.fleet.tables import Row, rows_of
from training.fleet.verb import Call


def status(call: Call) -> int:
    """Show it; with --check the exit code says what is wrong."""
    fleet = call.client.overview()
    args = call.args
    call.say(fleet, lambda: render_status.status(call.view, fleet, everything=args.all))
    return _verdict(fleet) if args.check else OK


def _verdict(fleet: Row) -> int:
    """The exit code of `status --check`."""
    errors = [problem for problem in rows_of(fleet, "problems") if problem.get("severity") == "error"]
    if any(problem.get("code") == "job_failed" for problem in errors):
        return JOB_FAILED
    return TROUBLE if errors else OK
